"""The word spotter against its definition, and what it promises about pruning, lists and streams."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from spotter_reference import reference_hits

from slt_ctc_personalization.spotter.spotter import Hit, Spotter
from sltcore.errors import PluginError, ShapeError, StreamError, VocabularyError

LETTERS = ["-", " ", "a", "b", "c"]
PIECES = ["-", "▁a", "▁b", "a", "b"]


def lattice(random: np.random.Generator, frames: int, labels: int) -> np.ndarray:
    """Scores in eighths, so that sums are exact and equal ones common."""
    return (-random.integers(0, 40, (frames, labels)) / 8).astype(np.float32)


def log_probs(random: np.random.Generator, frames: int, labels: int, sharpness: float = 4.0) -> np.ndarray:
    logits = random.normal(size=(frames, labels)) * sharpness
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def spoken(labels: list[str], text: str, *, certain: float = 0.97) -> np.ndarray:
    """One frame for each character of `text`, `-` for blank."""
    rest = (1 - certain) / (len(labels) - 1)
    out = np.full((len(text), len(labels)), math.log(rest), np.float32)
    out[np.arange(len(text)), [labels.index(c) for c in text]] = math.log(certain)
    return out


def make(labels: list[str], **settings: Any) -> Spotter:
    return Spotter(labels, blank=0, **{"context_weight": 3.0, "threshold": 0.0, "missed_border": 3.0, **settings})


def rows(hits: list[Hit]) -> list[tuple[int, int, int, float, int]]:
    return [(hit.phrase, hit.begin, hit.end, hit.score, hit.path) for hit in hits]


def random_list(random: np.random.Generator, kind: str) -> list[list[tuple[int, ...]]]:
    found = []
    for _ in range(int(random.integers(1, 4))):
        paths = set()
        for _ in range(int(random.integers(1, 3))):
            length = int(random.integers(1, 4))
            if kind == "marks":
                paths.add((int(random.integers(1, 3)), *random.integers(1, 5, length - 1).tolist()))
            else:
                paths.add(tuple(random.integers(2, 5, length).tolist()))
        found.append(sorted(paths))
    return found


@pytest.mark.parametrize("kind", ["none", "boundary", "marks"])
@pytest.mark.parametrize("missed", [1.5, math.inf])
def test_hits_are_those_of_the_definition_on_random_lattices(kind: str, missed: float):
    random = np.random.default_rng(3)
    labels = PIECES if kind == "marks" else LETTERS
    boundary = 1 if kind == "boundary" else None
    borders = frozenset({"none": (), "boundary": (1,), "marks": (1, 2)}[kind])
    seen = 0
    for _ in range(60):
        frames = lattice(random, int(random.integers(1, 7)), 5)
        phrases = random_list(random, kind)
        weight, threshold = float(random.integers(0, 24)) / 8, float(random.integers(-64, 8)) / 8
        settle = int(random.integers(0, 4))
        spotter = Spotter(
            labels,
            blank=0,
            word_boundary=boundary,
            context_weight=weight,
            threshold=threshold,
            beam=math.inf,
            blank_skip=1.0,
            missed_border=missed,
            settle=settle,
        )
        want = reference_hits(
            frames,
            phrases,
            blank=0,
            borders=borders,
            boundary=boundary,
            weight=weight,
            threshold=threshold,
            missed=missed,
            settle=settle,
        )
        assert rows(spotter.spot(frames, spotter.prepare(phrases))) == want
        seen += len(want)
    assert seen > 60


def test_a_phrases_hits_do_not_depend_on_the_rest_of_the_list():
    random = np.random.default_rng(0)
    spotter = make(LETTERS, word_boundary=1, threshold=0.0)
    phrases = [[tuple(random.integers(2, 5, int(random.integers(2, 6))).tolist())] for _ in range(300)]
    frames = log_probs(random, 200, 5)
    together = spotter.spot(frames, spotter.prepare(phrases))
    assert len({hit.phrase for hit in together}) > 20
    for phrase in range(0, 300, 29):
        alone = spotter.spot(frames, spotter.prepare([phrases[phrase]]))
        assert [hit._replace(phrase=phrase) for hit in alone] == [hit for hit in together if hit.phrase == phrase]


def test_pruning_never_changes_the_score_of_a_hit_it_keeps():
    random = np.random.default_rng(1)
    phrases = [[tuple(random.integers(2, 5, int(random.integers(3, 6))).tolist())] for _ in range(50)]
    frames = log_probs(random, 150, 5)
    full = make(LETTERS, threshold=0.0, beam=math.inf, blank_skip=1.0)
    every = {(hit.phrase, hit.end): hit for hit in full.spot(frames, full.prepare(phrases))}
    pruned = make(LETTERS, threshold=0.0, beam=4.0, blank_skip=0.8)
    kept = pruned.spot(frames, pruned.prepare(phrases))
    same = [hit for hit in kept if every.get((hit.phrase, hit.end), hit._replace(score=math.nan)).score == hit.score]
    assert len(kept) > 50
    assert len(same) >= 0.9 * len(kept)
    assert all(hit.score <= max(h.score for h in every.values() if h.phrase == hit.phrase) for hit in kept)


@pytest.mark.parametrize("kind", ["none", "boundary", "marks"])
def test_streaming_gives_the_hits_of_the_whole_at_any_chunk_size(kind: str):
    random = np.random.default_rng(5)
    labels = PIECES if kind == "marks" else LETTERS
    spotter = make(labels, word_boundary=1 if kind == "boundary" else None, threshold=-2.0)
    table = spotter.prepare([paths for _ in range(40) for paths in random_list(random, kind)])
    frames = log_probs(random, 150, 5)
    whole = spotter.spot(frames, table)
    assert len(whole) > 20
    for size in (1, 2, 3, 7, 16, 64):
        session = spotter.open(table)
        hits = [hit for place in range(0, len(frames), size) for hit in session.push(frames[place : place + size])]
        hits += session.finish()
        assert sorted(hits, key=lambda hit: (hit.begin, hit.end, hit.phrase)) == whole


def test_a_hit_comes_out_when_it_has_settled():
    spotter = make(LETTERS, settle=4, threshold=1.0)
    frames = spoken(LETTERS, "--ab----------")
    session = spotter.open(spotter.prepare([[(2, 3)]]))
    when = [frame for frame in range(len(frames)) if session.push(frames[frame : frame + 1])]
    assert when == [3 + 4]
    assert session.finish() == []


def test_the_memory_of_a_session_does_not_grow():
    random = np.random.default_rng(2)
    spotter = make(LETTERS, threshold=-5.0)
    session = spotter.open(spotter.prepare([[(2, 3)], [(3, 4, 2)]]))
    arrays = [array.nbytes for array in session._state]
    heard = sum(len(session.push(log_probs(random, 500, 5))) for _ in range(20))
    assert heard > 300
    assert [array.nbytes for array in session._state] == arrays


def test_equal_labels_need_a_blank_between_them():
    spotter = make(LETTERS, threshold=0.0)
    table = spotter.prepare([[(2, 2)]])
    (heard,) = spotter.spot(spoken(LETTERS, "a-a"), table)
    assert (heard.begin, heard.end) == (0, 3)
    assert heard.score == pytest.approx(6.0)
    strict = make(LETTERS, threshold=3.0)
    assert strict.spot(spoken(LETTERS, "aaa"), strict.prepare([[(2, 2)]])) == []


def test_a_phrase_inside_a_word_is_heard_only_where_borders_may_be_missed():
    joanna, anna = spoken(LETTERS, "bcaba c", certain=0.9999), [[(2, 3, 2)]]
    strict = make(LETTERS, word_boundary=1, missed_border=math.inf)
    assert strict.spot(joanna, strict.prepare(anna)) == []
    (alone,) = strict.spot(spoken(LETTERS, "bc aba c", certain=0.9999), strict.prepare(anna))
    assert (alone.begin, alone.end, alone.score) == (3, 6, 9.0)
    lenient = make(LETTERS, word_boundary=1, missed_border=2.0)
    (inside,) = lenient.spot(joanna, lenient.prepare(anna))
    assert (inside.begin, inside.end) == (2, 5)
    assert inside.score == pytest.approx(7.0)


def test_a_longer_word_does_not_hold_its_first_piece():
    labels = ["-", "▁play", "ing", "▁a"]
    spotter = make(labels, missed_border=math.inf)
    frames = np.full((5, 4), math.log(0.01), np.float32)
    frames[np.arange(5), [1, 1, 2, 0, 3]] = math.log(0.97)
    assert spotter.spot(frames, spotter.prepare([[(1,)]])) == []
    assert [hit.phrase for hit in spotter.spot(frames, spotter.prepare([[(1, 2)]]))] == [0]


def test_a_score_of_exactly_zero_counts():
    spotter = make(LETTERS, context_weight=0.0, threshold=0.0)
    (hit,) = spotter.spot(spoken(LETTERS, "-aab-"), spotter.prepare([[(2, 3)]]))
    assert hit == Hit(0, 1, 4, 0.0, 0.5, 0)


def test_the_value_rises_with_the_score_and_stays_within_its_bounds():
    random = np.random.default_rng(4)
    spotter = make(LETTERS, threshold=-math.inf, beam=math.inf)
    hits = spotter.spot(log_probs(random, 300, 5, 30.0), spotter.prepare([[(2, 3, 4)], [(4, 4, 4)]]))
    ordered = sorted(hits, key=lambda hit: hit.score)
    assert ordered[0].score < -20
    assert all(0.0 < hit.value <= 1.0 for hit in hits)
    assert [hit.value for hit in ordered] == sorted(hit.value for hit in hits)
    assert all(hit.value == pytest.approx(1 / (1 + math.exp(-hit.score / 3))) for hit in hits)


def test_the_best_of_several_pronunciations_is_named():
    spotter = make(LETTERS, threshold=5.0)
    table = spotter.prepare([[(4, 4)], [(2, 3, 2), (2, 3, 4)]])
    (hit,) = spotter.spot(spoken(LETTERS, "--abc--"), table)
    assert (hit.phrase, hit.path, hit.begin, hit.end) == (1, 1, 2, 5)


def test_a_weight_of_a_phrase_replaces_the_context_weight():
    spotter = make(LETTERS, threshold=0.5)
    frames = spoken(LETTERS, "-ab-")
    (hit,) = spotter.spot(frames, spotter.prepare([[(2, 3)]], [1.25]))
    assert hit.score == 2.5
    assert spotter.spot(frames, spotter.prepare([[(2, 3)]], [0.0])) == []


def test_no_phrases_and_no_frames_give_no_hits():
    spotter = make(LETTERS)
    assert spotter.spot(spoken(LETTERS, "ab"), spotter.prepare([])) == []
    assert spotter.spot(np.zeros((0, 5), np.float32), spotter.prepare([[(2,)]])) == []


def test_twenty_thousand_phrases_are_ready_in_a_second():
    random = np.random.default_rng(0)
    labels = ["-", " ", *"abcdefghijklmnopqrstuvwxyz"]
    paths = [[random.integers(2, 28, int(random.integers(3, 10))).tolist()] for _ in range(20_000)]
    spotter = make(labels, word_boundary=1)
    started = time.process_time()
    spotter.prepare(paths)
    assert time.process_time() - started < 1.0


def test_what_cannot_be_heard_is_refused():
    spotter = make(LETTERS, word_boundary=1)
    with pytest.raises(VocabularyError, match="phrase 1 has no path, so it can never be heard"):
        spotter.prepare([[(2,)], []])
    with pytest.raises(VocabularyError, match="phrase 1 has an empty path"):
        spotter.prepare([[(2,)], [(3,), ()]])
    with pytest.raises(VocabularyError, match=r"phrase 1 has label id 5, expected ids from 0 to 4 except the blank, 0"):
        spotter.prepare([[(2, 3)], [(3, 5)]])
    with pytest.raises(VocabularyError, match="phrase 0 has label id 0"):
        spotter.prepare([[(2, 0, 3)]])
    with pytest.raises(VocabularyError, match="a path of phrase 1 begins or ends with the word boundary"):
        spotter.prepare([[(2, 3)], [(3, 1)]])
    with pytest.raises(VocabularyError, match="phrase 0 has the weight nan"):
        spotter.prepare([[(2,)]], [math.nan])
    with pytest.raises(VocabularyError, match="2 weights for 1 phrases"):
        spotter.prepare([[(2,)]], [1.0, 1.0])


def test_frames_that_are_no_posteriors_are_refused():
    spotter = make(LETTERS)
    table = spotter.prepare([[(2, 3)]])
    with pytest.raises(ShapeError, match=r"shape \(3, 4\), expected \(t, v\) with v = 5 labels"):
        spotter.spot(np.zeros((3, 4)), table)
    session = spotter.open(table)
    session.push(spoken(LETTERS, "-a"))
    with pytest.raises(ShapeError, match="frame 3 holds NaN, or no label that is possible"):
        session.push(np.array([[0.0] * 5, [0.0, math.nan, 0.0, 0.0, 0.0]]))
    with pytest.raises(ShapeError, match="frame 2 holds NaN, or no label that is possible"):
        session.push(np.full((1, 5), -math.inf))
    session.finish()
    with pytest.raises(StreamError, match="finished; open another one"):
        session.push(spoken(LETTERS, "a"))
    with pytest.raises(StreamError, match="finished; open another one"):
        session.finish()
    with pytest.raises(PluginError, match="made by another spotter"):
        make(LETTERS).open(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blank": 9}, "blank is id 9, but the label ids run from 0 to 4"),
        ({"blank": 0, "word_boundary": 0}, "both id 0; they must differ"),
        ({"blank": 0, "context_weight": -1.0}, "context_weight is -1.0"),
        ({"blank": 0, "threshold": math.nan}, "threshold is nan"),
        ({"blank": 0, "beam": -1.0}, "beam is -1.0"),
        ({"blank": 0, "blank_skip": 0.0}, "blank_skip is 0.0"),
        ({"blank": 0, "settle": -1}, "settle is -1 frames"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises((VocabularyError, PluginError), match=message):
        Spotter(LETTERS, **options)
