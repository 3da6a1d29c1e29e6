"""Compiled functions that are cached on disk, announce a long first compilation, and survive a read-only cache."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

log = logging.getLogger("slt_ctc_personalization")

ANNOUNCE_AFTER_S = 0.8
"""A kernel that is on disk loads in a fraction of this; whatever takes longer is being compiled."""


def compile_function(function: Callable[..., Any], *, allocates: bool = True) -> Any:
    """`function` compiled by numba on its first call, without the GIL, kept on disk where a folder can be written.

    A function that `allocates` no arrays is compiled without reference counting, which costs a search more than half
    of its time otherwise.

    Folders tried in order: numba's own choice (`NUMBA_CACHE_DIR`, beside the source, the user's cache folder), then a
    private folder under the system's temporary folder. When none can be written the function is compiled anew in each
    process.
    """
    options = {"nogil": True} if allocates else {"nogil": True, "_nrt": False}
    try:
        return numba.njit(cache=True, **options)(function)
    except (RuntimeError, OSError):
        pass
    folder = _private_folder()
    if folder is not None:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(folder)
        try:
            return numba.njit(cache=True, **options)(function)
        except (RuntimeError, OSError):
            pass
        finally:
            numba.config.CACHE_DIR = before
    return numba.njit(**options)(function)


def compile_kernel(function: Callable[..., Any]) -> Any:
    """As `compile_function`, for a function that allocates nothing."""
    return compile_function(function, allocates=False)


def inline_function(function: Callable[..., Any]) -> Any:
    """`function`, which allocates nothing, as a part of the kernels that call it; kept on disk inside them."""
    return numba.njit(nogil=True, _nrt=False)(function)


def copied_function(function: Callable[..., Any]) -> Any:
    """As `inline_function`, copied into its callers: faster for many tables in few places, slower to compile."""
    return numba.njit(nogil=True, _nrt=False, inline="always")(function)


def cache_folder(dispatcher: Any) -> str | None:
    """The folder that keeps a compiled function, or None when nothing can be written."""
    path = getattr(dispatcher.stats, "cache_path", None)
    return str(path) if path else None


def first_call(dispatcher: Any, *arguments: Any) -> Any:
    """Call a compiled function; when it is not compiled yet and that takes long, say so in one line of the log.

    The line is a warning, so that it reaches stderr when nobody has set up logging.
    """
    if getattr(dispatcher, "overloads", True):  # plain Python where NUMBA_DISABLE_JIT is set
        return dispatcher(*arguments)
    timer = threading.Timer(ANNOUNCE_AFTER_S, _announce, (dispatcher,))
    timer.daemon = True
    timer.start()
    try:
        return dispatcher(*arguments)
    finally:
        timer.cancel()


def writable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`array`, contiguous and not marked read-only: a read-only array is another type and would compile again."""
    if array.flags.writeable and array.flags.c_contiguous:
        return array
    return np.array(array, order="C")


def _announce(dispatcher: Any) -> None:
    folder = cache_folder(dispatcher)
    where = f"kept in {folder}" if folder else "not kept: no cache folder can be written, set NUMBA_CACHE_DIR to one"
    log.warning("compiling the beam search (%s) for this machine, once, about 20 s; %s", dispatcher.__name__, where)


def _private_folder() -> Path | None:
    """A folder that only this user can write: cached kernels are machine code, nobody else may put them there."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"slt-numba-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(state.st_mode) or (hasattr(os, "getuid") and (state.st_uid != user or state.st_mode & 0o077)):
        return None
    return folder if os.access(folder, os.W_OK) else None
