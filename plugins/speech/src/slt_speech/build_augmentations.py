"""Builders of the augmentations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slt_speech.augmentations.spec_augment import SpecAugment
from slt_speech.augmentations.speed import Speed
from slt_speech.augmentations.volume import Volume

if TYPE_CHECKING:
    from slt_speech.config_augmentations import SpecAugmentConfig, SpeedConfig, VolumeConfig
    from sltcore.plugin import Ports


def speed(config: SpeedConfig, ports: Ports) -> Speed:
    """Speed perturbation by the given factors."""
    return Speed(config.factors)


def volume(config: VolumeConfig, ports: Ports) -> Volume:
    """Volume perturbation within the given gains."""
    return Volume(config.low_db, config.high_db)


def spec_augment(config: SpecAugmentConfig, ports: Ports) -> SpecAugment:
    """**Raises** `SpecError` when all masks are switched off."""
    return SpecAugment(
        config.frequency_masks,
        config.frequency_width,
        time_masks=config.time_masks,
        time_width=config.time_width,
        time_share=config.time_share,
        adaptive_masks=config.adaptive_masks,
        fill=config.fill,
    )
