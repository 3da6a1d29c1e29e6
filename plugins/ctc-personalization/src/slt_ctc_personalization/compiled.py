"""Compiled functions that are cached on disk, announce a long first compilation, and survive a read-only cache."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from sltcore.data.cache import cache_folder
from sltcore.errors import DataError

log = logging.getLogger("slt_ctc_personalization")

ANNOUNCE_AFTER_S = 0.8
"""A kernel that is on disk loads in a fraction of this; whatever takes longer is being compiled."""


WITHOUT_COUNTS: dict[str, Any] = {"nogil": True, "_nrt": False}
"""Options of a function that allocates no arrays: no reference counts, which are atomic and cost half of a search."""

config: Any = numba.config


def compile_function(function: Callable[..., Any], *, allocates: bool = True) -> Any:
    """`function` compiled by numba on its first call, without the GIL, kept on disk where a folder can be written.

    A function that `allocates` no arrays is compiled without reference counting, which costs a search more than half
    of its time otherwise. The folder: see `kernel_folder`; without one the function is compiled in each process.
    """
    options = {"nogil": True} if allocates else WITHOUT_COUNTS
    folder = kernel_folder()
    if folder is None:
        return numba.njit(**options)(function)
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)  # read while a function is decorated, by nothing else of ours
    try:
        return numba.njit(cache=True, **options)(function)
    except (RuntimeError, OSError):
        return numba.njit(**options)(function)
    finally:
        config.CACHE_DIR = before


def compile_kernel(function: Callable[..., Any]) -> Any:
    """As `compile_function`, for a function that allocates nothing."""
    return compile_function(function, allocates=False)


def inline_function(function: Callable[..., Any]) -> Any:
    """`function`, which allocates nothing, as a part of the kernels that call it; kept on disk inside them."""
    return numba.njit(**WITHOUT_COUNTS)(function)


def copied_function(function: Callable[..., Any]) -> Any:
    """As `inline_function`, copied into its callers: faster for many tables in few places, slower to compile."""
    return numba.njit(**WITHOUT_COUNTS, inline="always")(function)


@lru_cache(maxsize=1)
def kernel_folder() -> Path | None:
    """The folder of compiled kernels, or None when none can be written.

    The first that can be written of `NUMBA_CACHE_DIR`, the cache folder (`SLT_CACHE`), and a private folder under the
    system's temporary folder; inside it one for each state of the compiled modules. (numba watches only the file of
    the kernel itself, and would go on using the old text of functions that it calls from other files.)
    """
    for root in _roots():
        folder = root / f"kernels-{_digest_of_sources()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def _roots() -> Iterator[Path]:
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR)
    with contextlib.suppress(DataError):
        yield cache_folder()
    private = _private_folder()
    if private is not None:
        yield private


def _private_folder() -> Path | None:
    """A folder that only this user can write: cached kernels are machine code, nobody else may put them there."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"slt-kernels-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return None
    foreign = hasattr(os, "getuid") and (state.st_uid != user or state.st_mode & 0o077)
    return None if foreign or not stat.S_ISDIR(state.st_mode) else folder


def _digest_of_sources() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        text = path.read_bytes()
        if b"slt_ctc_personalization.compiled" in text:
            digest.update(text)
    return digest.hexdigest()[:16]


def first_call(dispatcher: Any, *arguments: Any) -> Any:
    """Call a compiled function; when it is not compiled yet and that takes long, say so in one line of the log.

    The line is a warning, so that it reaches stderr when nobody has set up logging.
    """
    # Without overloads it is plain Python: NUMBA_DISABLE_JIT is set.
    if getattr(dispatcher, "overloads", True) or _is_kept(dispatcher.__name__):
        return dispatcher(*arguments)
    timer = threading.Timer(ANNOUNCE_AFTER_S, _announce, (dispatcher,))
    timer.daemon = True
    timer.start()
    try:
        return dispatcher(*arguments)
    finally:
        timer.cancel()


def _is_kept(name: str) -> bool:
    """Whether the folder of kernels holds numba's index of a function: reading it back takes a moment, no more."""
    folder = kernel_folder()
    return folder is not None and any(folder.glob(f"*/*.{name}-*.nbi"))


def _announce(dispatcher: Any) -> None:
    folder = kernel_folder()
    where = f"kept in {folder}" if folder else "not kept: no cache folder can be written, set SLT_CACHE to one"
    log.warning("compiling %s for this machine, once, about 20 s; %s", dispatcher.__name__, where)


def writable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`array`, contiguous and not marked read-only: a read-only array is another type and would compile again."""
    if array.flags.writeable and array.flags.c_contiguous:
        return array
    return np.array(array, order="C")
