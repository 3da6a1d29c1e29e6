"""`slt privacy`: plans, checks and reports in words that hold, with exit codes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pate_models import LSTM, utterance
from safetensors.torch import load_file
from scipy.stats import norm
from typer.testing import CliRunner

from slt_pate.accounting.conversion import epsilon as epsilon_at
from slt_pate.accounting.independent import rdp
from slt_pate.accounting.orders import ORDERS
from slt_pate.accounting.votes import rdp_of_votes
from slt_pate.asking import Asking, KeptAnswers
from slt_pate.budget import Noise, epsilon_of
from slt_pate.commands import app
from slt_pate.events import Charge, GaussianMax, ThresholdTest
from slt_pate.ledger import Ledger, read_ledger
from slt_pate.mechanisms import ConfidentGNMax, GNMax
from slt_pate.pate import Pate
from slt_pate.queries import PublicModel, Question
from slt_pate.report_text import detection, guarantee, number
from slt_pate.settings import Asked, Protection
from sltcore.errors import PrivacyError
from sltcore.train import fit as train


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def told(*words: str) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def raised(*words: str) -> str:
    result = run(*words)
    assert isinstance(result.exception, PrivacyError), result.output
    return str(result.exception)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A run on tones: 4 private speakers, 3 public recordings of which one has a text, and public development data."""

    def write(name: str, rows: list[tuple[str, str, str]]) -> None:
        lines = ["id,audio,text,speaker"]
        for key, text, speaker in rows:
            utterance(tmp_path, key, text or "ab")
            lines.append(f"{key},{key}.wav,{text},{speaker}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    write("private", [(f"p{k}", ("ab", "cd")[k % 2], f"ann{k % 4}") for k in range(6)])
    write("public", [("u0", "", "bob"), ("u1", "", "bert"), ("u2", "cd", "ben")])
    write("dev", [("d0", "ab", "dan")])
    data = {
        "slt": 1,
        "kind": "train",
        "name": "tones",
        "pipeline": {"encoder": LSTM, "decoder": {"use": "ctc-greedy", "characters": "abcd"}},
        "data": {name: [{"manifest": f"{name}.csv"}] for name in ("private", "public", "dev")},
        "privacy": {"use": "pate", "teachers": 2, "epsilon": 4, "candidates": ["ab", "cd"], "ledger": "ledger.jsonl"},
        "budget": {"steps": 2},
        "batch": {"size": 6},
        "log": {"tensorboard": False},
    }
    path = tmp_path / "tones.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_a_plan_counts_public_recordings_without_texts(spec: Path) -> None:
    facts = told("plan", str(spec))
    assert (facts["queries"], facts["unit"], facts["budget"]) == (2, "speaker", 4.0)
    assert 3.99 < facts["epsilon"] <= 4.0
    assert facts["curve"][-1] == [2, facts["epsilon"]]
    assert not (spec.parent / "ledger.jsonl").exists()
    text = run("plan", str(spec)).stdout
    assert "Plan of tones" in text
    assert "Budget: epsilon 4; the plan stays within it." in text
    assert "Public source: candidates: a list of 2 texts in the spec." in text


def test_a_plan_beyond_the_budget_ends_with_code_1(spec: Path) -> None:
    result = run("plan", str(spec), "--set", "privacy.sigma=1", "--queries", "100")
    assert result.exit_code == 1
    assert "the plan exceeds it, and is refused" in result.stdout


def test_a_plan_without_a_spec_agrees_with_the_accountant() -> None:
    facts = told("plan", "--queries", "100", "--sigma", "18", "--delta", "1e-6", "--epsilon", "9")
    assert facts["epsilon"] == pytest.approx(epsilon_of(GNMax(18.0).events(100), 1e-6))
    epsilons = [epsilon for _, epsilon in facts["curve"]]
    assert epsilons == sorted(epsilons)
    assert raised("plan", "--queries", "1", "--mechanism", "maximum").startswith("--mechanism: Input should be 'gnmax'")
    assert raised("plan").startswith("plan needs a size: utterances, or queries")


def test_private_development_data_are_refused_by_check(spec: Path) -> None:
    facts = told("check", str(spec))
    assert (facts["units"], facts["utterances"], sum(facts["units_by_teacher"])) == (4, 6, 4)
    message = raised("check", str(spec), "--set", "data.dev=[{manifest: private.csv}]")
    assert message.startswith("development utterance 'p0' has the file")
    assert "4 private units (speaker), 6 utterances; none is public" in run("check", str(spec)).stdout


def make_ledger(path: Path, releases: int) -> None:
    class Free:
        def allows(self, charges: Any) -> bool:
            return True

        def charge(self, charges: Any) -> None:
            return

    with Ledger.open(path, epsilon=8, delta=1e-5, unit="speaker", guard=Free()) as ledger:
        for _ in range(releases):
            ledger.append([Charge(GaussianMax(20.0), 5)], "5 answers")


def test_a_report_tells_what_the_ledger_holds(tmp_path: Path) -> None:
    make_ledger(tmp_path / "l.jsonl", 6)
    facts = told("report", str(tmp_path / "l.jsonl"), "--delta", "1e-3")
    assert facts["epsilon"] == pytest.approx(epsilon_of(GNMax(20.0).events(30), 1e-5))
    assert facts["at_delta"]["epsilon"] == pytest.approx(epsilon_of(GNMax(20.0).events(30), 1e-3))
    assert (facts["lines"], facts["head"]) == (7, read_ledger(tmp_path / "l.jsonl").hashes[-1])
    assert facts["curve"][-1] == [6, facts["epsilon"]]
    text = run("report", str(tmp_path / "l.jsonl")).stdout
    assert "30 x class with the most votes, Gaussian noise of 20 votes" in text
    assert f"epsilon {number(facts['epsilon'])} at delta 1e-05, for one speaker. It was computed from public" in text
    lines = (tmp_path / "l.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "l.jsonl").write_bytes(b"".join([*lines[:2], lines[3]]))
    assert "line 3" in raised("report", str(tmp_path / "l.jsonl"))


@pytest.mark.parametrize("name", ["gnmax", "confident-gnmax", "lnmax", "posterior"])
def test_a_data_dependent_report_counts_every_line_by_its_votes(tmp_path: Path, name: Any) -> None:
    """Compared with the accountant on the votes themselves; lines without votes count as they do in the other figure."""
    noise = Noise(name, sigma=2.0, threshold=0.5)
    part = Pate(Protection(900.0, 1e-5, "speaker", str(tmp_path / "l.jsonl")), noise, Asked(), teachers=20)
    votes = [[18, 1, 1], [7, 7, 6], [20, 0, 0], [19, 1, 0]]
    scores = [np.repeat(np.log(np.eye(3) * 0.94 + 0.02), counts, axis=0) for counts in votes]
    with part._ledger() as ledger:
        assert ledger is not None
        mechanism = part.mechanism_for(4)
        ask = Asking(mechanism, ledger, KeptAnswers(ledger.path, "run", ""), queries=8)
        answered = ask([Question(str(k), one) for k, one in enumerate(scores[:2])]) >= 0
        answered = np.concatenate([answered, ask([Question(str(k + 2), one) for k, one in enumerate(scores[2:])]) >= 0])
        charges = ledger.charges
    facts = told("report", str(tmp_path / "l.jsonl"), "--data-dependent")
    own = facts["data_dependent"]
    counts = np.array(votes)
    if name == "posterior":
        expected, covered = sum(one.count * rdp(one.event) for one in charges), 0
    elif isinstance(mechanism, ConfidentGNMax):
        test = rdp_of_votes(ThresholdTest(3.0), counts, threshold=10.0)
        expected = test + (rdp_of_votes(GaussianMax(2.0), counts[answered]) if answered.any() else 0)
        covered = 4 + int(answered.sum())
    else:
        expected, covered = rdp_of_votes(mechanism.events(1)[0].event, counts), 4
    assert own["epsilon"] == pytest.approx(epsilon_at(expected, ORDERS, 1e-5).epsilon, rel=1e-12)
    assert own["epsilon"] <= facts["epsilon"] * (1 + 1e-12)
    assert own["covered"] == covered
    assert "NOT for publication" in run("report", str(tmp_path / "l.jsonl"), "--data-dependent").stdout


@pytest.mark.slow
def test_teachers_trained_ahead_are_found_finished_and_bundles_are_compared_with_the_ledger(
    spec: Path, tmp_path: Path
) -> None:
    result = run("teachers", str(spec), "--out", str(tmp_path / "run"), "--workers", "2")
    assert result.exit_code == 0, result.exception
    bundles = result.stdout.split()
    assert [Path(one).parent.name for one in bundles] == ["00", "01"]
    made = [(Path(one) / "weights.safetensors").stat().st_mtime_ns for one in bundles]
    said: list[str] = []
    trained = train(spec, out=tmp_path / "run", say=said.append)
    assert [(Path(one) / "weights.safetensors").stat().st_mtime_ns for one in bundles] == made
    assert sum("is finished, after 2 steps" in line for line in said) == 2
    facts = told("report", str(tmp_path / "ledger.jsonl"), "--bundle", str(trained.bundle))
    assert facts["bundles"] == {str(trained.bundle): facts["lines"]}
    with pytest.raises(PrivacyError, match=r"is a model of a run with privacy, most likely a teacher"):
        PublicModel.from_bundle(bundles[0])
    with pytest.raises(PrivacyError, match=r"was released by a privacy mechanism, from data that its own ledger knows"):
        PublicModel.from_bundle(trained.bundle)
    assert "pipeline" in raised("check", str(spec), "--set", f"pipeline={bundles[0]}")
    make_ledger(tmp_path / "other.jsonl", 1)
    assert "belongs to ledger" in raised("report", str(tmp_path / "other.jsonl"), "--bundle", str(trained.bundle))


@pytest.mark.system
def test_teachers_over_ray_are_those_of_one_process(spec: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    here, there = (
        run("teachers", str(spec), "--out", str(tmp_path / engine), "--workers", "2", "--engine", engine)
        for engine in ("local", "ray")
    )
    assert (here.exit_code, there.exit_code) == (0, 0), there.exception
    first, second = (
        [load_file(Path(one) / "weights.safetensors") for one in result.stdout.split()] for result in (here, there)
    )
    assert len(first) == len(second) == 2
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_run_that_begins_from_private_weights_is_refused(spec: Path, tmp_path: Path) -> None:
    run("teachers", str(spec), "--out", str(tmp_path / "run"), "--workers", "1")
    teacher = tmp_path / "run" / "models" / "00" / "bundle"
    for privacy in ({}, {"use": "dp-sgd", "steps": 2}):
        blocks = [f"pipeline={teacher}", *([f"privacy={json.dumps(privacy)}"] if privacy else [])]
        with pytest.raises(PrivacyError, match=r"pipeline .* is a model of a run with privacy, most likely a teacher"):
            train(spec, out=tmp_path / "again", overrides=blocks)
    plain = {**yaml.safe_load(spec.read_text()), "data": {"train": yaml.safe_load(spec.read_text())["data"]["private"]}}
    del plain["privacy"]
    (spec.parent / "plain.yaml").write_text(yaml.safe_dump(plain))
    bundle = train(spec.parent / "plain.yaml", out=tmp_path / "plain").bundle
    with pytest.raises(
        PrivacyError, match=r"pipeline is a bundle that was trained on the private data, without a privacy"
    ):
        train(spec, out=tmp_path / "third", overrides=[f"pipeline={bundle}"])


def test_the_sentence_on_attackers_bounds_the_best_one() -> None:
    """The optimal test between N(0, 1) and N(m, 1) has Phi(m + Phi^-1(a)) true accusations; the Gaussian mechanism's
    exact delta at epsilon (Balle and Wang 2018, theorem 5) makes it (epsilon, delta)."""
    for mean in (0.2, 1.0, 3.0):
        for epsilon in (0.1, 0.5, 2.0, 6.0):
            delta = norm.cdf(mean / 2 - epsilon / mean) - math.exp(epsilon) * norm.cdf(-mean / 2 - epsilon / mean)
            best = norm.cdf(mean + norm.ppf(0.05))
            assert best <= detection(epsilon, delta, 0.05) + 1e-12
    assert detection(0.0, 0.0, 0.05) == 0.05
    assert "is infinite" in guarantee(math.inf, 1e-5, "speaker")[0]


def test_numbers_are_never_rounded_down() -> None:
    assert [number(value) for value in (1.23401, 0.012341, 1234.1, 2.0, 0.0)] == ["1.235", "0.01235", "1235", "2", "0"]
