"""Crashes: whatever is cut short, the ledger shows at least what left, and the artefacts that left find their stamps in it.

A run of releases is cut before, after and within each call that changes the disk. What the next process finds is tried in
every form that the rules of POSIX leave open: all that was written (the process died), or what was synced alone (the
machine died), with names that were not synced there or gone, and with the unsynced rest of a file cut at some byte or empty.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pate_ledgers import Budget, opened, total

from slt_pate.events import Charge
from slt_pate.ledger import PrivateVotes, Stamp, read_ledger
from slt_pate.ledger.charges import charge_from_json, charge_to_json
from slt_pate.ledger.durable import create
from slt_pate.mechanisms import ConfidentGNMax, GNMax, LNMax

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the simulated disk reads /proc/self/fd")

CHANGES = ("write", "fsync", "rename", "ftruncate")
NAME = "ledger.jsonl"
HOWS = ("before", "after", "within")


class Crash(BaseException):
    """The machine stops."""


def releases(folder: Path, left: Callable[[Sequence[Charge], Stamp], None]) -> None:
    """A run: what is handed to `left` is out of the house."""
    with opened(folder / NAME) as ledger:
        answer = ledger.release(GNMax(20.0), [5, 3, 1], "token 0")
        left(answer.charges, ledger.stamp)
        batch = ledger.release_batch(ConfidentGNMax(4.0, 2.0, sigma=1.0), np.tile([5, 3, 1], (20, 1)), "tokens 1 to 20")
        left(batch.charges, ledger.stamp)
    with opened(folder / NAME) as ledger:
        answers = [LNMax(3.0).release([5, 3, 1]) for _ in range(3)]
        ledger.append_all((one.charges, f"token {place}") for place, one in enumerate(answers))
        left([charge for one in answers for charge in one.charges], ledger.stamp)


class Disk:
    """Stands before the calls of `os` that change a folder, and knows what of it is certainly on the device."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, before: Disk | None = None) -> None:
        self.folder, self.patch = folder, patch
        self.calls, self.stop_at, self.how = 0, -1, "before"
        self.synced: dict[int, bytes] = before.synced if before else {}
        self.names: dict[str, int] = before.names if before else {}
        self.open: list[int] = []
        self.real = {name: getattr(os, name) for name in (*CHANGES, "open", "close")}
        for name in CHANGES:
            patch.setattr(os, name, self._call(name))
        patch.setattr(os, "open", self._open)

    def _open(self, *arguments: Any, **options: Any) -> int:
        descriptor: int = self.real["open"](*arguments, **options)
        self.open.append(descriptor)
        return descriptor

    def _call(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            here, self.calls = self.calls, self.calls + 1
            if self.stop_at >= 0 and (here > self.stop_at or (here == self.stop_at and self.how == "before")):
                raise Crash
            if here == self.stop_at and self.how == "within" and name == "write":
                self.real["write"](arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise Crash
            result = self.real[name](*arguments)
            if name == "fsync":
                self._remember(arguments[0])
            if here == self.stop_at:
                raise Crash
            return result

        return call

    def _remember(self, descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            self.names = {one.name: one.stat().st_ino for one in self.folder.iterdir()}
        else:
            self.synced[os.fstat(descriptor).st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def end(self) -> None:
        """The process is gone: its descriptors and locks with it."""
        self.patch.undo()
        for descriptor in self.open:
            try:
                os.close(descriptor)
            except OSError:
                continue

    def found(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        """What the next process may find, as names and contents."""
        now = {one.name: (one.stat().st_ino, one.read_bytes()) for one in self.folder.iterdir()}
        yield "all", {name: content for name, (_, content) in now.items()}
        contents = dict(now.values())
        yield "synced", {name: self.synced.get(inode, b"") for name, inode in self.names.items()}
        yield "names", {name: self.synced.get(inode, b"") for name, (inode, _) in now.items()}
        for share in (0.3, 0.99):
            yield f"cut {share}", {name: self._cut(inode, contents[inode], share) for name, (inode, _) in now.items()}
        yield (
            "zeros",
            {
                name: self.synced.get(inode, b"") + bytes(max(0, len(content) - len(self.synced.get(inode, b""))))
                for name, (inode, content) in now.items()
            },
        )

    def _cut(self, inode: int, content: bytes, share: float) -> bytes:
        sure = self.synced.get(inode, b"")
        return content[: len(sure) + int(share * (len(content) - len(sure)))] if len(content) > len(sure) else content


def check(folder: Path, left: list[Charge], stamps: list[Stamp]) -> None:
    """The promises, for what a crash left in `folder`; and that releasing goes on."""
    if not (folder / NAME).exists():
        assert not left, "something left, and there is no ledger"
    guard = Budget(math.inf)
    named = {f"artefact {place}": stamp for place, stamp in enumerate(stamps)}
    with opened(folder / NAME, guard, stamps=named if stamps else None) as ledger:
        shown = total(guard.charges)
        assert all(shown.get(event, 0) >= count for event, count in total(left).items()), (
            "the ledger shows less than left"
        )
        assert total(ledger.charges) == shown
        more = ledger.release(GNMax(7.0), [5, 3], "after the crash")
        stamps = [*stamps, ledger.stamp]
    after = read_ledger(folder / NAME)
    assert total(after.charges) == total([*guard.charges])
    assert total(after.charges).get(more.charges[0].event, 0) >= 1
    assert set(PrivateVotes(folder / NAME).read()) <= set(after.hashes)
    for place, stamp in enumerate(stamps):
        after.verify(stamp, what=f"artefact {place}")


def count_calls(folder: Path, patch: pytest.MonkeyPatch) -> int:
    folder.mkdir()
    disk = Disk(folder, patch)
    releases(folder, lambda charges, stamp: None)
    disk.end()
    return disk.calls


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS)
def test_a_crash_at_any_change_of_the_disk_leaves_a_ledger_that_shows_what_left(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(tmp_path / "whole", monkeypatch)
    assert calls >= 15
    for stop_at in range(calls):
        folder = tmp_path / f"{stop_at}"
        folder.mkdir()
        left: list[Charge] = []
        stamps: list[Stamp] = []

        def leave(
            charges: Sequence[Charge], stamp: Stamp, left: list[Charge] = left, stamps: list[Stamp] = stamps
        ) -> None:
            left += charges
            stamps.append(stamp)

        disk = Disk(folder, monkeypatch)
        disk.stop_at, disk.how = stop_at, how
        with pytest.raises(Crash):
            releases(folder, leave)
        disk.end()
        for name, contents in list(disk.found()):
            check(restored(tmp_path / f"{stop_at} {name}", contents), left, stamps)


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS)
def test_what_a_killed_process_did_not_sync_the_next_one_does(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first process is killed, the second releases more or only reads the head, then the machine stops.
    for stop_at in range(count_calls(tmp_path / "whole", monkeypatch)):
        for releases_more in (False, True):
            folder = tmp_path / f"{stop_at} {releases_more}"
            folder.mkdir()
            left: list[Charge] = []
            stamps: list[Stamp] = []
            first = Disk(folder, monkeypatch)
            first.stop_at, first.how = stop_at, how
            with pytest.raises(Crash):
                releases(folder, lambda charges, stamp: None)
            first.end()
            second = Disk(folder, monkeypatch, first)
            with opened(folder / NAME) as ledger:
                if releases_more:
                    left += ledger.release(GNMax(20.0), [5, 3], "token").charges
                stamps.append(ledger.stamp)
            second.end()
            for name, contents in list(second.found()):
                check(restored(tmp_path / f"{stop_at} {releases_more} {name}", contents), left, stamps)


def restored(folder: Path, contents: dict[str, bytes]) -> Path:
    """A folder with these files."""
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    return folder


def test_a_file_that_was_created_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path, monkeypatch)
    assert create(tmp_path / "file", b"content")
    disk.end()
    assert dict(disk.found())["synced"] == {"file": b"content"}
    assert not create(tmp_path / "file", b"other")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_the_check_would_see_an_answer_that_leaves_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path, monkeypatch)
    left: list[Charge] = []
    monkeypatch.setattr("slt_pate.ledger.ledger.sync", lambda descriptor: None)
    releases(tmp_path, lambda charges, stamp: left.extend(charges))
    disk.end()
    after = restored(tmp_path.with_name("after"), dict(disk.found())["synced"])
    with pytest.raises(AssertionError, match="the ledger shows less than left"):
        check(after, left, [])


@pytest.mark.slow
def test_a_process_killed_at_any_change_of_the_disk_leaves_a_ledger_that_shows_what_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(tmp_path / "whole", monkeypatch)
    for stop_at in range(calls + 1):
        folder = tmp_path / f"{stop_at}"
        folder.mkdir()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            run_until_killed(folder, writing, stop_at)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == (signal.SIGKILL if stop_at < calls else 0)
        with os.fdopen(reading) as pipe:
            heard = [json.loads(line) for line in pipe]
        assert len(heard) == 3 or stop_at < calls
        left = [charge_from_json(one) for line in heard for one in line["charges"]]
        check(folder, left, [Stamp.from_json(line["stamp"]) for line in heard])


def run_until_killed(folder: Path, pipe: int, stop_at: int) -> None:
    """Make releases and tell the pipe what left, until this process is killed at one of its changes of the disk."""
    write = os.write
    calls = itertools.count()

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if next(calls) == stop_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return call

    for name in CHANGES:
        setattr(os, name, wrap(getattr(os, name)))

    def leave(charges: Sequence[Charge], stamp: Stamp) -> None:
        write(pipe, told(charges, stamp))

    releases(folder, leave)
    os._exit(0)


def told(charges: Sequence[Charge], stamp: Stamp) -> bytes:
    """What left, as a line."""
    line = {"charges": [charge_to_json(charge) for charge in charges], "stamp": stamp.to_json()}
    return json.dumps(line).encode() + b"\n"
