"""Bytes that are on disk when a call returns."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte, however many calls that takes."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def sync(descriptor: int) -> None:
    """Return when the file is on the device; on macOS that takes more than fsync."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Return when the names in the folder are on the device."""
    with open_folder(folder) as descriptor:
        sync(descriptor)


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    """A descriptor of the folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def create(path: Path, content: bytes, *, mode: int = 0o666) -> bool:
    """Make the file with its whole content, on disk with its name; False when there was one already.

    Whatever is cut short, the name holds all of the content or does not exist. Two processes take turns.
    """
    with open_folder(path.parent) as folder:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if os.path.lexists(path):
            return False
        part = path.with_name(f"{path.name}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            write_all(descriptor, content)
            sync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(part, path)
        sync(folder)
    return True
