"""A session equals the whole utterance bit for bit and stays small for hours of audio."""

from __future__ import annotations

import numpy as np
import pytest
from beam_cases import LETTERS, TEXTS, batch, make, path_of, peaky

from slt_ctc_personalization.beam_search.search import Phrase
from sltcore.errors import DataError, ShapeError, StreamError


def phrases_for(search):
    return search.prepare([Phrase(text, 3.0, [path_of(text)]) for text in ("bad face", "face", "fed")])


@pytest.mark.parametrize("lexicon", [False, True])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("n_best", [1, 3])
def test_chunks_of_any_size_equal_the_whole_bit_for_bit(lexicon, listed, n_best):
    search = make(lexicon=lexicon, n_best=n_best, beam=25)
    table = phrases_for(search) if listed else None
    x = np.concatenate([batch(seed=5, size=1, frames=300), np.tile(peaky("bad face"), (1, 40, 1))], axis=1)
    whole = search.decode(x, phrases=table, frame_shift_s=0.02)[0]
    rng = np.random.default_rng(0)
    for _ in range(3):
        session, place = search.open(phrases=table, frame_shift_s=0.02), 0
        while place < x.shape[1]:
            size = int(rng.integers(0, 90))
            session.push(x[0, place : place + size])
            place += size
        assert session.finish() == whole


@pytest.mark.parametrize("lexicon", [False, True])
def test_memory_does_not_grow_with_the_audio(lexicon):
    search = make(lexicon=lexicon)
    session = search.open(phrases=phrases_for(search))
    text = " ".join(TEXTS) + " "
    chunk = peaky(text)[0]
    rows = []
    for _ in range(60):
        session.push(chunk)
        rows.append(session.rows)
    assert rows[-1] == rows[2]
    found = session.finish().best
    assert found.extra["words"] == (text * 60).split()
    assert list(found.times) == sorted(found.times)


def test_partial_text_leads_to_the_final_one():
    search = make(lm=False)
    session = search.open()
    x = peaky("bad face")[0]
    session.push(x[:9])
    assert session.partial == "bad"
    session.push(x[9:])
    assert session.partial == session.finish().text == "bad face"


def test_partial_text_of_a_lexicon_search_holds_complete_words():
    search = make(lm=False, lexicon=True)
    session = search.open()
    session.push(peaky("bad face")[0])
    assert session.partial == "bad"
    assert session.finish().text == "bad face"


def test_finished_sessions_and_bad_chunks_are_refused():
    session = make().open()
    with pytest.raises(ShapeError, match=r"the chunk has shape \(3, 4\), expected \(t, v\) with v = 10"):
        session.push(np.zeros((3, 4), np.float32))
    with pytest.raises(DataError, match="the chunk holds nan at frame 2"):
        session.push(np.concatenate([np.zeros((2, 10)), np.full((1, 10), np.nan)]))
    assert session.finish().text == ""
    with pytest.raises(StreamError, match="push: this session is finished"):
        session.push(np.zeros((3, len(LETTERS)), np.float32))
    with pytest.raises(StreamError, match="finish: this session is finished"):
        session.finish()
