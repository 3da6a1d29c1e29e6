"""What a model must not do in a step whose units are clipped one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from sltcore.errors import PrivacyError
from sltcore.interfaces import Part

if TYPE_CHECKING:
    from sltcore.train.losses import TrainStep


def refuse_mixing(module: nn.Module) -> None:
    """**Raises** `PrivacyError` for a module that computes statistics over a batch or keeps running ones: they mix units,
    and leave without noise. One in evaluation mode, as all are below which nothing is trained, does neither."""
    for name, child in module.named_modules():
        if not child.training:
            continue
        is_batch_norm = isinstance(child, _BatchNorm) or "batchnorm" in type(child).__name__.lower()
        if is_batch_norm and not isinstance(child, _InstanceNorm):
            raise PrivacyError(
                f"{name or 'the model'} is a {type(child).__name__}: its statistics mix the units of a step, and its running ones "
                f"leave without noise; expected a norm of one utterance alone. Next: LayerNorm (norm: layer), GroupNorm, or "
                f"freeze it (leave it out of `trainable`)"
            )
        if isinstance(child, _InstanceNorm) and child.track_running_stats:
            raise PrivacyError(
                f"{name or 'the model'} is a {type(child).__name__} with running statistics, which leave without noise. Next: "
                f"track_running_stats=False, LayerNorm, or GroupNorm"
            )


def refuse_readers_of_texts(step: TrainStep) -> None:
    """**Raises** `PrivacyError` for a component that is told the texts of all training data: what it draws from them for one
    unit shows the others."""
    pipeline: Any = step.pipeline
    objectives = [step.main, *(part for part, _ in step.beside)]
    for part in (*pipeline.parts.values(), *step.modules(), *objectives, *step.augment):
        if isinstance(part, Part) and type(part).learn_texts is not Part.learn_texts:
            raise PrivacyError(
                f"{type(part).__name__} reads the texts of all training data, so one unit's gradient would show another's texts; "
                f"expected components that see one utterance at a time. Next: train that component on public data, by itself"
            )


class StillBuffers:
    """Watches that a forward pass leaves the model's buffers alone: what is written there leaves without noise."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._before = self._state()

    def _state(self) -> dict[str, tuple[int, int]]:
        return {name: (id(buffer), buffer._version) for name, buffer in self._module.named_buffers()}

    def verify(self) -> None:
        """**Raises** `PrivacyError` naming a buffer that was changed, replaced, added or taken away."""
        now = self._state()
        changed = sorted(name for name in {*now, *self._before} if now.get(name) != self._before.get(name))
        if changed:
            raise PrivacyError(
                f"a forward pass in training changes the buffer '{changed[0]}', which would leave without noise; expected state "
                f"that data do not touch. Next: freeze that module, or take one without running statistics"
            )
