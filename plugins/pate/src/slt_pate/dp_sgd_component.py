"""Component `dp-sgd`: clipped and noised gradients of units that are drawn at random."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slt_pate.budget import check_delta, fits
from slt_pate.dp_sgd.cost import epsilon_of_steps, least_noise_multiplier
from slt_pate.dp_sgd.step import EngineName, PrivateGradient, Stepping
from slt_pate.dp_sgd.units import PoissonSampler, Units
from slt_pate.events import Charge, SampledGaussian
from slt_pate.queries.sources import refuse_private_start, refuse_start_on
from slt_pate.settings import TEMPORARY, Protection
from slt_pate.shards import make_shards
from slt_pate.stamps import stamp_model
from sltcore.errors import PrivacyError
from sltcore.interfaces import PrivacyMechanism
from sltcore.types import PrivacyCost

if TYPE_CHECKING:
    from slt_pate.dp_sgd.clipped_sum import LayersName
    from slt_pate.dp_sgd.normalization import NormalizationName
    from slt_pate.ledger import Ledger
    from sltcore.interfaces.privacy import Fit

LOG = logging.getLogger(__name__)
STEP_DOWN = 1.15
"""By about how much less noise the loss distribution asks for than Rényi divergence."""


@dataclass(frozen=True)
class Sampling:
    """Which units a step takes: each with probability `rate`; `units` is their public number, None to count them;
    `utterances` the most of one unit."""

    steps: int
    rate: float
    units: int | None = None
    utterances: int | None = None


class DpSgd(PrivacyMechanism):
    """DP-SGD by unit, behind the `sampler` and `gradient` hooks of a training run.

    Each step takes every unit with probability `rate` and leaves (sum_u clip(g_u) + N(0, (noise clip)^2)) / (rate units) as
    the gradient, g_u that of the mean loss of the unit's utterances. Two data sets are neighbours when one has one unit
    more. `noise` None takes the least that the budget allows for `steps`; with neither noise nor epsilon there is no
    noise, and the cost is infinite.

    The account counts steps whose noise was drawn. With a ledger, all steps are charged before private data is read, so a
    crash cannot undercount. Public data are not used: begin from a bundle that was trained on them. Development data decide which weights
    are kept, so they must be public; where `fit.dev` tells them, a private unit, id or file among them is refused, and so is a
    bundle to begin from (`fit.start`) whose provenance shows private data.

    **Source**: Abadi et al. 2016, arXiv:1607.00133; Poisson sampling: Mironov, Talwar, Zhang 2019, arXiv:1908.10530; by unit:
    McMahan et al. 2018, arXiv:1710.06963.
    """

    def __init__(
        self,
        protection: Protection,
        sampling: Sampling,
        *,
        clip: float = 1.0,
        noise: float | None = None,
        layers: LayersName = "flat",
        normalization: NormalizationName = "none",
        engine: EngineName = "grouped",
    ) -> None:
        check_delta(protection.delta)
        self.protection, self.sampling = protection, sampling
        self.clip, self.layers, self.normalization, self.engine = clip, layers, normalization, engine
        self.delta = protection.delta
        self._given = noise
        self._chosen: dict[int, float] = {}
        self._charges: tuple[Charge, ...] = ()
        self._unprotected = False
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if protection.ledger and math.isinf(protection.epsilon):
            raise PrivacyError(
                "there is a ledger, and no epsilon that it could keep; expected an epsilon, or no ledger"
            )

    def train(self, fit: Fit, private: Any, public: Any) -> Any:
        """The model that `fit` makes with private steps.

        **Raises** `PrivacyError` where the plan exceeds the budget, or what the ledger has left, before private data is
        read; where development data share a unit, an id or a file with it; and for models that mix units.
        """
        steps, noise = self.sampling.steps, self.noise_for(self.sampling.steps)
        self._refuse_excess(steps, noise)
        start = refuse_private_start(getattr(fit, "start", None))
        with self._charged(steps, noise) as ledger:
            units = Units.of(private, self.protection.unit)
            self._refuse_private_dev(fit, private)
            refuse_start_on(start, private)
            if len(public):
                LOG.warning(
                    "dp-sgd: %d public utterances are not used; begin from a bundle trained on them", len(public)
                )
            sampler = PoissonSampler(units, rate=self.sampling.rate, steps=steps, most=self.sampling.utterances)
            model = self._run(fit, private, sampler, noise, counted=ledger is None)
            if ledger is not None:
                self._charges = ledger.charges
                self._stamp(model, ledger)
        return model

    def _run(self, fit: Fit, private: Any, sampler: PoissonSampler, noise: float, *, counted: bool) -> Any:
        from slt_pate.dp_sgd.held_batches import HeldBatches

        expected = self.sampling.rate * (self.sampling.units or len(sampler.units.rows))
        stepping = Stepping(self.clip, noise, expected, self.layers, self.normalization, self.engine)
        with HeldBatches() as held:
            gradient = PrivateGradient(sampler, stepping, held)
            before = self._charges
            try:
                model = fit(private, sampler=sampler, gradient=gradient)
            finally:
                self._unprotected |= bool(gradient.taken and not noise)
                if counted and noise:
                    self._charges = (*before, *self._events(gradient.taken, noise))
        LOG.info("dp-sgd: %d steps", gradient.taken)
        if not gradient.taken:
            raise PrivacyError(
                "fit took no step with the gradient that it was given; expected one for each batch drawn"
            )
        return model

    def release(self, *args: Any, **options: Any) -> Any:
        """**Raises** `PrivacyError`: what this mechanism releases is a model."""
        raise PrivacyError("dp-sgd releases trained models alone; expected train, or the mechanism pate for answers")

    def spent(self, delta: float) -> PrivacyCost:
        """The cost of all steps taken, or of all that is in the ledger; infinite once steps were taken without noise."""
        check_delta(delta)
        path = Path(self.protection.ledger)
        if self.protection.ledger not in ("", TEMPORARY) and path.exists():
            from slt_pate.ledger import read_ledger

            self._charges = read_ledger(path).charges
        epsilon = math.inf if self._unprotected else epsilon_of_steps(self._charges, delta)
        return PrivacyCost(epsilon, delta, self.protection.unit, False)

    def plan(self, delta: float, **sizes: int) -> PrivacyCost:
        """The cost of a run of `steps` (those configured where none are given), touching no data.

        **Raises** `PrivacyError` for another size than steps, or no whole number.
        """
        check_delta(delta)
        unknown = sorted(set(sizes) - {"steps"})
        if unknown:
            raise PrivacyError(f"plan has no size '{unknown[0]}'; the size of a run is: steps")
        steps = sizes.get("steps", self.sampling.steps)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise PrivacyError(f"steps is {steps!r}, expected a whole number from 0 on")
        noise = self.noise_for(self.sampling.steps)
        return PrivacyCost(self._cost(steps, noise, delta), delta, self.protection.unit, False)

    def noise_for(self, steps: int) -> float:
        """The noise multiplier: as configured, or the least that the budget allows for so many steps; 0 for no noise."""
        if self._given is not None:
            return self._given
        if math.isinf(self.protection.epsilon):
            return 0.0
        if steps not in self._chosen:
            budget = self.protection
            what = f"epsilon {budget.epsilon:g} at delta {budget.delta:g}"
            noise = least_noise_multiplier(
                lambda noise: fits(self._events(steps, noise), budget.epsilon, budget.delta), what=what
            )
            if not budget.ledger:  # the loss distribution takes long, so it is asked near the end alone
                noise = least_noise_multiplier(
                    lambda noise: self._within(steps, noise), what=what, enough=noise, step=STEP_DOWN
                )
            self._chosen[steps] = noise
        return self._chosen[steps]

    def charges(self, steps: int) -> tuple[Charge, ...]:
        """What so many steps of the configured run are charged; none where it has no noise."""
        noise = self.noise_for(self.sampling.steps)
        return self._events(steps, noise) if noise else ()

    def _events(self, steps: int, noise: float) -> tuple[Charge, ...]:
        return (Charge(SampledGaussian(noise, self.sampling.rate), steps),) if steps else ()

    def _cost(self, steps: int, noise: float, delta: float) -> float:
        if not noise:
            return math.inf if steps else 0.0
        return epsilon_of_steps(self._events(steps, noise), delta)

    def _within(self, steps: int, noise: float) -> bool:
        budget = self.protection
        if budget.ledger:
            return fits(self._events(steps, noise), budget.epsilon, budget.delta)
        return self._cost(steps, noise, budget.delta) <= budget.epsilon

    def _refuse_excess(self, steps: int, noise: float) -> None:
        budget = self.protection
        if math.isinf(budget.epsilon):
            return
        if not self._within(steps, noise):
            raise PrivacyError(
                f"{steps:,} steps at rate {self.sampling.rate:g} with noise {noise:g} cost epsilon "
                f"{self._cost(steps, noise, budget.delta):.4g} at delta {budget.delta:g} per {budget.unit}, more than the budget of "
                f"{budget.epsilon:g}; nothing private was read. Next: leave noise empty for the least that the budget allows, "
                f"fewer steps, a lower rate, or a larger epsilon"
            )
        if budget.ledger or not self._charges:  # the ledger refuses by itself what it cannot bear any more
            return
        together = epsilon_of_steps((*self._charges, *self._events(steps, noise)), budget.delta)
        if together > budget.epsilon:
            raise PrivacyError(
                f"{steps:,} more steps make epsilon {together:.4g} at delta {budget.delta:g} per {budget.unit} together with the "
                f"{self.spent(budget.delta).epsilon:.4g} spent before, more than the budget of {budget.epsilon:g}; nothing private "
                f"was read. Next: stop here, or plan all runs together"
            )

    def _refuse_private_dev(self, fit: Fit, private: Sequence[Any]) -> None:
        dev = getattr(fit, "dev", None)
        if dev:
            make_shards(private, 1, unit=self.protection.unit).refuse_outside(dev, "development")
        elif dev is None:
            LOG.warning("dp-sgd: which data evaluations look at is not known here; they must be public")

    @contextmanager
    def _charged(self, steps: int, noise: float) -> Iterator[Ledger | None]:
        """The ledger with the whole run in it; None where there is none."""
        budget = self.protection
        if not budget.ledger:
            yield None
            return
        from slt_pate.accounting.filter import RdpFilter
        from slt_pate.ledger import Ledger
        from slt_pate.stamps import read_stamp

        with Ledger.open(
            self._path(),
            epsilon=budget.epsilon,
            delta=budget.delta,
            unit=budget.unit,
            guard=RdpFilter(budget.epsilon, budget.delta),
            stamps={bundle: read_stamp(bundle)[0] for bundle in budget.released},
        ) as ledger:
            ledger.append(self._events(steps, noise), f"a model trained by {steps:,} steps of dp-sgd")
            self._charges = ledger.charges
            yield ledger

    def _path(self) -> Path:
        if self.protection.ledger != TEMPORARY:
            return Path(self.protection.ledger)
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="slt-pate-")
        return Path(self._scratch.name) / "privacy-ledger.jsonl"

    def _stamp(self, model: Any, ledger: Ledger) -> None:
        cost = self.spent(self.delta)
        facts = {"epsilon": cost.epsilon, "delta": cost.delta, "unit": cost.unit, "data_dependent": False}
        stamp_model(model, {"stamp": ledger.stamp.to_json(), **facts, "mechanism": "dp-sgd"})
