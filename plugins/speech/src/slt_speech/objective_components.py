"""The plugin's objectives, as data."""

from __future__ import annotations

from sltcore.plugin import Component

COMPONENTS: tuple[Component, ...] = (
    Component(
        "objective",
        "distillation",
        impl="slt_speech.build_objectives:distillation",
        config="slt_speech.config_objectives:DistillationConfig",
        summary="an encoder learns frame by frame what a frozen recogniser hears; frame rates may differ",
        source="arXiv:1503.02531",
        small={"config": {"teacher": {"use": "hama-conformer", "weights": "random"}}},
    ),
)
