"""What is made of a model's parameters off-line, and kept while they stay the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Sources = tuple[Tensor | None, ...]
Key = tuple[Hashable, ...]


class _Entry(NamedTuple):
    sources: Sources
    versions: tuple[int, ...]
    copies: Sources
    made: Any


class Constants:
    """Results by key and by the values of the tensors that they are made of, the latest for each key.

    A tensor that is the same object and was not changed is not looked at; another one is compared, since parametrized
    weights are new tensors at every call.
    """

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}

    def entries(self, kind: str) -> list[Any]:
        """What was made for the keys that begin with `kind`."""
        return [entry.made for key, entry in self._entries.items() if key[0] == kind]

    def get(self, key: Key, sources: Sources, make: Callable[[], Any]) -> Any:
        """What was made of these tensors for `key`, or what `make` makes now."""
        versions = tuple(0 if each is None else _version(each) for each in sources)
        entry = self._entries.get(key)
        if entry is not None:
            if versions == entry.versions and all(new is old for new, old in zip(sources, entry.sources, strict=True)):
                return entry.made
            if all(_same(new, old) for new, old in zip(sources, entry.copies, strict=True)):
                self._entries[key] = entry._replace(sources=sources, versions=versions)
                return entry.made
        copies = tuple(None if each is None else each.detach().cpu().clone() for each in sources)
        made = make()
        self._entries[key] = _Entry(sources, versions, copies, made)
        return made


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _same(new: Tensor | None, old: Tensor | None) -> bool:
    if new is None or old is None:
        return new is old
    return new.shape == old.shape and new.dtype == old.dtype and torch.equal(new.detach().cpu(), old)
