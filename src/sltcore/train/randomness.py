"""Random numbers that depend on the seed and the step alone, so that no random state has to survive a crash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*parts: object) -> int:
    """A number in [0, 2**63) that depends on `parts` alone.

    >>> seed_of(0, 1) == seed_of(0, 1) != seed_of(1, 0)
    True
    """
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Give torch's own generators back as they were; dropout draws from them and takes no other."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """So many threads for torch meanwhile: sums of another number of threads round differently."""
    before = torch.get_num_threads()
    if threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads != before:
            torch.set_num_threads(before)
