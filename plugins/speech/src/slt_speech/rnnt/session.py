"""A transducer that hears one utterance piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from sltcore.errors import ShapeError, StreamError
from sltcore.interfaces import Session
from sltcore.types import Encoded, NBest

if TYPE_CHECKING:
    from slt_speech.rnnt.decoder import Rnnt


class RnntSession(Session):
    """The decoder's search, carried on from chunk to chunk, in memory that grows with the text only.

    `push` takes an `Encoded` with one utterance and returns the n-best list of everything heard so far, or None while
    its best text is unchanged; `finish` returns the list that `decode` gives on the whole.
    """

    def __init__(self, decoder: Rnnt, context: Mapping[str, Any]) -> None:
        self._decoder = decoder
        with torch.no_grad():
            self._search = decoder.searching(context, 1)
        self._timing: tuple[float, float] | None = None
        self._said: tuple[int, ...] = ()
        self._finished = False

    @torch.no_grad()
    def push(self, chunk: Encoded, **streams: Any) -> NBest | None:
        """Hear the next frames. **Raises** `StreamError` after `finish`, `ShapeError` for more than one utterance."""
        if self._finished:
            raise StreamError("this rnnt session is finished; open another one")
        if len(chunk.lengths) != 1:
            raise ShapeError(f"a streaming chunk holds one utterance, got {len(chunk.lengths)}")
        if self._timing is None:
            self._timing = (chunk.frame_shift_s, chunk.offset_s)
        self._search.push(self._decoder.values(chunk), chunk.lengths)
        nbest = self._nbest()
        if nbest.best.tokens == self._said:
            return None
        self._said = nbest.best.tokens
        return nbest

    def finish(self) -> NBest:
        """The n-best list of the whole. **Raises** `StreamError` when called twice."""
        if self._finished:
            raise StreamError("this rnnt session is finished already; open another one")
        self._finished = True
        return self._nbest()

    def _nbest(self) -> NBest:
        shift, offset = self._timing or (0.0, 0.0)
        (paths,) = self._search.found()
        return self._decoder.nbest(paths, shift, offset)
