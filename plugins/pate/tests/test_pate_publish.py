"""A data-dependent figure leaves once, planned without the votes, and paid for before it is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from slt_pate import publishing
from slt_pate.accounting.conversion import epsilon
from slt_pate.accounting.filter import RdpFilter
from slt_pate.accounting.independent import rdp
from slt_pate.accounting.orders import ORDERS
from slt_pate.accounting.published_noise import noise_cost
from slt_pate.asking import described
from slt_pate.commands import app
from slt_pate.events import Charge, GaussianMax, LaplaceMax, Publication
from slt_pate.ledger import Ledger, read_ledger
from slt_pate.ledger.charges import charge_from_json, charge_to_json
from slt_pate.mechanisms import ConfidentGNMax, GNMax, LNMax
from slt_pate.mechanisms.answers import Mechanism
from slt_pate.publishing import Releases, imagined, plan_publication, publish
from sltcore.errors import PrivacyError

EPSILON, DELTA, TEACHERS = 8.0, 1e-5, 200
BUDGET: dict[str, Any] = {"epsilon": EPSILON, "delta": DELTA, "unit": "speaker"}


def voted(path: Path, *mechanisms: Mechanism, agreement: float = 0.95, queries: int = 40, classes: int = 3) -> Path:
    """A ledger after answers about votes of which so many agree."""
    with Ledger.open(path, guard=RdpFilter(EPSILON, DELTA), **BUDGET) as ledger:
        for mechanism in mechanisms:
            votes = imagined(queries, teachers=TEACHERS, classes=classes, agreement=agreement)
            ledger.release_batch(mechanism, votes, described(queries, "answers", mechanism))
    return path


def test_what_is_told_is_far_below_the_independent_figure_where_teachers_agree(tmp_path: Path) -> None:
    ledger = voted(tmp_path / "ledger", GNMax(25.0), queries=150)
    independent = epsilon(150 * rdp(GaussianMax(25.0), ORDERS), ORDERS, DELTA).epsilon
    told = publish(ledger, teachers=TEACHERS)
    assert told["expected"] < 0.8 * independent
    assert told["cost_of_publishing"] < told["epsilon"] < 1.3 * independent  # whatever was drawn


def test_the_plan_looks_at_no_vote(tmp_path: Path) -> None:
    found = [
        publish(voted(tmp_path / f"{agreement}", GNMax(25.0), agreement=agreement), teachers=TEACHERS, dry_run=True)
        for agreement in (0.5, 1.0)
    ]
    assert found[0] == found[1]
    assert "epsilon" not in found[0]


def test_a_dry_run_charges_nothing(tmp_path: Path) -> None:
    ledger = voted(tmp_path / "ledger", GNMax(25.0))
    before = ledger.read_bytes()
    publish(ledger, teachers=TEACHERS, dry_run=True)
    assert ledger.read_bytes() == before
    assert not (tmp_path / "ledger.published.jsonl").exists()


def test_the_ledger_pays_before_the_figure_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = voted(tmp_path / "ledger", GNMax(25.0))

    def killed(*_: Any, **__: Any) -> None:
        charges = read_ledger(ledger).charges
        assert any(isinstance(charge.event, Publication) for charge in charges)
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing, "published_epsilon", killed)
    with pytest.raises(KeyboardInterrupt):
        publish(ledger, teachers=TEACHERS)
    assert any(isinstance(charge.event, Publication) for charge in read_ledger(ledger).charges)


def test_asking_again_tells_the_same_at_no_cost_also_after_a_cut_line(tmp_path: Path) -> None:
    ledger = voted(tmp_path / "ledger", GNMax(25.0))
    told = publish(ledger, teachers=TEACHERS)
    before = ledger.read_bytes()
    with (tmp_path / "ledger.published.jsonl").open("a") as file:
        file.write('{"line": "cut')
    again = publish(ledger, teachers=TEACHERS)
    assert (again["epsilon"], again["again"]) == (told["epsilon"], True)
    assert ledger.read_bytes() == before


def test_the_cost_counts_in_the_account_and_in_the_filter(tmp_path: Path) -> None:
    ledger = voted(tmp_path / "ledger", GNMax(25.0))
    told = publish(ledger, teachers=TEACHERS)
    (charge,) = [one for one in read_ledger(ledger).charges if isinstance(one.event, Publication)]
    assert charge_from_json(json.loads(json.dumps(charge_to_json(charge)))) == charge
    orders = [1.5, 4.0, 30.0]
    event: Any = charge.event
    for order, cost in zip(orders, rdp(event, orders), strict=True):
        assert cost == noise_cost(order, beta=event.beta, noise=event.noise, quantile=event.quantile)
    guard = RdpFilter(EPSILON, DELTA)
    guard.charge([Charge(GaussianMax(25.0), 40)])
    without = guard.used
    guard.charge([charge])
    assert (guard.used - without) / guard.budget == pytest.approx(told["share_of_budget"])


def test_a_full_budget_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "NOISES", (20.0,))  # one that costs more than rounding leaves
    count = RdpFilter(EPSILON, DELTA).affordable(GaussianMax(25.0))
    ledger = voted(tmp_path / "ledger", GNMax(25.0), queries=count)
    before = ledger.read_bytes()
    with pytest.raises(
        PrivacyError, match="of the budget is left, and no publication costs so little; nothing was told"
    ):
        publish(ledger, teachers=TEACHERS)
    assert ledger.read_bytes() == before


def test_tests_of_confident_answers_count(tmp_path: Path) -> None:
    mechanism = ConfidentGNMax(120.0, 40.0, sigma=25.0)
    told = publish(voted(tmp_path / "ledger", mechanism), teachers=TEACHERS)
    assert told["epsilon"] > told["cost_of_publishing"]


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PrivacyError, match="has releases of LaplaceMax; a data-dependent epsilon is published for gnmax"
    ):
        publish(voted(tmp_path / "laplace", LNMax(60.0)), teachers=TEACHERS)
    with pytest.raises(PrivacyError, match="has answers with 2 noises and 0 kinds of threshold test"):
        publish(voted(tmp_path / "two", GNMax(40.0), GNMax(50.0)), teachers=TEACHERS)
    with pytest.raises(PrivacyError, match="has answers with 0 noises"):
        publish(voted(tmp_path / "none"), teachers=TEACHERS)
    lost = voted(tmp_path / "lost", GNMax(40.0))
    os.unlink(tmp_path / "lost.votes-private")
    with pytest.raises(PrivacyError, match="40 releases have no votes beside them; expected those of every release"):
        publish(lost, teachers=TEACHERS)
    few = voted(tmp_path / "few", GNMax(40.0))
    with pytest.raises(PrivacyError, match="more than 150 teachers voted; expected teachers to be at least as many"):
        publish(few, teachers=150)
    with pytest.raises(PrivacyError, match=r"confidence is 1.0, expected a probability from 0.5 to below 1"):
        publish(few, teachers=TEACHERS, confidence=1.0)
    publish(few, teachers=TEACHERS)
    voted(few, GNMax(40.0), queries=2)
    with pytest.raises(PrivacyError, match="has told a data-dependent epsilon and released more since"):
        publish(few, teachers=TEACHERS)


def test_a_plan_is_the_best_of_its_grid_for_what_it_expects() -> None:
    guard = RdpFilter(EPSILON, DELTA)
    releases = Releases(100, 25.0)
    sizes: dict[str, Any] = {"teachers": TEACHERS, "classes": 3, "delta": DELTA, "guard": guard}
    near, far = (plan_publication(releases, agreement=share, **sizes) for share in (0.95, 0.5))
    assert near.expected < far.expected
    poor = RdpFilter(EPSILON, DELTA)
    poor.charge([Charge(LaplaceMax(1.0), 1)]) if poor.allows([Charge(LaplaceMax(1.0), 1)]) else None
    poor.charge([Charge(GaussianMax(25.0), int(0.97 * poor.affordable(GaussianMax(25.0))))])
    assert plan_publication(releases, **{**sizes, "guard": poor}).noise > plan_publication(releases, **sizes).noise
    for bad, message in (
        ({"teachers": 0}, "teachers is 0"),
        ({"classes": 1}, "classes is 1"),
        ({"agreement": 0.0}, "0.0"),
    ):
        with pytest.raises(PrivacyError, match=message):
            plan_publication(releases, **{**sizes, **bad})
    assert np.array_equal(imagined(2, teachers=10, classes=4, agreement=0.5), [[5, 2, 2, 1]] * 2)


def test_the_command_line_tells_and_remembers(tmp_path: Path) -> None:
    ledger = voted(tmp_path / "ledger", GNMax(25.0))

    def call(*arguments: str) -> str:
        outcome = CliRunner().invoke(app, ["report", str(ledger), "--publish", *arguments], catch_exceptions=False)
        assert outcome.exit_code == 0
        return outcome.stdout

    assert "Dry run: epsilon" in call("--teachers", "200", "--dry-run")
    first = call("--teachers", "200")
    assert first.startswith("Data-dependent, for publication: epsilon ")
    assert "asked again, it costs nothing" in call("--teachers", "200")
    assert json.loads(call("--teachers", "200", "--json"))["again"] is True
    with pytest.raises(PrivacyError, match="--publish needs --teachers"):
        CliRunner().invoke(app, ["report", str(ledger), "--publish"], catch_exceptions=False)
