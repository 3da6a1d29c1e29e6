"""Long recordings in overlapping windows: each window is encoded alone and joined where two windows agree best."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sltcore.errors import ShapeError

# A join is placed by the mean difference of two windows over this many frames on each side of it.
AGREEMENT_FRAMES = 10


class WindowedEncoder:
    """Encodes frames that arrive piece by piece, in windows of at most `window_frames`.

    Window k covers frames [k S, k S + W) with S = W - O; the last one ends with the recording and covers at least
    W / 2 where the recording does, so no window is starved of context. In the O frames that two neighbours share, the join j is the frame
    that minimises sum_{|i - j| <= r} ||a_i - b_i||^2 (a, b: the two windows' outputs); frames before j come from the
    earlier window, j and later from the later one. Each frame leaves exactly once, in order. The windows depend on
    the number of frames alone, not on the pieces in which they arrived. At most 2 W - O frames and one piece are held.

    `encode` maps frames [t f] to outputs [s t d] (s: the layers that are kept; the last one decides on the joins).

    Raises:
        ShapeError: the overlap is not between 2 AGREEMENT_FRAMES and half a window.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], *, window_frames: int, overlap_frames: int) -> None:
        if not 2 * AGREEMENT_FRAMES <= overlap_frames <= window_frames // 2:
            raise ShapeError(
                f"an overlap of {overlap_frames} frames does not fit windows of {window_frames} frames; "
                f"expected {2 * AGREEMENT_FRAMES} to {window_frames // 2}"
            )
        self._encode = encode
        self._window = window_frames
        self._overlap = overlap_frames
        self._held: Tensor | None = None  # Frames from the start of the latest encoded window on.
        self._pending: Tensor | None = None  # That window's outputs for the overlap with the next one.
        self.joins: list[int] = []
        self._sent = 0

    @property
    def held_frames(self) -> int:
        """The number of input frames that wait in memory."""
        return 0 if self._held is None else self._held.shape[0]

    def push(self, frames: Tensor) -> Tensor | None:
        """Take frames [t f]; return the outputs [s t d] that are settled by them, or None."""
        self._held = frames if self._held is None else torch.cat((self._held, frames))
        settled = []
        # Strictly more than a window: the rest is then never empty, so `finish` always has a last window to encode.
        while self._held.shape[0] > self._next_start + self._window:
            start = self._next_start
            output = self._encode(self._held[start : start + self._window])
            settled.append(self._join(output, self._window - self._overlap, overlap_start=0))
            self._pending = output[:, self._window - self._overlap :]
            self._held = self._held[start:]
        return torch.cat(settled, dim=1) if settled else None

    def finish(self) -> Tensor | None:
        """Return all remaining outputs [s t d], or None when no frame was ever pushed."""
        if self._held is None or self._held.shape[0] == 0:
            return None
        start = min(self._next_start, max(0, self._held.shape[0] - self._window // 2))
        output = self._encode(self._held[start:])
        overlap_start = self._next_start - start
        settled = self._join(output, output.shape[1], overlap_start=overlap_start)
        self._held, self._pending = None, None
        return settled

    @property
    def _next_start(self) -> int:
        """Where the next full window starts within the held frames."""
        return 0 if self._pending is None else self._window - self._overlap

    def _join(self, output: Tensor, end: int, *, overlap_start: int) -> Tensor:
        """The pending outputs up to the join, then `output` from the join to `end`."""
        if self._pending is None:
            settled = output[:, :end]
        else:
            width = self._pending.shape[1]
            join = best_join(self._pending[-1], output[-1, overlap_start : overlap_start + width])
            self.joins.append(self._sent + join)
            settled = torch.cat((self._pending[:, :join], output[:, overlap_start + join : end]), dim=1)
        self._sent += settled.shape[1]
        return settled


def best_join(earlier: Tensor, later: Tensor) -> int:
    """The frame at which to pass from `earlier` [t d] to `later` [t d], two encodings of the same frames.

    It has at least AGREEMENT_FRAMES frames on each side; of equal choices the one nearest the middle wins.
    """
    frames = earlier.shape[0]
    difference = (earlier.detach().float() - later.detach().float()).square().mean(1).double()
    sums = torch.nn.functional.pad(difference.cumsum(0), (1, 0))
    cost = (sums[2 * AGREEMENT_FRAMES :] - sums[: -2 * AGREEMENT_FRAMES]) / (2 * AGREEMENT_FRAMES)
    positions = torch.arange(AGREEMENT_FRAMES, frames - AGREEMENT_FRAMES + 1, device=cost.device)
    # Far below any real difference of two windows: it only settles ties, as in digital silence.
    tie_break = 1e-9 * (positions - frames / 2).abs()
    return int(positions[(cost + tie_break).argmin()])
