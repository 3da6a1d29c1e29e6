"""The components and commands of the plugin `pate`, as data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sltcore.plugin import Command, Component, hookimpl

SLT_API = (1, 0)

COMPONENTS = (
    Component(
        "privacy",
        "pate",
        impl="slt_pate.build:pate",
        config="slt_pate.config:PateConfig",
        summary="teachers on private shards vote with noise on public recordings; a student learns what was released",
        source="Papernot et al. 2018, arXiv:1802.08908; Yang et al. 2022, arXiv:2210.05614",
        small={
            "config": {
                "teachers": 5,
                "unit": "utterance",
                "candidates": ["high", "low"],
                "sigma": 2.0,
                "epsilon": 40.0,
                "ledger": "temporary",
            },
            "over": {"epsilon": 0.5},
            "release": [[4, 1]],
            "sizes": {"utterances": 6},
        },
    ),
    Component(
        "privacy",
        "dp-sgd",
        impl="slt_pate.dp_sgd.build:dp_sgd",
        config="slt_pate.config_dp_sgd:DpSgdConfig",
        summary="gradients clipped for each speaker or utterance and noised: the baseline, and a way of its own",
        source="Abadi et al. 2016, arXiv:1607.00133",
        small={"config": {"epsilon": 8.0, "unit": "utterance", "steps": 3, "rate": 0.5}, "over": {"noise": 0.3}},
    ),
)


@hookimpl
def slt_components() -> Sequence[Component]:
    """Its components."""
    return COMPONENTS


@hookimpl
def slt_commands() -> Sequence[Command]:
    """`slt privacy`."""
    return [Command("privacy", "slt_pate.commands:app", "what a run will cost in privacy, and what a ledger shows")]


@hookimpl
def slt_bundle_saving(pipeline: Any, folder: Path) -> None:
    """Bundles released from a ledger carry its head; also when they are loaded and saved again."""
    loaded = getattr(getattr(pipeline, "scope", None), "folder", None)
    if "slt_pate.stamps" in sys.modules or (loaded is not None and (Path(loaded) / STAMP_FILE).is_file()):
        import_module("slt_pate.stamps").write_stamp(pipeline, folder)


STAMP_FILE = "privacy-ledger.json"
"""The ledger's head and what the release cost, in a released bundle."""
