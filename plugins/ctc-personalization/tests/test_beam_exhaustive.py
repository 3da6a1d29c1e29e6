"""A beam that holds everything equals the sum over all alignments, with language model, phrases and lexicon."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from beam_references import bonus_of, mass_of_texts, occurrences_of, random_log_probs, without_idle_boundaries

from slt_ctc_personalization.beam_search.search import BeamSearch, Phrase
from slt_ctc_personalization.language_model.build_lm import build_lm
from slt_ctc_personalization.lexicon.lexicon_trie import LexiconTrie

WIDE = {"beam": 3000, "token_min_log_prob": -np.inf, "beam_prune_log_prob": -np.inf, "n_best": 3000, "threads": 1}
LETTERS = ["-", " ", "a", "b"]
PIECES = ["-", "▁a", "▁b", "a", "b"]
SOUNDS = ["-", "_", "x", "y"]
CORPUS = ["a b ab", "ab ba a", "b ab a", "a a b", "ba b"]


def phrases_of(rng, kind):
    """A few random phrases over letters or pieces: nested and overlapping ones are likely."""
    found = []
    for _ in range(int(rng.integers(1, 5))):
        if kind == "boundary":
            words = [tuple(rng.integers(2, 4, rng.integers(1, 3))) for _ in range(rng.integers(1, 3))]
            path = list(itertools.chain.from_iterable([1, *word] for word in words))[1:]
        elif kind == "mark":
            path = [int(rng.integers(1, 3)), *rng.integers(1, 5, rng.integers(0, 3))]
        else:
            path = list(rng.integers(1, 4, rng.integers(1, 4)))
        found.append(([int(label) for label in path], float(rng.uniform(0.5, 4.0))))
    return found


def expect_equal(found, expected):
    assert len(found) == len(expected)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(expected[hypothesis.tokens], abs=1e-4)
    scores = [hypothesis.score for hypothesis in found]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["boundary", "mark", "none"])
def test_full_beam_with_phrases_equals_exhaustive_search(kind, seed):
    rng = np.random.default_rng(seed)
    labels = {"boundary": LETTERS, "mark": PIECES, "none": ["-", "a", "b", "c"]}[kind]
    boundary = 1 if kind == "boundary" else None
    log_probs = random_log_probs(rng, 6 if kind != "mark" else 5, len(labels))
    phrases = phrases_of(rng, kind)
    search = BeamSearch(labels, blank=0, word_boundary=boundary, **WIDE)
    table = search.prepare([Phrase("p", bonus, [path]) for path, bonus in phrases])
    masses = mass_of_texts(log_probs, 0, lambda tokens: [without_idle_boundaries(tokens, boundary)])
    expected = {}
    for tokens, mass in masses.items():
        borders = {0, len(tokens)}
        for place, token in enumerate(tokens):
            if kind == "none" or (kind == "mark" and token in (1, 2)):
                borders.add(place)
            if kind == "boundary" and token == 1:
                borders |= {place, place + 1}
        found = occurrences_of(
            tokens,
            phrases,
            lambda b, t=tokens, s=borders: b in s and not (kind == "mark" and b == 0 and t[0] not in (1, 2)),
            borders.__contains__,
        )
        expected[tokens] = mass + bonus_of(len(tokens), found)
    expect_equal(search.decode(log_probs[None], phrases=table)[0], expected)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("look_ahead", [True, False])
@pytest.mark.parametrize("kind", ["boundary", "mark"])
def test_full_beam_with_language_model_equals_exhaustive_search(kind, look_ahead, seed):
    rng = np.random.default_rng(100 + seed)
    labels, boundary = (LETTERS, 1) if kind == "boundary" else (PIECES, None)
    log_probs = random_log_probs(rng, 5, len(labels))
    model = build_lm(CORPUS, order=3)
    search = BeamSearch(
        labels, blank=0, word_boundary=boundary, lm=model, lm_weight=0.7, word_bonus=0.9, unknown_word_log_prob=-4.0,
        look_ahead=look_ahead, **WIDE,
    )  # fmt: skip
    listed = [([3, 3, 3], 2.5)] if kind == "boundary" else [([2, 4, 4], 2.5)]  # the word bbb
    table = search.prepare([Phrase("bbb", bonus, [path]) for path, bonus in listed])
    masses = mass_of_texts(log_probs, 0, lambda tokens: [without_idle_boundaries(tokens, boundary)])
    expected, plain = {}, {}
    for tokens, mass in masses.items():
        words = "".join(labels[token] for token in tokens).replace("▁", " ").split()
        unknown = [word for word in words if not model.in_vocabulary(word)]
        base = mass + 0.7 * model.score(words) + 0.9 * len(words)
        plain[tokens] = base - 0.7 * 4.0 * len(unknown)
        begins = [0, *(place for place, token in enumerate(tokens) if kind == "mark" and token in (1, 2))]
        begins += [place + 1 for place, token in enumerate(tokens) if kind == "boundary" and token == 1]
        ends = [
            *begins,
            *(place for place, token in enumerate(tokens) if kind == "boundary" and token == 1),
            len(tokens),
        ]
        bonus = bonus_of(len(tokens), occurrences_of(tokens, listed, begins.__contains__, ends.__contains__))
        expected[tokens] = base - 0.7 * 4.0 * len([word for word in unknown if word != "bbb"]) + bonus
    expect_equal(search.decode(log_probs[None])[0], plain)
    expect_equal(search.decode(log_probs[None], phrases=table)[0], expected)


def test_full_beam_with_a_model_over_labels_equals_exhaustive_search():
    rng = np.random.default_rng(7)
    labels = ["-", "a", "b", "c"]
    log_probs = random_log_probs(rng, 6, 4)
    model = build_lm(["a b c a", "c c a b", "b a"], order=3)
    search = BeamSearch(labels, blank=0, lm=model, lm_unit="token", lm_weight=0.6, word_bonus=0.3, **WIDE)
    masses = mass_of_texts(log_probs, 0, lambda tokens: [tokens])
    expected = {
        tokens: mass + 0.6 * model.score([labels[token] for token in tokens]) + 0.3 * len(tokens)
        for tokens, mass in masses.items()
    }
    expect_equal(search.decode(log_probs[None])[0], expected)


LEXICON = {"ex": ["x"], "eggs": ["x", "x y"], "why": ["y"], "yx": ["y x"], "yy": ["y y"], "wax": ["y _ x"]}


def readings(tokens, lexicon):
    """Every word sequence that a label sequence can be heard as; a boundary may stand behind any word."""
    found = []

    def parse(place, words):
        if place == len(tokens):
            found.append(words)
            return
        for word, paths in lexicon.items():
            for path in paths:
                end = place + len(path)
                if tuple(tokens[place:end]) == path:
                    after = end
                    while after < len(tokens) and tokens[after] == 1:
                        after += 1
                    parse(after, (*words, word))

    start = 0
    while start < len(tokens) and tokens[start] == 1:
        start += 1
    parse(start, ())
    return found


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("with_lm", [False, True])
def test_full_beam_over_a_lexicon_equals_exhaustive_search(with_lm, seed):
    rng = np.random.default_rng(200 + seed)
    log_probs = random_log_probs(rng, 6, 4)
    written = {word: paths for word, paths in LEXICON.items() if word != "wax"}
    model = build_lm(["ex why eggs", "yx ex ex", "eggs why why"], order=3) if with_lm else None
    lexicon = LexiconTrie(written, SOUNDS)
    search = BeamSearch(
        SOUNDS, blank=0, word_boundary=1, lexicon=lexicon, lm=model, lm_weight=0.8, word_bonus=0.4,
        unknown_word_log_prob=-3.0, **WIDE,
    )  # fmt: skip
    listed = [(("ex", "why"), 2.0), (("why",), 1.2), (("why", "eggs"), 1.9), (("new", "ex"), 2.5)]
    paths = {word: [lexicon.path(word, text) for text in texts] for word, texts in written.items()}
    heard = paths | {"new": [(3, 3, 2)], "why": [(3,), (2, 2)]}
    pronunciations = {"new": [(3, 3, 2)], "why": [(2, 2)]}
    table = search.prepare([Phrase(" ".join(words), bonus, pronunciations=pronunciations) for words, bonus in listed])
    for words_heard, phrases, prepared in ((paths, [], None), (heard, listed, table)):
        masses = mass_of_texts(log_probs, 0, lambda tokens, h=words_heard: readings(tokens, h))
        expected = {}
        for words, mass in masses.items():
            score = mass
            if model is not None:
                unknown = [w for w in words if not model.in_vocabulary(w) and not any(w in p for p, _ in phrases)]
                score += 0.8 * (model.score(list(words)) - 3.0 * len(unknown)) + 0.4 * len(words)
            found = [
                (begin, begin + len(phrase), bonus)
                for phrase, bonus in phrases
                for begin in range(len(words))
                if words[begin : begin + len(phrase)] == phrase
            ]
            expected[" ".join(words)] = score + bonus_of(len(words), found)
        result = search.decode(log_probs[None], phrases=prepared)[0]
        assert len(result) == len(expected)
        for hypothesis in result:
            assert hypothesis.score == pytest.approx(expected[hypothesis.text], abs=1e-4)


def test_pronunciation_weights_count_in_the_sum():
    rng = np.random.default_rng(3)
    log_probs = random_log_probs(rng, 4, 4)
    weights = {"ex": [np.log(0.7), np.log(0.3)]}
    lexicon = LexiconTrie({"ex": ["x", "y"]}, SOUNDS, log_weights=weights)
    search = BeamSearch(SOUNDS, blank=0, lexicon=lexicon, **WIDE)
    found = {h.text: h.score for h in search.decode(log_probs[None])[0]}
    masses = mass_of_texts(log_probs, 0, lambda tokens: [tokens])
    expected = np.logaddexp(masses[(2,)] + np.log(0.7), masses[(3,)] + np.log(0.3))
    assert found["ex"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("with_lm", [False, True])
@pytest.mark.parametrize("with_lexicon", [False, True])
def test_best_hypothesis_is_the_same_whether_or_not_others_are_kept(with_lexicon, with_lm, seed):
    rng = np.random.default_rng(300 + seed)
    labels, texts = (SOUNDS, ["ex why eggs", "yx ex ex"]) if with_lexicon else (LETTERS, CORPUS)
    lexicon = LexiconTrie({w: p for w, p in LEXICON.items() if w != "wax"}, SOUNDS) if with_lexicon else None
    model = build_lm(texts, order=2) if with_lm else None
    x = np.stack([random_log_probs(rng, 7, 4) for _ in range(4)])
    settings = WIDE | {"beam": 20_000, "blank": 0, "word_boundary": 1, "lm": model, "lexicon": lexicon}
    alone, several = (BeamSearch(labels, **settings | {"n_best": n}) for n in (1, 2))
    phrases = [
        Phrase("ex why", 2.0, [[2, 3, 1, 2]]),
        Phrase("why", 1.5, [[2, 2]]),
        Phrase("why ex", 1.0, [[3], [3, 2]]),
    ]
    for one, many in (((), ()), (phrases, phrases)):
        found = alone.decode(x, phrases=alone.prepare(one)), several.decode(x, phrases=several.prepare(many))
        for best, both in zip(*found, strict=True):
            assert best.text == both.text
            assert best.best.score == pytest.approx(both.best.score, abs=1e-4)
