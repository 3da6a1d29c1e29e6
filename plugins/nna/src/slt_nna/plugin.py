"""The components of the plugin `nna`, as data."""

from __future__ import annotations

from collections.abc import Sequence

from sltcore.plugin import Command, Component, hookimpl

SLT_API = (1, 0)

COMPONENTS = (
    Component(
        "accelerator",
        "nna",
        impl="slt_nna.build:nna",
        config="slt_nna.config:NnaConfig",
        summary="the arithmetic of a described chip in training and evaluation, its integer form and its cost",
        source="Shakiah et al. 2022, arXiv:2305.07778",
        small={"config": {"chip": "mixed-8-16"}},
    ),
)


@hookimpl
def slt_components() -> Sequence[Component]:
    """Its components."""
    return COMPONENTS


@hookimpl
def slt_commands() -> Sequence[Command]:
    """`slt nna`."""
    return [
        Command(
            "nna",
            "slt_nna.commands:app",
            "chips: what they do to a model, and what it costs on them",
            checks={"chip": "slt_nna.chip:check_file"},
        )
    ]
