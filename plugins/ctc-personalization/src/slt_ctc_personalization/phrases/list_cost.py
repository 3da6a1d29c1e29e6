"""What a list of phrases costs: seconds to make it ready for calls, and bytes that it then takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def cost(parts: Sequence[Any], items: Sequence[Any]) -> tuple[float, int]:
    """Seconds of computing and bytes of memory for a list, beyond what all lists of `parts` share."""
    if not items:
        return 0.0, 0
    one = _prepared(parts, items[:1])  # compiles what is not compiled yet
    begin = time.process_time()
    whole = _prepared(parts, [*items, *items[:1]])  # another list than the one before, even when it has one phrase
    seconds = time.process_time() - begin
    shared = {id(thing) for thing, _ in _things(one, set())}
    return seconds, sum(size for _, size in _things(whole, shared))


def _prepared(parts: Sequence[Any], items: Sequence[Any]) -> Any:
    context: Mapping[str, Any] = {"phrases": items}
    for part in parts:
        context = part.prepare(context)
    return context["phrases"]


def _things(root: Any, seen: set[int]) -> Iterator[tuple[Any, int]]:
    """Everything that hangs on a value, with its bytes; what is in `seen`, and what hangs on that, is left out."""
    work = [root]
    while work:
        thing = work.pop()
        if isinstance(thing, type | int | float | None) or id(thing) in seen or callable(thing):
            continue
        seen.add(id(thing))
        size = getattr(thing, "nbytes", None)
        yield thing, int(size) if isinstance(size, int) else sys.getsizeof(thing)
        if isinstance(thing, Mapping):
            work += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset):
            work += thing
        if not isinstance(thing, str) and hasattr(thing, "__dict__") and not isinstance(size, int):
            work += vars(thing).values()
