"""The promises of decoders, as tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sltcore.errors import VocabularyError
from sltcore.interfaces import Decoder, overrides
from sltcore.testing import inputs
from sltcore.testing.case import Case, jitter, listed, seeded, without_gradient
from sltcore.testing.difference import difference
from sltcore.testing.promises.contexts import empty_contexts
from sltcore.testing.promises.encoder import stream, trainable
from sltcore.testing.promises.promise import Promises, promise
from sltcore.types import NBest, Targets

TOLERANCE = 1e-3  # nats, of scores that were summed in another order
FRAMES = (24, 0, 15, 1)


class DecoderPromises(Promises):
    """What `sltcore.interfaces.Decoder` promises."""

    kind: ClassVar[str] = "decoder"
    promises: ClassVar[Mapping[str, str]] = Decoder.promises

    @promise(
        "return a list with one NBest for each row of the batch, NBest([Hypothesis('')]) where there are no frames"
    )
    def test_one_each(self, case: Case) -> str | None:
        part = case.part
        x = utterances(part, FRAMES)
        size = inputs.size_of(x)
        for raw in case.contexts:
            out = decode(case, part, x, raw)
            if part.produces.type == "Hypotheses" and not is_nbests(out):
                return f"decode returned {kinds_of(out)}, expected a list of NBest with a hypothesis each"
            if inputs.size_of(out) != size:
                return f"{size} utterances went in, {inputs.size_of(out)} results came out"
        out = decode(case, part, x)
        if difference(out, decode(case, part, x, seed=1)) is None:  # a sampling decoder may order its draws otherwise
            turned = decode(case, part, inputs.selected(x, range(size - 1, -1, -1)))
            found = difference(inputs.selected(turned, range(size - 1, -1, -1)), out, tolerance=TOLERANCE)
            if found:
                return f"the same utterances in reverse order give other results: {found}"
        return None

    @promise("sort by score before returning, and merge hypotheses that read the same")
    def test_sorted(self, case: Case) -> str | None:
        part = case.part
        if part.produces.type != "Hypotheses":
            pytest.skip(f"it produces {part.produces}")
        for raw in case.contexts:
            for row, nbest in enumerate(decode(case, part, utterances(part, FRAMES), raw)):
                scores = [hypothesis.score for hypothesis in nbest]
                for place, (a, b) in enumerate(pairwise(scores)):
                    if not a >= b:
                        return f"utterance {row} has scores {a:.6g} and {b:.6g} at places {place} and {place + 1}"
                seen = [(hypothesis.text, tuple(hypothesis.tokens)) for hypothesis in nbest]
                twice = [entry for entry in seen if seen.count(entry) > 1]
                if twice:
                    return f"utterance {row} has the hypothesis {twice[0][0]!r} {seen.count(twice[0])} times"
        return None

    @promise("read encoded.lengths, and nothing behind them")
    def test_padding(self, case: Case) -> str | None:
        part = case.part
        x = utterances(part, FRAMES)
        if inputs.lengths_of(x) is None:
            pytest.skip(f"{part.consumes} has no padding")
        for raw in case.contexts:
            found = difference(
                decode(case, part, x, raw), decode(case, part, inputs.with_junk(x, extra=9), raw), tolerance=TOLERANCE
            )
            if found:
                return f"with noise in the padding instead of zeros, {found}"
        return None

    @promise("draw randomness only from context['generator'], and break ties by a fixed rule")
    def test_deterministic(self, case: Case) -> str | None:
        part = case.part
        x = utterances(part, FRAMES)
        for raw in case.contexts:
            found = difference(decode(case, part, x, raw), decode(case, part, x, raw, noise=1))
            if found:
                return f"two calls with the same input and generator seed differ: {found}"
        return None

    @promise("treat a missing key, None and an empty list as no side information: take no other path through the code")
    def test_context_identity(self, case: Case) -> str | None:
        part = case.part
        x = utterances(part, FRAMES)
        empties = empty_contexts(part, inputs.size_of(x))
        missing = decode(case, part, x)
        if difference(missing, decode(case, part, x)):
            pytest.skip("it is not deterministic")
        for empty in empties:
            found = difference(missing, decode(case, part, x, empty))
            if found:
                return f"without context and with {empty}, {found}"
        return None

    @promise("return the loss of each utterance, as reduction='none' does; training divides by the global count")
    def test_loss_shape(self, case: Case) -> str | None:
        part = case.part
        x, targets = lesson(case, part)
        for raw in case.contexts:
            loss = loss_of(case, part, x, targets, raw)
            size = inputs.size_of(x)
            if not isinstance(loss, Tensor) or loss.shape != (size,) or not loss.is_floating_point():
                return f"loss returned {kinds_of(loss)}, expected float32 of shape ({size},)"
            if not bool(loss.isfinite().all()) or float(loss.min()) < -TOLERANCE:
                return f"the losses are {[round(value, 4) for value in loss.tolist()]}"
        other = Targets(targets.ids.clone(), targets.lengths)
        other.ids[-1] = targets.ids[-1].flip(0)
        changed = loss_of(case, part, x, other)
        if difference(loss_of(case, part, x, targets)[:-1], changed[:-1], tolerance=TOLERANCE):
            return "the loss of the first utterance changes with the targets of the last"
        return None

    @promise("use the named parameters in loss, or freeze them (requires_grad_(False)); a search needs none of its own")
    def test_gradient(self, case: Case) -> str | None:
        part = case.fresh()
        x, targets = lesson(case, part)
        if not trainable(part):
            pytest.skip("it has no trainable parameters")
        jitter(part)
        part.train()
        for seed, raw in enumerate(case.contexts):
            with seeded(seed):
                part.loss(x, targets, case.context(part, raw, inputs.size_of(x))).sum().backward()
        missing = without_gradient(part)
        return f"no gradient reaches {listed(missing)}" if missing else None

    @promise("give in score what decode sorted by, for each hypothesis of each list, and -inf where a list is shorter")
    def test_score(self, case: Case) -> str | None:
        part = case.part
        if not overrides(part, "score", Decoder):
            pytest.skip("it does not score given hypotheses")
        x = utterances(part, FRAMES)
        nbests = decode(case, part, x)
        with seeded(0), torch.no_grad():
            scores = part.score(x, nbests)
        most = max(len(nbest) for nbest in nbests)
        if scores.shape != (len(nbests), most):
            return f"score returned {tuple(scores.shape)} for {len(nbests)} lists of at most {most}"
        for row, nbest in enumerate(nbests):
            given = scores[row].tolist()
            if any(value != -float("inf") for value in given[len(nbest) :]):
                return f"list {row} ends after {len(nbest)} hypotheses, its scores beyond are not -inf: {given}"
            for place in range(len(nbest) - 1):
                if not given[place] >= given[place + 1] - TOLERANCE:
                    return (
                        f"list {row}: place {place} scores {given[place]:.6g}, place {place + 1} {given[place + 1]:.6g}"
                    )
        return None

    @promise("normalise with log_softmax over the labels, and keep the axes [b k v]")
    def test_step(self, case: Case) -> str | None:
        part = case.part
        if not part.has_steps:
            pytest.skip("it has no step interface")
        x = utterances(part, (9, 6)) if part.consumes.type == "Encoded" else None
        size = 1 if x is None else 2
        labels = usable_labels(part) or [0]
        for k in (1, 3):
            with seeded(0), torch.no_grad():
                state = part.start(x)
                for turn in range(2):
                    tokens = torch.tensor([[labels[(turn + i) % len(labels)] for i in range(k)]] * size)
                    log_probs, state = part.step(state, tokens)
                    if log_probs.ndim != 3 or log_probs.shape[:2] != (size, k):
                        return f"for tokens [{size} {k}], step returned shape {tuple(log_probs.shape)}"
                    total = log_probs.double().logsumexp(dim=-1).exp()
                    if not bool(((total - 1).abs() < TOLERANCE).all()):
                        return f"after step {turn}, the probabilities sum to {float(total.flatten()[0]):.6g}"
        return None

    @promise("keep the vocabulary's labels and its rules for words together: build it once, as sltcore.vocabulary does")
    def test_spelling(self, case: Case) -> str | None:
        part = case.part
        vocabulary = part.vocabulary
        if vocabulary is None:
            pytest.skip("it writes no labels")
        labels = usable_labels(part)
        for start in range(3):
            ids = labels[start :: max(1, len(labels) // 5)][:6]
            text = vocabulary.decode(ids)
            try:
                again = vocabulary.decode(vocabulary.encode(text))
            except VocabularyError as error:
                return f"it writes {text!r}, which it cannot encode: {error}"
            if again != text:
                return f"it writes {text!r}, encodes that, and reads {again!r}"
        known = set("".join(vocabulary.labels))
        foreign = next(c for c in map(chr, range(0x2460, 0x3000)) if c not in known)
        try:
            ids = vocabulary.encode(foreign)
        except VocabularyError:
            return None
        return f"no label holds {foreign!r}, yet it encodes it as {ids}"

    @promise("keep the search's state between chunks, and let finish return the NBest that decode gives on the whole")
    def test_streaming(self, case: Case) -> str | None:
        part = case.part
        if not part.can_stream:
            pytest.skip("it does not stream")
        x = utterances(part, (48, 31))
        for row in range(inputs.size_of(x)):
            one = inputs.alone(x, row)
            offline = decode(case, part, one)
            final = stream(case, part, one, {})[-1]
            expected = offline[0] if part.produces.type == "Hypotheses" else offline
            found = difference(expected, final, tolerance=TOLERANCE)
            if found:
                return f"utterance {row} offline, and what finish returned: {found}"
        return None


def decode(
    case: Case, part: Any, x: Any, raw: Mapping[str, Any] | None = None, *, noise: int = 0, seed: int = 0
) -> Any:
    """One call; `noise` seeds the global generators, which nothing should read, `seed` the generator of the context."""
    with seeded(noise), torch.no_grad():
        return part.decode(x, case.context(part, raw or {}, inputs.size_of(x), seed=seed))


def utterances(part: Any, lengths: Sequence[int]) -> Any:
    """A batch for this decoder, with so many frames (or words) each."""
    return inputs.batch(part.consumes, lengths=list(lengths))


def usable_labels(part: Any) -> list[int]:
    """Ids that may stand in a target: no blank, no word border, nothing special."""
    vocabulary = part.vocabulary
    if vocabulary is None:
        return []
    return [
        index
        for index in range(len(vocabulary))
        if index not in (vocabulary.blank, vocabulary.boundary) and index not in vocabulary.special
    ]


def lesson(case: Case, part: Any) -> tuple[Any, Targets]:
    """Inputs and targets that fit them. Skips where the decoder cannot be trained or the kit cannot know the targets."""
    if not part.has_loss:
        pytest.skip("it has no loss")
    labels = usable_labels(part)
    if not labels:
        pytest.skip("it has no vocabulary, so the kit cannot make targets")
    x = utterances(part, (24, 15, 19))
    count = int(case.small.get("labels", 3))
    rows = [[labels[(5 * row + 3 * place) % len(labels)] for place in range(count)] for row in range(inputs.size_of(x))]
    return x, Targets(torch.tensor(rows), torch.full((len(rows),), count))


def loss_of(case: Case, part: Any, x: Any, targets: Targets, raw: Mapping[str, Any] | None = None) -> Any:
    """The loss in evaluation."""
    with seeded(0), torch.no_grad():
        return part.loss(x, targets, case.context(part, raw or {}, inputs.size_of(x)))


def is_nbests(out: Any) -> bool:
    """Whether it is a list of n-best lists, none of them empty."""
    return isinstance(out, list) and all(isinstance(nbest, NBest) and nbest for nbest in out)


def kinds_of(value: Any) -> str:
    """What something is, for a message: its type, and its shape or its entries' types."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, list):
        return f"a list of {', '.join(sorted({type(entry).__name__ for entry in value})) or 'nothing'}"
    return f"a {type(value).__name__}"
