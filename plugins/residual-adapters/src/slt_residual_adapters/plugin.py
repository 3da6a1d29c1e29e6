"""The components of the plugin `residual-adapters`, as data, and what it does to bundles."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sltcore.plugin import Command, Component, hookimpl

SLT_API = (1, 0)

CONTEXTS = [{}, {"updates": ["toy"]}, {"updates": []}, {"updates": [["toy"], [], None]}]

COMPONENTS = (
    Component(
        "adapter",
        "residual",
        impl="slt_residual_adapters.build:residual",
        config="slt_residual_adapters.config:ResidualConfig",
        summary="small updates of a frozen model, trained one by one and summed, averaged, attended to, stacked or gated",
        source="Bapna & Firat 2019, arXiv:1909.08478",
        small={"config": {"name": "toy", "rank": 4, "silence": 0.1}, "contexts": CONTEXTS},
    ),
    Component(
        "adapter",
        "lora",
        impl="slt_residual_adapters.build:lora",
        config="slt_residual_adapters.config:LoraConfig",
        summary="low-rank updates beside linear layers of a frozen model, trained one by one and summed exactly",
        source="Hu et al. 2021, arXiv:2106.09685",
        small={"config": {"name": "toy", "rank": 2}, "contexts": CONTEXTS},
    ),
)


@hookimpl
def slt_components() -> Sequence[Component]:
    """Its components."""
    return COMPONENTS


@hookimpl
def slt_commands() -> Sequence[Command]:
    """`slt adapters`."""
    return [Command("adapters", "slt_residual_adapters.commands:app", "add updates to a bundle, remove and check them")]


@hookimpl
def slt_pipeline_built(pipeline: Any) -> None:
    """A bundle's added updates work in every pipeline that is loaded from it."""
    folder = pipeline.scope.folder
    if folder is not None and (folder / ADDED).exists():
        import_module("slt_residual_adapters.added").attach_added(pipeline, folder)


@hookimpl
def slt_bundle_saving(pipeline: Any, folder: Path) -> None:
    """Added updates belong to the bundle they were added to, and are not saved as if they were part of another."""
    import_module("slt_residual_adapters.added").refuse_saving(pipeline)


ADDED = "updates/added.json"
"""What `slt adapters add` writes into a bundle, beside the base's own files."""
