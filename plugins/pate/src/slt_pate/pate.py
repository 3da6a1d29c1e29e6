"""Component `pate`: teachers on private shards, noisy votes on public recordings, a student of the released labels."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slt_pate.asking import Asking, KeptAnswers, plan_name, run_name
from slt_pate.budget import Noise, Plurality, check_delta, epsilon_of, fits, least_noise, worst_case
from slt_pate.events import Charge
from slt_pate.ledger import Ledger, read_ledger
from slt_pate.mechanisms import Mechanism
from slt_pate.queries import (
    Design,
    PublicModel,
    Utterance,
    utterances_of,
)
from slt_pate.queries.sources import refuse_private_start, refuse_start_on
from slt_pate.rows import text_of
from slt_pate.settings import TEMPORARY, Asked, Protection
from slt_pate.shards import Shards, make_shards
from slt_pate.stamps import read_stamp, stamp_model
from slt_pate.student import train_student
from slt_pate.teachers import train_teachers
from sltcore.errors import PrivacyError
from sltcore.interfaces import PrivacyMechanism
from sltcore.types import PrivacyCost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sltcore.interfaces.privacy import Fit

LOG = logging.getLogger(__name__)


@dataclass
class _Plan:
    """What is about to be asked; made from public data alone."""

    spoken: list[Any]
    asked: list[Utterance]
    others: list[Any]
    public: PublicModel | None
    design: Design
    queries: int
    mechanism: Mechanism = field(init=False)


class Pate(PrivacyMechanism):
    """Private aggregation of teacher ensembles, for recognisers.

    1. Units of private data go into `teachers` disjoint shards (`make_shards`); each trains one teacher through `fit`.
    2. Questions about public recordings (a query design of `slt_pate.queries`) are put to all teachers; the votes pass a
       mechanism of `slt_pate.mechanisms`, and each release is written into the ledger before it is used.
    3. A student is trained on public recordings with released labels, public ones with texts, and in `rounds` further
       trainings on what it reads in the rest. Only the student may leave.

    Two data sets are neighbours when one unit's data differ: one shard, so one teacher, differs, and its answers to all
    questions. Costs add up over every released token and every threshold test. Everything else that is decided (which
    recordings are asked about, candidates, slots, noise, when to stop) follows from public data, the spec, and answers
    that were released before. Development data decide which weights of each model are kept, so they must be public:
    where `fit.dev` tells what they are, a private unit, id or file among them is refused; so is a bundle to begin from
    (`fit.start`) whose provenance shows private data.

    **Source**: Papernot et al. 2017, arXiv:1610.05755; Papernot et al. 2018, arXiv:1802.08908; for speech Yang et al.,
    arXiv:2210.05614, which does not state teachers, noise or query unit; those here are ours.
    """

    def __init__(
        self,
        protection: Protection,
        noise: Noise,
        asked: Asked,
        *,
        teachers: int = 10,
        shard_column: str = "",
        salt: int = 0,
        rounds: int = 0,
    ) -> None:
        self.protection, self.noise, self.asked = protection, noise, asked
        self.teachers, self.rounds = teachers, rounds
        self.shard_column, self.salt = shard_column, salt
        self.delta = protection.delta
        self._charges: tuple[Charge, ...] = ()
        self._unprotected = False
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        check_delta(protection.delta)
        if math.isinf(protection.epsilon) and noise.mechanism != "plurality":
            raise PrivacyError(
                f"there is no epsilon, and mechanism {noise.mechanism}; expected a finite epsilon, or mechanism: plurality, which has "
                f"no noise"
            )

    def train(self, fit: Fit, private: Any, public: Any) -> Any:
        """Teachers, answers, student: the student's model.

        **Raises** `PrivacyError` where the plan exceeds the budget or what the ledger has left (before private data is
        read), where private and public data overlap, and where no answer came.
        """
        start = refuse_private_start(getattr(fit, "start", None))
        plan = self._plan(fit, list(public))
        with self._ledger() as ledger:
            self._refuse_excess(plan, ledger)
            dev = getattr(fit, "dev", None)
            if dev is None:
                LOG.warning(
                    "pate: which data evaluations look at is not known here; they must be public: slt privacy check SPEC"
                )
            shards = self.shards_of(private, list(public), dev)
            refuse_start_on(start, private)
            if plan.public is not None:
                plan.public.verify(shards, private)
            self._say(f"{self.teachers} teachers; {plan.queries:,} queries at most: {plan.design.statement().query}")
            models = train_teachers(fit, shards, say=self._say)
            texts = self._labels(plan, models, ledger)
        pairs = [(one.row, text) for one, text in zip(plan.asked, texts, strict=True)]
        student = train_student(fit, plan.spoken, pairs, plan.others, rounds=self.rounds, say=self._say)
        self._stamp(student, plan)
        return student

    def release(self, *args: Any, **options: Any) -> int | None:
        """One noisy answer: `release(votes)` with the number of teachers for each class, int [v]; the class, or None.

        **Raises** `PrivacyError` before it happens, when the budget would be exceeded, and for anything but votes.
        """
        if len(args) != 1 or options:
            raise PrivacyError("release takes one argument, the votes for each class: release([7, 2, 1])")
        mechanism = self.noise.build(self.teachers)
        if isinstance(mechanism, Plurality):
            self._unprotected = True
            return int(mechanism.release_batch(np.asarray(args[0])[np.newaxis]).values[0])
        with self._ledger() as ledger:
            assert ledger is not None
            value = ledger.release(mechanism, args[0], "1 answer to votes handed in").value
            return None if value is None else int(np.argmax(value)) if np.ndim(value) else int(value)

    def spent(self, delta: float) -> PrivacyCost:
        """Data-independent cost of all that is in the ledger, of earlier runs too; infinite once something was released without noise."""
        check_delta(delta)
        path = Path(self.protection.ledger)
        if self.protection.ledger not in ("", TEMPORARY) and path.exists():
            self._charges = read_ledger(path).charges
        epsilon = math.inf if self._unprotected else epsilon_of(self._charges, delta)
        return PrivacyCost(epsilon, delta, self.protection.unit, False)

    def plan(self, delta: float, **sizes: int) -> PrivacyCost:
        """The cost of a run over `utterances` public recordings, or of `queries` queries, touching no data.

        **Raises** `PrivacyError` where neither is given and the configuration names none.
        """
        queries = self.queries(**sizes)
        mechanism = self.mechanism_for(queries)
        if isinstance(mechanism, Plurality):
            check_delta(delta)
            return PrivacyCost(math.inf, delta, self.protection.unit, False)
        charges = worst_case(mechanism, queries, self.asked.answers)
        return PrivacyCost(epsilon_of(charges, delta), delta, self.protection.unit, False)

    def queries(self, **sizes: int) -> int:
        """The most queries of a run of the given sizes. **Raises** `PrivacyError` for others than utterances and queries."""
        unknown = sorted(set(sizes) - {"utterances", "queries"})
        if unknown:
            raise PrivacyError(f"plan has no size '{unknown[0]}'; sizes are: utterances, queries")
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise PrivacyError(f"{name} is {value!r}, expected a whole number from 0 on")
        if "queries" in sizes:
            return sizes["queries"]
        utterances = sizes.get("utterances", self.asked.utterances)
        if utterances is None:
            if self.asked.queries is None:
                raise PrivacyError("plan needs a size: utterances, or queries; the configuration names neither")
            return self.asked.queries
        most = self.asked.utterances
        return self.asked.most_queries(utterances if most is None else min(utterances, most))

    def mechanism_for(self, queries: int) -> Mechanism:
        """The mechanism with its noise; with the least that the budget allows for so many queries where sigma is empty."""
        if self.noise.sigma is not None or self.noise.mechanism == "plurality":
            return self.noise.build(self.teachers)
        if not queries:
            return self.noise.build(self.teachers, 1.0)  # nothing is asked, so any noise costs the same
        budget = self.protection
        sigma = least_noise(
            self.noise,
            self.teachers,
            within=lambda one: fits(worst_case(one, queries, self.asked.answers), budget.epsilon, budget.delta),
            what=f"epsilon {budget.epsilon:g}",
        )
        return self.noise.build(self.teachers, sigma)

    def _plan(self, fit: Fit, public: Sequence[Any]) -> _Plan:
        spoken = [row for row in public if text_of(row)]
        silent = utterances_of([row for row in public if not text_of(row)])
        limit = len(silent) if self.asked.utterances is None else self.asked.utterances
        asked, others = silent[:limit], [one.row for one in silent[limit:]]
        model = None
        if self.asked.needs_model:
            path = self.asked.public_model
            model = PublicModel.trained(fit, spoken) if path is None else PublicModel.from_bundle(path)
        design = self.asked.design(model)
        count = design.count(asked)
        if not count:
            raise PrivacyError(
                f"query '{design.name}' has nothing to ask about {len(asked)} public utterances without texts "
                f"({design.statement().source}); expected several readings to choose among. Next: more public recordings, a public "
                f"model with a beam search and n_best above 1, or another query"
            )
        queries = count if self.asked.queries is None else min(count, self.asked.queries)
        plan = _Plan(spoken, asked, others, model, design, queries)
        plan.mechanism = self.mechanism_for(queries)
        return plan

    def _refuse_excess(self, plan: _Plan, ledger: Ledger | None) -> None:
        budget = self.protection
        if isinstance(plan.mechanism, Plurality):
            if not math.isinf(budget.epsilon):
                raise PrivacyError(
                    f"mechanism plurality has no noise and costs epsilon infinity, more than {budget.epsilon:g}; nothing private was "
                    f"read. Next: another mechanism, or epsilon: null for a comparison"
                )
            return
        charges = worst_case(plan.mechanism, plan.queries, self.asked.answers)
        cost = epsilon_of(charges, budget.delta)
        if not fits(charges, budget.epsilon, budget.delta):
            raise PrivacyError(
                f"{plan.queries:,} queries of {plan.mechanism.__class__.__name__} may cost epsilon {cost:.4g} at delta "
                f"{budget.delta:g} per {budget.unit}, more than the budget of {budget.epsilon:g} bears; nothing private was read. Next: more noise "
                f"(sigma, or leave it empty for the least that the budget allows), fewer queries, or a larger epsilon"
            )
        assert ledger is not None
        is_resumed = KeptAnswers(ledger.path, "", self._plan_name(plan)).of_plan > 0
        if not is_resumed and not ledger.allows(charges):
            raise PrivacyError(
                f"ledger {ledger.path} shows epsilon {self.spent(budget.delta).epsilon:.4g} spent; {plan.queries:,} more queries "
                f"(epsilon {cost:.4g} by themselves) exceed {budget.epsilon:g}; nothing private was read. Next: fewer queries, or "
                f"stop here"
            )

    def shards_of(self, private: Any, public: Sequence[Any], dev: Sequence[Any] | None) -> Shards:
        """The private data by teacher. **Raises** `PrivacyError` where public or development data share a unit, an id or a
        file with them."""
        shards = make_shards(
            private, self.teachers, unit=self.protection.unit, salt=self.salt, column=self.shard_column
        )
        shards.refuse_outside(public, "public")
        if dev is not None:
            shards.refuse_outside(dev, "development")
        return shards

    def _labels(self, plan: _Plan, models: Sequence[Any], ledger: Ledger | None) -> list[str | None]:
        with tempfile.TemporaryDirectory() as nowhere:
            place = Path(nowhere) / "ledger" if ledger is None else ledger.path
            known = [] if plan.public is None else [plan.public.pipeline]
            asked = [*known, *(one for one in models if one is not None)]
            name = self._plan_name(plan)
            kept = KeptAnswers(place, run_name(place, name, asked), name)
            asking = Asking(
                plan.mechanism,
                ledger,
                kept,
                queries=plan.queries,
                answers=self.asked.answers,
                what=f"answers, query {plan.design.name}",
                say=self._say,
            )
            if isinstance(plan.mechanism, Plurality):
                self._unprotected = True
            texts = plan.design.label(models, plan.asked, asking)
        again = f", {asking.reused:,} of them from before" if asking.reused else ""
        self._say(f"{asking.asked:,} queries{again}, {asking.answered:,} answered")
        return texts

    def _plan_name(self, plan: _Plan) -> str:
        return plan_name(
            [asdict(self.asked), asdict(self.noise), self.teachers, self.salt, [one.name for one in plan.asked]]
        )

    def _stamp(self, student: Any, plan: _Plan) -> None:
        cost = self.spent(self.delta)
        facts: dict[str, Any] = {
            "epsilon": cost.epsilon if math.isfinite(cost.epsilon) else "infinite",
            "delta": cost.delta,
            "unit": cost.unit,
            "data_dependent": cost.data_dependent,
            "query": plan.design.statement()._asdict(),
        }
        if self._stamp_of_ledger is not None:
            stamp_model(student, {"stamp": self._stamp_of_ledger, **facts})

    @contextmanager
    def _ledger(self) -> Iterator[Ledger | None]:
        """The ledger, open, and its charges read when it closes; None for a mechanism without noise."""
        from slt_pate.accounting.filter import RdpFilter

        budget = self.protection
        self._stamp_of_ledger: dict[str, Any] | None = None
        if self.noise.mechanism == "plurality":
            yield None
            return
        stamps = {bundle: read_stamp(bundle)[0] for bundle in budget.released}
        with Ledger.open(
            self._path(),
            epsilon=budget.epsilon,
            delta=budget.delta,
            unit=budget.unit,
            guard=RdpFilter(budget.epsilon, budget.delta),
            stamps=stamps,
        ) as ledger:
            try:
                self._charges = ledger.charges
                yield ledger
            finally:
                self._charges = ledger.charges
                self._stamp_of_ledger = ledger.stamp.to_json()

    def _path(self) -> Path:
        if not self.protection.ledger:
            raise PrivacyError(
                f"ledger is empty; expected a file that keeps the account for good, as ledger: privacy-ledger.jsonl, or "
                f"ledger: {TEMPORARY} for a trial whose results stay here"
            )
        if self.protection.ledger != TEMPORARY:
            return Path(self.protection.ledger)
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="slt-pate-")
        return Path(self._scratch.name) / "privacy-ledger.jsonl"

    def _say(self, text: str) -> None:
        LOG.info("pate: %s", text)
