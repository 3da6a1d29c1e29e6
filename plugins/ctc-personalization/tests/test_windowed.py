"""Windowed boosting: a Viterbi search without phrases, bonuses where a phrase is heard, streams equal to the whole."""

from __future__ import annotations

import numpy as np
import pytest
from beam_cases import LETTERS, batch, make, path_of, peaky
from beam_references import mass_of_texts, random_log_probs

from slt_ctc_personalization.beam_search.claims import build_claims
from slt_ctc_personalization.beam_search.search import BeamSearch, Phrase
from slt_ctc_personalization.beam_search.windowed_engine import WindowedEngine
from slt_ctc_personalization.evidence import evidence as ev
from slt_ctc_personalization.evidence.evidence import Evidence
from slt_ctc_personalization.lexicon.lexicon_trie import child_of
from sltcore.errors import DataError, PluginError, ShapeError, VocabularyError

WINDOW = {"boosting": "windowed", "window_before": 12, "window_after": 5}
TEXTS = ("bad face", "face", "fed", "cafe", "dead bead")
PIECES = ["-", "▁a", "▁b", "a", "b", "▁"]


def windowed(**settings):
    return make(**{**WINDOW, **settings})


def table_of(search, texts=TEXTS, bonus=4.0):
    return search.prepare([Phrase(text, bonus, [path_of(text)]) for text in texts])


def heard(frames, **spans):
    """Evidence from `p<index>=(begin, end, value)`."""
    rows = np.zeros((frames, len(TEXTS)), np.float32)
    for name, (begin, end, value) in spans.items():
        rows[begin:end, int(name[1:])] = value
    return ev.from_attention(rows)


def sparse(seed, frames, phrases=len(TEXTS)):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(size=(frames, phrases)) < 0.03
    return ev.windowed(ev.from_attention(centres * rng.uniform(0.1, 1, (frames, phrases))), before=0, after=8)


@pytest.mark.parametrize("labels", [LETTERS, ["-", "a", "b", "c"], PIECES])
def test_without_phrases_the_score_is_that_of_the_best_alignment(labels):
    x = random_log_probs(np.random.default_rng(4), 5, 4)
    boundary = 1 if labels is LETTERS else None
    search = BeamSearch(
        labels[:4], blank=0, word_boundary=boundary, boosting="windowed", beam=2000, n_best=2000, threads=1,
        token_min_log_prob=-np.inf, beam_prune_log_prob=-np.inf,
    )  # fmt: skip
    best = search.decode(x[None])[0].best
    texts = mass_of_texts(x, 0, lambda tokens: [tokens])
    assert best.score <= max(texts.values()) + 1e-5
    assert best.score == pytest.approx(float(x.max(axis=1).sum()), abs=1e-4)  # no model, no phrase: the greedy path


def test_a_phrase_counts_where_it_is_heard_and_nowhere_else():
    x = peaky("cafe bad face")
    frames = x.shape[1]
    search, plain = windowed(lm=False), windowed(lm=False).decode(x)[0].best
    table = table_of(search)
    ends = 3 * len("cafe bad face")
    silent = search.decode(x, phrases=table, evidence=[ev.nothing(frames)])[0].best
    near = search.decode(x, phrases=table, evidence=[heard(frames, p0=(ends - 4, ends - 2, 0.5))])[0].best
    far = search.decode(x, phrases=table, evidence=[heard(frames, p0=(2, 4, 0.5))])[0].best
    assert (silent.text, silent.score) == (plain.text, plain.score)
    assert far.score == plain.score
    assert near.score == pytest.approx(plain.score + 0.5 * 4.0, abs=1e-9)


def test_the_floor_is_paid_unheard():
    x = peaky("bad face")
    search = windowed(lm=False, evidence_floor=0.25)
    plain = windowed(lm=False).decode(x)[0].best.score
    found = search.decode(x, phrases=table_of(search), evidence=[ev.nothing(x.shape[1])])[0].best
    assert found.score == pytest.approx(plain + 0.25 * 4.0, abs=1e-9)


def test_a_heard_phrase_is_found_whose_letters_are_below_the_token_threshold():
    x = peaky("cafe bad face", 1, missing=(5, 9))  # the b of bad and the f of face are heard as h, and are at -9
    search = windowed(lm=False, beam=10)
    table = table_of(search, bonus=30.0)
    sound = heard(x.shape[1], p0=(8, 26, 0.9))
    assert search.decode(x)[0].text == "cafe had hace"
    assert search.decode(x, phrases=table, evidence=[ev.nothing(x.shape[1])])[0].text == "cafe had hace"
    assert search.decode(x, phrases=table, evidence=[sound])[0].text == "cafe bad face"


def test_a_phrase_inside_a_longer_word_pays_nothing():
    x = peaky("faced")
    search = windowed(lm=False)
    found = search.decode(x, phrases=table_of(search), evidence=[heard(x.shape[1], p1=(0, 15, 1.0))])[0].best
    assert found.score == windowed(lm=False).decode(x)[0].best.score


def test_nested_phrases_pay_the_better_choice():
    x = peaky("bad face")
    search, frames = windowed(lm=False), x.shape[1]
    plain = search.decode(x)[0].best.score
    table = search.prepare([Phrase("bad face", 5.0, [path_of("bad face")]), Phrase("face", 3.0, [path_of("face")])])
    for both, expected in (((1.0, 1.0), 5.0), ((0.5, 1.0), 3.0)):
        found = search.decode(x, phrases=table, evidence=[ev.from_attention(np.tile(both, (frames, 1)))])[0].best
        assert found.score == pytest.approx(plain + expected, abs=1e-9)


@pytest.mark.parametrize("floor", [0.0, 0.2])
@pytest.mark.parametrize("n_best", [1, 3])
@pytest.mark.parametrize("lm", [False, True])
def test_chunks_of_any_size_equal_the_whole_bit_for_bit(lm, n_best, floor):
    search = windowed(lm=lm, n_best=n_best, beam=20, evidence_floor=floor)
    table = table_of(search)
    x = np.concatenate([batch(seed=5, size=1, frames=130), peaky("bad face"), peaky(" dead bead")], axis=1)[0]
    sound = ev.combined(sparse(1, len(x)), heard(len(x), p4=(len(x) - 15, len(x), 0.9)))
    whole = search.decode(x[None], phrases=table, evidence=[sound], frame_shift_s=0.02)[0]
    assert whole.best.score > search.decode(x[None])[0].best.score
    for size in range(1, 65):
        session = search.open(phrases=table, frame_shift_s=0.02)
        for begin in range(0, len(x), size):
            end = min(begin + size, len(x))
            session.push(x[begin:end], ev.piece(sound, begin, end))
        assert session.finish() == whole


def test_memory_does_not_grow_with_the_audio():
    search = windowed()
    session = search.open(phrases=table_of(search))
    chunk = peaky("bad abba fed cafe bad face dead bead ")[0]
    rows = []
    for number in range(30):
        session.push(chunk, sparse(number, len(chunk)))
        rows.append(session.rows)
    assert rows[-1] == rows[2]
    assert len(session.finish().best.extra["words"]) == 30 * 8


def test_partial_text_is_that_of_the_leading_hypothesis_without_claims():
    search = windowed(lm=False, window_after=0)
    session = search.open(phrases=table_of(search))
    x = peaky("bad face")[0]
    session.push(x[:12], heard(12, p0=(0, 12, 1.0)))
    assert session.partial == "bad"
    session.push(x[12:], heard(len(x) - 12, p0=(0, len(x) - 12, 1.0)))
    assert session.partial == "bad face"


@pytest.mark.parametrize("seed", range(6))
def test_best_hypothesis_is_the_same_whether_or_not_others_are_kept(seed):
    rng = np.random.default_rng(seed)
    x = np.stack([random_log_probs(rng, 7, 4) for _ in range(3)])
    sounds = [ev.from_attention(rng.uniform(0, 1, (7, 3))) for _ in range(3)]
    found = []
    for n_best in (1, 2):
        search = BeamSearch(
            LETTERS[:4], blank=0, word_boundary=1, beam=8000, n_best=n_best, token_min_log_prob=-np.inf,
            beam_prune_log_prob=-np.inf, threads=1, **WINDOW,
        )  # fmt: skip
        table = search.prepare([Phrase("ab", 2.0, [[2, 3]]), Phrase("a b", 2.5, [[2, 1, 3]]), Phrase("b", 1.5, [[3]])])
        found.append(search.decode(x, phrases=table, evidence=sounds))
    for one, many in zip(*found, strict=True):
        assert one.text == many.text
        assert one.best.score == pytest.approx(many.best.score, abs=1e-9)


def test_phrases_that_are_never_heard_change_nothing():
    rng = np.random.default_rng(0)
    x = batch(seed=3, size=3, frames=80)
    search = windowed(beam=30, n_best=5, lm=False)
    small = table_of(search)
    more = ["".join(rng.choice(list("abcdefgh"), 9)) for _ in range(300)]
    large = search.prepare([Phrase(text, 4.0, [path_of(text)]) for text in (*TEXTS, *more)])
    sounds = [sparse(seed, 80) for seed in range(3)]
    found = [search.decode(x, phrases=table, evidence=sounds) for table in (small, large)]
    assert found[0] == found[1]


def test_marked_pieces_begin_and_end_phrases():
    x = np.full((1, 8, 6), -12.0, np.float32)
    for frame, label in enumerate([1, 0, 4, 0, 2, 0, 3, 0]):  # ▁a b ▁b a
        x[0, frame, label] = -0.01
    search = BeamSearch(PIECES, blank=0, threads=1, **WINDOW)
    plain = search.decode(x)[0].best
    assert plain.text == "ab ba"
    everywhere = [ev.from_attention(np.ones((8, 1)))]
    for path, paid in (([1, 4], 2.0), ([1], 0.0), ([2, 3], 2.0), ([1, 4, 2, 3], 2.0), ([2], 0.0)):
        table = search.prepare([Phrase("p", 2.0, [path])])
        found = search.decode(x, phrases=table, evidence=everywhere)[0].best
        assert found.score == pytest.approx(plain.score + paid, abs=1e-9), path


def test_states_are_reused_for_lists_of_any_size():
    x = batch(seed=3, size=1, frames=40)
    search = windowed(beam=20)
    tables = [table_of(search), search.prepare([Phrase("a", 4.0, [path_of("a")])]), table_of(search)]
    sounds = [sparse(1, 40), ev.from_attention(np.ones((40, 1))), sparse(1, 40)]
    found = [search.decode(x, phrases=t, evidence=[s])[0] for t, s in zip(tables, sounds, strict=True)]
    assert found[0] == found[2]


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_what_was_heard_before_leaves_no_trace(floor):
    x = batch(seed=3, size=1, frames=80)
    used = windowed(beam=20, n_best=3, evidence_floor=floor)
    table = table_of(used)
    for seed in range(6):
        sound = ev.combined(sparse(seed, 80), heard(80, p2=(70, 80, 0.5)))  # the last row is not empty
        fresh = windowed(beam=20, n_best=3, evidence_floor=floor)
        assert used.decode(x, phrases=table, evidence=[sound]) == fresh.decode(
            x, phrases=table_of(fresh), evidence=[sound]
        )


def test_the_trie_knows_what_each_node_may_pay():
    claims = build_claims([[(1, 2), (1, 2, 3)], [(1, 2, 3, 4)], [(5,)]], [2.0, 8.0, 1.0], floor=0.5)
    nodes = [0]
    for label in (1, 2, 3, 4):
        nodes.append(int(child_of(claims, nodes[-1], label)))
    assert list(claims.depth[nodes]) == [0, 1, 2, 3, 4]
    assert list(claims.credit[nodes]) == [0.0, 2.0, 4.0, 6.0, 0.0]
    assert list(claims.most[nodes]) == [8.0, 8.0, 8.0, 8.0, 0.0]
    assert list(claims.paid[nodes]) == [0.0, 0.0, 2.0, 2.0, 8.0]
    assert sorted(claims.path_leaf[claims.path_start[0] : claims.path_start[1]]) == sorted([nodes[2], nodes[3]])


def test_what_cannot_work_is_refused_by_name():
    with pytest.raises(PluginError, match="boosting 'windowed' works without a lexicon"):
        make(lexicon=True, boosting="windowed")
    search = windowed()
    with pytest.raises(VocabularyError, match="phrase 'fed' has no label paths; give one path or more"):
        search.prepare([Phrase("fed", 1.0)])
    with pytest.raises(PluginError, match="'windowed' weighs phrases frame by frame; give evidence instead"):
        search.reweighed(table_of(search), np.ones(len(TEXTS)))
    engine = WindowedEngine(search.settings)
    table = engine.prepare([Phrase("fed", 1.0, [path_of("fed")])])
    x = peaky("fed")[0]
    with pytest.raises(ShapeError, match="evidence has 4 frames, but there are 9 frames of log-probabilities"):
        engine.advance(engine.open(table), table, x, ev.nothing(4))
    wrong = Evidence(np.array([0, 1] + [1] * 8), np.array([1], np.int32), np.array([0.5], np.float32))
    with pytest.raises(DataError, match="evidence names phrase 1, but the list has 1 phrases"):
        engine.advance(engine.open(table), table, x, wrong)
    with pytest.raises(DataError, match="frame 2 gives no label any probability"):
        engine.advance(
            engine.open(table), table, np.concatenate([x[:2], np.full((1, len(LETTERS)), -np.inf, np.float32)])
        )
