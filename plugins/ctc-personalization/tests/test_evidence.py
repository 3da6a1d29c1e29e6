"""Evidence equals a dense matrix under every operation, and pieces equal the whole."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from slt_ctc_personalization.evidence import evidence as ev
from sltcore.errors import DataError, ShapeError


class Hit(NamedTuple):
    """The fields of a spotter's hit that evidence reads."""

    phrase: int
    begin: int
    end: int
    value: float


def dense(evidence, phrases):
    out = np.zeros((evidence.frames, phrases), np.float32)
    for frame in range(evidence.frames):
        row = slice(evidence.start[frame], evidence.start[frame + 1])
        names = evidence.phrase[row]
        assert list(names) == sorted(set(names.tolist()))
        out[frame, names] = evidence.value[row]
    assert evidence.start.dtype == np.int64
    assert evidence.phrase.dtype == np.int32
    assert evidence.value.dtype == np.float32
    return out


def random_evidence(rng, frames, phrases, share=0.2):
    values = rng.uniform(0, 1, (frames, phrases)).astype(np.float32) * (rng.uniform(size=(frames, phrases)) < share)
    return ev.from_attention(values, least=1e-6), values


@pytest.mark.parametrize("as_tensor", [False, True])
def test_attention_keeps_what_reaches_the_threshold(as_tensor):
    values = np.array([[0.0, 0.049, 0.05], [1.5, 0.2, 0.0]], np.float32)
    found = ev.from_attention(torch.from_numpy(values).requires_grad_() if as_tensor else values)
    np.testing.assert_array_equal(dense(found, 3), np.array([[0, 0, 0.05], [1.0, 0.2, 0]], np.float32))


@pytest.mark.parametrize("frames", [0, 3])
def test_attention_over_no_phrases_or_no_frames_is_nothing(frames):
    found = ev.from_attention(np.zeros((frames, 0), np.float32))
    assert found.frames == frames
    assert len(found.phrase) == 0


def test_hits_fill_their_frames_and_the_larger_of_two_counts():
    hits = [Hit(1, 0, 3, 0.5), Hit(1, 2, 4, 0.75), Hit(0, 1, 2, 0.25), Hit(2, 3, 3, 1.0), Hit(2, 0, 4, 0.0)]
    expected = np.array([[0, 0.5, 0], [0.25, 0.5, 0], [0, 0.75, 0], [0, 0.75, 0], [0, 0, 0]], np.float32)
    np.testing.assert_array_equal(dense(ev.from_hits(hits, 5), 3), expected)
    assert not dense(ev.from_hits([], 5), 3).any()


def test_the_larger_of_both_is_combined():
    rng = np.random.default_rng(0)
    (a, x), (b, y) = (random_evidence(rng, 30, 7) for _ in range(2))
    np.testing.assert_array_equal(dense(ev.combined(a, b), 7), np.maximum(x, y))


@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 0), (0, 2), (5, 4), (100, 10), (700, 700)])
@pytest.mark.parametrize("frames", [0, 1, 40, 600])
def test_window_equals_the_maximum_over_its_frames(frames, before, after):
    rng = np.random.default_rng(frames)
    found, values = random_evidence(rng, frames, 9, share=0.03)
    expected = np.array([values[max(t - before, 0) : t + after + 1].max(axis=0) for t in range(frames)])
    np.testing.assert_array_equal(dense(ev.windowed(found, before=before, after=after), 9), expected.reshape(frames, 9))


def test_utterance_level_is_the_maximum_over_all_frames():
    found, values = random_evidence(np.random.default_rng(1), 50, 6, share=0.02)
    np.testing.assert_array_equal(ev.of_utterance(found, 6), values.max(axis=0))
    np.testing.assert_array_equal(ev.of_utterance(ev.nothing(4), 2), [0.0, 0.0])


def test_pieces_joined_are_the_whole():
    found, values = random_evidence(np.random.default_rng(2), 50, 6)
    parts = [ev.piece(found, begin, min(begin + 7, 50)) for begin in range(0, 50, 7)]
    np.testing.assert_array_equal(dense(parts[2], 6), values[14:21])
    whole = ev.joined(parts)
    for field in ev.Evidence._fields:
        np.testing.assert_array_equal(getattr(whole, field), getattr(found, field))
    assert ev.joined([]).frames == 0


def test_bad_evidence_is_refused_by_name():
    with pytest.raises(DataError, match=r"evidence: least is 0; give a number above 0, at most 1"):
        ev.from_attention(np.zeros((2, 2)), least=0)
    with pytest.raises(ShapeError, match=r"the attention has shape \(2,\), expected \(t, k\)"):
        ev.from_attention(np.zeros(2))
    with pytest.raises(DataError, match="the attention is nan at frame 1, phrase 0"):
        ev.from_attention(np.array([[0.0], [np.nan]]))
    with pytest.raises(DataError, match="a hit of phrase 3 covers frames 2 to 9, but there are 5"):
        ev.from_hits([Hit(3, 2, 9, 0.5)], 5)
    with pytest.raises(DataError, match=r"a hit of phrase 3 has the value 1.5; expected 0 to 1"):
        ev.from_hits([Hit(3, 2, 4, 1.5)], 5)
    with pytest.raises(ShapeError, match="3 frames cannot be combined with 4"):
        ev.combined(ev.nothing(3), ev.nothing(4))
    one = ev.from_attention(np.array([[0.0, 0.5]]))
    ev.check_evidence(one, 1, 2)
    with pytest.raises(ShapeError, match="evidence has 1 frames, but there are 3 frames of log-probabilities"):
        ev.check_evidence(one, 3, 2)
    with pytest.raises(DataError, match="evidence names phrase 1, but the list has 1 phrases"):
        ev.check_evidence(one, 1, 1)
    with pytest.raises(DataError, match=r"evidence has values from 2.0 to 2.0; expected above 0, at most 1"):
        ev.check_evidence(one._replace(value=one.value * 4), 1, 2)
