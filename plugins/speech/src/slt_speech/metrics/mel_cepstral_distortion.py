"""Mel-cepstral distortion: how far a synthetic voice's spectrum is from a recorded one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from slt_speech.mel_cepstrum import mel_alpha, mel_cepstrum
from slt_speech.metrics.items import Items, Rows, check_width
from slt_speech.world import Tracker, World
from sltcore.audio import Recording
from sltcore.errors import DataError, ShapeError
from sltcore.interfaces import Metric, Value
from sltcore.types import Features, Port, Waveform

Array = npt.NDArray[np.float64]
Alignment = Literal["dtw", "none"]
STATISTICS = ("sum of distances in dB", "frames compared")
DECIBEL = 10.0 * math.sqrt(2.0) / math.log(10.0)  # Kubichek 1993, for cepstra of natural-log magnitudes


class MelCepstralDistortion(Metric):
    """`10 / ln 10 * sqrt(2 * sum_{m=1..M} (c_m - c'_m)^2)` dB, averaged over frames; c_0, the loudness, is left out.

    Items are sound (a `Recording`, a `Waveform` with one utterance, or samples [n]), measured by mel-cepstra of WORLD's
    envelope every 5 ms, or mel-cepstra themselves: `Features` with one utterance, or arrays [t, M + 1], c_0 first. `dtw` averages over the warping path of least summed distance (steps
    (1,0), (0,1), (1,1), equal weights); `none` compares frame by frame, and refuses items that differ by more than
    one frame. Silence counts like every frame. Per item: sum of distances, number of frames.

    **Source**: Kubichek, "Mel-cepstral distance measure for objective speech quality assessment", IEEE Pacific Rim
    1993, doi:10.1109/PACRIM.1993.407206; warping and envelope as in SPTK's and the Voice Conversion Challenge's use.
    """

    def __init__(
        self,
        sample_rate_hz: int = 16000,
        *,
        order: int = 24,
        alignment: Alignment = "dtw",
        tracker: Tracker = "harvest",
        consumes: Literal["waveform", "features"] = "waveform",
    ) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.order = order
        self.alignment: Alignment = alignment
        self.alpha = mel_alpha(sample_rate_hz)
        self._consumes = consumes
        self._world = World(sample_rate_hz, sample_rate_hz // 200, tracker=tracker, order=order)
        self._items = Items(len(STATISTICS))

    @property
    def consumes(self) -> Port:
        """Waveforms, or mel-cepstra with c_0 first."""
        if self._consumes == "waveform":
            return Port("Waveform", {"sample_rate_hz": self.sample_rate_hz})
        return Port("Features", {"f": self.order + 1})

    @property
    def directions(self) -> Mapping[str, str]:
        """Nearer is better."""
        return {"mel-cepstral-distortion": "lower"}

    def update(
        self,
        outputs: Sequence[Any],
        references: Sequence[Any],
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Add pairs. **Raises** `ShapeError` when numbers, rates or widths differ, or, without DTW, the frames."""
        self._items.check(outputs, references, ids, groups)
        pairs = zip(outputs, references, strict=True)
        rows = [self.compare(self.cepstra(output), self.cepstra(reference)) for output, reference in pairs]
        self._items.add(rows, ids, groups)

    def cepstra(self, item: Any) -> Array:
        """Mel-cepstra [t, order] of one item, without c_0."""
        if isinstance(item, Waveform | Features) and len(item.lengths) != 1:
            raise ShapeError(f"an item is one utterance, got a {type(item).__name__} of {len(item.lengths)}")
        if isinstance(item, Waveform | Recording):
            if item.sample_rate_hz != self.sample_rate_hz:
                raise ShapeError(
                    f"mel-cepstral-distortion measures at {self.sample_rate_hz} Hz, the item has {item.sample_rate_hz} "
                    f"Hz; set sample_rate_hz, or resample"
                )
            item = item.samples if isinstance(item, Recording) else item.samples[0, : int(item.lengths[0])]
        elif isinstance(item, Features):
            item = item.values[0, : int(item.lengths[0])]
        if isinstance(item, torch.Tensor):
            item = item.detach().cpu().numpy()
        values = np.asarray(item, dtype=np.float64)
        if not np.isfinite(values).all():
            raise DataError("an item of mel-cepstral-distortion holds NaN or infinity")
        if values.ndim == 1:
            power = self._world.envelope_of(values)
            values = mel_cepstrum(power, order=self.order, alpha=self.alpha)
        if values.ndim != 2 or values.shape[1] != self.order + 1:
            raise ShapeError(
                f"an item has shape {values.shape}, expected samples (n,) or mel-cepstra (t, {self.order + 1}) with "
                f"c_0 first; set 'order'"
            )
        return values[:, 1:]

    def compare(self, output: Array, reference: Array) -> tuple[float, float]:
        """Sum of frame distances in dB and the number of frames compared, for mel-cepstra [t, M] without c_0."""
        if self.alignment == "none":
            if abs(len(output) - len(reference)) > 1:
                raise ShapeError(
                    f"an output of {len(output)} frames cannot be compared frame by frame with a reference of "
                    f"{len(reference)}; set alignment: dtw"
                )
            count = min(len(output), len(reference))
            distances = frame_distances(output[:count], reference[:count])
            return float(distances.sum()), float(count)
        if not len(output) or not len(reference):
            return 0.0, 0.0
        gap = output[:, None, :] - reference[None, :, :]
        return warping_path(DECIBEL * np.sqrt(np.einsum("ijm,ijm->ij", gap, gap)))

    def per_item(self) -> Rows:
        """[n 2] float64: sum of distances in dB, frames compared."""
        return self._items.table()

    def reduce(self, stats: Rows) -> Mapping[str, Value]:
        """The mean over all frames of a selection, in dB; NaN when it has none."""
        total, frames = (float(value) for value in check_width(stats, STATISTICS).sum(axis=0))
        return {"mel-cepstral-distortion": Value(total / frames if frames else float("nan"), "dB")}

    def reset(self) -> None:
        """Forget all items."""
        self._items.clear()

    @property
    def ids(self) -> Sequence[str]:
        """The id of each row."""
        return tuple(self._items.ids)

    @property
    def groups(self) -> Sequence[str]:
        """The cluster of each row."""
        return tuple(self._items.groups)


def frame_distances(a: Array, b: Array) -> Array:
    """Distance in dB of each pair of frames [t, M], c_0 left out before: [t]."""
    result: Array = DECIBEL * np.sqrt(((a - b) ** 2).sum(axis=1))
    return result


def warping_path(cost: Array) -> tuple[float, float]:
    """Summed cost and number of cells of the cheapest monotone path through [n m], from corner to corner.

    Steps (1,0), (0,1), (1,1), each cell counted once; among equally cheap predecessors the diagonal one is taken.
    Computed along anti-diagonals, which are vectors.
    """
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(2, rows + columns + 1):
        i = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        nearest = np.minimum(np.minimum(total[i - 1, j - 1], total[i - 1, j]), total[i, j - 1])
        total[i, j] = cost[i - 1, j - 1] + nearest
    i, j, cells = rows, columns, 0
    while i and j:
        cells += 1
        steps = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        i, j = steps[int(np.argmin([total[step] for step in steps]))]
    return float(total[rows, columns]), float(cells)
