"""A good decoder with a loss, scores, steps and a session, and one that breaks each promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.context import per_utterance
from sltcore.errors import VocabularyError
from sltcore.interfaces import Decoder, Session
from sltcore.testing.toys import letters
from sltcore.types import ContextKey, Encoded, Hypothesis, NBest, Port, Targets
from sltcore.vocabulary import Vocabulary

PHRASES = ContextKey("phrases", "texts", "phrases whose letters are likelier")
SMALL = {"contexts": [{}, {"phrases": ["ab"]}]}


class Good(Decoder, nn.Module):
    """The best path and the same without its last label, in order of CTC likelihood. Source: own, for tests."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = self.make_labels()
        self.head = nn.Linear(16, len(self.labels))

    def make_labels(self) -> Vocabulary:
        return letters()

    @property
    def vocabulary(self) -> Vocabulary:
        return self.labels

    @property
    def consumes(self) -> Port:
        return Port("Encoded", {"d": 16})

    @property
    def produces(self) -> Port:
        return Port("Hypotheses")

    def context_keys(self) -> tuple[ContextKey, ...]:
        return (PHRASES,)

    def log_probs(self, encoded: Encoded, context: Mapping[str, Any]) -> Tensor:
        logits = self.head(encoded.values)
        boost = torch.zeros(logits.shape[0], 1, logits.shape[2])
        for row, phrases in enumerate(per_utterance(context, PHRASES, len(logits))):
            for phrase in phrases or ():
                boost[row, 0, self.labels.spell(phrase)[0]] += 1.0
        return (logits + boost).log_softmax(dim=-1)

    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        log_probs = self.log_probs(encoded, context)
        return [self.read(rows[:length]) for rows, length in zip(log_probs, encoded.lengths.tolist(), strict=True)]

    def read(self, rows: Tensor) -> NBest:
        best = [label for label in rows.argmax(dim=-1).unique_consecutive().tolist() if label != self.labels.blank]
        readings = [tuple(best), tuple(best[:-1])] if best else [()]
        scored = sorted(((self.likelihood(rows, tokens), tokens) for tokens in readings), reverse=True)
        return NBest(self.hypothesis(score, tokens) for score, tokens in scored)

    def hypothesis(self, score: float, tokens: tuple[int, ...]) -> Hypothesis:
        return Hypothesis(self.labels.decode(tokens), score, tokens)

    def likelihood(self, rows: Tensor, tokens: Sequence[int]) -> float:
        if not len(rows):
            return 0.0
        return -float(
            nn.functional.ctc_loss(
                rows, torch.tensor(tokens), torch.tensor(len(rows)), torch.tensor(len(tokens)), reduction="sum"
            )
        )

    def loss(self, encoded: Encoded, targets: Targets, context: Mapping[str, Any]) -> Tensor:
        rows = self.log_probs(encoded, context).transpose(0, 1)
        return nn.functional.ctc_loss(rows, targets.ids, encoded.lengths, targets.lengths, reduction="none")

    def score(self, encoded: Encoded, hypotheses: Sequence[NBest]) -> Tensor:
        rows = self.log_probs(encoded, {})
        scores = torch.full((len(hypotheses), max(map(len, hypotheses))), -torch.inf)
        for i, nbest in enumerate(hypotheses):
            for j, hypothesis in enumerate(nbest):
                scores[i, j] = self.likelihood(rows[i, : encoded.lengths[i]], hypothesis.tokens)
        return scores

    def start(self, encoded: Encoded | None) -> Tensor:
        assert encoded is not None
        return encoded.values.mean(dim=1)

    def step(self, state: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(state)[:, None].expand(-1, tokens.shape[1], -1)
        return logits.log_softmax(dim=-1), state

    def open(self, context: Mapping[str, Any]) -> Session:
        return Stream(self, context)


class Stream(Session):
    """Collects frames and decodes them at the end."""

    def __init__(self, decoder: Decoder, context: Mapping[str, Any]) -> None:
        self.decoder, self.context = decoder, context
        self.chunks: list[Tensor] = []

    def push(self, chunk: Encoded, **streams: Any) -> None:
        self.chunks.append(chunk.values)

    def finish(self) -> NBest:
        values = torch.cat(self.kept(), dim=1)
        found = self.decoder.decode(Encoded(values, torch.tensor([values.shape[1]]), 0.04), self.context)
        assert isinstance(found, list)
        nbest: NBest = found[0]
        return nbest

    def kept(self) -> list[Tensor]:
        return self.chunks


class Forgetful(Stream):
    """Forgets the second half."""

    def kept(self) -> list[Tensor]:
        return self.chunks[: len(self.chunks) // 2]


class Lenient(Vocabulary):
    """Leaves out what it cannot spell."""

    def encode(self, text: str) -> list[int]:
        try:
            return super().encode(text)
        except VocabularyError:
            return []


class SwapsUtterances(Good):
    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        found = super().decode(encoded, context)
        if encoded.lengths[0] < encoded.lengths[-1]:
            found[0], found[-1] = found[-1], found[0]
        return found


class ScoresUpsideDown(Good):
    def hypothesis(self, score: float, tokens: tuple[int, ...]) -> Hypothesis:
        return super().hypothesis(-score, tokens)


class ReadsPadding(Good):
    def log_probs(self, encoded: Encoded, context: Mapping[str, Any]) -> Tensor:
        outside = (torch.arange(encoded.values.shape[1]) >= encoded.lengths[:, None])[..., None]
        leak = (encoded.values * outside).sum(dim=1, keepdim=True)
        return super().log_probs(encoded._replace(values=encoded.values + leak), context)


class DrawsGlobally(Good):
    def hypothesis(self, score: float, tokens: tuple[int, ...]) -> Hypothesis:
        return super().hypothesis(score - 1e-6 * float(torch.rand(())), tokens)


class ChangesOnEmptyList(Good):
    def log_probs(self, encoded: Encoded, context: Mapping[str, Any]) -> Tensor:
        found = super().log_probs(encoded, context)
        return (2 * found).log_softmax(dim=-1) if "phrases" in context else found


class ReducesLoss(Good):
    def loss(self, encoded: Encoded, targets: Targets, context: Mapping[str, Any]) -> Tensor:
        return super().loss(encoded, targets, context).mean().expand(len(targets.lengths))


class HasIdleWeight(Good):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3, bias=False)


class ScoresCosts(Good):
    def score(self, encoded: Encoded, hypotheses: Sequence[NBest]) -> Tensor:
        found = super().score(encoded, hypotheses)
        return torch.where(found.isinf(), found, -found)


class StepsInLogits(Good):
    def step(self, state: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(state)[:, None].expand(-1, tokens.shape[1], -1), state


class SpellsAnything(Good):
    def make_labels(self) -> Vocabulary:
        plain = letters()
        return Lenient(plain.labels, kind=plain.kind, blank=plain.blank, boundary=plain.boundary)


class ForgetsTheRest(Good):
    def open(self, context: Mapping[str, Any]) -> Session:
        return Forgetful(self, context)


BROKEN = {
    "one-each": (SwapsUtterances, "in reverse order give other results: utterance 0"),
    "sorted": (ScoresUpsideDown, "utterance 0 has scores"),
    "padding": (ReadsPadding, "with noise in the padding instead of zeros, utterance"),
    "deterministic": (
        DrawsGlobally,
        "two calls with the same input and generator seed differ: utterance 0: hypothesis 0: score",
    ),
    "context-identity": (ChangesOnEmptyList, r"with \{'phrases': \[\]\}, utterance 0"),
    "loss-shape": (ReducesLoss, "the loss of the first utterance changes with the targets of the last"),
    "gradient": (HasIdleWeight, "no gradient reaches idle.weight"),
    "score": (ScoresCosts, "list 0: place 0 scores"),
    "step": (StepsInLogits, "the probabilities sum to"),
    "spelling": (SpellsAnything, r"no label holds '①', yet it encodes it as \[\]"),
    "streaming": (ForgetsTheRest, "utterance 0 offline, and what finish returned: "),
}
