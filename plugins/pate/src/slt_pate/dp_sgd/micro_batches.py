"""Gradients of units one after another: each sees nobody but itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from slt_pate.dp_sgd.clipped_sum import ClippedSum
from slt_pate.dp_sgd.held_batches import Held, HeldBatches
from slt_pate.dp_sgd.refusals import StillBuffers
from slt_pate.dp_sgd.rows_of_batch import take

Rows = list[tuple[Held, list[int]]]
"""A unit's utterances: rows of batches."""


class Engine(Protocol):
    """A way to find units' gradients, made for one model and the sum they go into."""

    def add(self, units: Mapping[str, Rows]) -> None:
        """Add the gradient of each unit's mean loss, and fill the losses in that batches wait for."""


class MicroBatches:
    """One unit after another, its utterances as they lie together in batches.

    Dropout and whatever else draws from torch's generators is seeded by (step, unit): a unit that comes or goes changes
    nobody else's gradient, in no digit and even for who knows the seed of the run.
    """

    def __init__(self, held: HeldBatches, clipped: ClippedSum) -> None:
        self.held, self.clipped = held, clipped

    def add(self, units: Mapping[str, Rows]) -> None:
        """Add the gradient of each unit. **Raises** `PrivacyError` where a forward pass changes the model's buffers."""
        step_seed = torch.initial_seed()
        with torch.random.fork_rng(devices=devices_of(self.clipped.gradient.device)):
            for name, rows in units.items():
                seed = unit_seed(step_seed, name)
                torch.manual_seed(seed)
                with self.clipped.unit():
                    self.backward(rows, torch.Generator().manual_seed(seed))

    def backward(self, rows: Rows, generator: torch.Generator) -> None:
        """Propagate a unit's mean loss back into `.grad`."""
        assert self.held.module is not None
        count = sum(len(places) for _, places in rows)
        for held, places in rows:
            still = StillBuffers(self.held.module)
            losses = self.held.losses(take(held.batch, places), generator)
            still.verify()
            found = torch.where(losses.isposinf(), 0.0, losses)
            if found.requires_grad:
                (found.sum() / count).backward()  # type: ignore[no-untyped-call]
            if held.losses is not None:
                held.losses[places] = losses.detach()


def unit_seed(step_seed: int, unit: str) -> int:
    """A seed of its own for each unit and step."""
    digest = hashlib.sha256(f"{step_seed}\0{unit}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def devices_of(device: torch.device) -> Sequence[Any]:
    """Whose random state is to be kept beside that of the CPU."""
    return [] if device.type == "cpu" else [device]
