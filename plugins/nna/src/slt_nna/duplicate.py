"""A copy of a model with weights of its own, whatever else hangs on it."""

from __future__ import annotations

import copy
from types import FunctionType, MappingProxyType, ModuleType
from typing import TypeVar

T = TypeVar("T")
SHARED = (type, FunctionType, ModuleType, MappingProxyType)


def duplicate(value: T) -> T:
    """A deep copy, in which what Python cannot copy (locks, files, handles of other libraries) is the same object.

    A search with a lock beside a model's head is so copied around the lock: its references to modules point into the copy.
    """
    return _copied(value, {}, [])


def _copied(value: T, memo: dict[int, object], alive: list[object]) -> T:
    if id(value) in memo:
        found: T = memo[id(value)]  # type: ignore[assignment]
        return found
    attempt = dict(memo)
    try:
        made = copy.deepcopy(value, attempt)
    except (TypeError, copy.Error):
        return _around(value, memo, alive)
    alive.append(attempt.pop(id(attempt), None))  # objects whose ids stand in the memo, under an id that is free soon
    memo.update(attempt)
    return made


def _around(value: T, memo: dict[int, object], alive: list[object]) -> T:
    """One level by hand, the members each by their own way."""
    made: object
    if type(value) in (dict, list, tuple) or hasattr(value, "_fields"):
        return _container(value, memo, alive)
    if not hasattr(value, "__dict__") or isinstance(value, SHARED):
        memo[id(value)] = value
        return value
    made = object.__new__(type(value))
    memo[id(value)] = made
    for name, member in vars(value).items():
        made.__dict__[name] = _copied(member, memo, alive)
    return made  # type: ignore[return-value]


def _container(value: object, memo: dict[int, object], alive: list[object]) -> T:  # type: ignore[type-var]
    made: object
    if isinstance(value, dict):
        made = memo[id(value)] = {}
        made.update({_copied(key, memo, alive): _copied(member, memo, alive) for key, member in value.items()})
    elif isinstance(value, list):
        made = memo[id(value)] = []
        made.extend(_copied(member, memo, alive) for member in value)
    else:
        assert isinstance(value, tuple)
        members = [_copied(member, memo, alive) for member in value]
        made = memo[id(value)] = type(value)(*members) if hasattr(value, "_fields") else tuple(members)
    return made  # type: ignore[return-value]
