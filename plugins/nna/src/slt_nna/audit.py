"""What hurts: the error of a model's output when one operator alone runs in a chip's arithmetic, for each operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from slt_nna.cost import evaluating, listening
from slt_nna.events import ENTER, LEAVE, Event
from sltcore.errors import PluginError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor

    from slt_nna.chip import Chip

Call = Callable[[Any, Any], Any]
Progress = Callable[[int, int], None]


class Ratio:
    """A signal-to-error ratio that is summed up: 10 log10(sum y^2 / sum (y - y')^2), in dB.

    Entries that are not finite in `y` (excluded attention scores) count for nothing.
    """

    def __init__(self) -> None:
        self.signal = 0.0
        self.error = 0.0

    def add(self, expected: Tensor, given: Tensor) -> None:
        """Add two tensors of one shape. **Raises** `ShapeError` when their shapes differ."""
        if expected.shape != given.shape:
            raise ShapeError(
                f"the output has shape {tuple(given.shape)} on the chip and {tuple(expected.shape)} in float; an audit "
                "needs a model whose shapes do not depend on its values"
            )
        finite = expected.isfinite()
        expected, given = expected[finite].double(), given[finite].double()
        self.signal += float(expected.square().sum())
        self.error += float((expected - given).nan_to_num(posinf=0.0, neginf=0.0).square().sum())

    @property
    def db(self) -> float:
        """The ratio in dB; infinite without error."""
        if self.error == 0.0:
            return math.inf
        return 10 * math.log10(self.signal / self.error) if self.signal else -math.inf


class Row(NamedTuple):
    """One operator: `output_db` is the ratio of the model's output, `own_db` that of the operator's own output."""

    site: str
    operator: str
    output_db: float
    own_db: float


@dataclass(frozen=True)
class Audit:
    """All operators of a model on a chip, those that hurt most first.

    `whole_db` is the ratio with every operator on the chip, `kinds` with all operators of one kind on it.
    """

    chip: Chip
    whole_db: float
    kinds: Mapping[str, float] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    utterances: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON values; an operator without any error has null."""
        return {
            "chip": self.chip.name,
            "utterances": self.utterances,
            "whole_db": _plain(self.whole_db),
            "kinds": {name: _plain(db) for name, db in self.kinds.items()},
            "operators": [
                {
                    "site": row.site,
                    "operator": row.operator,
                    "output_db": _plain(row.output_db),
                    "own_db": _plain(row.own_db),
                }
                for row in self.rows
            ],
        }


def audit(
    transform: Any,
    module: Any,
    inputs: Sequence[Any],
    *,
    call: Call | None = None,
    each: bool = True,
    progress: Progress | None = None,
) -> Audit:
    """Run `module`, to which an `Nna` is attached and calibrated, in float, whole on the chip, and operator by operator.

    With one operator on the chip its inputs are rounded to their grids, it computes in integers, and what it hands on
    goes through the rest of the model in float. `call(module, input)` gives the output to compare, by default what the
    module returns, called with a dict as keyword arguments; of a structure the first float tensor counts. Inputs are single utterances, so no padding counts.
    `each` = False leaves out the single operators and compares kinds only.

    **Raises** `PluginError` for a float chip, without inputs, and when the model gives no float tensor.
    """
    if transform.chip.is_ideal:
        raise PluginError(f"chip '{transform.chip.name}' is float: there is nothing to audit; choose an integer chip")
    if not inputs:
        raise PluginError("an audit needs at least one input to run the model on; give recordings")
    bench = _Bench(transform, module, call)
    with evaluating(module):
        return _measured(bench, inputs, each=each, progress=progress)


def _measured(bench: _Bench, inputs: Sequence[Any], *, each: bool, progress: Progress | None) -> Audit:
    operators = bench.operators(inputs[0])
    kinds = sorted({operator for operator, _ in operators})
    whole, by_kind = Ratio(), {kind: Ratio() for kind in kinds}
    ratios = {operator: (Ratio(), Ratio()) for operator in operators} if each else {}
    runs, done = len(inputs) * (2 + len(kinds) + len(ratios)), 0

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, runs)

    for example in inputs:
        expected, own = bench.run(example, only=lambda operator, site: False, keep=set(ratios))
        tell()
        whole.add(expected, bench.run(example, only=None)[0])
        tell()
        for kind in kinds:
            by_kind[kind].add(expected, bench.run(example, only=lambda operator, site, kind=kind: operator == kind)[0])
            tell()
        for key, (output_ratio, own_ratio) in ratios.items():
            given, here = bench.run(example, only=lambda operator, site, key=key: (operator, site) == key, keep={key})
            output_ratio.add(expected, given)
            for before, after in zip(own[key], here[key], strict=True):
                own_ratio.add(before, after)
            tell()
    rows = [Row(site, operator, a.db, b.db) for (operator, site), (a, b) in ratios.items()]
    worst = sorted(by_kind, key=lambda kind: by_kind[kind].db)
    return Audit(
        chip=bench.transform.chip,
        whole_db=whole.db,
        kinds={kind: by_kind[kind].db for kind in worst},
        rows=sorted(rows, key=lambda row: (row.output_db, row.own_db, row.site)),
        utterances=len(inputs),
    )


class _Bench:
    """A model that is run again and again with other operators on the chip."""

    def __init__(self, transform: Any, module: Any, call: Call | None) -> None:
        self.transform = transform
        self.module = module
        self.call = call

    def operators(self, example: Any) -> list[tuple[str, str]]:
        """Every (operator, site) that runs on the chip, in the order of the first call."""
        seen: dict[tuple[str, str], None] = {}

        def listen(event: Event) -> None:
            if event.on_chip and event.operator not in (ENTER, LEAVE):
                seen.setdefault((event.operator, event.site))

        with listening(self.transform, listen):
            self.run(example, only=None)
        return list(seen)

    def run(
        self, example: Any, *, only: Callable[..., bool] | None, keep: set[tuple[str, str]] | None = None
    ) -> tuple[Tensor, dict[tuple[str, str], list[Tensor]]]:
        """The model's output, and the outputs of the operators in `keep`, in the order of their calls."""
        import torch

        from slt_nna.singles import called

        kept: dict[tuple[str, str], list[Tensor]] = {key: [] for key in keep or ()}

        def listen(event: Event) -> None:
            if (event.operator, event.site) in kept:
                kept[event.operator, event.site] += [value.detach().clone() for value in event.outputs]

        with (
            torch.no_grad(),
            _choosing(self.transform, only),
            listening(self.transform, listen),
            self.transform.use({}),
        ):
            given = (self.call or called)(self.module, example)
        output = next(_tensors(given), None)
        if output is None:
            raise PluginError(
                f"{type(self.module).__name__} gave a {type(given).__name__} without a float tensor; give audit a "
                "`call` that returns what is to be compared"
            )
        return output.detach().clone(), kept


@contextmanager
def _choosing(transform: Any, only: Callable[..., bool] | None) -> Iterator[None]:
    before = transform.only
    transform.only = only
    try:
        yield
    finally:
        transform.only = before


def _tensors(value: Any) -> Iterator[Tensor]:
    from torch import Tensor

    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _plain(db: float) -> float | None:
    return round(db, 2) if math.isfinite(db) else None
