"""A disk that refuses: the answer is withheld, and the ledger goes on from what is certain."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from pate_ledgers import Budget, opened

from slt_pate.ledger import read_ledger
from slt_pate.mechanisms import GNMax
from sltcore.errors import PrivacyError

NAME = "ledger.jsonl"


@pytest.mark.parametrize("name", ["write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_withholds_the_answer_and_ends_the_object(
    name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened(tmp_path / NAME)
    ledger.release(GNMax(20.0), [5, 3], "token 0")
    stamp, content = ledger.stamp, (tmp_path / NAME).read_bytes()

    def refuse(descriptor: int, *arguments: Any) -> int:
        if name == "write":
            real(descriptor, bytes(arguments[0])[:30])
        raise OSError(code, os.strerror(code))

    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        with pytest.raises(PrivacyError, match=rf"could not be written \({os.strerror(code)}\); nothing was released"):
            ledger.release(GNMax(20.0), [5, 3], "token 1")
    with pytest.raises(PrivacyError, match="make room or mend the disk, then open the ledger again"):
        ledger.release(GNMax(20.0), [5, 3], "token 1")
    ledger.close()
    assert (tmp_path / NAME).read_bytes() == content  # what could not be synced was taken away
    with opened(tmp_path / NAME, stamps={"token 0": stamp}) as ledger:
        ledger.release(GNMax(20.0), [5, 3], "token 1")


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_withholds_the_answer(room: int, tmp_path: Path) -> None:
    # RLIMIT_FSIZE makes the kernel itself write in part and then refuse, as a full disk does.
    import resource

    with opened(tmp_path / NAME) as ledger:
        ledger.release(GNMax(20.0), [5, 3], "token 0")
    size = (tmp_path / NAME).stat().st_size
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        ledger = opened(tmp_path / NAME)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, size + room))
        try:
            ledger.release(GNMax(20.0), [5, 3], "token 1")
            os.write(writing, b"released")
        except PrivacyError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert "could not be written (File too large); nothing was released" in pipe.read()
    guard = Budget()
    with opened(tmp_path / NAME, guard) as ledger:
        assert guard.spent == 1
        assert ledger.release(GNMax(20.0), [5, 3], "token 1").value is not None


def test_a_full_disk_for_the_votes_withholds_the_answer_and_keeps_the_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, *arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("slt_pate.ledger.private_votes.PrivateVotes.append", refuse)
    with opened(tmp_path / NAME) as ledger:
        with pytest.raises(
            PrivacyError, match="votes-private cannot be written: No space left on device; the answers were"
        ):
            ledger.release(GNMax(20.0), [5, 3], "token")
        assert len(ledger.entries) == 1


def test_writing_in_small_parts_writes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, bytes(content)[:7]))
    with opened(tmp_path / NAME) as ledger:
        ledger.release(GNMax(20.0), [5, 3], "token")
        head = ledger.head
    assert read_ledger(tmp_path / NAME).stamp.head == head


def test_an_interrupt_while_writing_ends_the_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    with opened(tmp_path / NAME) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupt)
            with pytest.raises(KeyboardInterrupt):
                ledger.release(GNMax(20.0), [5, 3], "token")
        with pytest.raises(PrivacyError, match=r"could not be written \(KeyboardInterrupt\)"):
            ledger.release(GNMax(20.0), [5, 3], "token")
    assert read_ledger(tmp_path / NAME).entries == ()
