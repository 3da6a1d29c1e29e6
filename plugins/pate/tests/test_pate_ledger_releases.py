"""Releases through the ledger: refused before, counted before they leave, their votes kept apart."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from pate_ledgers import VOTE, Budget, opened

from slt_pate.events import (
    Charge,
    GaussianMax,
    ThresholdTest,
)
from slt_pate.ledger import PrivateVotes, read_ledger
from slt_pate.mechanisms import ConfidentGNMax, GNMax, NoisyPosterior
from sltcore.errors import PrivacyError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_what_exceeds_the_budget_is_refused_and_not_written(path: Path) -> None:
    with opened(path, Budget(5)) as ledger:
        ledger.append((Charge(GaussianMax(20.0), 4),), "tokens")
        before = path.read_bytes()
        with pytest.raises(
            PrivacyError,
            match=r"'two tokens' may cost 2 x GaussianMax\(sigma=20.0\), more than is left of epsilon 4 at delta 1e-05 per speaker; nothing",
        ):
            ledger.append((Charge(GaussianMax(20.0), 2),), "two tokens")
        with pytest.raises(PrivacyError, match="'a, b' may cost"):
            ledger.append_all([(VOTE, "a"), (VOTE, "b")])  # together too much: neither is counted
        assert path.read_bytes() == before
        ledger.append(VOTE, "the last token")
    with pytest.raises(PrivacyError, match="shows more than the budget allows"):
        opened(path, Budget(4))


def test_a_release_is_refused_on_its_worst_case_before_noise_is_drawn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mechanism = ConfidentGNMax(1000.0, 1.0, sigma=1.0)  # would answer none: 4 events, worst case 8
    with opened(path, Budget(7)) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(os, "urandom", lambda count: pytest.fail("noise was drawn"))
            with pytest.raises(PrivacyError, match="may cost 4 x ThresholdTest.*4 x GaussianMax"):
                ledger.release_batch(mechanism, np.ones((4, 3), dtype=int), "tokens")
        answers = ledger.release_batch(mechanism, np.ones((3, 3), dtype=int), "tokens")
        assert ledger.charges == answers.charges == (Charge(ThresholdTest(1.0), 3),)


def test_a_batch_is_one_sync_however_many_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path, Budget(10**6)) as ledger:
        syncs: list[int] = []
        monkeypatch.setattr(os, "fsync", syncs.append)
        ledger.append_all((VOTE, f"token {place}") for place in range(2000))
        assert len(syncs) == 1
    assert read_ledger(path).charges == (Charge(GaussianMax(20.0), 2000),)
    assert len(read_ledger(path).entries) == 2000


def test_releases_write_their_cost_and_the_votes_apart(path: Path) -> None:
    votes = np.array([[9, 0, 1], [2, 3, 5]])
    with opened(path) as ledger:
        answer = ledger.release(GNMax(0.01), [0, 7, 3], "one token")
        assert answer.value == 1
        lines = [ledger.head]
        assert ledger.release_batch(GNMax(0.01), votes, "two tokens").values.tolist() == [0, 2]
        lines.append(ledger.head)
        assert ledger.release(ConfidentGNMax(100.0, 0.01, sigma=0.01), [3, 4], "unsure").value is None
        lines.append(ledger.head)
        posterior = ledger.release(NoisyPosterior(0.01), np.full((4, 2), 0.5), "soft").value
        np.testing.assert_allclose(np.asarray(posterior), 0.5, atol=0.1)
        assert [sum(charge.count for charge in entry.charges) for entry in ledger.entries] == [1, 2, 1, 1]
        assert ledger.private_votes is not None
        records = ledger.private_votes.read()
    assert list(records) == lines  # posteriors are not kept
    assert [records[line].votes.tolist() for line in lines] == [[[7, 3, 0]], [[9, 1, 0], [5, 3, 2]], [[4, 3]]]
    assert [records[line].answered.tolist() for line in lines] == [[True], [True, True], [False]]
    assert b"votes" not in path.read_bytes()


def test_votes_are_for_their_owner_alone(path: Path) -> None:
    with opened(path) as ledger:
        ledger.release(GNMax(1.0), [3, 1], "token")
        side = Path(f"{path}.votes-private")
        assert stat.S_IMODE(side.stat().st_mode) == 0o600
        side.chmod(0o640)
        with pytest.raises(
            PrivacyError, match=r"holds private votes and has mode 0640, expected 0600. Next: chmod 600"
        ):
            ledger.release(GNMax(1.0), [3, 1], "token")
        with pytest.raises(PrivacyError, match="has mode 0640"):
            PrivateVotes(path).read()
        assert len(ledger.entries) == 1  # refused before anything was counted


def test_votes_that_were_cut_or_changed_are_passed_over(path: Path) -> None:
    with opened(path) as ledger:
        for place in range(3):
            ledger.release(GNMax(1.0), [3, place], "token")
        heads = [entry.hash for entry in ledger.entries]
    side = Path(f"{path}.votes-private")
    content = side.read_bytes()
    for end in range(content.rstrip(b"\n").rfind(b"\n") + 1, len(content) - 1):
        side.write_bytes(content[:end])
        assert list(PrivateVotes(path).read()) == heads[:2]
    PrivateVotes(path).append("x", [[1, 2]], [True])  # after a cut line
    assert list(PrivateVotes(path).read()) == [*heads[:2], "x"]
    side.write_bytes(content.replace(b'"votes":[[3,1]]', b'"votes":[[9,1]]'))
    assert list(PrivateVotes(path).read()) == [heads[0], heads[2]]


def test_votes_need_not_be_kept(path: Path) -> None:
    with opened(path, keeps_votes=False) as ledger:
        ledger.release(GNMax(1.0), [3, 1], "token")
    assert [one.name for one in path.parent.iterdir()] == ["ledger.jsonl"]
    assert PrivateVotes(path).read() == {}


def test_malformed_lines_are_refused_before_anything_is_counted(path: Path) -> None:
    guard = Budget()
    with opened(path, guard) as ledger:
        for charges, what, text in (
            ((), "token", "'token' has no charges; what costs nothing needs no line"),
            (VOTE, " ", "a line's text is ' ', expected what was released, in words"),
            ((GaussianMax(1.0),), "token", "is no charge; expected Charge"),
            (
                (Charge(GaussianMax(float("nan"))),),
                "token",
                "event GaussianMax has sigma nan, expected a finite number",
            ),
            (
                (Charge(GaussianMax(1.0), 0),),
                "token",
                "event GaussianMax happens 0 times, expected a whole number from 1",
            ),
            ((Charge(GaussianMax(1.0), 1.5),), "token", "happens 1.5 times"),  # type: ignore[arg-type]
        ):
            with pytest.raises(PrivacyError, match=text):
                ledger.append(charges, what)  # type: ignore[arg-type]
        with pytest.raises(PrivacyError, match="no lines were given; expected at least one"):
            ledger.append_all([])
        assert guard.spent == 0
        assert ledger.entries == ()
