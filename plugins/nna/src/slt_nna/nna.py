"""A model on a chip: its arithmetic in training and evaluation, calibrated once; its integer form; its cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from slt_nna.chip import Chip, load_chip
from slt_nna.dispatch.dispatcher import Dispatcher, Listener
from slt_nna.floating import Floating
from slt_nna.interception import Entrance
from slt_nna.names import Names
from slt_nna.ranges import RANGE_RULES, RangeRule, Ranges
from slt_nna.selective import Only, Selective
from slt_nna.singles import called, singles
from sltcore.errors import PluginError
from sltcore.interfaces import AcceleratorBackend, Cost

if TYPE_CHECKING:
    from pathlib import Path

    from slt_nna.backend import Backend


class Nna(AcceleratorBackend):
    """Runs any `nn.Module` in the arithmetic of a chip, without replacing a module.

    While a call of the model, or `use`, is open, torch functions are intercepted: layers whose weights are the model's
    and operators on their results compute as the chip does, the rest in float. Values stay float32 tensors with
    gradients, so training goes on. Ranges are measured once, by `attach` with calibration inputs, and stay.

    - `include`, `exclude`: patterns over module names and sites of what runs on the chip and what stays on the host;
    - `range`: how a grid's limit follows from what was measured, of `slt_nna.ranges.Ranges`; `percent` for `percentile`;
    - `table_gradient`: backwards through a table, `true` the function's derivative or `slope` that of the table;
    - `start`: in training mode the model runs in float until this part of the steps is over; evaluation is always the
      chip's.

    A chip with float words changes no bit. **Source**: Shakiah et al., Accelerator-aware training for transducer-based
    speech recognition (SLT 2022, arXiv:2305.07778), whose operators are not public; this arithmetic is documented in
    `docs/accelerators.md`. **Raises** `PluginError` for options out of their bounds.
    """

    def __init__(
        self,
        chip: Chip | str | Path | Mapping[str, Any],
        *,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        range: RangeRule = "mse",
        percent: float = 99.9,
        table_gradient: str = "true",
        start: float = 0.0,
    ) -> None:
        if range not in RANGE_RULES:
            raise PluginError(f"nna: range is {range!r}, expected one of {', '.join(RANGE_RULES)}")
        if not 50.0 < percent <= 100.0:
            raise PluginError(f"nna: percent is {percent}, expected more than 50 and at most 100")
        if not 0.0 <= start <= 1.0:
            raise PluginError(f"nna: start is {start}, expected 0 to 1")
        for option, patterns in (("include", include), ("exclude", exclude)):
            if isinstance(patterns, str):
                raise PluginError(
                    f"nna: {option} is the text {patterns!r}, expected a sequence of patterns: [{patterns!r}]"
                )
        self.chip = load_chip(chip)
        self.start = start
        self._options = {
            "include": tuple(include),
            "exclude": tuple(exclude),
            "range": range,
            "percent": percent,
            "table_gradient": table_gradient,
            "start": start,
        }
        self.ranges = Ranges(self.chip, rule=range, percent=percent)
        self.names = Names()
        self._floating = Floating(self.chip)
        self._emulation: Backend = self._floating if self.chip.is_ideal else _emulation(self.chip, table_gradient)
        self.dispatcher = Dispatcher(
            self.chip, self._emulation, self.ranges, self.names, include=include, exclude=exclude
        )
        self.entrance = Entrance(self.dispatcher)
        self.entrance.enabled = self._enabled
        self.model: nn.Module | None = None
        self._only: Only | None = None
        self._early = False

    # -- what listens and chooses

    @property
    def options(self) -> Mapping[str, Any]:
        """The keyword arguments that it was made with."""
        return dict(self._options)

    @property
    def backend(self) -> Backend:
        """What computes on the chip; another one may be put in its place."""
        return self.dispatcher.backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        self.dispatcher.backend = backend

    @property
    def listeners(self) -> list[Listener]:
        """Who hears every operator and crossing."""
        return self.dispatcher.listeners

    @property
    def only(self) -> Only | None:
        """`only(operator, site)`: which operators compute as the chip does, the others in float; None: all."""
        return self._only

    @only.setter
    def only(self, only: Only | None) -> None:
        self._only = only
        chosen = self._emulation if only is None else Selective(self._emulation, self._floating, only)
        self.dispatcher.backend = cast("Backend", chosen)

    # -- a Transform's life

    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        self._install(model)
        if calibration is None or self.chip.is_ideal:
            return
        try:
            self._calibrate(model, calibration)
        except BaseException:
            self.detach()
            self.ranges.abandon()
            raise

    def detach(self) -> None:
        if self.model is None:
            raise PluginError(f"nna: chip '{self.chip.name}' is not attached to a model")
        self.entrance.remove()
        self.model = None
        self.names = self.dispatcher.names = Names()

    def state(self) -> Mapping[str, Tensor]:
        return self.ranges.state()

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        self._refuse_second()
        self.ranges.restore(state)
        self._install(model)

    def use(self, context: Mapping[str, Any]) -> AbstractContextManager[None]:
        return self.entrance.hold()

    def step(self, progress: float) -> None:
        super().step(progress)
        self._early = progress < self.start

    def finish(self) -> None:
        """Nothing to do: the deployed form is `lower`'s, and evaluation equals it bit for bit."""

    def lower(self, module: nn.Module) -> nn.Module:
        from slt_nna.lower import lower

        lowered: nn.Module = lower(self, module)
        return lowered

    def cost(self, module: nn.Module, example: Any) -> Cost:
        from slt_nna.cost import cost

        return cost(self, module, example)

    def __reduce__(self) -> Any:
        """Copies and pickles have the chip, its options and its ranges. **Raises** `PluginError` while attached."""
        if self.model is not None:
            raise PluginError(
                f"nna: chip '{self.chip.name}' is attached to a {type(self.model).__name__}, and a copy of it would be "
                "attached to nothing; copy the model alone, which stays on this chip, or restore(model, chip.state()) "
                "into a new Nna"
            )
        return _made_again, (self.chip, self._options, dict(self.state()))

    # -- inside

    def _refuse_second(self) -> None:
        if self.model is not None:
            raise PluginError(
                f"nna: chip '{self.chip.name}' is attached to a {type(self.model).__name__} already; detach it first"
            )

    def _install(self, model: nn.Module) -> None:
        self._refuse_second()
        _check(model, self.chip)
        self.entrance.install(model)
        self.model = model

    def _calibrate(self, model: nn.Module, calibration: Iterator[Any]) -> None:
        training = [module for module in model.modules() if module.training]
        model.eval()
        backend = self.backend
        self.ranges.begin()
        self.dispatcher.forget()
        self.backend = Floating(self.chip, self.ranges.observe)
        seen = 0
        try:
            with torch.no_grad(), self.use({}):
                for batch in calibration:
                    for example in singles(batch):
                        called(model, example)
                        seen += 1
        finally:
            self.backend = backend
            for module in training:
                module.training = True
        self.ranges.freeze()
        if not seen:
            raise PluginError("nna: the calibration data is empty; give some recordings, or None to calibrate later")
        if not self.dispatcher.used:
            raise PluginError(
                f"nna: no operator of {type(model).__name__} ran on chip '{self.chip.name}'; its include and exclude "
                "patterns, or the chip's `host`, leave nothing to it"
            )
        self.dispatcher.check_patterns(name for name, _ in model.named_modules())

    def _enabled(self) -> bool:
        if self.chip.is_ideal and not self.dispatcher.listeners:
            return False
        return not (self._early and self.model is not None and self.model.training)


def _made_again(chip: Chip, options: Mapping[str, Any], ranges: Mapping[str, Tensor]) -> Nna:
    made = Nna(chip, **options)
    made.ranges.restore(ranges)
    return made


def _emulation(chip: Chip, table_gradient: str) -> Backend:
    from slt_nna.emulated import Emulation

    emulation: Backend = Emulation(chip, table_gradient=table_gradient)
    return emulation


def _check(model: nn.Module, chip: Chip) -> None:
    """**Raises** `PluginError` for a model without parameters or with parameters that are not float32, or not finite."""
    if chip.is_ideal:
        return
    found = False
    for name, value in model.named_parameters():
        found = True
        if value.dtype != torch.float32:
            raise PluginError(
                f"nna: parameter '{name}' is {str(value.dtype).removeprefix('torch.')}; the chip's arithmetic starts from "
                "float32, so call model.float() first"
            )
        if not bool(value.isfinite().all()):
            raise PluginError(
                f"nna: parameter '{name}' holds nan or inf, which no code of chip '{chip.name}' stands for; begin from "
                "weights before that happened"
            )
    if not found:
        raise PluginError(f"nna: {type(model).__name__} has no parameters, so nothing of it would run on the chip")
