"""The plugin's augmentations, as data."""

from __future__ import annotations

from sltcore.plugin import Component

BUILD = "slt_speech.build_augmentations"
CONFIG = "slt_speech.config_augmentations"

COMPONENTS: tuple[Component, ...] = (
    Component(
        "augmentation",
        "speed",
        impl=f"{BUILD}:speed",
        config=f"{CONFIG}:SpeedConfig",
        summary="sound played faster or slower, by a factor drawn for each utterance",
        source="doi:10.21437/Interspeech.2015-711",
        small={"config": {"factors": [0.9, 1.0, 1.1]}},
    ),
    Component(
        "augmentation",
        "volume",
        impl=f"{BUILD}:volume",
        config=f"{CONFIG}:VolumeConfig",
        summary="sound made louder or softer, without clipping",
        source="doi:10.21437/Interspeech.2015-647",
        small={"config": {"low_db": -12, "high_db": 6}},
    ),
    Component(
        "augmentation",
        "spec-augment",
        impl=f"{BUILD}:spec_augment",
        config=f"{CONFIG}:SpecAugmentConfig",
        summary="bands of frequencies and runs of frames hidden; fixed or adaptive sizes",
        source="arXiv:1904.08779; arXiv:1912.05533",
        small={"config": {"frequency_width": 10, "time_width": 8}},
    ),
)
