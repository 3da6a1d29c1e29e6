"""Adaptive boosting equals the enumeration of all alignments on random tiny lattices, each form in its own semiring.

The definition is evaluated as it stands: every alignment of 2 to 5 frames is collapsed to a text, and each text gets the
log-sum (utterance form) or the maximum (windowed form, with the bonuses of that alignment's own frames) over its
alignments, language model scores from `NgramModel.score`, and the best set of phrase occurrences. Nothing of the search
is used. `test_ten_thousand_lattices` is marked slow; it runs all seeds: `pytest -m slow -k ten_thousand`.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from beam_references import bonus_of, occurrences_of, random_log_probs, without_idle_boundaries

from slt_ctc_personalization.beam_search.search import BeamSearch, Phrase
from slt_ctc_personalization.evidence.evidence import from_attention
from slt_ctc_personalization.language_model.build_lm import build_lm

TOLERANCE = 1e-4
WIDE = {"beam": 1500, "token_min_log_prob": -np.inf, "beam_prune_log_prob": -np.inf, "n_best": 1500, "threads": 1}
SETUPS = {
    "boundary": (("-", " ", "a", "b"), 1, "word"),
    "marks": (("-", "▁a", "▁b", "a"), None, "word"),
    "letters": (("-", "a", "b", "c"), None, "token"),
    "three": (("-", " ", "a"), 1, "word"),
}
CORPORA = {"word": ["a b ab", "ab ba a", "b ab a", "a a b", "ba b"], "token": ["a b c a", "c c a b", "b a"]}
LM = {"lm_weight": 0.7, "word_bonus": 0.6, "unknown_word_log_prob": -4.0}
FLOORS = (0.0, 0.3)
WINDOWS = ((0, 0), (1, 0), (0, 2), (3, 3))


class Alignments(NamedTuple):
    """All alignments of some frames, sorted by text: `paths` [a t]; `texts`, where each begins in `first`, and for each
    text the frames [alignments of the text, labels of the text] at which its labels are first emitted."""

    paths: np.ndarray
    texts: list
    first: np.ndarray
    emitted: list


class Lattice(NamedTuple):
    """One random case."""

    kind: str
    with_lm: bool
    floor: float
    window: tuple
    log_probs: np.ndarray
    phrases: list
    heard: np.ndarray


@cache
def alignments_of(frames, labels, boundary):
    found = {}
    for path in itertools.product(range(labels), repeat=frames):
        tokens, times, last = [], [], 0
        for frame, label in enumerate(path):
            if label not in (0, last):
                tokens.append(label)
                times.append(frame)
            last = label
        kept = [
            place
            for place, token in enumerate(tokens)
            if token != boundary or (place and tokens[place - 1] != boundary and place + 1 < len(tokens))
        ]
        while kept and tokens[kept[-1]] == boundary:
            kept.pop()
        while kept and tokens[kept[0]] == boundary:
            kept.pop(0)
        text = tuple(tokens[place] for place in kept)
        assert text == without_idle_boundaries(tuple(tokens), boundary)
        found.setdefault(text, []).append((path, [times[place] for place in kept]))
    texts = list(found)
    counts = [len(found[text]) for text in texts]
    paths = np.array([path for text in texts for path, _ in found[text]])
    emitted = [np.array([times for _, times in found[text]]) for text in texts]
    return Alignments(paths, texts, np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int), emitted)


@cache
def searcher(kind, with_lm, boosting, floor, window):
    labels, boundary, unit = SETUPS[kind]
    model = {"lm": language_model(unit), "lm_unit": unit, **LM} if with_lm else {}
    return BeamSearch(
        labels, blank=0, word_boundary=boundary, boosting=boosting, evidence_floor=floor, window_before=window[0],
        window_after=window[1], **model, **WIDE,
    )  # fmt: skip


@cache
def language_model(unit):
    return build_lm(CORPORA[unit], order=3)


def words_of(kind, text):
    labels, boundary, _ = SETUPS[kind]
    if kind == "letters":
        return [labels[token] for token in text]
    return "".join(" " if token == boundary else labels[token] for token in text).replace("▁", " ").split()


@cache
def lm_score(kind, text, listed):
    """Language model and word bonus; words in `listed` are not unknown."""
    unit = SETUPS[kind][2]
    model, words = language_model(unit), words_of(kind, text)
    score = LM["lm_weight"] * model.score(words) + LM["word_bonus"] * len(words)
    if unit == "word":
        unknown = [word for word in words if not model.in_vocabulary(word) and word not in listed]
        score += LM["lm_weight"] * LM["unknown_word_log_prob"] * len(unknown)
    return score


@cache
def borders_of(kind, text):
    if kind == "letters":
        return range(len(text) + 1), range(len(text) + 1)
    labels, boundary, _ = SETUPS[kind]
    begins, ends = {0}, {len(text)}
    for place, token in enumerate(text):
        if token == boundary:
            ends.add(place)
            begins.add(place + 1)
        elif boundary is None and labels[token].startswith("▁"):
            begins.add(place)
            ends.add(place)
    return begins, ends


def spans_of(kind, text, phrases):
    """Occurrences (begin, end, phrase) of every path."""
    begins, ends = borders_of(kind, text)
    paths = [(path, index) for index, (_, alternatives) in enumerate(phrases) for path in alternatives]
    return occurrences_of(text, paths, begins.__contains__, ends.__contains__)


def random_path(rng, kind):
    if kind in ("boundary", "three"):
        top = len(SETUPS[kind][0])
        words = [list(rng.integers(2, top, rng.integers(1, 3))) for _ in range(rng.integers(1, 3))]
        path = list(itertools.chain.from_iterable([1, *word] for word in words))[1:]
    elif kind == "marks":
        path = [rng.integers(1, 3), *rng.integers(1, 4, rng.integers(0, 3))]
    else:
        path = list(rng.integers(1, 4, rng.integers(1, 4)))
    return tuple(int(label) for label in path)


def random_lattice(seed):
    rng = np.random.default_rng(seed)
    kind = list(SETUPS)[seed % 4]
    frames = int(rng.choice([2, 3, 4, 5], p=[0.2, 0.3, 0.4, 0.1]))
    log_probs = random_log_probs(rng, frames, len(SETUPS[kind][0]))
    phrases = []
    for _ in range(int(rng.integers(1, 5))):
        alternatives = list(dict.fromkeys(random_path(rng, kind) for _ in range(rng.choice([1, 1, 2]))))
        phrases.append((float(rng.uniform(0.5, 4.0) * rng.choice([0.0, 1.0, 2.0], p=[0.05, 0.75, 0.2])), alternatives))
    heard = rng.uniform(0, 1, (frames, len(phrases))) * (rng.uniform(size=(frames, len(phrases))) < 0.5)
    return Lattice(
        kind, bool(seed // 4 % 2), FLOORS[seed // 8 % 2], WINDOWS[seed // 16 % 4], log_probs, phrases,
        heard.astype(np.float32),
    )  # fmt: skip


def listed_words(lattice, gates):
    """The words of phrases that may pay; only these are known beside the language model's."""
    return frozenset(
        word
        for (_, alternatives), gate in zip(lattice.phrases, gates, strict=True)
        if gate > 0
        for path in alternatives
        for word in words_of(lattice.kind, path)
    )


def masses(lattice):
    """Alignments, and the log-probability of each."""
    labels, boundary, _ = SETUPS[lattice.kind]
    found = alignments_of(len(lattice.log_probs), len(labels), boundary)
    frames = np.arange(len(lattice.log_probs))
    return found, lattice.log_probs.astype(np.float64)[frames, found.paths].sum(axis=1)


def expected_utterance(lattice):
    found, mass = masses(lattice)
    sums = np.logaddexp.reduceat(mass, found.first)
    gates = lattice.floor + (1 - lattice.floor) * lattice.heard.max(axis=0).astype(np.float64)
    listed = listed_words(lattice, gates)
    expected = {}
    for text, value in zip(found.texts, sums, strict=True):
        spans = [(b, e, lattice.phrases[k][0] * gates[k]) for b, e, k in spans_of(lattice.kind, text, lattice.phrases)]
        value += bonus_of(len(text), spans) if spans else 0.0
        expected[text] = value + (lm_score(lattice.kind, text, listed) if lattice.with_lm else 0.0)
    return expected


def best_sets(size, spans):
    """For each alignment the largest total of occurrences (begin, end, bonuses [a]) that share no label."""
    best = [np.zeros(len(spans[0][2]))]
    for place in range(1, size + 1):
        choices = [best[-1], *(best[begin] + bonus for begin, end, bonus in spans if end == place)]
        best.append(np.max(choices, axis=0))
    return best[-1]


def expected_windowed(lattice):
    found, mass = masses(lattice)
    best = np.maximum.reduceat(mass, found.first)
    before, after = lattice.window
    window = np.array(
        [lattice.heard[max(t - before, 0) : t + after + 1].max(axis=0) for t in range(len(lattice.heard))]
    )
    gates = lattice.floor + (1 - lattice.floor) * window.astype(np.float64)
    listed = listed_words(lattice, np.ones(len(lattice.phrases)))
    expected = {}
    for index, text in enumerate(found.texts):
        value, emitted = best[index], found.emitted[index]
        spans = spans_of(lattice.kind, text, lattice.phrases)
        if spans:
            paid = [(b, e, lattice.phrases[k][0] * gates[emitted[:, e - 1], k]) for b, e, k in spans]
            first = found.first[index]
            value = np.max(mass[first : first + len(emitted)] + best_sets(len(text), paid))
        expected[text] = value + (lm_score(lattice.kind, text, listed) if lattice.with_lm else 0.0)
    return expected


def check(lattice, boosting, expected):
    search = searcher(lattice.kind, lattice.with_lm, boosting, lattice.floor, lattice.window)
    table = search.prepare([Phrase(f"p{i}", bonus, paths) for i, (bonus, paths) in enumerate(lattice.phrases)])
    heard = from_attention(lattice.heard, least=1e-9)
    result = search.decode(lattice.log_probs[None], phrases=table, evidence=[heard])[0]
    found = {hypothesis.tokens: hypothesis.score for hypothesis in result}
    assert found.keys() == expected.keys()
    assert len(found) == len(list(result))
    for text, score in found.items():
        assert score == pytest.approx(expected[text], abs=TOLERANCE), (boosting, text, lattice)
    wanted = [expected[hypothesis.tokens] for hypothesis in result]
    assert all(earlier > later - 2 * TOLERANCE for earlier, later in itertools.pairwise(wanted))


def check_both(seeds):
    for seed in seeds:
        lattice = random_lattice(seed)
        check(lattice, "windowed", expected_windowed(lattice))
        check(lattice, "utterance", expected_utterance(lattice))


def test_the_sets_of_the_reference_are_the_best_ones():
    rng = np.random.default_rng(0)
    for _ in range(200):
        begins = rng.integers(0, 5, 6)
        spans = [(int(b), int(b + rng.integers(1, 4)), rng.uniform(0, 3, 2)) for b in begins]
        for column, total in enumerate(best_sets(8, spans)):
            assert total == pytest.approx(bonus_of(8, [(b, e, bonus[column]) for b, e, bonus in spans]))


@pytest.mark.parametrize("block", range(10))
def test_adaptive_boosting_equals_exhaustive_search(block):
    check_both(range(100 * block, 100 * block + 50))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_ten_thousand_lattices_equal_exhaustive_search(block):
    check_both(range(500 * block, 500 * block + 500))
