"""Functions compiled by numba, kept on disk where a folder can be written."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba

from slt_nna.compiling import announce_compilation
from sltcore.data.cache import cache_folder
from sltcore.errors import DataError

config: Any = numba.config


def compile_kernel(function: Callable[..., Any]) -> Any:
    """`function` compiled on its first call, without the GIL; in each process anew where no folder can be written."""
    announce_compilation()
    folder = _folder()
    if folder is None:
        return numba.njit(nogil=True)(function)
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)  # read while a function is decorated, by nothing else of ours
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except (RuntimeError, OSError):
        return numba.njit(nogil=True)(function)
    finally:
        config.CACHE_DIR = before


def inline_function(function: Callable[..., Any]) -> Any:
    """`function` as a part of the kernels that call it, kept on disk inside them."""
    return numba.njit(nogil=True)(function)


@lru_cache(maxsize=1)
def _folder() -> Path | None:
    """A folder for this state of the kernels' texts: numba itself watches only the file of the kernel, not those of the
    functions that it calls."""
    for root in _roots():
        folder = root / f"nna-kernels-{_digest()}"
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


def _digest() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_bytes()
        if b"compile_kernel" in text or b"inline_function" in text:
            digest.update(text)
    return digest.hexdigest()[:16]
