"""A stream through the contextual adapter: frames are held back until their queries have seen what is ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sltcore.interfaces import Session
from sltcore.types import Encoded

if TYPE_CHECKING:
    from slt_ctc_personalization.adapter.contextual_adapter import ContextualAdapter
    from slt_ctc_personalization.adapter.phrase_attention import Table


class ContextualSession(Session):
    """A session of the base whose frames attend to one list of phrases, held back by what their queries see ahead."""

    def __init__(self, adapter: ContextualAdapter, inner: Session, table: Table | None) -> None:
        self._adapter = adapter
        self._inner = inner
        self._table = table
        self._ahead = 0 if table is None else adapter.adapter.context_frames
        self._seen: Encoded | None = None  # frames that queries still need, and those that wait
        self._given = 0  # of those, how many were returned before

    def push(self, chunk: Any, **streams: Any) -> Encoded | None:
        """The frames that are settled, adapted, or None. **Raises** `StreamError` after `finish`."""
        return self._adapted(self._inner.push(chunk, **streams), ended=False)

    def finish(self) -> Encoded | None:
        """The remaining frames, or None."""
        return self._adapted(self._inner.finish(), ended=True)

    @torch.no_grad()
    def _adapted(self, encoded: Encoded | None, *, ended: bool) -> Encoded | None:
        self._seen = joined(self._seen, encoded)
        if self._seen is None:
            return None
        frames = int(self._seen.lengths[0])
        stop = frames if ended else max(self._given, frames - self._ahead)
        if stop == self._given:
            return None
        found = self._adapter.adapted_piece(self._seen, self._table, self._given, stop)
        first = max(0, stop - self._ahead)
        self._seen, self._given = piece(self._seen, first, frames), stop - first
        return found


def joined(before: Encoded | None, encoded: Encoded | None) -> Encoded | None:
    """Two pieces of one utterance, one behind the other."""
    if before is None or encoded is None:
        return encoded if before is None else before

    def both(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a[:, : int(before.lengths[0])], b[:, : int(encoded.lengths[0])]], dim=1)

    return before._replace(
        values=both(before.values, encoded.values),
        lengths=before.lengths + encoded.lengths,
        layers={depth: both(layer, encoded.layers[depth]) for depth, layer in before.layers.items()},
        extra={name: both(tensor, encoded.extra[name]) for name, tensor in before.extra.items()},
    )


def piece(encoded: Encoded, first: int, stop: int) -> Encoded:
    """The frames `first ... stop - 1` of one utterance; whatever stands beside them is cut like them."""
    return encoded._replace(
        values=encoded.values[:, first:stop],
        lengths=torch.full_like(encoded.lengths, stop - first),
        offset_s=encoded.offset_s + first * encoded.frame_shift_s,
        layers={depth: layer[:, first:stop] for depth, layer in encoded.layers.items()},
        extra={name: tensor[:, first:stop] for name, tensor in encoded.extra.items()},
    )
