"""The cache folder: where it lies, one writer at a time, and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sltcore.errors import DataError

Progress = Callable[[str], None]
_POLL_S = 0.2


def cache_place() -> Path:
    """$SLT_CACHE, else the platform's cache folder for sltcore, which need not exist."""
    named = os.environ.get("SLT_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sltcore"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "sltcore" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sltcore"


def cache_folder() -> Path:
    """`cache_place`, made where it is missing.

    Raises DataError where it cannot be made or written.
    """
    folder = cache_place()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the cache folder {folder} cannot be made: {error.strerror}; set SLT_CACHE=FOLDER") from None
    if not os.access(folder, os.W_OK):
        raise DataError(f"the cache folder {folder} cannot be written; set SLT_CACHE=FOLDER")
    return folder.resolve()


@contextlib.contextmanager
def locked(path: Path, progress: Progress) -> Iterator[int]:
    """Hold the lock file `path`, waiting for whoever holds it; the lock goes with its process, so none is ever stale.

    Yields the open file's descriptor: a child that inherits it holds the lock for as long as it lives, even when this
    process is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        told = False
        while not _try_lock(file.fileno()):
            if not told:
                progress(f"waiting for another process that is filling {path.parent}")
                told = True
            time.sleep(_POLL_S)
        yield file.fileno()


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` to fill; renamed to it at the end, removed when anything fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield fresh
        fresh.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half filled in `folder`; the caller holds the lock."""
    for entry in folder.glob(".*-*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
