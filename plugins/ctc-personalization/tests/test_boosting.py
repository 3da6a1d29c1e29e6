"""Depth-scaled and utterance-level boosting against plain recomputations, and what each form refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from beam_cases import LETTERS as SPELLED
from beam_cases import batch, make, path_of
from beam_references import bonus_of, mass_of_texts, occurrences_of, random_log_probs, without_idle_boundaries

from slt_ctc_personalization.beam_search.search import BeamSearch, Phrase
from slt_ctc_personalization.evidence.evidence import Evidence
from slt_ctc_personalization.language_model.build_lm import build_lm
from sltcore.errors import DataError, PluginError, ShapeError, StreamError, VocabularyError

WIDE = {"beam": 3000, "token_min_log_prob": -np.inf, "beam_prune_log_prob": -np.inf, "n_best": 3000, "threads": 1}
LETTERS, PIECES = ["-", " ", "a", "b"], ["-", "▁a", "▁b", "a", "b"]


def labels_of(kind):
    return {"boundary": (LETTERS, 1), "mark": (PIECES, None), "none": (["-", "a", "b", "c"], None)}[kind]


def random_paths(rng, kind):
    found = []
    for _ in range(int(rng.integers(1, 5))):
        if kind == "boundary":
            words = [[2 + int(i) for i in rng.integers(0, 2, rng.integers(1, 3))] for _ in range(rng.integers(1, 3))]
            found.append([label for word in words for label in (1, *word)][1:])
        elif kind == "mark":
            found.append([int(rng.integers(1, 3)), *map(int, rng.integers(1, 5, rng.integers(0, 3)))])
        else:
            found.append([int(label) for label in rng.integers(1, 4, rng.integers(1, 4))])
    return found


def expected_scores(log_probs, kind, phrases):
    """Every text with its acoustic mass and the best set of occurrences of `phrases`, (path, bonus) pairs."""
    boundary = labels_of(kind)[1]
    masses = mass_of_texts(log_probs, 0, lambda tokens: [without_idle_boundaries(tokens, boundary)])
    found = {}
    for tokens, mass in masses.items():
        borders = {0, len(tokens)}
        for place, token in enumerate(tokens):
            if kind == "none" or (kind == "mark" and token in (1, 2)):
                borders.add(place)
            if kind == "boundary" and token == 1:
                borders |= {place, place + 1}
        begins = borders - {0} if kind == "mark" and tokens and tokens[0] not in (1, 2) else borders
        occurrences = occurrences_of(tokens, phrases, begins.__contains__, borders.__contains__)
        found[tokens] = mass + bonus_of(len(tokens), occurrences)
    return found


def depth_scaled_total(path, per_label, scaling):
    """The contract, label by label."""
    total = 0.0
    for depth in range(1, len(path) + 1):
        total += per_label * (1.0 if depth == 1 else scaling) + (math.log(depth) if per_label > 0 else 0.0)
    return total


def expect_equal(found, expected):
    assert {hypothesis.tokens for hypothesis in found} == set(expected)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(expected[hypothesis.tokens], abs=1e-4)


def evidence_of(rows):
    """From one row of values for each frame; zeros are left out."""
    values = np.asarray(rows, np.float32)
    frame, phrase = np.nonzero(values)
    start = np.searchsorted(frame, np.arange(len(values) + 1))
    return Evidence(start.astype(np.int64), phrase.astype(np.int32), values[frame, phrase])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["boundary", "mark", "none"])
def test_depth_scaled_total_is_the_sum_over_labels(kind, seed):
    rng = np.random.default_rng(seed)
    labels, boundary = labels_of(kind)
    log_probs = random_log_probs(rng, 5, len(labels))
    scaling = float(rng.uniform(0.0, 3.0))
    search = BeamSearch(labels, blank=0, word_boundary=boundary, boosting="depth-scaled", depth_scaling=scaling, **WIDE)
    phrases, expected = [], []
    for path in random_paths(rng, kind):
        if rng.random() < 0.4:  # a total of its own is kept
            phrases.append(Phrase("own", 2.5, [path]))
            expected.append((path, 2.5))
        else:
            per_label = float(rng.choice([0.0, 0.3, 1.1]))
            phrases.append(Phrase("p", 99.0, [path], per_label=per_label))
            expected.append((path, depth_scaled_total(path, per_label, scaling)))
    found = search.decode(log_probs[None], phrases=search.prepare(phrases))[0]
    expect_equal(found, expected_scores(log_probs, kind, expected))


@pytest.mark.parametrize("kind", ["boundary", "mark", "none"])
def test_depth_scaled_credit_is_the_partial_sum(kind):
    labels, boundary = labels_of(kind)
    search = BeamSearch(labels, blank=0, word_boundary=boundary, boosting="depth-scaled", depth_scaling=1.7)
    path = {"boundary": [2, 3, 1, 3], "mark": [1, 3, 2, 4], "none": [1, 2, 3, 1]}[kind]
    for phrase, factor in ((Phrase("p", 99.0, [path], per_label=0.8), 0.0), (Phrase("p", 6.0, [path]), 6.0)):
        tables = search.prepare([phrase]).tables
        sums = [depth_scaled_total(path[:read], 1.0 if factor else 0.8, 1.7) for read in range(len(path) + 1)]
        scale = factor / sums[-1] if factor else 1.0
        for state, span in enumerate(tables.span.tolist()):
            assert tables.credit[state] == pytest.approx(scale * sums[min(span, len(path))])
        assert tables.bonus.max() == pytest.approx(scale * sums[-1])


@pytest.mark.parametrize("with_lm", [False, True])
def test_depth_scaled_total_with_a_lexicon_counts_the_labels_of_the_words(with_lm):
    wide = {"lexicon": True, "lm": with_lm} | WIDE | {"n_best": 20}
    fixed, scaled = make(**wide), make(**wide, boosting="depth-scaled", depth_scaling=1.5)
    x = batch(seed=3, size=4, frames=14)
    texts = ["bad face", "fed", "a bead", "a"]
    total = [depth_scaled_total(text.replace(" ", ""), 0.7, 1.5) for text in texts]
    plain = fixed.prepare([Phrase(text, bonus) for text, bonus in zip(texts, total, strict=True)])
    deep = scaled.prepare([Phrase(text, 99.0, per_label=0.7) for text in texts])
    for one, other in zip(fixed.decode(x, phrases=plain), scaled.decode(x, phrases=deep), strict=True):
        assert [h.text for h in one] == [h.text for h in other]
        assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["boundary", "mark", "none"])
def test_utterance_level_bonus_is_scaled_by_the_most_that_is_heard(kind, seed):
    rng = np.random.default_rng(50 + seed)
    labels, boundary = labels_of(kind)
    log_probs = random_log_probs(rng, 5, len(labels))
    floor = float(rng.choice([0.0, 0.25]))
    search = BeamSearch(labels, blank=0, word_boundary=boundary, boosting="utterance", evidence_floor=floor, **WIDE)
    paths = random_paths(rng, kind)
    bonuses = rng.uniform(0.5, 4.0, len(paths))
    heard = rng.uniform(0.1, 1.0, (5, len(paths))) * (rng.random((5, len(paths))) < 0.4)
    table = search.prepare([Phrase("p", float(b), [path]) for path, b in zip(paths, bonuses, strict=True)])
    found = search.decode(log_probs[None], phrases=table, evidence=[evidence_of(heard)])[0]
    gates = floor + (1.0 - floor) * heard.max(axis=0)
    expect_equal(found, expected_scores(log_probs, kind, list(zip(paths, bonuses * gates, strict=True))))


def listed_search(kind):
    """A search that prunes, and a list with words that the language model lacks and paths that share beginnings."""
    lexicon = kind.startswith("lexicon")
    search = make(lexicon=lexicon, lm=kind != "letters", look_ahead=kind != "lexicon, blind", beam=20, n_best=4)
    texts = ["bad face", "face", "fed", "bed", "bad bag", "ba", "had", "ace", "dab dab"]
    sounds = {word: [path_of(word)] for text in texts for word in text.split()}
    sounds["fed"] = [path_of("fed"), path_of("fhd")]
    phrases = [
        Phrase(text, 2.0 + index, [path_of(text)], {word: sounds[word] for word in text.split()})
        for index, text in enumerate(texts)
    ]
    return search, phrases


KINDS = ["letters", "letters, model", "lexicon", "lexicon, blind"]


@pytest.mark.parametrize("kind", KINDS)
def test_gate_of_zero_is_a_phrase_that_is_not_listed(kind):
    search, phrases = listed_search(kind)
    table, x = search.prepare(phrases), batch(seed=9, size=5)
    rng = np.random.default_rng(4)
    for kept in (*(rng.random((4, len(phrases))) < 0.5), np.zeros(len(phrases), bool)):
        gated = search.reweighed(table, kept.astype(np.float32))
        alone = search.prepare([phrase for phrase, keep in zip(phrases, kept, strict=True) if keep])
        found, expected = search.decode(x, phrases=gated), search.decode(x, phrases=alone)
        assert [[h[:2] for h in n_best] for n_best in found] == [[h[:2] for h in n_best] for n_best in expected]
    whole = search.reweighed(gated, np.ones(len(phrases), np.float32))  # from the list, not from what was left of it
    assert search.decode(x, phrases=whole) == search.decode(x, phrases=table)


@pytest.mark.parametrize("kind", KINDS)
def test_gate_of_one_is_the_fixed_table_bit_for_bit(kind):
    search, phrases = listed_search(kind)
    table = search.prepare(phrases)
    gated = search.reweighed(table, np.ones(len(phrases), np.float32))
    for one, other in zip(table.tables, gated.tables, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert (gated.start, gated.longest) == (table.start, table.longest)


@pytest.mark.parametrize("kind", KINDS)
def test_gates_scale_bonuses(kind):
    search, phrases = listed_search(kind)
    gates = np.random.default_rng(2).uniform(0.1, 1.0, len(phrases)).astype(np.float32)
    scaled = [p._replace(bonus=p.bonus * float(gate)) for p, gate in zip(phrases, gates, strict=True)]
    one, other = search.reweighed(search.prepare(phrases), gates), search.prepare(scaled)
    for name in ("rows", "fail", "output", "span", "symbol"):
        assert np.array_equal(getattr(one.tables, name), getattr(other.tables, name))
    for name in ("bonus", "credit", "reach"):
        assert getattr(one.tables, name) == pytest.approx(getattr(other.tables, name))
    x = batch(seed=1)
    pairs = zip(search.decode(x, phrases=one), search.decode(x, phrases=other), strict=True)
    assert all(a.text == b.text and a.best.score == pytest.approx(b.best.score) for a, b in pairs)


def test_weighing_anew_leaves_the_table_and_the_lexicon_alone():
    search, phrases = listed_search("lexicon")
    table, x = search.prepare(phrases), batch(seed=2)
    before = search.decode(x, phrases=table)
    search.reweighed(table, np.zeros(len(phrases), np.float32))
    assert search.decode(x, phrases=table) == before


@pytest.mark.parametrize("lexicon", [False, True])
@pytest.mark.parametrize("boosting", ["fixed", "depth-scaled"])
def test_streams_equal_the_whole_at_every_chunk_size(boosting, lexicon):
    search = make(lexicon=lexicon, boosting=boosting, beam=15)
    x = batch(seed=7, size=1, frames=130)
    texts = ["bad face", "face", "fed"]
    table = search.prepare([Phrase(t, 3.0, [path_of(t)], per_label=1.0) for t in texts])
    whole = search.decode(x, phrases=table)[0]
    for size in range(1, 65):
        session = search.open(phrases=table)
        for place in range(0, x.shape[1], size):
            session.push(x[0, place : place + size])
        assert session.finish() == whole


@pytest.mark.parametrize("with_lm", [False, True])
def test_dropping_what_a_better_twin_leads_changes_no_best_text(with_lm):
    """With one result wanted, hypotheses inside a phrase are dropped behind better ones with the same future."""
    settings = {"beam": 4000, "token_min_log_prob": -np.inf, "beam_prune_log_prob": -8.0}
    alone, several = (make(lm=with_lm, n_best=n, **settings) for n in (1, 2))
    rng = np.random.default_rng(11)
    texts = ["".join(rng.choice(list("abcd "), rng.integers(2, 7))).strip() or "a" for _ in range(30)]
    phrases = [Phrase(t, float(rng.uniform(0.5, 6.0)), [path_of(t)]) for t in dict.fromkeys(texts)]
    x = batch(seed=21, size=12, frames=25, spread=2.0)
    found = alone.decode(x, phrases=alone.prepare(phrases)), several.decode(x, phrases=several.prepare(phrases))
    for one, two in zip(*found, strict=True):
        assert one.text == two.text
        assert one.best.score >= two.best.score - 0.01  # what is dropped leaves room for more alignments of the best


def test_confidences_are_shares_of_the_list():
    found = make(n_best=8).decode(batch(seed=5, size=2))
    for n_best in found:
        weights = np.exp(np.array([h.score for h in n_best], np.float64))
        assert [h.extra["confidence"] for h in n_best] == pytest.approx((weights / weights.sum()).tolist(), rel=1e-3)
        for hypothesis in n_best:
            for word, (begin, end), sure in zip(
                hypothesis.extra["words"], hypothesis.times, hypothesis.extra["word_confidences"], strict=True
            ):
                holding = 0.0
                for other in n_best:
                    places = zip(other.extra["words"], other.times, strict=True)
                    if any(word == name and first < end and begin < last for name, (first, last) in places):
                        holding += other.extra["confidence"]
                assert sure == pytest.approx(holding)
    assert "confidence" not in make().decode(batch(size=1))[0].best.extra


def test_memory_of_a_list_grows_with_it():
    search = make(lm=False)
    sizes = [
        search.prepare([Phrase(t, 3.0, [path_of(t)]) for t in texts]).nbytes for texts in (["bad"], ["bad", "cafe"])
    ]
    assert 0 < sizes[0] < sizes[1] < 5000


def test_misfit_boosting_and_evidence_are_refused_in_one_line():
    with pytest.raises(PluginError, match=r"boosting is 'loud'; expected one of 'fixed', 'depth-scaled', 'utterance'"):
        make(boosting="loud")
    with pytest.raises(PluginError, match="boosting 'windowed' works without a lexicon only; take 'fixed'"):
        make(boosting="windowed", lexicon=True)
    with pytest.raises(PluginError, match="depth_scaling is -1"):
        make(depth_scaling=-1.0)
    with pytest.raises(PluginError, match=r"evidence_floor is 1\.5; give a number from 0 to 1"):
        make(evidence_floor=1.5)
    with pytest.raises(PluginError, match="window_after is -1 frames; give 0 or more"):
        make(window_after=-1)
    fixed, utterance, x = make(), make(boosting="utterance"), batch(size=2, frames=5)
    heard = evidence_of(np.full((5, 1), 0.5))
    with pytest.raises(PluginError, match="utterance 1: evidence would have no effect with boosting 'fixed'; take"):
        fixed.decode(x, evidence=[None, heard])
    with pytest.raises(PluginError, match="the chunk: evidence would have no effect"):
        fixed.open().push(x[0], heard)
    table = utterance.prepare([Phrase("bad", 3.0, [path_of("bad")])])
    with pytest.raises(
        DataError, match="utterance 0: 1 phrases but no evidence; boosting 'utterance' pays a phrase by"
    ):
        utterance.decode(x, phrases=table)
    with pytest.raises(ShapeError, match="utterance 1: evidence has 4 frames, but there are 5 frames of log-prob"):
        utterance.decode(x, phrases=table, evidence=[heard, evidence_of(np.full((4, 1), 0.5))])
    with pytest.raises(DataError, match="utterance 0: evidence names phrase 1, but the list has 1 phrases"):
        utterance.decode(x, phrases=table, evidence=[evidence_of([[0.0, 0.5]] * 5)] * 2)
    with pytest.raises(ShapeError, match="evidence has 1 entries, but log_probs holds 2 utterances"):
        utterance.decode(x, phrases=table, evidence=[heard])
    with pytest.raises(
        StreamError, match="boosting 'utterance' weighs a phrase by the whole utterance and cannot stream"
    ):
        utterance.open(phrases=table)
    with pytest.raises(ShapeError, match=r"gates has shape \(2,\), expected \(1,\): one for each phrase"):
        utterance.reweighed(table, [1.0, 1.0])
    two = utterance.prepare([Phrase("bad", 3.0, [path_of("bad")]), Phrase("bed", 3.0, [path_of("bed")])])
    with pytest.raises(DataError, match=r"gates run from 0\.5 to 1\.5; expected numbers from 0 to 1"):
        utterance.reweighed(two, [0.5, 1.5])
    with pytest.raises(VocabularyError, match="phrase 'bad': per_label is -1"):
        fixed.prepare([Phrase("bad", 3.0, [path_of("bad")], per_label=-1.0)])


def test_utterances_without_phrases_need_no_evidence():
    utterance, plain, x = make(boosting="utterance"), make(), batch(size=2)
    assert utterance.decode(x) == plain.decode(x)
    assert len(SPELLED) == x.shape[2]


def test_unknown_words_of_a_silent_phrase_are_unknown_again():
    """The list says that a word exists; when nothing is heard of its phrase the word pays as an unknown one."""
    model = build_lm(["bad face"], order=2)
    search = BeamSearch(SPELLED, blank=0, word_boundary=1, lm=model, unknown_word_log_prob=-6.0, **WIDE | {"beam": 50})
    table = search.prepare([Phrase("hed", 0.0, [path_of("hed")])])
    row = np.full((5, len(SPELLED)), -20.0, np.float32)
    row[[0, 1, 2], path_of("hed")] = row[3:, 0] = 0.0
    known, unknown = (
        search.decode(row[None], phrases=search.reweighed(table, [gate]))[0].best.score for gate in (1.0, 0.0)
    )
    assert known - unknown == pytest.approx(0.5 * 6.0, abs=1e-4)
