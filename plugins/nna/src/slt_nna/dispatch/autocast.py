"""Autocast around a model on a chip: the chip has words of its own, what stays on the host is cast as without a chip."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

DEVICES = ("cpu", "cuda")


class Autocast(threading.local):
    """The autocast of one thread while the chip has switched it off: (device, type) of each that was on."""

    def __init__(self) -> None:
        self.active: tuple[tuple[str, torch.dtype], ...] = ()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """A block without autocast."""
        before = self.active
        self.active = tuple(
            (device, torch.get_autocast_dtype(device)) for device in DEVICES if torch.is_autocast_enabled(device)
        )
        try:
            with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                yield
        finally:
            self.active = before

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Inside such a block, one with the autocast that was on before it; anywhere else nothing changes."""
        before, self.active = self.active, ()
        try:
            with ExitStack() as stack:
                for device, kind in before:
                    stack.enter_context(torch.autocast(device, dtype=kind))
                yield
        finally:
            self.active = before
