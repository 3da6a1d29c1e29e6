"""What a SQLite file is before anything opens it."""

from __future__ import annotations

import os
from pathlib import Path

from sltcore.errors import DataError

JOURNAL = bytes.fromhex("d9d505f920a163d7")
"""The first bytes of a rollback journal that SQLite would play back."""


def read_only(path: str | Path) -> str:
    """The URI that opens a SQLite file immutable and read-only.

    **Raises** `DataError` where there is no file, it is no SQLite database, or part of it still is in a write-ahead log or
    a rollback journal, which an immutable connection would not see.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file} is no file; expected a SQLite database")
    with file.open("rb") as opened:
        head = opened.read(16)
    if head not in (b"SQLite format 3\x00", b""):
        raise DataError(f"{file} is no SQLite database: it begins with {head!r}")
    log = file.with_name(file.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise DataError(
            f"{file} has {log.stat().st_size} bytes in its write-ahead log, which a read-only copy misses; close the "
            f"program that writes it, or run 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )
    journal = file.with_name(file.name + "-journal")
    if journal.is_file():
        with journal.open("rb") as opened:
            if opened.read(len(JOURNAL)) == JOURNAL:
                raise DataError(
                    f"{file} has a rollback journal: a program is writing it, or ended while it wrote; open it once with "
                    f"a program that may write, which rolls it back"
                )
    return f"{file.resolve().as_uri()}?mode=ro&immutable=1"


def stamp(file: str | Path) -> tuple[int, ...]:
    """What changes when a file is written, replaced, or has a write-ahead log; empty where it is gone."""
    try:
        found = os.stat(file)
    except OSError:
        return ()
    try:
        log = os.stat(f"{file}-wal").st_size
    except OSError:
        log = 0
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, log
