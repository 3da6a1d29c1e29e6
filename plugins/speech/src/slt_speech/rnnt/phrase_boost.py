"""Decoder `phrase-boost`: a list of phrases with the step interface, for the slot of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slt_speech.rnnt.phrase_states import Phrase, PhraseStates
from sltcore import ctc
from sltcore.context import is_per_utterance, per_utterance
from sltcore.errors import ContextError, PluginError, VocabularyError
from sltcore.interfaces import Decoder
from sltcore.interfaces.decoder import spelling
from sltcore.types import ContextKey, Hypothesis, NBest, Port, Text
from sltcore.vocabulary import Vocabulary

PHRASES = ContextKey("phrases", "texts", "phrases to expect: texts, or maps with text, weight, bonus and spellings")
FIELDS = ("text", "weight", "bonus", "spellings")
KEPT_LISTS = 8


class PhraseBoost(Decoder):
    """What phrases add to texts: `bonus` nats for each label of a phrase of the context that a text holds.

    A search asks it label by label (`conditioned`); by itself it reads texts and gives each with its bonus as score.
    `slt_speech.rnnt.phrase_states.PhraseStates` states the rule. A phrase may be a map with `weight`, which multiplies
    the bonus, or `bonus`, which replaces it for the whole phrase, and `spellings`, further ways to write it. The last few
    lists are kept, so that a list is read once.

    **Source**: own rule, in the manner of shallow fusion, Zhao et al., "Shallow-fusion end-to-end contextual biasing",
    Interspeech 2019, doi:10.21437/Interspeech.2019-1209, section 3; automaton: Aho and Corasick 1975.
    """

    def __init__(self, vocabulary: Vocabulary | None, *, bonus: float = 1.5) -> None:
        """Without a vocabulary it takes that of the decoder that it helps, by `adopt`."""
        self._vocabulary = vocabulary
        self._own = vocabulary is not None
        self._bonus = bonus
        self._kept: dict[str, PhraseStates] = {}

    @property
    def consumes(self) -> Port:
        """Texts."""
        return Port("Text")

    @property
    def produces(self) -> Port:
        """Each text with its bonus."""
        return Port("Hypotheses")

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The labels that phrases are written in; None until there are any."""
        return self._vocabulary

    def adopt(self, vocabulary: Vocabulary) -> None:
        """Take the labels of the decoder that it helps. **Raises** `VocabularyError` where it has others."""
        if self._own and self._vocabulary != vocabulary:
            raise VocabularyError(
                f"decoder 'phrase-boost' writes phrases in {len(self._labels)} labels of its own, which are not the "
                f"{len(vocabulary)} of the decoder it helps; leave its vocabulary and characters out"
            )
        self._vocabulary = vocabulary

    @property
    def _labels(self) -> Vocabulary:
        if self._vocabulary is None:
            raise PluginError(
                "decoder 'phrase-boost' has no labels; give it vocabulary or characters, or put it into another decoder's boost"
            )
        return self._vocabulary

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`phrases`."""
        return (PHRASES,)

    def prepare(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """Read the lists once. **Raises** `ContextError` naming every phrase that cannot be spelled."""
        phrases = context.get(PHRASES.name)
        lists: list[Any] = list(phrases or ()) if is_per_utterance(phrases, PHRASES) else [phrases]
        for each in lists:
            self.states(each)
        return context

    def save_files(self) -> Mapping[str, bytes]:
        """The labels, where they are its own."""
        return ctc.vocabulary_file(self._labels) if self._own else {}

    def states(self, phrases: Any) -> PhraseStates | None:
        """The automaton of one list; None for an empty one. **Raises** `ContextError` naming what cannot be spelled."""
        if phrases is None:
            return None
        if isinstance(phrases, str | Mapping):
            raise ContextError(f"phrases: expected a list of texts, got {type(phrases).__name__} {str(phrases)[:40]!r}")
        phrases = tuple(phrases)
        if not phrases:
            return None
        key = repr(phrases)
        if key not in self._kept:
            self._kept[key] = PhraseStates(self._spelled(phrases), self._labels)
            while len(self._kept) > KEPT_LISTS:
                self._kept.pop(next(iter(self._kept)))
        return self._kept[key]

    def _spelled(self, phrases: Sequence[Any]) -> list[Phrase]:
        found, missing = [], []
        for place, phrase in enumerate(phrases):
            given = {"text": phrase} if isinstance(phrase, str) else _fields(phrase, place)
            for text in (given["text"], *(given.get("spellings") or ())):
                try:
                    spellings = self._labels.spell(text)
                except VocabularyError as error:
                    missing.append(str(error))
                    continue
                for labels in spellings:
                    plain = self._bonus * len(labels) * float(given.get("weight", 1.0))
                    found.append(Phrase(tuple(labels), float(given.get("bonus", plain))))
        if missing:
            more = f"; and {len(missing) - 10} more" if len(missing) > 10 else ""
            raise ContextError("phrases: " + "; ".join(missing[:10]) + more)
        return found

    def conditioned(self, context: Mapping[str, Any], batch: int) -> PhraseSteps | None:
        """The step interface for the lists of one call, None where all of them are empty."""
        lists = [self.states(phrases) for phrases in per_utterance(context, PHRASES, batch)]
        if not any(each is not None for each in lists):
            return None
        return PhraseSteps(lists, self._labels)

    def start(self, encoded: Any) -> Any:
        """The state before the first label, without any phrases."""
        return PhraseSteps([None] * (1 if encoded is None else len(encoded.lengths)), self._labels).start(encoded)

    def step(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        """As `PhraseSteps.step`, without any phrases: every label is as likely as any other."""
        return PhraseSteps([None] * len(tokens), self._labels).step(state, tokens)

    def decode(self, encoded: Any, context: Mapping[str, Any]) -> list[NBest]:
        """Each text with the bonus of its phrases. **Raises** `VocabularyError` for a text that cannot be spelled."""
        texts: Text = encoded
        lists = [self.states(phrases) for phrases in per_utterance(context, PHRASES, len(texts.texts))]
        found = []
        for text, states in zip(texts.texts, lists, strict=True):
            tokens = tuple(spelling(self._labels, text))
            found.append(NBest([Hypothesis(text, _bonus(states, tokens), tokens)]))
        return found


class PhraseSteps:
    """The lists of one call, one for each utterance, with the step interface. States are nodes [b k] int64."""

    def __init__(self, lists: Sequence[PhraseStates | None], vocabulary: Vocabulary) -> None:
        self._lists, self._v, self._blank = lists, len(vocabulary), vocabulary.blank
        self._even = np.full(self._v, -math.log(self._v))
        neutral = [self._even[0] if each is None else each.neutral for each in lists]
        self.neutral = torch.tensor(neutral, dtype=torch.float64)

    def start(self, encoded: Any) -> Tensor:
        """The states before the first label: [b 1]."""
        return torch.tensor([[0 if each is None else each.start] for each in self._lists])

    def step(self, state: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The states after `tokens` [b k], of which a blank changes nothing, and ln P of the next label [b k v] float64."""
        nodes = state.expand(tokens.shape).clone().numpy()
        result = np.empty((*tokens.shape, self._v))
        labels = tokens.cpu().numpy()
        for b, states in enumerate(self._lists):
            if states is None:
                result[b] = self._even
                continue
            for i, label in enumerate(labels[b]):
                if label != self._blank:
                    nodes[b, i] = states.row(int(nodes[b, i])).following[label]
                result[b, i] = states.row(int(nodes[b, i])).log_probs
        return torch.from_numpy(result), torch.from_numpy(nodes)

    def ending(self, state: Tensor) -> Tensor:
        """What is added where sentences end in the states [b k]: [b k]."""
        nodes = state.tolist()
        found = [[0.0 if s is None else s.ending(n) for n in row] for s, row in zip(self._lists, nodes, strict=True)]
        return torch.tensor(found, dtype=torch.float64)


def _bonus(states: PhraseStates | None, tokens: Sequence[int]) -> float:
    if states is None:
        return 0.0
    node, score = states.start, 0.0
    for token in tokens:
        row = states.row(node)
        score += float(row.log_probs[token]) - states.neutral
        node = int(row.following[token])
    return score + states.ending(node)


def _fields(phrase: Any, place: int) -> Mapping[str, Any]:
    """A phrase that is a map, checked."""
    if not isinstance(phrase, Mapping) or not isinstance(phrase.get("text"), str):
        raise ContextError(
            f"phrases[{place}]: expected a text, or a map with a text, got {type(phrase).__name__} {str(phrase)[:40]!r}"
        )
    given = {key: value for key, value in phrase.items() if value is not None}
    unknown = [key for key in given if key not in FIELDS]
    if unknown:
        raise ContextError(f"phrases[{place}]: no field is named {unknown[0]!r}; fields: {', '.join(FIELDS)}")
    for name in ("weight", "bonus"):
        value = given.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1e4:
            raise ContextError(f"phrases[{place}]: {name} is {value!r}, expected a number from 0 to 10,000")
    if "weight" in given and "bonus" in given:
        raise ContextError(
            f"phrases[{place}]: {given['text'][:40]!r} has both a weight, which multiplies the decoder's bonus, and a bonus, "
            f"which replaces it; give one of them"
        )
    if not all(isinstance(text, str) for text in given.get("spellings", ())):
        raise ContextError(f"phrases[{place}]: spellings is {given['spellings']!r}, expected a list of texts")
    return given
