"""SpecAugment: blocks of frequencies and of time hidden from the network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch

from slt_speech.augmentations.draws import whole
from slt_speech.frames import check_features
from sltcore.errors import SpecError
from sltcore.interfaces import Augmentation
from sltcore.types import Features, Port

if TYPE_CHECKING:
    from torch import Generator, Tensor

Fill = Literal["mean", "zero"]


class SpecAugment(Augmentation):
    """Hides `frequency_masks` bands of neighbouring features and `time_masks` runs of neighbouring frames.

    A band is w features wide, w uniform in 0 … `frequency_width`, and begins uniformly in 0 … f - w. A run is w frames
    long, w uniform in 0 … T, and begins uniformly in 0 … t - w, for an utterance of t frames. T is the least of
    `time_width` and floor(`time_share` t); without `time_width` it follows the length alone (adaptive), and with
    `adaptive_masks` = m the number of runs does too: the least of `time_masks` and floor(m t). Masks may overlap. Hidden
    places get the mean of the utterance's features (`fill` "mean"), which is 0 where features are normalised, or 0.

    **Source**: Park et al., SpecAugment, arXiv:1904.08779, section 2 (masks; policy LD as default, with p = 0.2 of SM in
    place of 1) and Park et al., "SpecAugment on large scale datasets", arXiv:1912.05533, section 2.1 (adaptive size and
    multiplicity). Time warping is left out: the first paper, section 5, finds it the least of the three.

    **Raises** `SpecError` when nothing would ever be hidden.
    """

    def __init__(
        self,
        frequency_masks: int = 2,
        frequency_width: int = 27,
        *,
        time_masks: int = 2,
        time_width: int | None = 100,
        time_share: float = 0.2,
        adaptive_masks: float | None = None,
        fill: Fill = "mean",
    ) -> None:
        hides_time = time_masks and time_share and time_width != 0 and adaptive_masks != 0
        if not (frequency_masks and frequency_width) and not hides_time:
            raise SpecError(
                "spec-augment: all masks are switched off; give frequency_masks or time_masks a number above 0"
            )
        self.frequency_masks, self.frequency_width = frequency_masks, frequency_width
        self.time_masks, self.time_width, self.time_share = time_masks, time_width, time_share
        self.adaptive_masks, self.fill = adaptive_masks, fill

    @property
    def consumes(self) -> Port:
        """Features of any number."""
        return Port("Features")

    @property
    def produces(self) -> Port:
        """The same features."""
        return Port("Features")

    def widest(self, frames: int) -> int:
        """T: the longest run that may be hidden in an utterance of so many frames."""
        share = math.floor(self.time_share * frames)
        return share if self.time_width is None else min(self.time_width, share)

    def runs(self, frames: int) -> int:
        """How many runs are hidden in an utterance of so many frames."""
        if self.adaptive_masks is None:
            return self.time_masks
        return min(self.time_masks, math.floor(self.adaptive_masks * frames))

    def __call__(self, x: Features, context: Mapping[str, Any], generator: Generator) -> Features:
        """Features [b t f] of features [b t f], with the gradient of what is shown. **Raises** `ShapeError` for another
        shape."""
        check_features(x, None, "spec-augment")
        b, t, f = x.values.shape
        frequencies = torch.zeros(b, f, dtype=torch.bool)
        times = torch.zeros(b, t, dtype=torch.bool)
        for row, length in enumerate(x.lengths.tolist()):
            for _ in range(self.frequency_masks):
                _hide(frequencies[row], f, min(self.frequency_width, f), generator)
            for _ in range(self.runs(length)):
                _hide(times[row], length, self.widest(length), generator)
        inside = torch.arange(t)[None] < x.lengths.cpu()[:, None]
        hidden = ((frequencies[:, None, :] | times[:, :, None]) & inside[..., None]).to(x.values.device)
        return x._replace(values=torch.where(hidden, self._filling(x), x.values))

    def _filling(self, x: Features) -> Tensor:
        """What stands in hidden places: [b 1 1]."""
        if self.fill == "zero":
            return x.values.new_zeros(len(x.lengths), 1, 1)
        inside = torch.arange(x.values.shape[1], device=x.values.device) < x.lengths[:, None]
        shown = torch.where(inside[..., None], x.values.detach(), 0.0)
        counts = (x.lengths.clamp(min=1) * x.values.shape[2]).to(shown)
        return (shown.sum(dim=(1, 2)) / counts)[:, None, None]


def _hide(mask: Tensor, room: int, widest: int, generator: Generator) -> None:
    """Set one block of `mask` [room or more]."""
    width = whole(0, widest, generator)
    begin = whole(0, room - width, generator)
    mask[begin : begin + width] = True
