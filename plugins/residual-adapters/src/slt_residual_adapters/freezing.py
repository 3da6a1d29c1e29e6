"""The base of an update while it is trained: no gradient, no dropout, no running statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Frozen:
    """Keeps a model as it is while something beside it is trained.

    In `holding`, and in every call of the model, all modules are in evaluation; where gradients are recorded, parameters
    ask for none, and afterwards as before. Outside they are left alone: torch multiplies by a weight that asks for a
    gradient in another order, so that freezing for good would change last digits of the base. cuDNN gives no gradient
    through a recurrent layer in evaluation; there such a layer runs in training mode without its dropout, which is the same
    function. Layers are watched for that only while it is needed: a search may take another way through one with hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._asked: list[nn.Parameter] = []
        self._depth = 0
        self._handles: list[Any] = [
            model.register_forward_pre_hook(lambda module, arguments: self._enter()),
            model.register_forward_hook(lambda module, arguments, output: self._leave(), always_call=True),
        ]
        self._watching: list[Any] = []
        self._dropout: dict[nn.RNNBase, float] = {}

    @contextmanager
    def holding(self) -> Iterator[None]:
        """The base as it is to be while the loss is computed, whichever of its modules are called."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def release(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _enter(self) -> None:
        self._depth += 1
        for module in self.model.modules():
            module.training = False
        if torch.is_grad_enabled():
            asking = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            for parameter in asking:
                parameter.requires_grad_(False)
            self._asked += asking
            if not self._watching:
                self._watch()

    def _leave(self) -> None:
        self._depth -= 1
        if not self._depth:
            for parameter in self._asked:
                parameter.requires_grad_(True)
            self._asked = []
            for handle in self._watching:
                handle.remove()
            self._watching = []

    def _watch(self) -> None:
        for module in self.model.modules():
            if needs_training_mode(module):
                assert isinstance(module, nn.RNNBase)
                self._dropout[module] = module.dropout
                self._watching.append(module.register_forward_pre_hook(self._before))
                self._watching.append(module.register_forward_hook(self._after, always_call=True))

    def _before(self, module: nn.Module, arguments: Any) -> None:
        assert isinstance(module, nn.RNNBase)
        if torch.is_grad_enabled():
            module.dropout, module.training = 0.0, True

    def _after(self, module: nn.Module, arguments: Any, output: Any) -> None:
        assert isinstance(module, nn.RNNBase)
        module.dropout, module.training = self._dropout[module], False


def needs_training_mode(module: nn.Module) -> bool:
    """Whether a module gives no gradient in evaluation: recurrent layers on a GPU."""
    return isinstance(module, nn.RNNBase) and any(parameter.is_cuda for parameter in module.parameters())
