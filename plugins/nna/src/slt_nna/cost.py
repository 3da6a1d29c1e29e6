"""What a model costs on a chip: multiply-accumulates, bytes moved, hand-overs to the host, and a latency model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from slt_nna.chip import Operator
from slt_nna.events import ENTER, LEAVE, Event
from sltcore.errors import PluginError
from sltcore.interfaces import Cost

if TYPE_CHECKING:
    from slt_nna.backend import Weight
    from slt_nna.chip import Chip

FLOAT_BYTES = 4.0
OPERATIONS: Mapping[str, float] = {
    "gate": 2,  # look up, multiply
    "softmax": 4,  # largest, look up, sum, divide
    "layer_norm": 6,  # sum, difference, square and sum, divide, gain, bias
    "lstm": 10,  # 5 look-ups, 3 products, 2 sums for each unit and frame
    "gru": 9,  # 3 look-ups, 3 products, 3 sums
    "embedding": 0,
}
"""Operations for each output element besides multiply-accumulates; 1 for operators that are not listed."""


@dataclass
class Site:
    """What one operator of a model costs, over all its calls in one forward pass of the model."""

    site: str
    operator: str
    on_chip: bool
    calls: int = 0
    macs: int = 0
    operations: float = 0.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    bytes_weights: float = 0.0
    seconds: float = 0.0

    @property
    def bytes_moved(self) -> float:
        """Operands read, results written and weights read."""
        return self.bytes_in + self.bytes_out + self.bytes_weights


@dataclass
class Account:
    """The cost of one call, operator by operator; `audio_s` is the sound that the call worked on, where it is known, and
    `uncounted` are the functions on the host of which it is not known whether they hold products.

    Times are those of the latency model, whose assumptions `assumptions` prints; nothing was measured.
    """

    chip: Chip
    audio_s: float | None = None
    sites: list[Site] = field(default_factory=list)
    entries: int = 0
    exits: int = 0
    bytes_crossing: float = 0.0
    uncounted: list[str] = field(default_factory=list)

    @property
    def macs(self) -> int:
        """Multiply-accumulates on chip and host."""
        return sum(site.macs for site in self.sites)

    @property
    def host_macs(self) -> int:
        """Multiply-accumulates on the host."""
        return sum(site.macs for site in self.sites if not site.on_chip)

    @property
    def bytes_moved(self) -> float:
        """Bytes that operators read and write, weights included, and those that cross."""
        return sum(site.bytes_moved for site in self.sites) + self.bytes_crossing

    @property
    def crossings(self) -> int:
        """Values handed over between chip and host, in both directions."""
        return self.entries + self.exits

    @property
    def chip_s(self) -> float:
        """Seconds that the chip works."""
        return sum(site.seconds for site in self.sites if site.on_chip)

    @property
    def host_s(self) -> float:
        """Seconds that the host works in float."""
        return sum(site.seconds for site in self.sites if not site.on_chip)

    @property
    def crossing_s(self) -> float:
        """Seconds that hand-overs take."""
        return self.crossings * self.chip.speed.crossing_s + self.bytes_crossing / self.chip.speed.bytes_per_s

    @property
    def latency_s(self) -> float:
        """Chip, host and hand-overs, one after the other."""
        return self.chip_s + self.host_s + self.crossing_s

    @property
    def cost(self) -> Cost:
        """The three numbers of `sltcore.interfaces.Cost`."""
        return Cost(self.macs, math.ceil(self.bytes_moved), self.crossings)

    def per_second(self, value: float) -> float | None:
        """A total for each second of sound, or None where the length of the sound is not known."""
        return value / self.audio_s if self.audio_s else None

    def assumptions(self) -> list[str]:
        """What the latency model takes for granted, one sentence each, with the chip's figures."""
        speed = self.chip.speed
        unknown = (
            "there is one operation for each number that these host functions give, and no products in them: "
            f"{', '.join(self.uncounted)}"
        )
        return [
            f"an operator on the chip takes the longer of its multiply-accumulates and operations at "
            f"{speed.macs_per_cycle:g} a cycle and {speed.clock_hz / 1e6:g} MHz, and its bytes at "
            f"{speed.bytes_per_s / 1e9:g} GB/s",
            "weights are read once for each call of an operator, operands and results once; words are packed",
            f"an operator on the host takes its operations, two for each multiply-accumulate, at "
            f"{speed.host_flops_per_s / 1e9:g} GFLOP/s, and no time for its bytes",
            f"each value handed over between chip and host takes {speed.crossing_s * 1e6:g} us, and its bytes at "
            f"{speed.bytes_per_s / 1e9:g} GB/s",
            "multipliers and memory always run at their full rates, which real ones do not; operators, host and hand-overs "
            "do not overlap, though a device may let them: so the times are no bound, neither from above nor from below",
            *([unknown] if self.uncounted else []),
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: totals, those for each second of sound, the assumptions and every operator."""
        totals = {
            "macs": self.macs,
            "host_macs": self.host_macs,
            "bytes_moved": self.bytes_moved,
            "bytes_crossing": self.bytes_crossing,
            "entries": self.entries,
            "exits": self.exits,
            "chip_s": self.chip_s,
            "host_s": self.host_s,
            "crossing_s": self.crossing_s,
            "latency_s": self.latency_s,
        }
        return {
            "chip": self.chip.name,
            "audio_s": self.audio_s,
            "total": totals,
            "per_second": {name: self.per_second(value) for name, value in totals.items()} if self.audio_s else None,
            "assumptions": self.assumptions(),
            "operators": [{**vars(site), "bytes_moved": site.bytes_moved} for site in self.sites],
        }


class Counter:
    """A listener that adds every event to an account."""

    def __init__(self, chip: Chip, audio_s: float | None = None) -> None:
        self.account = Account(chip, audio_s)
        self._sites: dict[tuple[str, str, bool], Site] = {}
        self._left: list[Any] = []

    def __call__(self, event: Event) -> None:
        """Count one event."""
        if event.operator in (ENTER, LEAVE):
            self._cross(event)
            return
        key = (event.site, event.operator, event.on_chip)
        if key not in self._sites:
            self._sites[key] = Site(*key)
            self.account.sites.append(self._sites[key])
        _add(self._sites[key], event, self.account.chip)
        unknown = self.account.uncounted
        if not event.on_chip and "macs" not in event.options and event.operator not in (*get_args(Operator), *unknown):
            unknown.append(event.operator)
            unknown.sort()

    def _cross(self, event: Event) -> None:
        value = (event.outputs or event.inputs)[0]
        bits = event.bits[-1] if event.operator == ENTER else event.bits[0]
        self.account.bytes_crossing += value.numel() * bits / 8
        if event.operator == ENTER:
            self.account.entries += 1
        else:
            self.account.exits += 1
            self._left += event.inputs

    def handed_out(self, output: Any) -> None:
        """What a call gives back leaves the chip, whoever it was that was called; recurrent states stay, unless there is
        nothing else."""
        from slt_nna.dispatch.dispatcher import FLOAT, gather
        from slt_nna.tags import KEPT, tag_of

        values: list[Any] = []
        gather(output, values)
        tagged = [(value, tag) for value, tag in zip(values, map(tag_of, values), strict=True) if tag is not None]
        kept = [(value, tag, getattr(value, KEPT)) for value, tag in tagged if hasattr(value, KEPT)]
        others = [(value, tag, tag.grid.bits) for value, tag in tagged if tag.grid and not hasattr(value, KEPT)]
        for value, tag, bits in others or kept:
            if all(value is not each for each in self._left):
                self(Event(LEAVE, tag.site, True, (value,), (value,), (bits, FLOAT)))


def account(
    transform: Any,
    module: Any,
    example: Any,
    *,
    audio_s: float | None = None,
    call: Callable[[Any, Any], Any] | None = None,
) -> Account:
    """Count one call of `module`, which an `Nna` is attached to, on `example`; `call(module, example)` makes it,
    by default `module(example)`, or `module(**example)` for a dict.

    The model runs once, in evaluation, without gradients. **Raises** `PluginError` when no operator of the model was
    seen, so that a cost of nothing is never taken for cheapness.
    """
    import torch

    from slt_nna.singles import called

    counter = Counter(transform.chip, audio_s)
    with evaluating(module), torch.no_grad(), listening(transform, counter), transform.use({}):
        counter.handed_out((call or called)(module, example))
    if not counter.account.sites:
        raise PluginError(
            f"no operator of {type(module).__name__} was seen by the chip '{transform.chip.name}'; give the model that "
            "it is attached to"
        )
    for site in counter.account.sites:
        site.seconds = _seconds(site, transform.chip)
    return counter.account


def cost(transform: Any, module: Any, example: Any) -> Cost:
    """Multiply-accumulates, bytes moved and crossings of one call; what `Nna.cost` returns. **Raises** as `account`."""
    return account(transform, module, example).cost


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """A block in which all modules of a model are in evaluation; behind it each is what it was."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def listening(transform: Any, listener: Callable[[Event], None]) -> Iterator[None]:
    """Let `listener` hear every event of an attached `Nna` for a while."""
    transform.listeners.append(listener)
    try:
        yield
    finally:
        transform.listeners.remove(listener)


def macs_of(event: Event) -> int:
    """Multiply-accumulates of an operator: of dot products alone, n of them for n products.

    linear: positions x inputs x outputs; convolution: outputs x kernel x input channels of a group; matmul: outputs x
    contracted length; LSTM and GRU: frames x all kernels (a projection included). On the host those of
    `slt_nna.host_products`. Others: none.
    """
    if "macs" in event.options:
        return int(event.options["macs"])
    if event.operator == "matmul":
        return math.prod(event.outputs[0].shape) * int(event.inputs[0].shape[-1])
    if event.operator in ("linear", "convolution") and event.weights:
        shape = event.weights[0].value.shape
        return math.prod(event.outputs[0].shape) * math.prod(shape[1:])
    if event.operator in ("lstm", "gru"):
        frames = math.prod(event.inputs[0].shape[:-1])
        return frames * sum(math.prod(weight.value.shape) for weight in event.weights if weight.value.ndim == 2)
    return 0


def weight_bytes(weight: Weight, bits: int) -> float:
    """Bytes of a weight as the chip holds it: its codes, or the indices and the table that a quantizer made of it."""
    if weight.table is None or bits == FLOAT_BYTES * 8:
        return math.prod(weight.value.shape) * bits / 8
    levels = int(weight.table.table.shape[-1])
    tables = math.prod(weight.table.table.shape)
    index_bits = max(1, math.ceil(math.log2(levels)))
    return (math.prod(weight.table.indices.shape) * index_bits + tables * bits) / 8


def _add(site: Site, event: Event, chip: Chip) -> None:
    word = chip.words.weight if event.on_chip else 32
    bits_in, bits_out = event.bits[: len(event.inputs)], event.bits[len(event.inputs) :]
    site.calls += 1
    site.macs += macs_of(event)
    site.operations += _operations(event)
    site.bytes_in += _bytes(event.inputs, bits_in)
    site.bytes_out += _bytes(event.outputs, bits_out)
    if event.operator == "embedding":  # only the rows that are asked for
        site.bytes_weights += math.prod(event.outputs[0].shape) * word / 8
    else:
        site.bytes_weights += sum(weight_bytes(weight, word) for weight in event.weights)


def _operations(event: Event) -> float:
    if event.operator in ("linear", "convolution", "matmul"):
        return 0.0
    elements = float(sum(math.prod(value.shape) for value in event.outputs))
    if event.operator in ("lstm", "gru"):
        gates = sum(int(each.value.shape[0]) for each in event.weights if ".weight_hh" in f".{each.name}")
        units = gates // (4 if event.operator == "lstm" else 3)
        elements = float(math.prod(event.inputs[0].shape[:-1]) * units)
    return OPERATIONS.get(event.operator, 1) * elements


def _bytes(values: Iterable[Any], bits: Iterable[int]) -> float:
    return float(sum(math.prod(value.shape) * each / 8 for value, each in zip(values, bits, strict=True)))


def _seconds(site: Site, chip: Chip) -> float:
    speed = chip.speed
    if not site.on_chip:
        return (2 * site.macs + site.operations) / speed.host_flops_per_s
    work = (site.macs + site.operations) / (speed.macs_per_cycle * speed.clock_hz)
    return max(work, site.bytes_moved / speed.bytes_per_s)
