"""Which updates are on, for a whole call or for each of its utterances."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sltcore.context import is_per_utterance
from sltcore.errors import ContextError, did_you_mean
from sltcore.types import ContextKey

UPDATES = ContextKey("updates", "texts", "the names of the updates that are on; without it all of them")
TRANSCRIPT = ContextKey(
    "transcript", "text", "the words that are said: in training, utterances without a taught word are general audio"
)

EDGES = re.compile(r"^[\W_]+|[\W_]+$")
"""What is neither letter nor digit, at the ends of a word."""


class Selection(NamedTuple):
    """`names` of the updates that are on somewhere, in the order they work in; `rows` says for each utterance which of
    them are, where that differs: a tuple of tuples of booleans, utterance by name."""

    names: tuple[str, ...]
    rows: tuple[tuple[bool, ...], ...] | None = None


def select(context: Mapping[str, Any], known: Sequence[str]) -> Selection:
    """What the context's `updates` ask for, among the `known` ones and in their order.

    **Raises** `ContextError` for a name that no update has.
    """
    value = context.get(UPDATES.name)
    if value is None:
        return Selection(tuple(known))
    lists = list(value) if is_per_utterance(value, UPDATES) else [value]
    wanted = [set(known) if one is None else _checked(one, known) for one in lists]
    if all(one == wanted[0] for one in wanted[1:]):
        return Selection(tuple(name for name in known if wanted and name in wanted[0]))
    together = set().union(*wanted)
    names = tuple(name for name in known if name in together)
    return Selection(names, tuple(tuple(name in one for name in names) for one in wanted))


def _checked(names: Any, known: Sequence[str]) -> set[str]:
    found = {str(name) for name in names}
    for name in sorted(found):
        if name not in known:
            has = ", ".join(known) or "none"
            raise ContextError(
                f"context 'updates' names '{name}', but the updates are: {has}.{did_you_mean(name, known)}"
            )
    return found


def general_rows(context: Mapping[str, Any], words: Sequence[str]) -> tuple[bool, ...] | None:
    """Which utterances of a call are general audio: those whose transcript holds none of `words`; None where nothing says
    so, because the call gives no transcript or the update names no words."""
    given = context.get(TRANSCRIPT.name)
    if given is None or not words:
        return None
    texts = given if isinstance(given, list) else [given]
    return tuple(text is not None and not any(occurrences(text, word) for word in words) for text in texts)


def occurrences(text: str, phrase: str) -> int:
    """How often the words of `phrase` stand in `text` in a row, in any case, whatever punctuation stands around them.

    >>> occurrences("play aurora rising and Aurora Rising", "aurora rising")
    2
    >>> occurrences("Play 'Aurora, Rising'!", "aurora rising")
    1
    """
    words, wanted = spoken_words(text), spoken_words(phrase)
    if not wanted:
        return 0
    count, place = 0, 0
    while place + len(wanted) <= len(words):
        hit = words[place : place + len(wanted)] == wanted
        count += hit
        place += len(wanted) if hit else 1
    return count


def spoken_words(text: str) -> list[str]:
    """The words of a text in lower case, without the punctuation around each.

    >>> spoken_words("It's - well, 'so' so.")
    ["it's", 'well', 'so', 'so']
    """
    bare = (EDGES.sub("", word) for word in text.casefold().split())
    return [word for word in bare if word]
