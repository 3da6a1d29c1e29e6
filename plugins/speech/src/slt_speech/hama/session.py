"""A recording that arrives piece by piece: features in blocks of fixed size, frames in overlapping windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slt_speech.hama.front_end import EDGE, FRAME, HOP, SHORTEST
from slt_speech.hama.windows import WindowedEncoder
from sltcore.errors import ShapeError, StreamError
from sltcore.types import Encoded

if TYPE_CHECKING:
    from slt_speech.hama.network import HamaConformer

# Feature frames that are computed at once, whatever the pieces: the sums then have one order for all pieces.
BLOCK_FRAMES = 1000


class LongRecording:
    """One recording of any length through `encoder`; features and subsampling are those of the whole recording.

    Only the blocks see windows: every log-mel frame, and every subsampled one, has its true neighbours.
    """

    def __init__(self, encoder: HamaConformer) -> None:
        self._encoder = encoder
        self._windows = WindowedEncoder(
            lambda frames: encoder.encode_frames(frames[None])[:, 0],
            window_frames=encoder.window_frames,
            overlap_frames=encoder.overlap_frames,
        )
        self._samples = encoder.stem.weight.new_zeros(0, dtype=torch.float32)
        self._previous = encoder.stem.weight.new_zeros(1, 1, encoder.stem.in_channels, dtype=torch.float32)
        self._total = 0
        self._is_started = False
        self._frames_done = 0

    @property
    def joins(self) -> list[int]:
        """The frames at which the windows were joined so far."""
        return self._windows.joins

    @property
    def held_samples(self) -> int:
        """The number of samples that wait in memory, those of waiting frames included."""
        return self._samples.shape[0] + 2 * HOP * self._windows.held_frames

    def push(self, samples: Tensor) -> Tensor | None:
        """Take samples [n]; return the layers and outputs [s t d] that they settle, or None."""
        settled = []
        block = BLOCK_FRAMES * HOP
        # A recording of hours may come in one piece; it is never copied whole.
        for start in range(0, samples.shape[0], block):
            piece = samples[start : start + block].to(self._samples)
            self._samples = torch.cat((self._samples, piece))
            self._total += piece.shape[0]
            self._reflect_start()
            while self._is_started and self._samples.shape[0] >= block - HOP + FRAME:
                out = self._encode_samples(BLOCK_FRAMES)
                settled += [] if out is None else [out]
        return torch.cat(settled, dim=1) if settled else None

    def finish(self) -> Tensor | None:
        """Return the rest [s t d], or None when there was no sample at all."""
        if self._total == 0:
            return None
        # Too short to reflect: zeros follow, as in a batch.
        self._samples = F.pad(self._samples, (0, max(0, SHORTEST - self._total)))
        self._reflect_start()
        self._samples = torch.cat((self._samples, self._samples[-EDGE - 1 : -1].flip(0)))
        settled = []
        while (frames := self._total // HOP + 1 - self._frames_done) > 0:
            settled.append(self._encode_samples(min(frames, BLOCK_FRAMES)))
        settled.append(self._windows.finish())
        return torch.cat([out for out in settled if out is not None], dim=1)

    def _reflect_start(self) -> None:
        if not self._is_started and self._samples.shape[0] >= SHORTEST:
            self._samples = torch.cat((self._samples[1:SHORTEST].flip(0), self._samples))
            self._is_started = True

    def _encode_samples(self, frames: int) -> Tensor | None:
        """Move `frames` feature frames from the waiting samples into the windows."""
        log_mel = self._encoder.front_end.log_mel(self._samples[None, : (frames - 1) * HOP + FRAME])
        self._samples = self._samples[frames * HOP :]
        self._frames_done += frames
        # The last block may be odd; a frame of zeros follows the recording, as one precedes it.
        context = F.pad(torch.cat((self._previous, log_mel), dim=1), (0, 0, 0, frames % 2))
        self._previous = log_mel[:, -1:]
        return self._windows.push(self._encoder.subsample(context)[0])


class HamaSession:
    """Encodes one recording as it arrives, in bounded memory and without gradients.

    The frames that `push` and `finish` return, put together, are those of `forward` on the whole recording. Nothing
    leaves before a window is full or `finish` is called: attention looks at a whole window.
    """

    def __init__(self, encoder: HamaConformer) -> None:
        self._encoder = encoder
        self._recording = LongRecording(encoder)
        self._sent = 0
        self._is_finished = False

    @property
    def held_samples(self) -> int:
        """The number of samples that wait in memory."""
        return self._recording.held_samples

    @torch.no_grad()
    def push(self, samples: Tensor | np.ndarray) -> Encoded | None:
        """Take samples [n], float in [-1, 1]; return the frames [1 t 144] that are settled by them, or None.

        Raises:
            ShapeError: samples have another shape, or are not floats.
            StreamError: the session is finished.
        """
        self._refuse_finished()
        piece = torch.as_tensor(samples)
        if piece.ndim != 1 or not piece.is_floating_point():
            raise ShapeError(f"push takes float samples [n], got {piece.dtype} {tuple(piece.shape)}; push one channel")
        return self._encoded(self._recording.push(piece))

    @torch.no_grad()
    def finish(self) -> Encoded | None:
        """Return the remaining frames [1 t 144], or None when nothing was pushed.

        Raises:
            StreamError: the session is already finished.
        """
        self._refuse_finished()
        self._is_finished = True
        return self._encoded(self._recording.finish())

    def _refuse_finished(self) -> None:
        if self._is_finished:
            raise StreamError("this session of hama-conformer is finished; open() another for the next recording")

    def _encoded(self, outputs: Tensor | None) -> Encoded | None:
        if outputs is None:
            return None
        encoded = self._encoder.as_encoded(outputs[:, None], first_frame=self._sent)
        self._sent += outputs.shape[1]
        return encoded
