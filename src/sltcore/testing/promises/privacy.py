"""The promises of privacy mechanisms, as tests with a small `fit` on tones."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

from sltcore.errors import PrivacyError
from sltcore.interfaces import PrivacyMechanism
from sltcore.testing import fit as training
from sltcore.testing.case import Case, seeded
from sltcore.testing.promises.promise import Promises, promise
from sltcore.types import PrivacyCost

DELTA = 1e-5
DELTAS = (1e-9, 1e-7, 1e-5, 1e-3, 1e-1)
ROUNDING = 1e-9


class PrivacyPromises(Promises):
    """What `sltcore.interfaces.PrivacyMechanism` promises."""

    kind: ClassVar[str] = "privacy"
    promises: ClassVar[Mapping[str, str]] = PrivacyMechanism.promises

    @promise(
        "return epsilon 0 from spent while nothing was released; a conversion from Rényi divergence adds log(1/delta)"
    )
    def test_starts_at_zero(self, case: Case) -> str | None:
        part = case.fresh()
        for delta in DELTAS:
            epsilon = part.spent(delta).epsilon
            if epsilon != 0:
                return f"before any release, spent({delta:g}) gives epsilon {epsilon:.6g}"
        return None

    @promise(
        "add each release to the account before its result leaves, and minimise over orders at the delta that is asked for"
    )
    def test_monotone(self, case: Case) -> str | None:
        part = case.fresh()
        history = [part.spent(DELTA).epsilon]
        train(part)
        history.append(part.spent(DELTA).epsilon)
        if "release" in case.small:
            for _ in range(2):
                try:
                    part.release(*case.small["release"])
                except PrivacyError:
                    break
                history.append(part.spent(DELTA).epsilon)
        for before, after in pairwise(history):
            if after < before - ROUNDING:
                return f"epsilon fell from {before:.6g} to {after:.6g} as more was released"
        costs = [part.spent(delta).epsilon for delta in DELTAS]
        for place in range(len(costs) - 1):
            if costs[place + 1] > costs[place] + ROUNDING:
                return (
                    f"epsilon is {costs[place]:.6g} at delta {DELTAS[place]:g}, and {costs[place + 1]:.6g} at the larger "
                    f"{DELTAS[place + 1]:g}"
                )
        return None

    @promise(
        "compute plan with the accountant that spent uses, for the sizes alone; state small['sizes'] for the kit's run"
    )
    def test_plan(self, case: Case) -> str | None:
        part = case.fresh()
        sizes = case.small.get("sizes", {})
        planned = part.plan(DELTA, **sizes)
        if not isinstance(planned, PrivacyCost) or planned.data_dependent:
            return f"plan returned {planned}, expected a PrivacyCost with data_dependent False"
        if part.spent(DELTA).epsilon != 0:
            return f"planning cost epsilon {part.spent(DELTA).epsilon:.6g}"
        train(part)
        spent = part.spent(DELTA).epsilon
        if spent > planned.epsilon * (1 + ROUNDING):
            return f"plan({DELTA:g}, {sizes}) says epsilon {planned.epsilon:.6g}, the run spent {spent:.6g}"
        if not spent > 0:
            return "the run spent nothing, although it read private rows"
        return None

    @promise("call plan at the start of train and raise PrivacyError where it exceeds the budget; state small['over']")
    def test_refusal(self, case: Case) -> str | None:
        if "over" not in case.small:
            return "small has no 'over', a configuration whose budget the kit's run exceeds, so refusal cannot be tried"
        part = case.fresh(config={**case.config, **case.small["over"]})
        private = training.Watched(training.rows(training.PRIVATE_ROWS))
        try:
            train(part, private)
        except PrivacyError as error:
            if private.touched:
                return f"it read private rows before it refused ({error})"
            if part.spent(DELTA).epsilon != 0:
                return f"it refused, having spent epsilon {part.spent(DELTA).epsilon:.6g}"
            return None
        return (
            f"with {dict(case.small['over'])}, the run went through and spent epsilon {part.spent(DELTA).epsilon:.6g}"
        )

    @promise(
        "return PrivacyCost(epsilon, delta, unit, data_dependent) with the delta that was asked for and a unit such as 'speaker'"
    )
    def test_unit(self, case: Case) -> str | None:
        part = case.fresh()
        train(part)
        for what, cost in (("spent", part.spent(DELTA)), ("plan", part.plan(DELTA, **case.small.get("sizes", {})))):
            if not isinstance(cost, PrivacyCost):
                return f"{what} returned {cost!r}, expected a PrivacyCost"
            if not (isinstance(cost.unit, str) and cost.unit.strip()):
                return f"{what} names the unit {cost.unit!r}"
            if not isinstance(cost.data_dependent, bool) or cost.delta != DELTA:
                return f"{what}({DELTA:g}) has delta {cost.delta!r} and data_dependent {cost.data_dependent!r}"
        return None

    @promise(
        "train by fit(data, sampler=..., gradient=...) alone, and return the model of the call whose result may be published"
    )
    def test_trains(self, case: Case) -> str | None:
        made: list[Any] = []
        model = train(case.fresh(), made=made)
        if not made:
            return "train never called the fit that was passed in"
        if not any(model is one for one in made):
            return f"train returned a {type(model).__name__} that none of its {len(made)} calls of fit made"
        return None


def train(part: Any, private: Any = None, made: list[Any] | None = None) -> Any:
    """A run on 40 private tones and 6 public ones; `made` collects what fit returned."""
    collected: list[Any] = [] if made is None else made

    def fit(data: training.Rows, *, sampler: Any = None, gradient: Any = None) -> Any:
        model = training.fit(data, sampler=sampler, gradient=gradient)
        collected.append(model)
        return model

    rows = training.rows(training.PRIVATE_ROWS) if private is None else private
    with seeded(0):
        return part.train(fit, rows, training.rows(training.PUBLIC_ROWS, seed=1, labelled=False))
