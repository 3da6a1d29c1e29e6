"""Training with `privacy: pate`: what is refused, what is counted, what a crash costs, and what may leave."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pate_models import LSTM, Sayer, pipeline, utterance

from slt_pate.asking import Asking, KeptAnswers
from slt_pate.budget import Noise, epsilon_of, least_noise, worst_case
from slt_pate.ledger import read_ledger
from slt_pate.mechanisms import ConfidentGNMax, GNMax
from slt_pate.pate import Pate
from slt_pate.queries import Question
from slt_pate.rows import text_of
from slt_pate.settings import Asked, Protection
from slt_pate.stamps import read_stamp
from sltcore.bundle import load, save_bundle
from sltcore.errors import PrivacyError
from sltcore.train import fit as train
from sltcore.types import Item

TEXTS = ("go", "stop")
Fit = Callable[[Any], Any]


def private_rows(speakers: int = 12, each: int = 2) -> list[Item]:
    return [
        Item(f"p{speaker}-{k}", f"p{speaker}-{k}.wav", TEXTS[speaker % 2], f"ann{speaker}")
        for speaker in range(speakers)
        for k in range(each)
    ]


def public_rows(count: int = 20) -> list[Item]:
    return [Item(f"u{k}", f"u{k}.wav", None, f"bob{k}") for k in range(count)]


class Fits:
    """A `fit` whose models all say what is right: 'go' for even recordings. It remembers its data; `dev` as told."""

    def __init__(self, dev: Sequence[Any] = ()) -> None:
        self.data: list[list[Any]] = []
        self.dev = list(dev)

    def __call__(self, data: Sequence[Any], *, sampler: Any = None, gradient: Any = None) -> Any:
        self.data.append(list(data))
        return Sayer({f"u{k}": [TEXTS[k % 2]] for k in range(100)})


def mechanism(
    folder: Path, *, noise: Noise | None = None, asked: Asked | None = None, rounds: int = 0, **terms: Any
) -> Pate:
    protection = Protection(
        **{"epsilon": 1000.0, "delta": 1e-5, "unit": "speaker", "ledger": str(folder / "ledger.jsonl"), **terms}
    )
    asked = Asked(candidates=TEXTS) if asked is None else asked
    return Pate(protection, Noise(sigma=0.3) if noise is None else noise, asked, teachers=4, rounds=rounds)


def test_the_student_learns_released_labels_and_meets_no_private_row(tmp_path: Path) -> None:
    fits, part = Fits(), mechanism(tmp_path)
    student = part.train(fits, private_rows(), public_rows())
    assert isinstance(student, Sayer)
    shards, learned = fits.data[:-1], fits.data[-1]
    assert sorted(row.id for shard in shards for row in shard) == sorted(row.id for row in private_rows())
    speakers = [{row.speaker for row in shard} for shard in shards]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 12
    assert {row.id: row.text for row in learned} == {f"u{k}": TEXTS[k % 2] for k in range(20)}
    history = read_ledger(tmp_path / "ledger.jsonl")
    assert sum(charge.count for charge in history.charges) == 20
    assert part.spent(1e-5).epsilon == pytest.approx(epsilon_of(GNMax(0.3).events(20), 1e-5))


@pytest.mark.parametrize("place", ["public", "development"])
def test_public_and_development_data_of_a_private_unit_are_refused(tmp_path: Path, place: str) -> None:
    stranger = Item("x", "x.wav", None, "ann3")
    public = [*public_rows(), stranger] if place == "public" else public_rows()
    fits = Fits(dev=[stranger] if place == "development" else ())
    with pytest.raises(
        PrivacyError, match=rf"{place} utterance 'x' has the speaker 'ann3', which is in the private data too"
    ):
        mechanism(tmp_path).train(fits, private_rows(), public)
    assert not fits.data
    same_file = Item("y", "p3-0.wav", None, None)
    with pytest.raises(PrivacyError, match=r"utterance 'y' has the file 'p3-0\.wav', which is in the private data too"):
        mechanism(tmp_path).train(Fits(dev=[same_file]), private_rows(), public_rows())


def test_development_data_that_nobody_names_are_warned_of(tmp_path: Path, caplog: Any) -> None:
    fits = Fits()
    del fits.dev
    mechanism(tmp_path).train(fits, private_rows(), public_rows())
    assert "they must be public: slt privacy check SPEC" in caplog.text


class Untouched(list[Any]):
    """Rows that nobody may look at."""

    def __iter__(self) -> Any:
        raise AssertionError("private rows were read")

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("private rows were read")


def test_a_plan_beyond_the_budget_is_refused_before_private_rows_are_read(tmp_path: Path) -> None:
    part = mechanism(tmp_path, epsilon=2.0)
    with pytest.raises(
        PrivacyError, match=r"20 queries of GNMax may cost epsilon [\d.]+ at delta 1e-05 per speaker, more than"
    ):
        part.train(Fits(), Untouched(private_rows()), public_rows())
    with pytest.raises(
        PrivacyError, match=r"mechanism plurality has no noise and costs epsilon infinity, more than 1000"
    ):
        mechanism(tmp_path, noise=Noise("plurality")).train(Fits(), Untouched(private_rows()), public_rows())
    with pytest.raises(PrivacyError, match=r"ledger is empty; expected a file that keeps the account for good"):
        mechanism(tmp_path, ledger="").train(Fits(), Untouched(private_rows()), public_rows())


def test_a_second_run_on_a_spent_ledger_is_refused_before_private_rows_are_read(tmp_path: Path) -> None:
    one = epsilon_of(GNMax(2.0).events(20), 1e-5)
    first = mechanism(tmp_path, noise=Noise(sigma=2.0), epsilon=one * 1.1)
    first.train(Fits(), private_rows(), public_rows())
    again = mechanism(tmp_path, noise=Noise(sigma=2.0), epsilon=one * 1.1)
    assert isinstance(again.train(Fits(), private_rows(), public_rows()), Sayer)  # the same run: nothing is asked
    assert mechanism(tmp_path).spent(1e-5).epsilon == pytest.approx(one)
    second = mechanism(tmp_path, noise=Noise(sigma=2.1), epsilon=one * 1.1)
    with pytest.raises(
        PrivacyError, match=r"shows epsilon [\d.]+ spent; 20 more queries .* exceed .*; nothing private"
    ):
        second.train(Fits(), Untouched(private_rows()), public_rows())


def test_answers_that_left_before_a_crash_are_used_again_for_nothing(tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    class Crashing(Fits):
        """Stops before the student is trained."""

        def __call__(self, data: Sequence[Any], **hooks: Any) -> Any:
            if data[0].id.startswith("u"):
                raise Crash
            return super().__call__(data, **hooks)

    with pytest.raises(Crash):
        mechanism(tmp_path).train(Crashing(), private_rows(), public_rows())
    lines = len(read_ledger(tmp_path / "ledger.jsonl").entries)
    fits, part = Fits(), mechanism(tmp_path)
    part.train(fits, private_rows(), public_rows())
    assert len(read_ledger(tmp_path / "ledger.jsonl").entries) == lines
    assert len(fits.data[-1]) == 20
    assert len(KeptAnswers(tmp_path / "ledger.jsonl", "another run", "")) == 0


def test_an_answer_whose_line_was_cut_is_asked_for_again(tmp_path: Path) -> None:
    kept = KeptAnswers(tmp_path / "l", "run", "plan")
    kept.add([("a", 1), ("b", -1)])
    kept.path.write_bytes(kept.path.read_bytes()[:-3])
    found = KeptAnswers(tmp_path / "l", "run", "plan")
    assert (found.get("a"), found.get("b"), found.of_plan) == (1, None, 1)
    found.add([("b", 0)])
    again = KeptAnswers(tmp_path / "l", "run", "plan")
    assert (again.get("a"), again.get("b"), len(again)) == (1, 0, 2)


def test_other_teachers_are_asked_anew(tmp_path: Path) -> None:
    """Answers belong to a run's teachers: other weights, another run; the file does not tell which."""
    from slt_pate.asking import run_name

    one, two = pipeline({"use": "ctc-greedy"}, seed=0), pipeline({"use": "ctc-greedy"}, seed=1)
    names = [run_name(tmp_path / "l", "a plan", models) for models in ([one], [two], [one, two], [one])]
    assert names[0] == names[3]
    assert len(set(names)) == 3
    assert run_name(tmp_path / "other", "a plan", [one]) != names[0]
    assert os.stat(tmp_path / "l.salt-private").st_mode & 0o077 == 0


def questions(count: int, votes: Sequence[int] = (4, 0)) -> list[Question]:
    scores = np.concatenate([np.tile(row, (n, 1)) for n, row in zip(votes, np.eye(len(votes)), strict=True)])
    return [Question(f"q{k}", scores) for k in range(count)]


def asking(part: Pate, **limits: Any) -> Any:
    return lambda ledger: Asking(part.mechanism_for(1), ledger, KeptAnswers(ledger.path, "run", ""), **limits)


def test_no_more_is_asked_and_answered_than_was_planned(tmp_path: Path) -> None:
    noise = Noise("confident-gnmax", sigma=0.05, threshold=0.5, sigma_threshold=0.05)
    part = mechanism(tmp_path, noise=noise, epsilon=1e6)
    with part._ledger() as ledger:
        assert ledger is not None
        ask = asking(part, queries=10, answers=4)(ledger)
        found = ask([*questions(6), *questions(3, (1, 1, 1))])
        assert (found >= 0).sum() == ask.answered == 4
        assert ask.left_answers == 0
        events = {type(charge.event).__name__: charge.count for charge in ledger.charges}
        assert events["GaussianMax"] == 4
        assert events["ThresholdTest"] == ask.asked
    planned = worst_case(ConfidentGNMax(2, 0.05, sigma=0.05), 10, 4)
    assert {type(charge.event).__name__: charge.count for charge in planned} == {"ThresholdTest": 10, "GaussianMax": 4}


def test_where_the_budget_ends_within_a_run_the_rest_has_no_answer(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    part = mechanism(tmp_path, noise=Noise(sigma=2.0), epsilon=epsilon_of(GNMax(2.0).events(5), 1e-5) * 1.001)
    remarks: list[str] = []
    with part._ledger() as ledger:
        ask = asking(part, queries=10, say=remarks.append)(ledger)
        assert (ask(questions(5)) >= 0).all()
        assert (ask([Question(f"more{k}", one.scores) for k, one in enumerate(questions(2))]) == -1).all()
    assert "the budget is spent after 5 queries" in remarks[0]


def test_empty_sigma_takes_the_least_noise_that_the_budget_allows(tmp_path: Path) -> None:
    part = mechanism(tmp_path, noise=Noise(), epsilon=4.0)
    assert part.plan(1e-5, utterances=50).epsilon <= 4.0
    chosen = part.mechanism_for(50)
    assert isinstance(chosen, GNMax)
    assert epsilon_of(GNMax(chosen.sigma * 0.999).events(50), 1e-5) > 4.0
    with pytest.raises(PrivacyError, match=r"no noise up to .* votes keeps the planned queries within epsilon 1e-09"):
        least_noise(Noise(), 4, within=lambda one: False, what="epsilon 1e-09")


def test_without_noise_epsilon_is_infinite_and_said_so(tmp_path: Path) -> None:
    part = mechanism(tmp_path, noise=Noise("plurality"), epsilon=math.inf)
    assert part.spent(1e-5).epsilon == 0
    part.train(Fits(), private_rows(), public_rows())
    assert part.spent(1e-5).epsilon == math.inf == part.plan(1e-5, utterances=1).epsilon
    assert not (tmp_path / "ledger.jsonl").exists()
    with pytest.raises(PrivacyError, match=r"there is no epsilon, and mechanism gnmax; expected a finite epsilon"):
        mechanism(tmp_path, epsilon=math.inf)


def test_later_rounds_teach_the_student_what_it_reads_by_itself(tmp_path: Path) -> None:
    fits = Fits()
    spoken = Item("s", "s.wav", "go", "carl")
    asked = Asked(candidates=TEXTS, utterances=8)
    part = mechanism(tmp_path, asked=asked, rounds=2)
    part.train(fits, private_rows(), [spoken, *public_rows()])
    first, second, third = fits.data[-3:]
    assert (len(first), len(second), len(third)) == (9, 21, 21)
    assert all(text_of(row) for row in third)
    assert sum(charge.count for charge in read_ledger(tmp_path / "ledger.jsonl").charges) == 8


def test_nothing_to_ask_and_no_label_are_errors(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"query 'transcript' has nothing to ask about 0 public utterances"):
        mechanism(tmp_path).train(Fits(), Untouched(), [Item("s", "s.wav", "go", "carl")])
    noise = Noise("confident-gnmax", sigma=0.1, threshold=1.0, sigma_threshold=0.1)
    with pytest.raises(PrivacyError, match=r"none of 20 utterances got a label, and no public one had a text"):
        mechanism(tmp_path, noise=noise, epsilon=1e5).train(Divided(), private_rows(), public_rows())


class Divided(Fits):
    """Teachers that never agree."""

    def __call__(self, data: Sequence[Any], **hooks: Any) -> Any:
        self.data.append(list(data))
        return Sayer({f"u{k}": [TEXTS[len(self.data) % 2]] for k in range(100)})


@pytest.mark.parametrize("name", ["gnmax", "confident-gnmax", "lnmax", "posterior", "posterior-laplace"])
def test_the_least_noise_is_enough_for_every_planned_query(tmp_path: Path, name: Any) -> None:
    """Asked in many batches, whose costs are added up one by one, all of the plan is answered."""
    asked = Asked(candidates=TEXTS, answers=60)
    part = mechanism(tmp_path, noise=Noise(name), asked=asked, epsilon=3.0)
    assert part.plan(1e-5, queries=200).epsilon <= 3.0
    with part._ledger() as ledger:
        assert ledger is not None
        kept = KeptAnswers(ledger.path, "run", "")
        ask = Asking(part.mechanism_for(200), ledger, kept, queries=200, answers=60)
        for batch in range(40):
            ask([Question(f"{batch}/{k}", one.scores) for k, one in enumerate(questions(5))])
    assert ask.asked == 200 or ask.answered == 60
    assert not ask.exhausted
    assert part.spent(1e-5).epsilon <= 3.0


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [({"labels": 3}, "plan has no size 'labels'"), ({"utterances": -1}, "utterances is -1"), ({}, "plan needs a size")],
)
def test_plans_of_other_sizes_are_refused(tmp_path: Path, sizes: dict[str, int], problem: str) -> None:
    with pytest.raises(PrivacyError, match=problem):
        mechanism(tmp_path).plan(1e-5, **sizes)
    with pytest.raises(PrivacyError, match=r"delta is 1, expected a number between 0 and 1"):
        mechanism(tmp_path).plan(1, queries=3)


def test_a_ledger_that_was_rolled_back_is_refused(tmp_path: Path) -> None:
    part = mechanism(tmp_path)

    def fit(data: Sequence[Any], **hooks: Any) -> Any:
        return pipeline({"use": "ctc-greedy"}) if data[0].id.startswith("u") else Fits()(data)

    student = part.train(fit, private_rows(), public_rows())
    bundle = save_bundle(student, tmp_path / "bundle")
    stamp, facts = read_stamp(bundle)
    assert stamp == read_ledger(tmp_path / "ledger.jsonl").stamp
    assert (facts["unit"], facts["epsilon"]) == ("speaker", part.spent(1e-5).epsilon)
    again = save_bundle(load(bundle), tmp_path / "again")
    assert read_stamp(again)[0] == stamp
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(PrivacyError, match=r"was rolled back: it has 1 lines, .*bundle was released at line \d"):
        mechanism(tmp_path, released=(str(bundle),)).train(Fits(), Untouched(), public_rows())
    with pytest.raises(PrivacyError, match=r"has no privacy-ledger\.json: it was not released from a ledger"):
        read_stamp(save_bundle(pipeline({"use": "ctc-greedy"}), tmp_path / "plain"))


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests of tones: 6 private speakers, public ones with and without texts, development data."""
    folder = tmp_path_factory.mktemp("tones")

    def write(name: str, rows: Sequence[tuple[str, str, str, bool]]) -> None:
        lines = ["id,audio,text,speaker"]
        for key, text, speaker, shown in rows:
            utterance(folder, key, text)
            lines.append(f"{key},{key}.wav,{text if shown else ''},{speaker}")
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    texts = ("ab", "cd")
    write("private.csv", [(f"p{k}", texts[k % 2], f"ann{k % 6}", True) for k in range(12)])
    write("public.csv", [(f"u{k}", texts[k % 2], f"bob{k}", k >= 4) for k in range(6)])
    write("dev.csv", [(f"d{k}", texts[k % 2], f"dan{k}", True) for k in range(2)])
    return folder


def spec(folder: Path, **privacy: Any) -> dict[str, Any]:
    return {
        "slt": 1,
        "kind": "train",
        "pipeline": {"encoder": LSTM, "decoder": {"use": "ctc-greedy", "characters": "abcd"}, "metrics": ["cer"]},
        "data": {name: [{"manifest": str(folder / f"{name}.csv")}] for name in ("private", "public", "dev")},
        "privacy": {"use": "pate", "teachers": 2, "sigma": 1.0, "epsilon": 50, "ledger": "temporary", **privacy},
        "optimizer": {"learning_rate": 0.01},
        "schedule": {"shape": "constant", "warmup_steps": 0},
        "budget": {"steps": 3},
        "batch": {"size": 6},
        "log": {"tensorboard": False},
    }


@pytest.mark.slow
def test_slt_train_leaves_a_stamped_student(tones: Path, tmp_path: Path) -> None:
    privacy = {"candidates": ["ab", "cd"], "ledger": str(tmp_path / "ledger.jsonl")}
    trained = train(spec(tones, **privacy), out=tmp_path / "run", quiet=True)
    assert trained.privacy["epsilon"] == pytest.approx(epsilon_of(GNMax(1.0).events(4), 1e-5))
    assert (trained.privacy["unit"], trained.privacy["data_dependent"]) == ("speaker", False)
    assert read_stamp(trained.bundle)[0] == read_ledger(tmp_path / "ledger.jsonl").stamp
    assert load(trained.bundle)(str(tones / "u0.wav")).text is not None
    provenance = (trained.bundle / "provenance.json").read_text(encoding="utf-8")
    assert not any(f'"p{k}"' in provenance or f"ann{k}" in provenance for k in range(12))


@pytest.mark.slow
def test_a_run_without_noise_is_finished_and_says_infinity(tones: Path, tmp_path: Path) -> None:
    noiseless = spec(tones, candidates=["ab", "cd"], mechanism="plurality", sigma=None, epsilon=None)
    trained = train(noiseless, out=tmp_path / "run", quiet=True)
    assert trained.privacy["epsilon"] == math.inf
    assert train(noiseless, out=tmp_path / "run", quiet=True).privacy["epsilon"] == math.inf


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "privacy"),
    [
        ("rnnt", {"query": "token", "max_tokens": 3, "unsure": "public", "mechanism": "confident-gnmax"}),
        ("ctc-greedy", {"query": "slot", "slots": "frames", "mechanism": "posterior", "unsure": "public"}),
        ("ctc-greedy", {"query": "token", "max_tokens": 3, "mechanism": "lnmax", "unsure": "public"}),
    ],
)
def test_every_query_runs_through_slt_train(tones: Path, tmp_path: Path, decoder: str, privacy: dict[str, Any]) -> None:
    asked = {**spec(tones, **privacy, epsilon=5000), "budget": {"steps": 20}}
    asked["pipeline"]["decoder"] = {"use": decoder, "characters": "abcd"}
    trained = train(asked, out=tmp_path / "run", quiet=True)
    assert 0 < trained.privacy["epsilon"] <= 5000
    facts = json.loads((trained.bundle / "privacy-ledger.json").read_text(encoding="utf-8"))
    assert "one teacher's shard" in facts["query"]["sensitivity"]
    assert "trained on 2 public utterances" in facts["query"]["source"]
