"""The promises of accelerator back ends, as tests on plain models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from sltcore.interfaces import AcceleratorBackend, Cost
from sltcore.testing.case import Case, seeded
from sltcore.testing.difference import difference
from sltcore.testing.promises.promise import promise
from sltcore.testing.promises.transform import TransformPromises, calibration, call, line, practise, wear


class AcceleratorPromises(TransformPromises):
    """What `sltcore.interfaces.AcceleratorBackend` promises."""

    kind: ClassVar[str] = "accelerator"
    promises: ClassVar[Mapping[str, str]] = AcceleratorBackend.promises

    @promise(
        "round, clip and scale in the same order in both, and sum integers that float32 holds exactly (below 2**24)"
    )
    def test_lower(self, case: Case) -> str | None:
        for worn in wear(case):
            practise(case, worn)
            emulated = call(case, worn)
            lowered = worn.transform.lower(worn.model)
            if not isinstance(lowered, nn.Module):
                return f"lower returned a {type(lowered).__name__}, expected a module"
            found = difference(emulated, call(case, worn, model=lowered.eval()))
            if found:
                return f"{worn.what} emulated and lowered: {found}"
        return None

    @promise("count positions x inputs x outputs for a linear layer, positions being everything but the last axis")
    def test_cost(self, case: Case) -> str | None:
        wear(case)
        model, example = line()
        transform = case.fresh()
        with seeded(0):
            transform.attach(model, calibration(example))
        for x, positions in ((example, 6), (example[:1], 3)):
            cost = transform.cost(model, x)
            if not isinstance(cost, Cost):
                return f"cost returned {cost!r}, expected a Cost"
            if cost.macs != positions * 8 * 5:
                return f"a linear layer 8 -> 5 at {positions} positions takes {positions * 40} multiply-accumulates, not {cost.macs}"
            if cost.bytes_moved <= 0 or cost.host_crossings < 0:
                return f"it moves {cost.bytes_moved} bytes and crosses to the host {cost.host_crossings} times"
        return None
