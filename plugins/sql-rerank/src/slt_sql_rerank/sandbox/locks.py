"""A lock that no fork inherits held."""

from __future__ import annotations

import os
from threading import RLock
from types import TracebackType
from weakref import WeakSet

_known: WeakSet[ForkedLock] = WeakSet()


class ForkedLock:
    """A lock for `with`, taken again by who holds it; in a forked process it is free, whoever held it in the parent."""

    def __init__(self) -> None:
        self.renew()
        _known.add(self)

    def renew(self) -> None:
        """Nobody holds it any more."""
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def _renew_all() -> None:
    for lock in list(_known):
        lock.renew()


os.register_at_fork(after_in_child=_renew_all)
