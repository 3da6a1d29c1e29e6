"""The votes behind a ledger's lines: a private file beside it, for data-dependent figures. It is never published.

Only what the analysis needs is kept: the sorted counts of each query, not which class had them, and not who voted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slt_pate.ledger.durable import sync, sync_folder, write_all
from sltcore.errors import PrivacyError

SUFFIX = ".votes-private"
OTHERS = 0o077


@dataclass(frozen=True)
class VoteRecord:
    """The votes of one ledger line: int64 [q v], each row in falling order; `answered` bool [q], False where the threshold
    test said no."""

    votes: NDArray[np.int64]
    answered: NDArray[np.bool_]


class PrivateVotes:
    """Appends and reads the side file of the ledger at `ledger`, readable by its owner alone."""

    def __init__(self, ledger: str | Path) -> None:
        self.path = Path(f"{ledger}{SUFFIX}")

    def append(self, line_hash: str, votes: ArrayLike, answered: ArrayLike) -> None:
        """Write down the votes int [q v] of the ledger line with this hash, and return when they are on disk.

        **Raises** `PrivacyError` when the file can be read by others, `OSError` when it cannot be written.
        """
        record = {
            "line": line_hash,
            "classes": int(np.shape(votes)[1]),
            "votes": [_falling(row) for row in np.asarray(votes)],
            "answered": [int(one) for one in np.asarray(answered)],
        }
        body = json.dumps(record, sort_keys=True, separators=(",", ":"))
        is_new = not self.path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        try:
            self._refuse_mode(os.fstat(descriptor).st_mode)
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            write_all(descriptor, b"\n" * torn + f"{_digest(body)} {body}\n".encode())
            sync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(self.path.parent)

    def read(self) -> Mapping[str, VoteRecord]:
        """The records by the hash of their ledger line.

        Lines that were cut or changed are passed over: without votes a ledger line counts with its data-independent cost.
        **Raises** `PrivacyError` when the file can be read by others.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return {}
        with os.fdopen(descriptor, "rb") as file:
            self._refuse_mode(os.fstat(descriptor).st_mode)
            return {data["line"]: _record(data) for data in _intact(file.read())}

    def refuse_open_to_others(self) -> None:
        """**Raises** `PrivacyError` when the file is there and can be read by others."""
        if self.path.exists():
            self._refuse_mode(self.path.stat().st_mode)

    def _refuse_mode(self, mode: int) -> None:
        if mode & OTHERS:
            raise PrivacyError(
                f"{self.path} holds private votes and has mode {mode & 0o777:04o}, expected 0600. Next: chmod 600 {self.path}"
            )


def _intact(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.split(b"\n"):
        digest, _, body = line.partition(b" ")
        text = body.decode("ascii", "replace")
        if body and digest.decode("ascii", "replace") == _digest(text):
            yield json.loads(text)


def _record(data: Mapping[str, Any]) -> VoteRecord:
    votes = np.zeros((len(data["votes"]), data["classes"]), dtype=np.int64)
    for row, counts in zip(votes, data["votes"], strict=True):
        row[: len(counts)] = counts
    return VoteRecord(votes, np.array(data["answered"], dtype=bool))


def _falling(row: NDArray[np.int64]) -> list[int]:
    return [int(count) for count in -np.sort(-row) if count]


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
