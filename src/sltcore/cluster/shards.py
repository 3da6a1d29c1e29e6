"""Shards: some inputs of a run as plain descriptions (ids, paths, side information), which is all that travels to a worker."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from sltcore.context import GENERATOR, is_per_utterance, select
from sltcore.errors import ContextError, DataError
from sltcore.types import ContextKey, Item

FEWEST, PARTS = 8, 256  # a part has at least so many inputs; a run of any size aims at so many parts
MOST: Mapping[str, int] = {"text": 256, "audio": 32, "array": 32}  # inputs of a part by what a row holds
_STAT_THREADS = 16  # file systems of clusters answer slowly, but many at a time


class Shard(NamedTuple):
    """The inputs of one part: `context` holds one value for each of `items`; `digest` names inputs, spec and weights."""

    part: int
    items: tuple[Item, ...]
    context: Mapping[str, list[Any]]
    digest: str

    def packed(self) -> bytes:
        """As bytes that travel."""
        plain = [tuple(item[:5]) for item in self.items]
        return zlib.compress(pickle.dumps((self.part, plain, dict(self.context), self.digest), protocol=5), 6)

    @classmethod
    def unpacked(cls, data: bytes) -> Shard:
        """The inverse of `packed`; a manifest's further columns stayed behind."""
        part, items, context, digest = pickle.loads(zlib.decompress(data))
        return cls(part, tuple(Item(*item) for item in items), context, digest)


def items_per_part(count: int, form: str) -> int:
    """Inputs in a part of a run of `count`; depends on nothing that may change between two runs of the same inputs."""
    return max(FEWEST, min(MOST[form], -(-count // PARTS)))


def cut(
    items: Sequence[Item], context: Mapping[str, Any], keys: Mapping[str, ContextKey], *, size: int, mark: str
) -> list[Shard]:
    """Shards of `size` items each, in order. `context` holds values that differ from utterance to utterance.

    A digest covers id, place, bytes, channel and text of each input, its side information, and `mark`: a recording that
    was replaced by one of another length, or appeared since, makes its part anew.
    """
    sizes = _sizes([item.source for item in items])
    found = []
    for part, start in enumerate(range(0, len(items), size)):
        rows = range(start, min(start + size, len(items)))
        chosen = select(context, keys, rows)
        facts = [[*items[row][:5], sizes[row]] for row in rows]
        text = json.dumps([mark, facts, chosen], sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
        found.append(Shard(part, tuple(items[row] for row in rows), chosen, digest))
    return found


def _sizes(sources: Iterable[Any]) -> list[int | None]:
    def size(source: Any) -> int | None:
        try:
            return os.stat(source).st_size if isinstance(source, str) else None
        except (OSError, ValueError):
            return None

    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        return list(pool.map(size, sources, chunksize=64))


def described(items: Iterable[Item], *, reads_text: bool) -> Iterator[Item]:
    """Items whose source is a place or a text; places are absolute, for a worker stands elsewhere.

    **Raises** `DataError` for an id that was given before, and for a recording that lies in memory.
    """
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DataError(f"input '{item.id}' was given twice; every input needs an id of its own")
        seen.add(item.id)
        yield item._replace(source=item.source if reads_text else _place(item.source, f"input '{item.id}'"), extra={})


def divided(context: Mapping[str, Any], keys: Mapping[str, ContextKey]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What all utterances share, and lists with one value for each; places in both are absolute.

    **Raises** `ContextError` for a random generator, whose numbers would repeat on every worker, and for values of
    single utterances that are no plain data.
    """
    if GENERATOR in context:
        raise ContextError("context 'generator' cannot be given to several workers: each would draw the same numbers")
    shared: dict[str, Any] = {}
    single: dict[str, list[Any]] = {}
    for name, value in context.items():
        key = keys[name]
        if is_per_utterance(value, key):
            single[name] = [_value(entry, key, row) for row, entry in enumerate(value)]
        else:
            shared[name] = _place(value, f"context '{name}'") if _is_place(value, key) else value
    return shared, single


def _is_place(value: Any, key: ContextKey) -> bool:
    return key.type == "waveform" and isinstance(value, str | Path)


def _value(value: Any, key: ContextKey, row: int) -> Any:
    where = f"context '{key.name}' of input {row + 1}"
    if isinstance(value, Item):
        return value._replace(source=_place(value.source, where), extra={})
    if _is_place(value, key):
        return _place(value, where)
    if not _is_plain(value):
        raise ContextError(
            f"{where}: a {type(value).__name__} in memory does not travel to workers; give a path, or numbers and texts"
        )
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, str | int | float | bool)


def _place(source: Any, where: str) -> Any:
    """A source as a worker finds it."""
    if isinstance(source, str | Path):
        text = os.fspath(source)
        return text if "://" in text else os.path.abspath(text)
    if isinstance(source, Mapping) and isinstance(source.get("path"), str) and source.get("bytes") is None:
        return _place(source["path"], where)
    raise DataError(
        f"{where}: a {type(source).__name__} in memory does not travel to workers; write it to a file in a folder that "
        "every worker sees and give its path, or run without --engine ray"
    )
