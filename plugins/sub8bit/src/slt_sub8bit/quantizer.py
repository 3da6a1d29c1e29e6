"""The quantizer of whole models: schemes at weight sites, from attaching to the packed form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slt_sub8bit.allocation import Allocation, allocate
from slt_sub8bit.int8_emulation import Int8Emulation
from slt_sub8bit.kernels import Found, Kernel, Place, find_kernels, left_alone, refuse_idle
from slt_sub8bit.packed import Compute, computes_int8, pack_model, packed_state, packed_weights, restore_packed
from slt_sub8bit.packing import needed_bits, packed_bytes
from slt_sub8bit.scheme import Scheme, SchemeFactory
from slt_sub8bit.substitution import Substitution
from sltcore.errors import PluginError
from sltcore.interfaces import Quantizer, Size
from sltcore.table_weights import offer_table, withdraw_table
from sltcore.types import TableWeight

UNTOUCHED = 32
WIDTHS = (*range(1, 9), UNTOUCHED)
AT_THE_START = {
    *("use", "bits", "bits_of", "include", "exclude", "budget_bytes", "choices"),
    *("scales", "start", "first_step", "scale_quantile"),
}
"""Fields of a config that are read when a quantizer is attached, and never again."""
ALLOCATION, ALLOCATION_BYTES = "allocation", 8
"""Predicted and measured error of an allocation, float32 [2], in a state; kernels have a dot in their names there."""


class Sub8bit(Quantizer):
    """Weights in 1 to 8 bits by any `Scheme`, different for every kernel.

    While attached, the float parameters stay in the model and are trained; in every forward pass the scheme's weight stands
    in their place. In evaluation that is always the stored (hard) form. `finish` packs indices and tables.

    - `bits`: 1 to 8, or 32 for a kernel left alone; `bits_of`: pattern to bits, the last that matches counts.
    - `include`, `exclude`: patterns of weights, see `find_kernels`.
    - `scales`: one scale for the kernel, for each gate of a recurrent one, or for each row.
    - `every`: quantize in one training step of so many, until the scheme is hard.
    - `rate`: learning rate of levels and steps, times that of the weights.
    - `budget_bytes`: codes, tables and scales of all quantized kernels together. Those that `bits_of` does not name get the
      bits out of `choices` with which calibration outputs suffer least, instead of `bits`.
    - `compute`: with `int8`, linear layers multiply 8-bit integers: activations rounded row by row, tables on an int8 grid.

    `allocation` tells what a budget was spent on, with the predicted and the measured error, and is None without a budget.

    Source: Zhen et al. 2022, arXiv:2210.09188, for the order of life; the schemes name their own.
    """

    def __init__(
        self,
        make_scheme: SchemeFactory,
        *,
        bits: int = 4,
        bits_of: Mapping[str, int] | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        scales: Literal["kernel", "gate", "row"] = "kernel",
        every: int = 1,
        rate: float = 1.0,
        budget_bytes: int | None = None,
        choices: Sequence[int] = tuple(range(1, 9)),
        compute: Compute = "float",
    ) -> None:
        self.make_scheme, self.bits, self.bits_of = make_scheme, bits, dict(bits_of or {})
        self.include, self.exclude, self.scales = tuple(include), tuple(exclude), scales
        self.every, self.rate, self.compute = every, rate, compute
        self.budget_bytes, self.choices = budget_bytes, tuple(choices)
        for where, width in (("bits", bits), *((f"bits_of: {p}", b) for p, b in self.bits_of.items())):
            _refuse_width(width, where)
        self.model: nn.Module | None = None
        self.kernels: dict[str, Kernel] = {}
        self.schemes: dict[str, Scheme] = {}
        self.widths: dict[str, int] = {}
        self.allocation: Allocation | None = None
        self.substitution: Substitution | None = None
        self.emulation: Int8Emulation | None = None
        self.turn = -1
        self.is_finished = False

    # The order of life

    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        """Start a scheme for every kernel. **Raises** `PluginError` for patterns that match nothing, weights that are not
        finite, a model that is finished, and when it is attached already."""
        self._refuse_second(model)
        packed = list(packed_weights(model))
        if packed and not self.include:
            raise PluginError(
                f"{type(model).__name__} is finished: {packed[0]} is packed, its float weights are gone; attach to the model as "
                f"it was before, or name other weights with include"
            )
        found = find_kernels(model, self.include, self.exclude)
        widths = self._choose_widths(model, found, calibration)
        kernels = [kernel for kernel in found.kernels if widths[kernel.name] != UNTOUCHED]
        schemes = {kernel.name: self._new_scheme(kernel) for kernel in kernels}
        for kernel in kernels:
            weight = kernel.parameter.detach().float()
            if not bool(weight.isfinite().all()):
                raise PluginError(f"{kernel.name} holds NaN or infinity; quantize a model whose weights are finite")
            with torch.no_grad():
                schemes[kernel.name].start(weight, widths[kernel.name])
        self._wear(model, kernels, schemes, widths)

    def detach(self) -> None:
        """Undo `attach`. **Raises** `PluginError` when it is not attached, or finished."""
        if self.is_finished:
            raise PluginError(
                "Sub8bit.detach: it is finished, the float weights are gone; load the model as it was before"
            )
        if self.model is None:
            raise PluginError("Sub8bit.detach: it is not attached; call attach(model) first")
        self._take_off()
        self.model = self.allocation = None
        self.kernels, self.schemes, self.widths = {}, {}, {}

    def finish(self) -> None:
        """Replace the float parameters by packed indices and tables, for good. A second call changes nothing.
        **Raises** `PluginError` when it is not attached."""
        if self.is_finished:
            return
        if self.model is None:
            raise PluginError("Sub8bit.finish: it is not attached; call attach(model) first")
        tables = {name: self.table(name) for name in self.kernels}
        self._take_off()
        pack_model(self.model, list(self.kernels.values()), tables, self.compute)
        self.schemes, self.is_finished = {}, True

    def step(self, progress: float) -> None:
        """Tell the schemes how far training is; see `Transform.step`."""
        super().step(progress)
        self.turn += 1
        for scheme in self.schemes.values():
            scheme.step(progress)

    def penalty(self) -> Tensor | None:
        """The sum of what the schemes ask for."""
        terms = [self.schemes[name].penalty(kernel.parameter.float()) for name, kernel in self._attached()]
        given = [term for term in terms if term is not None]
        return torch.stack([term.reshape(()) for term in given]).sum() if given else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Levels and steps, without weight decay: shrinking a level would collapse it onto zero."""
        own = [parameter for name, _ in self._attached() for parameter in self.schemes[name].parameters()]
        return [{"params": own, "weight_decay": 0.0}] if own else []

    def wrap_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """The same optimizer, in which groups that hold levels and steps alone learn at `rate` times their rate."""
        own = {id(parameter) for group in self.parameter_groups() for parameter in group["params"]}
        for group in optimizer.param_groups:
            if group["params"] and all(id(parameter) in own for parameter in group["params"]):
                for key in ("lr", "highest"):
                    if key in group:
                        group[key] = group[key] * self.rate
        return optimizer

    # What it keeps

    def state(self) -> Mapping[str, Tensor]:
        """Bits, and what the schemes learned; finished: packed indices and tables."""
        found: dict[str, Tensor] = {}
        if self.allocation is not None:
            found[ALLOCATION] = torch.tensor([self.allocation.predicted, self.allocation.measured])
        if self.is_finished:
            assert self.model is not None
            packed = packed_state(self.model)
            return found | {key: tensor for key, tensor in packed.items() if key.rpartition(".")[0] in self.kernels}
        for name, _ in self._attached():
            found[f"{name}.bits"] = torch.tensor(self.widths[name])
            found.update({f"{name}.{key}": tensor for key, tensor in self.schemes[name].state().items()})
        return found

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Stand where `state` was taken; bits and kernels are those of the state. **Raises** `PluginError` when the model has
        no such weights."""
        if not state:
            self.attach(model)
            return
        self._refuse_second(model)
        errors = state.get(ALLOCATION)
        state = {key: tensor for key, tensor in state.items() if key != ALLOCATION}
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            name, _, rest = key.rpartition(".")
            parts.setdefault(name, {})[rest] = tensor
        found = {kernel.name: kernel for kernel in _kernels_of(model, parts)}
        kernels = [found[name] for name in parts]
        if all("codes" in part for part in parts.values()):
            restore_packed(model, kernels, state, self.compute)
            self.model, self.kernels, self.is_finished = model, found, True
            self.widths = {name: needed_bits(len(part["table"])) for name, part in parts.items()}
            self._recall(errors)
            return
        widths = {name: int(part.pop("bits")) for name, part in parts.items()}
        schemes = {kernel.name: self._new_scheme(kernel) for kernel in kernels}
        for kernel in kernels:
            try:
                schemes[kernel.name].restore(parts[kernel.name], kernel.parameter.detach(), widths[kernel.name])
            except KeyError as error:
                raise PluginError(
                    f"{kernel.name}: the saved state holds {', '.join(sorted(parts[kernel.name]))} and no {error}; it is of "
                    f"another quantizer, restore it with the component that saved it"
                ) from None
        self._wear(model, kernels, schemes, widths)
        self._recall(errors)

    def settles(self, field: str) -> bool:
        """What was read when it was attached; finished all but `compute`."""
        return field in AT_THE_START or (self.is_finished and field != "compute")

    def report(self, module: nn.Module) -> Size:
        """Bytes on disk and in memory of `module` as it would be stored now, and the modules left alone.

        Buffers that a module makes anew (non-persistent ones) are in memory alone.
        """
        quantized = {id(kernel.parameter): kernel for _, kernel in self._attached()}
        held = packed_weights(module).values()
        stored = {id(part) for packed in held for part in (packed.codes, packed.table, packed.scale)}
        stored |= {id(tensor) for tensor in (*module.parameters(), *_persistent_buffers(module))}
        disk, anew = 0, sum(packed.derived_bytes for packed in held)
        for key, tensor in {id(t): t for t in (*module.parameters(), *module.buffers())}.items():
            kernel, size = quantized.get(key), tensor.element_size() * tensor.numel()
            if kernel is not None:
                disk += self._bytes(kernel, self.widths[kernel.name])
            elif key in stored:
                disk += size
            else:
                anew += size
        memory = disk + anew
        if self.allocation is not None and any(part is self.model for part in module.modules()):
            disk += ALLOCATION_BYTES
        return Size(disk, memory, tuple(self.reasons(module)))

    def reasons(self, module: nn.Module) -> dict[str, str]:
        """Why each of the modules that `report` names as untouched keeps a float matrix."""
        return left_alone(module, list(self.kernels.values()))

    # Inside

    def table(self, name: str) -> TableWeight:
        """The codebook of one kernel as it is now."""
        return self.schemes[name].table(self.kernels[name].parameter.detach().float())

    def _attached(self) -> Iterator[tuple[str, Kernel]]:
        return iter(() if self.is_finished else self.kernels.items())

    def _refuse_second(self, model: nn.Module) -> None:
        if self.model is not None:
            what = "finished" if self.is_finished else "attached"
            raise PluginError(
                f"Sub8bit.attach: it is {what} already, on {type(self.model).__name__}; make another for {type(model).__name__}"
            )

    def _choose_widths(self, model: nn.Module, found: Found, calibration: Iterator[Any] | None) -> dict[str, int]:
        for pattern in self.bits_of:
            refuse_idle(pattern, found.kernels, "bits_of")
        named = {
            kernel.name: width
            for pattern, width in self.bits_of.items()
            for kernel in found.kernels
            if kernel.matches(pattern)
        }
        rest = [kernel for kernel in found.kernels if kernel.name not in named]
        chosen = {kernel.name: self.bits for kernel in rest}
        if self.budget_bytes is not None:
            spent = sum(
                self._bytes(k, named[k.name]) for k in found.kernels if named.get(k.name, UNTOUCHED) != UNTOUCHED
            )
            if spent > self.budget_bytes:
                raise PluginError(
                    f"budget_bytes is {self.budget_bytes:,}, but the kernels that bits_of names take {spent:,} by themselves; give "
                    f"more than that, or name fewer bits"
                )
        if self.budget_bytes is not None and rest:
            fixed = spent + sum(4 * self._scales(kernel) for kernel in rest)
            self.allocation = allocate(model, rest, self.choices, self.budget_bytes, calibration, fixed_bytes=fixed)
            chosen = dict(self.allocation.widths)
        return {**chosen, **named}

    def _recall(self, errors: Tensor | None) -> None:
        if errors is not None:
            self.allocation = Allocation(self.widths, *errors.tolist())

    def _new_scheme(self, kernel: Kernel) -> Scheme:
        return self.make_scheme(self._groups(kernel))

    def _groups(self, kernel: Kernel) -> int:
        return {"kernel": 1, "gate": kernel.gates, "row": kernel.rows}[self.scales]

    def _wear(
        self, model: nn.Module, kernels: Sequence[Kernel], schemes: dict[str, Scheme], widths: dict[str, int]
    ) -> None:
        offered: list[Place] = []
        try:
            for kernel in kernels:
                for place in kernel.places:
                    offer_table(place.module, place.attribute, _Offer(self, kernel.name))
                    offered.append(place)
        except PluginError:
            for given in offered:
                withdraw_table(given.module, given.attribute)
            raise PluginError(
                f"{place.name} has a codebook of another quantizer already; quantize it once: exclude it from one of them"
            ) from None
        self.model, self.schemes = model, schemes
        self.kernels = {kernel.name: kernel for kernel in kernels}
        self.widths = {name: widths[name] for name in self.kernels}
        self.substitution = Substitution(kernels, self._substitute)
        integer = [kernel for kernel in kernels if computes_int8(kernel, self.compute)]
        self.emulation = Int8Emulation(integer, self.table) if integer else None

    def _take_off(self) -> None:
        assert self.substitution is not None
        self.substitution.remove()
        self.substitution = None
        if self.emulation is not None:
            self.emulation.remove()
            self.emulation = None
        for kernel in self.kernels.values():
            for place in kernel.places:
                withdraw_table(place.module, place.attribute)

    def _substitute(self, kernel: Kernel, place: Place) -> Tensor | None:
        scheme, parameter = self.schemes[kernel.name], kernel.parameter
        is_training = place.module.training
        if is_training and not scheme.is_hard and self.turn >= 0 and self.turn % self.every:
            return None
        found = scheme.weight(parameter.float(), hard=not is_training)
        if self.emulation is not None and kernel.name in self.emulation.names and (scheme.is_hard or not is_training):
            found = self.emulation.on_grid(kernel.name, found)
        return found.to(parameter.dtype)

    def _bytes(self, kernel: Kernel, bits: int) -> int:
        """Codes, table and scale of one kernel, as `PackedWeight` holds them."""
        return packed_bytes(kernel.numel, bits) + 4 * ((1 << bits) + self._scales(kernel))

    def _scales(self, kernel: Kernel) -> int:
        return 1 if self._groups(kernel) == 1 else kernel.rows


class _Offer:
    """What an accelerator calls for the codebook of one kernel; an object, so that deep copies offer their own."""

    def __init__(self, quantizer: Sub8bit, name: str) -> None:
        self.quantizer, self.name = quantizer, name

    def __call__(self) -> TableWeight:
        return self.quantizer.table(self.name)


def _refuse_width(width: int, where: str) -> None:
    if width not in WIDTHS:
        raise PluginError(f"{where}: {width} bits; choose 1 to 8, or 32 to leave weights as they are")


def _persistent_buffers(model: nn.Module) -> Iterator[Tensor]:
    """The buffers that `state_dict` holds."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield buffer


def _kernels_of(model: nn.Module, names: Mapping[str, Any]) -> list[Kernel]:
    """The kernels of a saved state in a model."""
    have = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    missing = [name for name in names if name not in have]
    if missing:
        raise PluginError(
            f"{type(model).__name__} has no weight {missing[0]}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}, "
            f"which the saved state quantizes; restore it on the model that it was saved from"
        )
    return [kernel for kernel in find_kernels(model, list(names)).kernels if kernel.name in names] if names else []
