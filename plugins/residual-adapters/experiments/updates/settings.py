"""What was fixed before the full run: sizes, and the settings that dev chose with seed 0 (`sweep.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

COUNTS = (1, 2, 4, 8)
"""Active updates."""
LAST = ("encoder.network.blocks.3", "decoder.prediction.layers.*")
"""The last block of the encoder and the recurrent layer of the prediction network."""
ALL = ("encoder.network.blocks.*", "decoder.prediction.layers.*")
"""Every block of the encoder and the recurrent layer of the prediction network."""
LINEAR = ("encoder.network.blocks.3.ffn*.fc*", "decoder.joint.prediction_projection")
"""Linear layers of the same block, and the one behind the prediction network."""


@dataclass(frozen=True)
class Settings:
    """One arm's training: `general` utterances for each that teaches, `real` copies of each recording in an epoch."""

    learning_rate: float
    rank: int = 0
    place: tuple[str, ...] = ()
    silence: float = 0.0
    general: float = 2.0
    real: float = 3.0


CHOSEN: Mapping[str, Settings] = MappingProxyType(
    {
        "adapter": Settings(1e-2, rank=32, place=LAST, silence=20.0),
        "joint": Settings(3e-3, rank=128, place=ALL, silence=8.0),
        "lora": Settings(3e-3, rank=8, place=LINEAR),
        "full": Settings(3e-4),
        "fusion": Settings(3e-3),
    }
)

FUSION_STEPS = 2
"""A learned fusion takes so many times the steps of an update, on the sets of all."""
BEAM = 4
BONUS = 1.5
"""Nats for each letter of a phrase."""


@dataclass(frozen=True)
class Size:
    """`steps` of an update, `sets` that are taught, `replicates` of a bootstrap, `words` of general test audio."""

    seeds: tuple[int, ...]
    sets: int
    steps: int
    replicates: int
    words: int | None


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "smoke": Size((0,), 2, 3, 1_000, None),
        "small": Size((0, 1, 2, 3, 4), 8, 80, 10_000, 2_100),
    }
)
