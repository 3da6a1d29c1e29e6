"""Holds a training step's batches back, so that gradients are computed unit by unit when all of them are there."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from slt_pate.dp_sgd.refusals import refuse_mixing, refuse_readers_of_texts

if TYPE_CHECKING:
    from sltcore.train.loading import Batch


class Held(NamedTuple):
    """A batch, and where its losses are wanted: [b] float32, None where they are known already."""

    batch: Batch
    losses: Tensor | None


class HeldBatches:
    """While it is entered, the first `TrainStep` of this thread that is called in training gives its batches to `batches`
    in place of computing losses, which are zeros until they are filled in.

    A step's `gradient` hook is told losses only, with a graph over all utterances of a batch: one unit's gradient would
    take a backward pass through all of it. Of the very first batch the losses are computed as usual, for only then the
    module is known; its graph is not used.
    """

    def __init__(self) -> None:
        self.module: nn.Module | None = None
        self.batches: list[Held] = []
        self._own: Any = None
        self._thread = threading.get_ident()
        self._hook: Any = None

    def __enter__(self) -> HeldBatches:
        self._hook = register_module_forward_pre_hook(self._meet)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()
        if self.module is not None:
            if self._own is None:
                del self.module.forward
            else:
                self.module.forward = self._own
        self.batches.clear()

    def losses(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Losses [b] of a batch, as the module computes them."""
        assert self.module is not None
        found: Tensor = self._forward(batch, generator)
        return found

    def _meet(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        from sltcore.train.losses import TrainStep

        if self.module is not None or threading.get_ident() != self._thread or not isinstance(module, TrainStep):
            return
        if not module.training or not torch.is_grad_enabled():
            return
        refuse_mixing(module)
        refuse_readers_of_texts(module)
        self._hook.remove()
        self._own = module.__dict__.get("forward")
        self._forward = module.forward
        self.module = module
        self.batches.append(Held(arguments[0], None))
        module.forward = self._hold  # type: ignore[method-assign]

    def _hold(self, batch: Batch, generator: torch.Generator) -> Tensor:
        assert self.module is not None
        if not self.module.training or not torch.is_grad_enabled():
            return self.losses(batch, generator)
        losses = torch.zeros(len(batch.ids), device=batch.weights.device)
        self.batches.append(Held(batch, losses))
        return losses
