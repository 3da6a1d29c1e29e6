"""How many bits for which kernel: measured sensitivities, and the best assignment under a budget of bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slt_sub8bit.kernels import Kernel
from slt_sub8bit.lloyd_max import LloydMaxScheme
from slt_sub8bit.packing import packed_bytes
from slt_sub8bit.scheme import decoded
from sltcore.errors import PluginError

FLOAT_BITS = 32
EXAMPLES = 8
MOST_STATES = 200_000
"""Assignments of the kernels so far that none beats in both bytes and error; beyond it the nearest in bytes are joined."""


class Allocation(NamedTuple):
    """Bits by kernel, and the relative squared error of the model's output with them: `predicted` is the sum of the errors
    of each kernel alone, `measured` that of all together on their Lloyd-Max levels, on the same inputs."""

    widths: Mapping[str, int]
    predicted: float
    measured: float


class Choice(NamedTuple):
    """One kernel at one width: what it takes, and the relative squared error of the model's output with it alone."""

    bits: int
    stored_bytes: int
    error: float


def allocate(
    model: nn.Module,
    kernels: Sequence[Kernel],
    widths: Sequence[int],
    budget_bytes: int,
    calibration: Iterator[Any] | None,
    *,
    fixed_bytes: int = 0,
    examples: int = EXAMPLES,
) -> Allocation:
    """The width of every kernel with which the model's output suffers least within a budget of bytes.

    Each kernel alone is put on its Lloyd-Max levels at each of `widths` (1 to 8, or 32 for float), and the model's outputs
    on at most `examples` calibration inputs are compared with those of the float model: e = sum |y_q - y|^2 / sum |y|^2.
    The assignment with the least sum of e within `budget_bytes` (codes and tables of these kernels, and `fixed_bytes` of
    which nothing is chosen) is found exactly. That errors of different kernels add up is an assumption, which holds while
    they are small; so the error of all together is measured, too.

    **Raises** `PluginError` without calibration inputs, for other widths, and for a budget that cannot be met: the text names
    the smallest possible.
    """
    widths = sorted(set(widths))
    if not widths or any(not (1 <= bits <= 8 or bits == FLOAT_BITS) for bits in widths):
        raise PluginError(f"allocation: widths are {widths}, expected some of 1 to 8 and 32")
    smallest = fixed_bytes + sum(min(stored_bytes(kernel, bits) for bits in widths) for kernel in kernels)
    if smallest > budget_bytes:
        raise PluginError(
            f"budget_bytes is {budget_bytes:,}, but with choices {widths} all kernels take {smallest:,} at least, tables and "
            f"scales among them; give {smallest:,} or more{', allow fewer bits' if widths[0] > 1 else ''}, or exclude kernels"
        )
    inputs = list(islice(calibration, examples)) if calibration is not None else []
    if not inputs:
        raise PluginError(
            "budget_bytes needs calibration inputs to measure sensitivities: `calibration:` in a spec for slt train, or "
            "attach(model, calibration) in Python; or set bits and bits_of instead"
        )
    measured = sensitivities(model, kernels, inputs, widths)
    choices = [measured[kernel.name] for kernel in kernels]
    picked = best_assignment(choices, budget_bytes - fixed_bytes)
    taken = {kernel.name: options[at] for kernel, options, at in zip(kernels, choices, picked, strict=True)}
    found = {name: choice.bits for name, choice in taken.items()}
    return Allocation(found, sum(choice.error for choice in taken.values()), joint_error(model, kernels, inputs, found))


def stored_bytes(kernel: Kernel, bits: int) -> int:
    """Bytes of one kernel at `bits`: packed codes and one table of float32, without its scales."""
    if bits == FLOAT_BITS:
        return int(kernel.numel * kernel.parameter.element_size())
    return int(packed_bytes(kernel.numel, bits) + 4 * 2**bits)


def best_assignment(choices: Sequence[Sequence[Choice]], budget: int) -> list[int]:
    """Which choice of each kernel has the least sum of errors within `budget` bytes, as places in the lists.

    Dynamic programming over kernels keeps every partial assignment that no other beats in both bytes and error, so
    the result is exact while there are at most 200,000 of them; beyond, the better of two neighbours in bytes is kept.
    **Raises** `PluginError` when no assignment fits.
    """
    least = [min(choice.stored_bytes for choice in options) for options in choices]
    if sum(least) > budget:
        raise PluginError(f"no assignment fits {budget:,} bytes; the smallest takes {sum(least):,}")
    cost, error = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    rest = sum(least)
    for options, smallest in zip(choices, least, strict=True):
        rest -= smallest
        costs = (cost[:, None] + np.array([choice.stored_bytes for choice in options])).ravel()
        errors = (error[:, None] + np.array([choice.error for choice in options])).ravel()
        kept = _undominated(costs, errors, budget - rest)
        cost, error = costs[kept], errors[kept]
        steps.append((kept // len(options), kept % len(options)))
    place = int(error.argmin())
    picked = []
    for before, choice in reversed(steps):
        picked.append(int(choice[place]))
        place = int(before[place])
    return picked[::-1]


def _undominated(costs: NDArray[np.int64], errors: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Places within `most` bytes that no other beats in both, by rising cost."""
    places: NDArray[np.int64] = np.flatnonzero(costs <= most)
    places = places[np.lexsort((errors[places], costs[places]))]
    falling = np.minimum.accumulate(errors[places])
    is_better = np.concatenate([[True], errors[places][1:] < falling[:-1]])
    places = places[is_better]
    if len(places) > MOST_STATES:
        # errors fall with cost: the last of each cell is its best, and never above the budget
        cells = (costs[places] - costs[places[0]]) * MOST_STATES // (costs[places[-1]] - costs[places[0]] + 1)
        places = places[np.concatenate([cells[1:] != cells[:-1], [True]])]
    return places


@torch.no_grad()
def sensitivities(
    model: nn.Module, kernels: Sequence[Kernel], inputs: Sequence[Any], widths: Sequence[int]
) -> dict[str, list[Choice]]:
    """Relative squared output error of `model` with each kernel alone on its Lloyd-Max levels, at each width.

    A plain tuple of `inputs` is given to the model as its arguments, a dict by name, anything else as it is. Where the output
    holds no tensor (a pipeline that decodes), the output of the last layer with a kernel that ran is compared instead.
    Parameters and modes are put back bit for bit. **Raises** `PluginError` for outputs that cannot be compared.
    """
    with _evaluating(model):
        error_of = _Errors(model, kernels, inputs)
        return {
            kernel.name: [
                Choice(bits, stored_bytes(kernel, bits), error_of([(kernel, bits)])) for bits in sorted(set(widths))
            ]
            for kernel in kernels
        }


@torch.no_grad()
def joint_error(model: nn.Module, kernels: Sequence[Kernel], inputs: Sequence[Any], widths: Mapping[str, int]) -> float:
    """As one error of `sensitivities`, with all kernels on their Lloyd-Max levels at once, at the widths of their names."""
    with _evaluating(model):
        return _Errors(model, kernels, inputs)([(kernel, widths[kernel.name]) for kernel in kernels])


class _Errors:
    """Relative squared errors of a model's outputs on inputs; the outputs of the float model are kept."""

    def __init__(self, model: nn.Module, kernels: Sequence[Kernel], inputs: Sequence[Any]) -> None:
        self.model, self.kernels, self.inputs = model, kernels, inputs
        self.expected = [_outputs(model, kernels, value) for value in inputs]
        self.power = sum(float(y.square().sum()) for outputs in self.expected for y in outputs)
        if not self.expected[0] or not self.power > 0 or not np.isfinite(self.power):
            raise PluginError(
                f"{type(model).__name__} gives no floating-point output other than zero on the calibration inputs; sensitivities "
                f"cannot be measured: give other inputs, or set bits and bits_of"
            )

    def __call__(self, quantized: Sequence[tuple[Kernel, int]]) -> float:
        """With these kernels on their levels at these widths."""
        with ExitStack() as stack:
            for kernel, bits in quantized:
                stack.enter_context(_quantized(kernel, bits))
            pairs = zip(self.inputs, self.expected, strict=True)
            return sum(_difference(_outputs(self.model, self.kernels, value), y) for value, y in pairs) / self.power


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation for as long as it takes, then each module's own mode."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _difference(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Squared difference; an output of another length counts as all noise."""
    if [y.shape for y in outputs] != [y.shape for y in expected]:
        return sum(float(y.square().sum()) for y in expected)
    return sum(float((a - b).square().sum()) for a, b in zip(outputs, expected, strict=True))


@contextmanager
def _quantized(kernel: Kernel, bits: int) -> Iterator[None]:
    """The kernel on its Lloyd-Max levels for as long as it takes."""
    if bits == FLOAT_BITS:
        yield
        return
    parameter = kernel.parameter
    weight = parameter.detach().float()
    scheme = LloydMaxScheme()
    scheme.start(weight, bits)
    before = parameter.detach().clone()
    parameter.copy_(decoded(scheme.table(weight)).to(parameter.dtype))
    try:
        yield
    finally:
        parameter.copy_(before)


def _outputs(model: nn.Module, kernels: Sequence[Kernel], value: Any) -> list[Tensor]:
    """All floating-point tensors of the model's output, else of the last layer that ran."""
    last: list[Any] = [None]
    handles = [
        place.module.register_forward_hook(lambda module, args, output: last.__setitem__(0, output))
        for kernel in kernels
        for place in kernel.places
    ]
    try:
        output = model(*value) if type(value) is tuple else model(**value) if type(value) is dict else model(value)
    finally:
        for handle in handles:
            handle.remove()
    return list(_tensors(output)) or list(_tensors(last[0]))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors in nested outputs, as float64, with 0 where one is not finite (a masked score)."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value.detach().double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
