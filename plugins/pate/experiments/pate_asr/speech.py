"""The units on real speech: public start, settings, arms, shadow models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import specs
from kept_frames import registry
from models import Fits, character_error, greedy, hear, losses, trained
from settings import DELTA, TEACHERS, TRIALS, TUNED_AT, Steps, Votes
from study import Study, Unit

from slt_pate.accounting.smooth_sensitivity import Answered, published_epsilon
from slt_pate.asking import threshold_in
from slt_pate.attacks.likelihood_ratio import halves
from slt_pate.budget import MechanismName, Noise, epsilon_of
from slt_pate.events import GaussianMax, ThresholdTest
from slt_pate.ledger import PrivateVotes, read_ledger
from slt_pate.pate import Pate
from slt_pate.rows import with_text
from slt_pate.settings import Asked, Protection
from slt_pate.shards import make_shards
from slt_pate.votes_report import data_dependent_facts
from sltcore.data.examples import Example
from sltcore.data.splits import fraction
from sltcore.train import fit

MOST_SLOTS = 120
MOST_DEV = 100
ATTACKED_SEED = 0
PUBLISHED = {"order": 6.0, "beta": 0.06, "noise": 12.0}
"""Of a data-dependent epsilon that is told; chosen on made-up votes, as the page on accounting has them."""


def start(study: Study, unit: Unit) -> dict[str, Any]:
    """The public model."""
    bundle = trained(
        specs.start(study.data.path("spoken"), steps=study.size.start_steps), study.out / "models" / "start"
    )
    dev = study.data.examples("public-dev")
    error = character_error([str(one.item.text) for one in dev], hear(greedy(bundle), dev))
    return {"bundle": _within(study, bundle), "public_dev_cer": error}


def trial(study: Study, unit: Unit) -> dict[str, Any]:
    """One setting of a mechanism, protecting pretended units at the budget that settings are chosen at."""
    setting = TRIALS[unit.arm][unit.number - 1]
    found = _protected(study, unit.arm, setting, TUNED_AT, "pretended", seed=0, folder=f"trial-{unit.number}")
    dev = some(study.data.examples("pretended-dev"), MOST_DEV)
    error = character_error([str(one.item.text) for one in dev], hear(greedy(study.out / found["bundle"]), dev))
    return {**found, "pretended_dev_cer": error}


def arm(study: Study, unit: Unit) -> dict[str, Any]:
    """One arm of one seed, heard on the test units."""
    assert unit.seed is not None
    if unit.epsilon is not None:
        found = _protected(
            study, unit.arm, chosen(study, unit.arm), unit.epsilon, "private", seed=unit.seed, folder=unit.name
        )
    else:
        fits = _fits(study, unit.seed)
        rows: Sequence[Example] = []
        if unit.arm == "private":
            rows = study.data.examples("private")
        elif unit.arm == "self-taught":
            silent = study.data.examples("silent", shown=False)
            read = hear(greedy(study.bundle("start")), silent)
            rows = [with_text(row, text) for row, text in zip(silent, read, strict=True) if text.strip()]
        found = {"bundle": _within(study, fits.bundle(rows))}
    return found | _heard(study, study.out / found["bundle"], unit.seed)


def teacher(study: Study, unit: Unit) -> dict[str, Any]:
    """The first teacher that has a shard, for the attacks: which units are its members, and its losses."""
    assert unit.seed is not None
    shards = make_shards(study.data.examples("private"), TEACHERS, unit="unit", salt=unit.seed)
    rows = next(rows for rows in shards.rows if rows)
    bundle = _fits(study, unit.seed).bundle(rows)
    members = sorted({str(row.item.extra["unit"]) for row in rows})
    return {"bundle": _within(study, bundle), "members": members, "losses": losses(bundle, attacked(study))}


def shadow(study: Study, unit: Unit) -> dict[str, Any]:
    """A model of half of all units, and its losses on all of them."""
    rows = [*study.data.examples("private"), *study.data.examples("test")]
    units = sorted({str(row.item.extra["unit"]) for row in rows})
    inside = halves(units, study.size.shadows, np.random.default_rng(0))[unit.number - 1]
    members = {name for name, is_in in zip(units, inside, strict=True) if is_in}
    bundle = _fits(study, 1000 + unit.number).bundle([row for row in rows if row.item.extra["unit"] in members])
    return {"bundle": _within(study, bundle), "members": sorted(members), "losses": losses(bundle, attacked(study))}


def chosen(study: Study, mechanism: str) -> Votes | Steps:
    """The setting with the least character error on pretended units."""
    errors = [
        study.result(Unit("trial", mechanism, number=number).name)["pretended_dev_cer"]
        for number in range(1, len(TRIALS[mechanism]) + 1)
    ]
    return TRIALS[mechanism][int(np.argmin(errors))]


def some(examples: Sequence[Example], most: int) -> list[Example]:
    """At most so many, by a hash of their ids."""
    return sorted(examples, key=lambda one: fraction(one.item.id))[:most]


def attacked(study: Study) -> list[Example]:
    """Members of the protected models, then utterances of units that no model learned from."""
    return [row for name in ("private", "test") for row in some(study.data.examples(name), study.size.attacked)]


def tested(study: Study) -> list[Example]:
    """The utterances that every arm is heard on."""
    return some(study.data.examples("test"), study.size.tested)


def _heard(study: Study, bundle: Path, seed: int) -> dict[str, Any]:
    texts = {"texts": hear(greedy(bundle), tested(study))}
    return texts if seed != ATTACKED_SEED else texts | {"losses": losses(bundle, attacked(study))}


def _within(study: Study, bundle: Path) -> str:
    return str(bundle.relative_to(study.out))


def _fits(study: Study, seed: int) -> Fits:
    return Fits(
        study.out / "models", study.bundle("start"), study.data.path("spoken"),
        {one.item.id: str(one.item.text) for one in study.data.examples("spoken")}, seed, study.size.steps,
    )  # fmt: skip


def _protected(
    study: Study, mechanism: str, setting: Votes | Steps, epsilon: float, private: str, *, seed: int, folder: str
) -> dict[str, Any]:
    place = study.out / "protected" / f"{mechanism}-{folder}"
    place.mkdir(parents=True, exist_ok=True)
    if isinstance(setting, Steps):
        return _dp_sgd(study, setting, epsilon, private, seed=seed, place=place)
    return _pate(study, mechanism, setting, epsilon, private, seed=seed, place=place)


def _dp_sgd(study: Study, setting: Steps, epsilon: float, private: str, *, seed: int, place: Path) -> dict[str, Any]:
    units = int(study.data.facts[private]["units"])
    budget = None if math.isinf(epsilon) else epsilon
    spec = specs.dp_sgd(
        study.bundle("start"), study.data.path(private), setting, budget, units, seed=seed, steps=study.size.steps
    )
    made = fit(spec, out=place / "run", quiet=True, registry=registry())
    spent = None if made.privacy is None else made.privacy["epsilon"]
    spent = None if spent is None or not math.isfinite(float(spent)) else float(spent)
    return {"bundle": _within(study, trained(spec, place / "run")), "spent": spent}


def _pate(
    study: Study, query: str, setting: Votes, epsilon: float, private: str, *, seed: int, place: Path
) -> dict[str, Any]:
    is_free = math.isinf(epsilon)
    ledger = place / "ledger.jsonl"
    mechanism: MechanismName = "plurality" if is_free else "gnmax" if query == "transcript" else "confident-gnmax"
    part = Pate(
        Protection(epsilon, DELTA, "unit", "" if is_free else str(ledger)),
        Noise(mechanism, threshold=setting.threshold),
        Asked(query, utterances=setting.utterances, unsure="public", max_slots=MOST_SLOTS, batch=64),  # type: ignore[arg-type]
        teachers=TEACHERS,
        salt=seed,
    )
    fits = _fits(study, seed)
    public = [*study.data.examples("spoken"), *study.data.examples("silent", shown=False)]
    part.train(fits, study.data.examples(private), public)
    assert fits.last is not None
    found: dict[str, Any] = {"bundle": _within(study, fits.last)}
    return found if is_free else found | _account(ledger)


def _account(ledger: Path) -> dict[str, Any]:
    """What a ledger shows, and what its private votes would show at what price."""
    history = read_ledger(ledger)
    records = list(PrivateVotes(ledger).read().values())
    widest = max(record.votes.shape[1] for record in records)
    votes = np.concatenate([np.pad(record.votes, ((0, 0), (0, widest - record.votes.shape[1]))) for record in records])
    passed = np.concatenate([record.answered for record in records])
    events = [charge.event for charge in history.charges]
    answers = next((one for one in events if isinstance(one, GaussianMax)), None)
    tests = next((one for one in events if isinstance(one, ThresholdTest)), None)
    own = data_dependent_facts(ledger, history, DELTA)
    found = {
        "queries": len(votes), "answered": int(passed.sum()), "data_dependent": own["epsilon"],
        "sigma": None if answers is None else answers.sigma,
        "winners": [int(row[0]) for row in votes.tolist()], "runners_up": [int(row[1]) for row in votes.tolist()],
        "spent": _spent(history.charges),
    }  # fmt: skip
    if answers is None:
        return found
    answered = Answered(votes[passed], answers.sigma)
    if tests is not None:
        threshold = _threshold(history)
        answered = Answered(votes[passed], answers.sigma, votes, tests.sigma, threshold)
    told = published_epsilon(answered, DELTA, teachers=TEACHERS, **PUBLISHED)
    return found | {"published": told.epsilon, "cost_of_publishing": told.cost_of_publishing}


def _spent(charges: Any) -> float:
    return epsilon_of(charges, DELTA)


def _threshold(history: Any) -> float:
    return next(found for entry in history.entries if (found := threshold_in(entry.what)) is not None)
