"""From a model on an emulated chip to the integer-only reference of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from slt_nna.dispatch.dispatcher import Dispatcher, Listener
from slt_nna.duplicate import duplicate
from slt_nna.integer import Reference
from slt_nna.interception import Entrance, unhook
from sltcore.errors import PluginError

if TYPE_CHECKING:
    from slt_nna.nna import Nna


class Lowered(nn.Module):
    """A copy of a model whose chip operators compute in integers, with the ranges of the emulation.

    It is called as the model is, and so are its parts; what is done between calls, as in a streaming session, belongs
    into `with lowered.running():`. Results are float32. Parameters that change afterwards change nothing of it.
    """

    def __init__(self, model: nn.Module, entrance: Entrance, reference: Reference) -> None:
        super().__init__()
        self.model = model
        self.reference = reference
        self._entrance = entrance

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        return self.model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def running(self) -> AbstractContextManager[None]:
        """A block in which everything that is computed with the model's parts runs in integers."""
        return self._entrance.hold()

    @property
    def listeners(self) -> list[Listener]:
        """Who hears every operator and crossing, as `Nna.listeners`."""
        return self._entrance.dispatcher.listeners

    def overflows(self) -> dict[str, int]:
        """How often an accumulator was narrowed to another number, by layer, since it was made; none is best."""
        return dict(self.reference.overflows)

    def overflow_report(self) -> str:
        """The same in one line."""
        return overflow_report(self.reference)


def overflow_report(reference: Reference) -> str:
    """The accumulator's overflows in one line, the worst layers first."""
    found, bits = reference.overflows, reference.chip.accumulator.bits
    if not found:
        return f"no sum left the accumulator of {bits} bits"
    worst = sorted(found, key=lambda site: -found[site])
    shown = ", ".join(f"{site} ({found[site]})" for site in worst[:5])
    more = f" and {len(worst) - 5} more" if len(worst) > 5 else ""
    return (
        f"{sum(found.values())} sums left the accumulator of {bits} bits, in {shown}{more}; widen accumulator.bits, or "
        "train on the chip"
    )


@contextmanager
def in_integers(nna: Nna) -> Iterator[Reference]:
    """A block in which the attached model itself computes in integers instead of the emulation, wherever it is called
    from: a whole pipeline, or its streaming sessions. Gives the reference, which counts `overflows`. **Raises**
    `PluginError` as `lower`."""
    _check(nna)
    before, reference = nna.backend, Reference(nna.chip)
    nna.backend = reference
    try:
        with nna.use({}):
            yield reference
    finally:
        nna.backend = before


def lower(nna: Nna, module: nn.Module) -> Lowered:
    """The integer-only form of an attached model or of a part of it. **Raises** `PluginError` when the chip is not
    attached to the model that `module` belongs to, and for a chip whose words are float."""
    _check(nna)
    assert nna.model is not None
    prefix = next((name for name, part in nna.model.named_modules() if part is module), None)
    if prefix is None:
        raise PluginError(
            f"nna: this {type(module).__name__} is no part of the {type(nna.model).__name__} that chip "
            f"'{nna.chip.name}' is attached to; lower the attached model or a module of it"
        )
    own = duplicate(module).cpu()
    unhook(own)
    names = nna.names  # with the order of parameters when ranges were measured, which a finished quantizer takes away
    names.learn(own, prefix)
    reference = Reference(nna.chip)
    dispatcher = Dispatcher(
        nna.chip,
        reference,
        copy.deepcopy(nna.ranges),
        names,
        include=nna.dispatcher.include,
        exclude=nna.dispatcher.exclude,
    )
    entrance = Entrance(dispatcher, convert=True)
    entrance.install(own)
    names.learn(own, prefix)  # again: the entrance takes it for a whole model
    return Lowered(own.eval(), entrance, reference)


def _check(nna: Nna) -> None:
    if nna.model is None:
        raise PluginError(f"nna: chip '{nna.chip.name}' is not attached, so there is nothing to lower; attach it first")
    if nna.chip.is_ideal:
        raise PluginError(f"nna: chip '{nna.chip.name}' computes in float; an integer form needs words below 32 bits")
