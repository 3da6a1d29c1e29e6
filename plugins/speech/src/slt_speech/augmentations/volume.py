"""Volume perturbation: each utterance louder or softer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from slt_speech.augmentations.draws import uniform
from slt_speech.frames import check_waveform, frame_mask
from sltcore.errors import SpecError
from sltcore.interfaces import Augmentation
from sltcore.types import Port, Waveform

if TYPE_CHECKING:
    from torch import Generator


class Volume(Augmentation):
    """Each utterance times 10^(g / 20), g in dB uniform between `low_db` and `high_db`.

    Where that would carry its loudest sample beyond 1, the gain stops there, so nothing is clipped; a recording that is
    beyond 1 already is made softer but never louder.

    **Source**: Peddinti, Povey, Khudanpur, "A time delay neural network architecture for efficient modeling of long
    temporal contexts", Interspeech 2015, doi:10.21437/Interspeech.2015-647: volume perturbation; there the factor is
    uniform from 1/8 to 2 (-18 to 6 dB), here it is uniform in dB.

    **Raises** `SpecError` when `low_db` is not below `high_db`.
    """

    def __init__(self, low_db: float = -12.0, high_db: float = 6.0) -> None:
        if not low_db < high_db:
            raise SpecError(
                f"volume: low_db is {low_db:g} and high_db {high_db:g}, expected the first below the second"
            )
        self.low_db, self.high_db = low_db, high_db

    @property
    def consumes(self) -> Port:
        """Sound of any rate."""
        return Port("Waveform")

    @property
    def produces(self) -> Port:
        """Sound of the same rate."""
        return Port("Waveform")

    @torch.no_grad()
    def __call__(self, x: Waveform, context: Mapping[str, Any], generator: Generator) -> Waveform:
        """Samples [b n] of samples [b n], zero after each length. **Raises** `ShapeError` for another shape."""
        check_waveform(x, None, "volume")
        samples = x.samples.masked_fill(~frame_mask(x.lengths, x.samples.shape[1]), 0.0)
        gains_db = [uniform(self.low_db, self.high_db, generator) for _ in range(len(x.lengths))]
        gains = 10.0 ** (torch.tensor(gains_db, dtype=samples.dtype, device=samples.device) / 20)
        if samples.shape[1]:
            room = 1.0 / samples.abs().amax(dim=1).clamp(min=1e-6)
            gains = torch.where(gains > 1, torch.minimum(gains, room.clamp(min=1)), gains)
        return x._replace(samples=samples * gains[:, None])
