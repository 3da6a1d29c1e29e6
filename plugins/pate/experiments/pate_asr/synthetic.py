"""The units on made-up people: how many must take part before each mechanism is worth its noise, and audits of epsilon.

Teachers are many and tiny here, so votes are counted at once and pass the plugin's mechanism directly; shards, noise and budget
are those of `slt_pate.pate`, only the ledger is left out. DP-SGD is the component with a `fit` of our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from classifier import NAMES, Fits, Network, Projection, Row, descend, said, wrong
from people import CALLS, STUDIO, say
from settings import AUDITED, DELTA, MODELS, TUNED_AT, budget_name
from study import BUDGETS, Study, Unit

from slt_pate.attacks.canaries import CanaryRun, audit_one_run, mislabelled
from slt_pate.attacks.membership import loss_attack
from slt_pate.budget import Noise, fits, least_noise
from slt_pate.dp_sgd_component import DpSgd, Sampling
from slt_pate.mechanisms import count_votes
from slt_pate.settings import Protection
from slt_pate.shards import make_shards

SPOKEN, SILENT, TESTED = 30, 20, 150
"""Public studio voices with ten texts each; public callers with ten recordings each and no text; callers of the test."""
EACH = 4
"""Utterances of a protected person."""
STAND_IN = 10_000
"""Seed from which people are made whom nobody protects, for choosing settings."""
CANARIES = 200
EXPECTED = 50
"""People in a step of DP-SGD, at most half of all."""
START_ITERATIONS = 100


@dataclass(frozen=True)
class Votes:
    """People for each teacher, and recordings that are asked about."""

    people: int
    queries: int


@dataclass(frozen=True)
class Steps:
    """Learning rate and number of steps of DP-SGD."""

    learning_rate: float
    steps: int


TRIALS: dict[str, tuple[Votes | Steps, ...]] = {
    "pate": (Votes(4, 50), Votes(4, 200), Votes(12, 50), Votes(12, 200)),
    "dp-sgd": (Steps(0.1, 40), Steps(0.3, 40), Steps(1.0, 40), Steps(0.3, 80)),
}
"""As many for each mechanism, tried for each model and number of people."""


@dataclass(frozen=True)
class World:
    """Rows of one seed, and the public start."""

    begun: Network
    spoken: list[Row]
    silent: list[Row]
    private: list[Row]
    test: list[Row]

    def fits(self, learning_rate: float = 0.1) -> Fits:
        """`fit` from the public start."""
        return Fits(self.begun, self.spoken, learning_rate)


@cache
def public(hidden: int) -> tuple[Network, Projection, list[Row], list[Row]]:
    """What is the same for every seed: the start, components, studio voices, callers without texts."""
    rng = np.random.default_rng(1)
    studio = say(STUDIO, SPOKEN, 10, rng)
    projection = Projection.of(studio.features)
    spoken = projection.items(studio, "studio")
    silent = projection.items(say(CALLS, SILENT, 10, rng), "silent")
    begun = Network(hidden)
    descend(begun, spoken, torch.ones(len(spoken)), START_ITERATIONS)
    return begun, projection, spoken, [{**row, "text": None} for row in silent]


def world(hidden: int, people: int, seed: int) -> World:
    """People of one seed beside the public ones; every seed is tested on the same callers, settings on others."""
    begun, projection, spoken, silent = public(hidden)
    private = say(CALLS, people, EACH, np.random.default_rng([2, seed]))
    test = say(CALLS, TESTED, 10, np.random.default_rng(4 if seed == STAND_IN else 3))
    return World(begun, spoken, silent, projection.items(private, "caller"), projection.items(test, "test"))


def choice(study: Study, unit: Unit) -> dict[str, Any]:
    """Errors of every trial at the budget that settings are chosen at."""
    here = world(MODELS[unit.arm], unit.number, STAND_IN)
    errors = {}
    for name, trials in TRIALS.items():
        votes = cached_votes(here, here.private, 0)
        made = [_made(here, here.private, one, TUNED_AT, votes) for one in trials]
        errors[name] = [100 * float(wrong(model, here.test).mean()) for model in made]
    return {"errors": errors, "chosen": {name: int(np.argmin(values)) for name, values in errors.items()}}


def chosen(study: Study, model: str, mechanism: str, people: int) -> Votes | Steps:
    """The setting for a model and so many people."""
    found = study.result(Unit("choice", model, number=people).name)["chosen"]
    return TRIALS[mechanism][int(found[mechanism])]


def crossing(study: Study, unit: Unit) -> dict[str, Any]:
    """All arms for one model, one number of people and one seed: which test utterances each hears wrongly."""
    assert unit.seed is not None
    here = world(MODELS[unit.arm], unit.number, unit.seed)
    train = here.fits()
    heard = {"public": wrong(train([]), here.test), "private": wrong(train(here.private), here.test)}
    votes = cached_votes(here, here.private, unit.seed)
    for name in TRIALS:
        setting = chosen(study, unit.arm, name, unit.number)
        for epsilon in BUDGETS:
            made = _made(here, here.private, setting, epsilon, votes)
            heard[f"{name}--{budget_name(epsilon)}"] = wrong(made, here.test)
    texts = {name: "".join("x" if one else "." for one in row) for name, row in heard.items()}
    return {"wrong": texts, "people_of_test": [str(row["speaker"]) for row in here.test]}


CountVotes = Callable[[int], tuple[int, Any]]


def cached_votes(here: World, private: Sequence[Row], seed: int) -> CountVotes:
    """`votes(people)`: how many teachers there are with so many people each, and their votes [q 10] on the silent rows."""

    @cache
    def votes(people: int) -> tuple[int, Any]:
        teachers = max(2, len({row["speaker"] for row in private}) // people)
        shards = make_shards(private, teachers, unit="speaker", salt=seed)
        answers = [said(here.fits()(rows), here.silent) for rows in shards.rows if rows]
        return teachers, count_votes(np.stack(answers, axis=1), len(NAMES))

    return votes


def _made(here: World, private: Sequence[Row], setting: Votes | Steps, epsilon: float, votes: CountVotes) -> Network:
    if isinstance(setting, Steps):
        return _dp_sgd(here, private, setting, epsilon)
    teachers, counts = votes(setting.people)
    asked = counts[: setting.queries]
    noise = Noise("plurality" if math.isinf(epsilon) else "gnmax")
    sigma = None
    if not math.isinf(epsilon):
        sigma = least_noise(noise, teachers, within=lambda one: fits(one.events(len(asked)), epsilon, DELTA))
    released = noise.build(teachers, sigma).release_batch(asked)
    labelled = [{**row, "text": NAMES[int(k)]} for row, k in zip(here.silent, released.values, strict=False)]
    return here.fits()(labelled)


def _dp_sgd(here: World, private: Sequence[Row], setting: Steps, epsilon: float) -> Network:
    people = len({row["speaker"] for row in private})
    sampling = Sampling(setting.steps, min(0.5, EXPECTED / people), people)
    part = DpSgd(Protection(epsilon, DELTA, "speaker"), sampling, noise=noise_of(epsilon, sampling))
    found: Network = part.train(here.fits(setting.learning_rate), private, [])
    return found


@cache
def noise_of(epsilon: float, sampling: Sampling) -> float:
    """The least noise multiplier that the budget allows, which takes seconds to find."""
    return DpSgd(Protection(epsilon, DELTA, "speaker"), sampling).noise_for(sampling.steps)


def audit(study: Study, unit: Unit) -> dict[str, Any]:
    """One run with canaries for each budget, and the loss attack on the same model: what an attacker can show."""
    here = world(MODELS["large"], AUDITED, 0)
    projection = public(MODELS["large"])[1]
    rng = np.random.default_rng(7)
    sounds = projection.items(say(CALLS, CANARIES, 1, np.random.default_rng(99)), "canary")
    canaries = mislabelled(sounds, [NAMES[int(rng.integers(10))] for _ in sounds])
    found = {}
    for epsilon in BUDGETS if unit.arm != "private" else (math.inf,):
        run, attack = _audited(study, unit.arm, here, canaries, epsilon, rng)
        bound = run.lower_bound(delta=DELTA)
        found[budget_name(epsilon)] = {
            "epsilon": bound.epsilon, "confidence": bound.confidence, "in": int(run.is_in.sum()), "area": list(attack.area),
            "found": list(attack.found_at[0.01]),
        }  # fmt: skip
    return {"audits": found, "canaries": CANARIES, "people": AUDITED}


def _audited(
    study: Study, arm: str, here: World, canaries: Sequence[Row], epsilon: float, rng: np.random.Generator
) -> tuple[CanaryRun, Any]:
    made: list[Network] = []

    def train(rows: Sequence[Row]) -> Network:
        if arm == "private":
            made.append(here.fits()(rows))
        else:
            setting = chosen(study, "large", arm, AUDITED)
            made.append(_made(here, rows, setting, epsilon, cached_votes(here, rows, 0)))
        return made[-1]

    def losses(model: Network, rows: Sequence[Row]) -> Any:
        with torch.no_grad():
            return model.losses(rows).double().numpy()

    run = audit_one_run(train, losses, here.private, canaries, rng=rng, reference=here.begun)
    return run, loss_attack(losses, made[0], here.private, here.test, reference=here.begun)
