"""Kernels over the parts of large arrays, on as many threads as torch uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch

ENTRIES_FOR_A_THREAD = 1 << 16
"""Fewer are done before another thread has woken."""


class _Pool:
    """Threads of this process; a forked one starts its own."""

    def __init__(self) -> None:
        self.executor: ThreadPoolExecutor | None = None
        self.size = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self.executor, self.size = None, 0

    def of(self, size: int) -> ThreadPoolExecutor:
        if self.executor is None or self.size < size:
            self.executor, self.size = ThreadPoolExecutor(size, thread_name_prefix="slt-nna"), size
        return self.executor


_POOL = _Pool()


def spread(rows: int, entries: int, call: Callable[[slice], Any], *, multiple: int = 1) -> Any:
    """call(rows from ... to ...) for parts of `rows`, side by side where `entries` are many; the sum of the results.

    Parts begin at multiples of `multiple`.
    """
    count = min(torch.get_num_threads(), entries // ENTRIES_FOR_A_THREAD, rows // multiple)
    if count < 2:
        return call(slice(0, rows))
    edges = [rows // multiple * place // count * multiple for place in range(count)] + [rows]
    parts = [slice(begin, end) for begin, end in pairwise(edges)]
    waiting = [_POOL.of(count - 1).submit(call, part) for part in parts[1:]]
    results = [call(parts[0]), *(each.result() for each in waiting)]
    return None if results[0] is None else np.sum(results, axis=0)
