"""Transform: what changes a whole model and can say so; Quantizer, AcceleratorBackend and Adapter are its kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from sltcore.errors import PluginError
from sltcore.interfaces.part import refuse_module_first
from sltcore.types import ContextKey

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer


class Size(NamedTuple):
    """Bytes of a module on disk and in memory, and the modules that were left as they are."""

    disk_bytes: int
    memory_bytes: int
    untouched: tuple[str, ...] = ()


class Cost(NamedTuple):
    """Work of one forward pass: multiply-accumulates, bytes moved, and crossings between chip and host."""

    macs: int
    bytes_moved: int
    host_crossings: int


class Transform(ABC):
    """Attaches to any `nn.Module`, takes part in its training, and can be finished or withdrawn.

    The order of life: `attach`, then any number of training steps around which `use`, `step`, `penalty` and
    `parameter_groups` are read, then `finish` (kept for good) or `detach` (gone). `state` and `restore` carry it through
    a bundle without calibration data, attached or finished.
    """

    promises: ClassVar[Mapping[str, str]] = {
        "detach": "detach restores every output of the base bit for bit, and its parameters, buffers and modules",
        "restore": "restore(model, state()) on a fresh copy of the base gives the same outputs bit for bit",
        "gradient": "every parameter of parameter_groups receives a gradient while attached",
        "foreign": "it attaches to a plain nn.Module that knows nothing of sltcore",
        "deterministic": "the same input gives the same output twice in evaluation",
        "progress": "step accepts every progress from 0 to 1 and refuses others",
    }

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_module_first(cls)

    @abstractmethod
    def attach(self, model: Module, calibration: Iterator[Any] | None = None) -> None:
        """Change `model` in place. `calibration` yields example inputs. **Raises** `PluginError` when no module of the
        model matches, or when it is attached already."""

    @abstractmethod
    def detach(self) -> None:
        """Undo `attach`. **Raises** `PluginError` when it is not attached."""

    @abstractmethod
    def state(self) -> Mapping[str, Tensor]:
        """Everything it has learned or measured, as named tensors for safetensors."""

    @abstractmethod
    def restore(self, model: Module, state: Mapping[str, Tensor]) -> None:
        """Attach to `model` as `state` was, without calibration data; with an empty state as `attach` alone would."""

    def settles(self, field: str) -> bool:
        """Whether what it has restored decides `field` of its config, so that another value would change nothing. A bundle
        refuses to have such a field set."""
        return False

    def context_keys(self) -> tuple[ContextKey, ...]:
        """The side information its attached modules read."""
        return ()

    def use(self, context: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Entered by the pipeline and by training around each call, so that modules deep inside can read `context`."""
        return nullcontext()

    def step(self, progress: float) -> None:
        """Told before each training step how far training is, from 0 to 1; **Raises** `PluginError` for other values."""
        if not 0.0 <= progress <= 1.0:
            raise PluginError(f"{type(self).__name__}.step: progress is {progress}, expected 0 to 1")

    def penalty(self) -> Tensor | None:
        """A term to add to the loss, or None; read inside `use(context)`, after the forward pass."""
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What training may change beyond the base's own trainable parameters, as torch optimizer groups."""
        return []

    def wrap_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer to use instead."""
        return optimizer

    @abstractmethod
    def finish(self) -> None:
        """End training: keep the result for good, in its deployed form. Nothing to do is a fine answer."""


class Quantizer(Transform):
    """Fewer bits for weights or activations."""

    promises: ClassVar[Mapping[str, str]] = {
        **Transform.promises,
        "finish": "the finished model equals the attached model in evaluation, within finish_tolerance",
        "report": "report counts every byte and names the modules left alone",
    }

    finish_tolerance: float = 1e-5

    @abstractmethod
    def report(self, module: Module) -> Size:
        """Bytes on disk and in memory of `module` as it is now, attached or finished."""


class AcceleratorBackend(Transform):
    """A chip: its arithmetic emulated in training, an integer-only reference, and its cost."""

    promises: ClassVar[Mapping[str, str]] = {
        **Transform.promises,
        "lower": "the lowered module equals the emulation bit for bit on the segments that run on the chip",
        "cost": "cost counts what a closed form counts for a linear layer",
    }

    @abstractmethod
    def lower(self, module: Module) -> Module:
        """The integer-only reference of an attached module."""

    @abstractmethod
    def cost(self, module: Module, example: Any) -> Cost:
        """Work of one call of `module` on `example`."""


class Adapter(Transform):
    """An update that adds to or replaces named modules and lives in one file."""

    promises: ClassVar[Mapping[str, str]] = {
        **Transform.promises,
        "frozen": "training the adapter changes no parameter or buffer of the base",
        "identity": "a freshly attached adapter leaves every output as it was, where starts_as_identity says so",
    }

    starts_as_identity: bool = True
