"""Who may write a ledger: one process, one object, one file."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from pate_ledgers import VOTE, Budget, opened

from slt_pate.events import (
    Charge,
    GaussianMax,
)
from slt_pate.ledger import read_ledger
from slt_pate.mechanisms import GNMax
from sltcore.errors import PrivacyError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_two_processes_cannot_hold_a_ledger(path: Path) -> None:
    def attempt(answers: Any) -> None:
        try:
            opened(path).close()
            answers.put("opened")
        except PrivacyError as error:
            answers.put(str(error))

    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with opened(path) as ledger:
        child = context.Process(target=attempt, args=(answers,))
        child.start()
        assert "is in use by another process; two could each spend what is left" in answers.get(timeout=30)
        child.join()
        with pytest.raises(PrivacyError, match="is in use by another process"):
            opened(path)
        ledger.append(VOTE, "token")
    child = context.Process(target=attempt, args=(answers,))
    child.start()
    assert answers.get(timeout=30) == "opened"
    child.join()


def test_processes_that_begin_a_ledger_at_once_begin_the_same(path: Path) -> None:
    def begin(ready: Any, answers: Any) -> None:
        ready.wait()
        while True:
            try:
                with opened(path, Budget(10**6)) as ledger:
                    answers.put(ledger.append(VOTE, f"by {os.getpid()}").ledger)
                return
            except PrivacyError as error:
                assert "is in use" in str(error)

    context = multiprocessing.get_context("fork")
    answers, ready = context.Queue(), context.Barrier(4)
    children = [context.Process(target=begin, args=(ready, answers)) for _ in range(4)]
    for child in children:
        child.start()
    assert len({answers.get(timeout=30) for _ in children}) == 1
    for child in children:
        child.join()
    assert read_ledger(path).charges == (Charge(GaussianMax(20.0), 4),)


def test_a_fork_must_not_append(path: Path) -> None:
    with opened(path) as ledger:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                ledger.append(VOTE, "token")
            except PrivacyError as error:
                os.write(writing, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        assert b"a fork must not append" in os.read(reading, 4096)
        os.close(reading)
        ledger.append(VOTE, "token")


def test_threads_take_turns(path: Path) -> None:
    with opened(path) as ledger:
        threads = [
            threading.Thread(target=lambda: [ledger.release(GNMax(1.0), [3, 1], "token") for _ in range(10)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert read_ledger(path).charges == (Charge(GaussianMax(1.0), 40),)


@pytest.mark.parametrize("how", ["removed", "replaced", "written by another", "shortened"])
def test_a_ledger_that_changes_while_it_is_open_is_refused(path: Path, how: str) -> None:
    with opened(path) as ledger:
        ledger.append(VOTE, "token")
        content = path.read_bytes()
        match how:
            case "removed":
                path.unlink()
            case "replaced":
                path.rename(path.with_name("old"))
                path.write_bytes(content)
            case "written by another":
                path.write_bytes(content + b"\n")
            case "shortened":
                os.truncate(path, len(content) - 1)
        with pytest.raises(
            PrivacyError, match="was moved, replaced or changed while it was open; nothing was released"
        ):
            ledger.append(VOTE, "token")


def test_a_closed_ledger_says_so(path: Path) -> None:
    ledger = opened(path)
    ledger.close()
    ledger.close()
    with pytest.raises(PrivacyError, match="is closed. Next: Ledger.open"):
        ledger.append(VOTE, "token")
