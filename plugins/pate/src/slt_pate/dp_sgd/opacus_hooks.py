"""Gradients of single utterances by the hooks of Opacus, all of a batch in one backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slt_pate.dp_sgd.clipped_sum import ClippedSum
from slt_pate.dp_sgd.held_batches import Held, HeldBatches
from slt_pate.dp_sgd.refusals import StillBuffers
from sltcore.errors import PrivacyError
from sltcore.train.losses import make_generator

if TYPE_CHECKING:
    from slt_pate.dp_sgd.micro_batches import Rows


class OpacusHooks:
    """As the loop over units, but a whole batch at once: faster for short utterances on devices with many units of
    computing, at the cost of a gradient in memory for each utterance.

    Utterances are padded to the longest of a batch, so the model must ignore padding; dropout draws one mask after
    another, so its seed is drawn anew from the operating system at each step.

    **Raises** `PrivacyError` where Opacus is missing, or refuses the model.
    """

    def __init__(self, held: HeldBatches, clipped: ClippedSum) -> None:
        try:
            from opacus.grad_sample import GradSampleModule
        except ImportError:
            raise PrivacyError(
                "engine opacus needs Opacus, which is not installed. Next: pip install 'sltcore-pate[opacus]', or engine: micro-batches"
            ) from None
        assert held.module is not None
        self._held, self._clipped = held, clipped
        try:
            self._wrapped: Any = GradSampleModule(held.module, batch_first=True, loss_reduction="sum")
        except Exception as error:
            raise PrivacyError(
                f"Opacus refuses the model: {' '.join(str(error).split())}. Next: engine: micro-batches, which takes any layer"
            ) from None

    def add(self, units: Mapping[str, Rows]) -> None:
        """Add the gradient of each unit."""
        assert self._held.module is not None
        clipped = self._clipped
        generator = make_generator(torch.seed())
        counts = {name: sum(len(places) for _, places in rows) for name, rows in units.items()}
        sums: dict[str, list[Tensor]] = {}
        batches = {id(held): held for rows in units.values() for held, _ in rows}
        for held in batches.values():
            samples = self._of_batch(held, clipped, generator)
            for name, rows in units.items():
                own = [places for one, places in rows if one is held]
                for places in own:
                    parts = [sample[places].sum(0) / counts[name] for sample in samples]
                    known = sums.setdefault(name, parts)
                    if known is not parts:
                        for total, part in zip(known, parts, strict=True):
                            total += part
        for parts in sums.values():
            torch.cat([part.reshape(-1) for part in parts], out=clipped.gradient)
            clipped.add()

    def _of_batch(self, held: Held, clipped: ClippedSum, generator: torch.Generator) -> list[Tensor]:
        """Gradients [b ...] of each parameter."""
        assert self._held.module is not None
        still = StillBuffers(self._held.module)
        losses = self._held.losses(held.batch, generator)
        still.verify()
        torch.where(losses.isposinf(), 0.0, losses).sum().backward()  # type: ignore[no-untyped-call]
        if held.losses is not None:
            held.losses[:] = losses.detach()
        size, found = len(held.batch.ids), []
        for parameter in clipped.parameters:
            sample = getattr(parameter, "grad_sample", None)
            if isinstance(sample, list):
                sample = torch.stack(sample).sum(0)
            if sample is None and parameter.grad is not None:
                raise PrivacyError(
                    "Opacus gives no gradients of single utterances for a parameter that the loss depends on. Next: engine: "
                    "micro-batches, which takes any layer"
                )
            found.append(parameter.new_zeros((size, *parameter.shape)) if sample is None else sample)
            parameter.grad = None
            if hasattr(parameter, "grad_sample"):
                parameter.grad_sample = None
        return found
