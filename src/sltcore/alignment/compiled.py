"""Compilation of the search, once for a machine: the machine code is kept in the cache folder."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba

from sltcore.data.cache import cache_folder
from sltcore.errors import DataError

LOG = logging.getLogger(__name__)
ANNOUNCE_AFTER_S = 0.8

OPTIONS: dict[str, Any] = {"nogil": True, "_nrt": False}
"""Without the GIL, and without reference counts: a kernel allocates no arrays."""

_settings: Any = numba.config


def compile_kernel(function: Callable[..., Any]) -> Any:
    """`function` compiled on its first call, without the GIL, kept on disk where a folder can be written.

    numba compiles anew when the file of the function changes; a kernel therefore calls nothing of another file.
    """
    folder = kernel_folder()
    if folder is None:
        return numba.njit(**OPTIONS)(function)
    before = _settings.CACHE_DIR
    _settings.CACHE_DIR = str(folder)  # read while a function is decorated, by nothing else
    try:
        return numba.njit(cache=True, **OPTIONS)(function)
    except (RuntimeError, OSError):
        return numba.njit(**OPTIONS)(function)
    finally:
        _settings.CACHE_DIR = before


@lru_cache(maxsize=1)
def kernel_folder() -> Path | None:
    """`NUMBA_CACHE_DIR`, else `kernels` in the cache folder (`SLT_CACHE`); None where it cannot be written.

    Machine code is run as it lies there, so no folder that others may write stands in for them.
    """
    for root in _roots():
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                return root
        except OSError:
            continue
    return None


def _roots() -> Iterator[Path]:
    if _settings.CACHE_DIR:
        yield Path(_settings.CACHE_DIR)
    with contextlib.suppress(DataError):
        yield cache_folder() / "kernels"


def first_call(kernel: Any, *arguments: Any) -> Any:
    """Call a kernel; when that takes long because it is being compiled, say so in one line of the log."""
    # Without overloads it is plain Python: NUMBA_DISABLE_JIT is set.
    if getattr(kernel, "overloads", True) or _is_kept(kernel.__name__):
        return kernel(*arguments)
    timer = threading.Timer(ANNOUNCE_AFTER_S, _announce, (kernel.__name__,))
    timer.daemon = True
    timer.start()
    try:
        return kernel(*arguments)
    finally:
        timer.cancel()


def _is_kept(name: str) -> bool:
    """Whether the folder holds numba's index of a function: reading the code back takes a moment, no more."""
    folder = kernel_folder()
    return folder is not None and any(folder.glob(f"*/*.{name}-*.nbi"))


def _announce(name: str) -> None:
    folder = kernel_folder()
    where = f"kept in {folder}" if folder else "not kept: no cache folder can be written, set SLT_CACHE to one"
    LOG.warning("compiling %s for this machine, once, a few seconds; %s", name, where)
