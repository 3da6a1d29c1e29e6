"""The promises of metrics, as tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from sltcore.interfaces import Metric
from sltcore.testing import inputs
from sltcore.testing.case import Case, seeded
from sltcore.testing.promises.promise import Promises, promise
from sltcore.types import Hypothesis, NBest

REFERENCES = ("one two three", "four five", "six", "seven eight nine ten", "eleven twelve")
OUTPUTS = ("one too three", "four five", "sick", "seven nine ten ten", "twelve eleven one")
ROUNDING = 1e-9


class MetricPromises(Promises):
    """What `sltcore.interfaces.Metric` promises."""

    kind: ClassVar[str] = "metric"
    promises: ClassVar[Mapping[str, str]] = Metric.promises

    @promise("append one row [s] float64 for each item in update, counts rather than quotients")
    def test_per_item(self, case: Case) -> str | None:
        part = case.fresh()
        outputs, references = items(case, part)
        names = [f"item-{index}" for index in range(len(outputs))]
        update(part, outputs, references, ids=names, groups=[name[-1:] for name in names])
        stats = part.per_item()
        if not isinstance(stats, np.ndarray) or stats.ndim != 2 or stats.dtype != np.float64:
            return f"per_item is {described(stats)}, expected a float64 array [n s]"
        if len(stats) != len(outputs):
            return f"{len(outputs)} items gave {len(stats)} rows"
        if list(part.ids) != names or list(part.groups) != [name[-1:] for name in names]:
            return f"ids are {list(part.ids)} and groups {list(part.groups)}, expected those that were given"
        bad = np.flatnonzero(~np.isfinite(stats).all(axis=1))
        if len(bad):
            return f"row {bad[0]} is {stats[bad[0]].tolist()}"
        turned = case.fresh()
        update(turned, outputs[::-1], references[::-1], ids=names[::-1])
        if not np.allclose(turned.per_item()[::-1], stats, rtol=ROUNDING, atol=ROUNDING):
            return "rows do not follow the order of items: items in reverse order do not give the rows in reverse order"
        return None

    @promise("keep rows of items, and no state between them")
    def test_additive(self, case: Case) -> str | None:
        whole, parts = case.fresh(), case.fresh()
        outputs, references = items(case, whole)
        half = len(outputs) // 2
        update(whole, outputs, references)
        update(parts, outputs[:half], references[:half])
        update(parts, outputs[half:], references[half:])
        return rows_differ(whole.per_item(), parts.per_item())

    @promise("reduce by sums over rows, which no order changes")
    def test_order(self, case: Case) -> str | None:
        part = case.fresh()
        update(part, *items(case, part))
        stats = part.per_item()
        plain, turned = part.reduce(stats), part.reduce(stats[::-1].copy())
        for name, value in plain.items():
            if not same(value.value, turned[name].value):
                return f"{name} is {value.value:.9g}, and {turned[name].value:.9g} with the rows in reverse order"
        return None

    @promise("check the sign of the value against `directions`, and normalise outputs and references alike")
    def test_perfect(self, case: Case) -> str | None:
        part, perfect = case.fresh(), case.fresh()
        outputs, references = items(case, part)
        update(part, outputs, references)
        update(perfect, [as_output(part, reference) for reference in references], references)
        best = perfect.reduce(perfect.per_item())
        stats = part.per_item()
        for rows in [list(range(len(stats))), *[[index] for index in range(len(stats))]]:
            for name, value in part.reduce(stats[rows]).items():
                sign = 1 if part.directions.get(name) == "lower" else -1
                if math.isnan(best[name].value):
                    return f"{name} is NaN where outputs equal their references"
                if sign * best[name].value > sign * value.value + ROUNDING:
                    return (
                        f"{name} ({part.directions.get(name)} is better) is {best[name].value:.6g} where outputs equal "
                        f"their references, but {value.value:.6g} for items {rows}"
                    )
        return None

    @promise("name every value of reduce in directions as 'lower' or 'higher', with a unit such as '%', 'dB' or '1'")
    def test_units(self, case: Case) -> str | None:
        part = case.fresh()
        update(part, *items(case, part))
        values, directions = part.reduce(part.per_item()), part.directions
        if not values:
            return "reduce returned no value"
        if set(values) != set(directions):
            return f"reduce gives {', '.join(sorted(values))}; directions names {', '.join(sorted(directions))}"
        for name, value in values.items():
            if directions[name] not in ("lower", "higher"):
                return f"the direction of {name} is {directions[name]!r}"
            if not (isinstance(value.unit, str) and value.unit.strip()):
                return f"{name} has the unit {value.unit!r}"
        return None

    @promise("clear rows, ids and groups in reset")
    def test_reset(self, case: Case) -> str | None:
        part, untouched = case.fresh(), case.fresh()
        outputs, references = items(case, part)
        update(part, outputs[::-1], references[::-1])
        part.reset()
        if len(part.ids) or len(part.groups):
            return f"after reset, {len(part.ids)} ids and {len(part.groups)} groups are left"
        update(part, outputs, references)
        update(untouched, outputs, references)
        return rows_differ(untouched.per_item(), part.per_item())


def items(case: Case, part: Any) -> tuple[list[Any], list[Any]]:
    """Outputs with mistakes and their references, of the type that the metric consumes."""
    if "outputs" in case.small:
        return list(case.small["outputs"]), list(case.small["references"])
    kind = part.consumes.type
    if kind in ("Text", "Hypotheses"):
        return [as_output(part, text) for text in OUTPUTS], list(REFERENCES)
    if kind in ("Waveform", "Features", "Encoded"):
        clean, other = inputs.batch(part.consumes), inputs.batch(part.consumes, seed=7)
        mixed = inputs.with_array(clean, 0.8 * inputs.array_of(clean) + 0.2 * inputs.array_of(other))
        rows = range(inputs.size_of(clean))
        return [inputs.alone(mixed, row) for row in rows], [inputs.alone(clean, row) for row in rows]
    return pytest.skip(f"the kit has no items for {part.consumes}; give small 'outputs' and 'references'")


def as_output(part: Any, reference: Any) -> Any:
    """A reference as the output that would equal it."""
    if part.consumes.type == "Hypotheses" and isinstance(reference, str):
        return NBest([Hypothesis(reference)])
    return reference


def update(part: Any, outputs: Sequence[Any], references: Sequence[Any], **options: Any) -> None:
    """One call of update; the global generators are seeded, nothing should read them."""
    with seeded(0):
        part.update(outputs, references, **options)


def rows_differ(a: Any, b: Any) -> str | None:
    """The first row that differs."""
    if a.shape != b.shape:
        return f"statistics of shape {a.shape} became {b.shape}"
    off = np.flatnonzero(~np.isclose(a, b, rtol=ROUNDING, atol=ROUNDING).all(axis=1))
    return f"row {off[0]} is {a[off[0]].tolist()}, then {b[off[0]].tolist()}" if len(off) else None


def same(a: float, b: float) -> bool:
    """Equal up to rounding, or both NaN."""
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING)


def described(value: Any) -> str:
    """Type, and dtype and shape where it has them."""
    return f"{type(value).__name__} {getattr(value, 'dtype', '')} {getattr(value, 'shape', '')}".strip()
