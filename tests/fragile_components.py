"""A plugin whose encoder can be slow, and can die in a worker: at one recording, once or always, or while it loads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from toy_components import EchoEncoder, NoFields, Tally, lines, tally

from sltcore.plugin import Component, Ports, hookimpl
from sltcore.spec import Config
from sltcore.types import Encoded, Waveform

FATAL_SAMPLES = 8888  # a recording of this length is the one it dies at


class Fragile(Config):
    """How it behaves."""

    dies: Literal["never", "once", "always", "loading"] = Field("never", description="when")
    marks: str = Field("", description="folder for marks: who is at work, what has happened")
    spared: int = Field(0, description="the process that never dies")
    slow_s: float = Field(0.0, description="seconds for a batch")


class FragileEncoder(EchoEncoder):
    """Echo, with its moods."""

    def __init__(self, config: Fragile) -> None:
        super().__init__(streams=False)
        self.config = config

    def forward(self, x: Waveform, context: Mapping[str, Any]) -> Encoded:
        mark = Path(self.config.marks) / f"working-{os.getpid()}"
        mark.touch()
        time.sleep(self.config.slow_s)
        if self.config.dies in ("once", "always") and FATAL_SAMPLES in x.lengths.tolist():
            _die(self.config, once=self.config.dies == "once")
        found = super().forward(x, context)
        mark.unlink(missing_ok=True)
        return found


def _die(config: Fragile, *, once: bool) -> None:
    if os.getpid() == config.spared:
        return
    happened = Path(config.marks) / "died"
    if once and happened.exists():
        return
    with happened.open("a") as file:
        file.write(f"{os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def fragile(config: Fragile, ports: Ports) -> FragileEncoder:
    if config.dies == "loading":
        _die(config, once=False)
    return FragileEncoder(config)


__all__ = ["Fragile", "NoFields", "Tally", "fragile", "lines", "tally"]

SLT_API = (1, 0)


@hookimpl
def slt_components() -> list[Component]:
    """The encoder, and decoders that show what reached them."""
    place = "fragile_components"
    return [
        Component("encoder", "fragile", impl=f"{place}:fragile", config=f"{place}:Fragile", summary="dies"),
        Component("decoder", "tally", impl=f"{place}:tally", config=f"{place}:NoFields", summary="sums"),
        Component("decoder", "lines", impl=f"{place}:lines", config=f"{place}:NoFields", summary="a text, twice"),
    ]
