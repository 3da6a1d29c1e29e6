"""Greedy decoding with phrases: what its docstring states, against a literal walk, and against `ctc-greedy`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from beam_references import bonus_of, random_log_probs, without_idle_boundaries

from slt_ctc_personalization.beam_search.ctc_greedy_boost import CtcGreedyBoost
from sltcore.errors import ContextError, ShapeError, SpecError, StreamError
from sltcore.pipeline import build_component
from sltcore.types import Encoded, Port
from sltcore.vocabulary import Vocabulary

PLAIN = Vocabulary(["-", "ka", "to", "mi", "ru"], kind="words", blank=0)
SPACED = Vocabulary(["-", " ", "a", "b", "c"], kind="characters", blank=0, boundary=1)
MARKED = Vocabulary(["-", "▁a", "b", "▁c", "ab"], kind="subwords", blank=0)
LISTS = {
    PLAIN: [((1, 2), 3.0), ((1, 2, 3), 6.0), ((2, 4), 2.0), ((3, 3), 2.5), ((4,), 1.0)],
    SPACED: [((2, 3), 3.0), ((2, 3, 1, 4), 6.0), ((4, 4), 2.0), ((3,), 1.0), ((4, 1, 3, 1, 2), 8.0)],
    MARKED: [((1, 2), 3.0), ((1, 2, 3), 5.0), ((3, 4), 4.0), ((1,), 1.5), ((1, 1, 2), 6.0)],
}
TEXTS = {PLAIN: "ka to mi|to ru|mi|ru ru", SPACED: "ab c|bac|cc|b", MARKED: "ab c|cab|a"}


class Identity(torch.nn.Module):
    """A head for frames that are log-probabilities already."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values


def decoder(vocabulary: Vocabulary, **config: object) -> CtcGreedyBoost:
    size = len(vocabulary)
    offers = {"encoder.head": Identity(), "encoder.vocabulary": vocabulary}
    config = {"boosting": "fixed", **config}
    made = build_component("decoder", "ctc-greedy-boost", config, upstream=Port("Encoded", {"d": size}), offers=offers)
    assert isinstance(made, CtcGreedyBoost)
    return made


def encoded(*rows: np.ndarray) -> Encoded:
    longest = max(map(len, rows))
    values = np.zeros((len(rows), longest, rows[0].shape[1]), np.float32)
    for place, row in enumerate(rows):
        values[place, : len(row)] = row
    return Encoded(torch.from_numpy(values), torch.tensor([len(row) for row in rows]), 0.02)


class Literal:
    """The definition word by word: F of every text from scratch, no automaton, no state but the text."""

    def __init__(self, vocabulary: Vocabulary, phrases: list[tuple[tuple[int, ...], float]], scaling: float | None):
        self.vocabulary, self.scaling = vocabulary, scaling
        self.marked = vocabulary.kind == "subwords"
        self.phrases = phrases
        edge = vocabulary.boundary
        self.patterns = [(path if edge is None else (*path, edge), bonus) for path, bonus in phrases]

    def begins(self, text, place):
        if place == 0 or (self.vocabulary.boundary is None and not self.marked):
            return True
        if self.marked:
            return self.vocabulary.labels[text[place]].startswith("▁") if place < len(text) else False
        return text[place - 1] == self.vocabulary.boundary

    def credit(self, size, bonus, labels):
        if self.scaling is None:
            return bonus * labels / size
        size -= self.vocabulary.boundary is not None  # the border behind a phrase is no label of it
        steps = [(1.0 if i == 1 else self.scaling) + math.log(i) for i in range(1, size + 1)]
        return bonus * sum(steps[:labels]) / sum(steps)

    def earned(self, text, closed):
        """Of occurrences that are complete; `closed`: nothing follows."""
        edge, found = self.vocabulary.boundary, []
        for path, bonus in self.phrases:
            for begin in range(len(text) - len(path) + 1):
                end = begin + len(path)
                ended = not self.marked or end == len(text) or self.begins(text, end)
                if edge is not None:
                    ended = end == len(text) or text[end] == edge
                if end == len(text) and not closed and (edge is not None or self.marked):
                    ended = False
                if tuple(text[begin:end]) == path and self.begins(text, begin) and ended:
                    found.append((begin, end + (edge is not None and end < len(text)), bonus))
        return bonus_of(len(text), found)

    def full(self, text):
        """F: what is earned, or that and the credit of what has begun."""
        best = self.earned(text, closed=False)
        for path, bonus in self.patterns:
            for begin in range(len(text)):
                read = tuple(text[begin:])
                if len(read) <= len(path) and read == path[: len(read)] and self.begins(text, begin):
                    before = self.earned(text[:begin], closed=self.marked)
                    best = max(best, before + self.credit(len(path), bonus, len(read)))
        return best

    def walk(self, log_probs):
        vocabulary, text, path, last = self.vocabulary, [], [], self.vocabulary.blank
        for row in log_probs.astype(np.float64):
            values = row.copy()
            idle = {vocabulary.boundary} if not text or text[-1] == vocabulary.boundary else set()
            for label in range(len(vocabulary)):
                if label not in {vocabulary.blank, last} | idle:
                    values[label] += self.full([*text, label]) - self.full(text)
            label = int(np.argmax(np.round(values, 9)))
            if label not in {vocabulary.blank, last} | idle:
                text.append(label)
            path.append(label)
            last = label
        complete = list(without_idle_boundaries(tuple(text), vocabulary.boundary))
        score = sum(float(log_probs[t, label]) for t, label in enumerate(path)) + self.earned(complete, closed=True)
        return path, score


def path_of(hypothesis, frames):
    path = [0] * frames
    for label, (begin, end) in zip(hypothesis.tokens, hypothesis.extra["token_times"], strict=True):
        first = max(0, round(begin / 0.02 + 0.5)) if begin else 0
        path[first : round(end / 0.02 + 0.5)] = [label] * (round(end / 0.02 + 0.5) - first)
    return path


@pytest.mark.parametrize("vocabulary", list(LISTS), ids=["plain", "spaced", "marked"])
@pytest.mark.parametrize("scaling", [None, 2.0], ids=["fixed", "depth-scaled"])
def test_the_path_is_that_of_a_literal_walk(vocabulary, scaling):
    from slt_ctc_personalization.beam_search.search import Phrase

    config = {} if scaling is None else {"boosting": "depth-scaled", "depth_scaling": scaling}
    part = decoder(vocabulary, **config)
    phrases = LISTS[vocabulary]
    table = part.search.prepare([Phrase(str(path), bonus, [path]) for path, bonus in phrases])
    literal = Literal(vocabulary, phrases, scaling)
    rng = np.random.default_rng(7)
    changed = 0
    for _ in range(120):
        frames = random_log_probs(rng, 12, len(vocabulary), spread=1.2)
        found = part.decode(encoded(frames), {"phrases": table})[0].best
        path, score = literal.walk(frames)
        assert path_of(found, 12) == path
        assert found.score == pytest.approx(score, abs=1e-6)
        changed += path != frames.argmax(axis=1).tolist()
    assert changed > 60


@pytest.mark.parametrize("vocabulary", list(LISTS), ids=["plain", "spaced", "marked"])
def test_without_phrases_it_is_greedy_decoding(vocabulary):
    offers = {"encoder.head": Identity(), "encoder.vocabulary": vocabulary}
    plain = build_component(
        "decoder", "ctc-greedy", {}, upstream=Port("Encoded", {"d": len(vocabulary)}), offers=offers
    )
    rng = np.random.default_rng(0)
    rows = [random_log_probs(rng, size, len(vocabulary)) for size in (40, 7, 1, 25)]
    batch = encoded(*rows, np.zeros((0, len(vocabulary)), np.float32))
    part = decoder(vocabulary)
    for context in ({}, {"phrases": []}, {"phrases": None}):
        assert part.decode(batch, context) == plain.decode(batch, context)


@pytest.mark.parametrize("vocabulary", [SPACED, MARKED], ids=["spaced", "marked"])
@pytest.mark.parametrize("listed", [False, True])
def test_chunks_of_any_size_give_the_whole(vocabulary, listed):
    part = decoder(vocabulary, boosting="depth-scaled", phrase_bonus=2.0)
    context = {"phrases": TEXTS[vocabulary].split("|") if listed else []}
    rng = np.random.default_rng(1)
    frames = random_log_probs(rng, 150, len(vocabulary), spread=1.5)
    whole = part.decode(encoded(frames), context)[0].best
    for size in (1, 2, 7, 64):
        session = part.open(context)
        for begin in range(0, 150, size):
            session.push(encoded(frames[begin : begin + size]))
        found = session.finish().best
        assert found._replace(score=0.0) == whole._replace(score=0.0)
        assert found.score == pytest.approx(whole.score, abs=1e-6)
    with pytest.raises(StreamError, match="finished already"):
        session.finish()
    with pytest.raises(StreamError, match="is finished; open another one"):
        session.push(encoded(frames))


def test_a_phrase_is_taken_and_a_broken_one_changes_nothing_later():
    part = decoder(SPACED, phrase_bonus=1.0)
    low = math.log(0.1 / 3)
    heard = np.full((5, 5), low, np.float32)
    for frame, (first, second) in enumerate([(2, 0), (4, 3), (0, 4), (1, 0), (4, 0)]):
        heard[frame, first], heard[frame, second] = math.log(0.5), math.log(0.4)
    assert part.decode(encoded(heard), {})[0].text == "ac c"
    assert part.decode(encoded(heard), {"phrases": ["ab"]})[0].text == "ab c"
    faint = decoder(SPACED, phrase_bonus=0.05)
    assert faint.decode(encoded(heard), {"phrases": ["acab"]}) == part.decode(encoded(heard), {})  # all of it returned


def test_lists_for_each_utterance_and_hot_swap():
    part = decoder(SPACED, phrase_bonus=2.0)
    rng = np.random.default_rng(4)
    rows = [random_log_probs(rng, 20, 5, spread=1.0) for _ in range(3)]
    lists = [["abc"], [], ["bb", "ca"]]
    together = part.decode(encoded(*rows), {"phrases": lists})
    for row, phrases, found in zip(rows, lists, together, strict=True):
        assert part.decode(encoded(row), {"phrases": phrases})[0].text == found.text
        prepared = part.prepare({"phrases": phrases})
        assert list(prepared["phrases"]) == phrases
        assert part.decode(encoded(row), prepared)[0].text == found.text
    assert together[0] != part.decode(encoded(rows[0]), {})[0]


def test_five_thousand_phrases_cost_little_more_than_none():
    import time

    labels = ["-", " ", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = Vocabulary(labels, kind="characters", blank=0, boundary=1)
    part = decoder(vocabulary, threads=1)
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 8)) for _ in range(5000)]
    frames = encoded(random_log_probs(rng, 1500, len(labels), spread=3.0))
    prepared = part.prepare({"phrases": words})
    part.decode(frames, prepared)
    begin = time.process_time()
    part.decode(frames, prepared)
    assert time.process_time() - begin < 0.5  # 30 s of frames; a pass over each label of each frame takes longer


def test_bad_input_is_refused():
    part = decoder(SPACED)
    with pytest.raises(ContextError, match="cannot be spelled"):
        part.prepare({"phrases": ["ab", "xyz"]})
    session = part.open({})
    with pytest.raises(ShapeError, match="holds one utterance, got 2"):
        session.push(encoded(*[np.zeros((3, 5), np.float32)] * 2))
    with pytest.raises(SpecError, match="depth_scaling has no effect with boosting: fixed"):
        decoder(SPACED, boosting="fixed", depth_scaling=3.0)
    with pytest.raises(SpecError, match="vocabulary and characters both name the labels"):
        build_component("decoder", "ctc-greedy-boost", {"vocabulary": "labels.json", "characters": "abc"})
