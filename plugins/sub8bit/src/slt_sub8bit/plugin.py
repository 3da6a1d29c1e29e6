"""The components of the plugin `sub8bit`, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sltcore.plugin import Command, Component, hookimpl

SLT_API = (1, 0)


def _quantizer(name: str, summary: str, source: str, config: str, **small: Any) -> Component:
    return Component(
        "quantizer",
        name,
        impl=f"slt_sub8bit.build:{name.replace('-', '_')}",
        config=f"slt_sub8bit.config:{config}",
        summary=summary,
        source=source,
        small={"config": {"bits": 3, **small}},
    )


COMPONENTS = (
    _quantizer(
        "sub8bit",
        "weights in 1 to 8 bits on learned levels, annealed from soft to hard",
        "Zhen et al. 2022, arXiv:2210.09188",
        "Sub8bitConfig",
    ),
    _quantizer(
        "post-training",
        "weights in 1 to 8 bits without training: uniform to the maximum, uniform with the least error, or Lloyd-Max",
        "Lloyd 1982, doi:10.1109/TIT.1982.1056489",
        "PostTrainingConfig",
        compute="int8",
    ),
    _quantizer(
        "straight-through",
        "weights in 1 to 8 bits on a uniform grid in training, with a learned step or a clip",
        "Esser et al. 2020, arXiv:1902.08153",
        "StraightThroughConfig",
        scales="row",
    ),
    _quantizer(
        "level-regularizer",
        "weights in 1 to 8 bits by a penalty that draws them to fixed Lloyd-Max levels",
        "Zhen et al. 2022, arXiv:2206.15408",
        "LevelRegularizerConfig",
    ),
    _quantizer(
        "parq",
        "weights in 1 to 8 bits by torchao's optimizer, whose proximal map draws them onto levels",
        "Jin et al. 2025, arXiv:2503.15748",
        "ParqConfig",
    ),
)


@hookimpl
def slt_components() -> Sequence[Component]:
    """Its components."""
    return COMPONENTS


@hookimpl
def slt_commands() -> Sequence[Command]:
    """`slt sub8bit`."""
    return [Command("sub8bit", "slt_sub8bit.commands:app", "what quantized models take, and how to use them elsewhere")]
