"""Phrase lists made ready once and used in many calls, by several stages that read the same lists."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sltcore.types import ContextKey

PHRASES = ContextKey("phrases", "texts", "phrases to expect: texts, or maps with text, weight, bonus and spellings")
KEPT_LISTS = 8


class PreparedPhrases(tuple[Any, ...]):
    """A list of phrases with what was made of it; still a list of phrases to every other stage.

    `made` holds the automaton of a search, the table of a spotter and so on, by the id of the object that reads it.
    """

    made: dict[int, tuple[Any, Any]]

    def __new__(cls, phrases: Iterable[Any]) -> PreparedPhrases:
        prepared = super().__new__(cls, phrases)
        prepared.__dict__.update(getattr(phrases, "__dict__", {}))  # what another stage has attached stays
        prepared.made = dict(getattr(phrases, "made", {}))
        return prepared


class PhraseLists:
    """What is made of phrase lists, kept for the last few of them: a change of the list costs its making and no more."""

    def __init__(self, make: Callable[[Any], Any], owner: Any) -> None:
        """`make` gets a list of phrases as a call holds it; `owner` is what the result works with, and nothing else."""
        self._make = make
        self._owner = owner
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def of(self, phrases: Any) -> Any:
        """What is made of one list, None for none. **Raises** as `make`."""
        if phrases is None:
            return None
        if isinstance(phrases, PreparedPhrases) and id(self._owner) in phrases.made:
            return phrases.made[id(self._owner)][1]
        if isinstance(phrases, Iterable) and not isinstance(phrases, str | Mapping):
            phrases = tuple(phrases)  # an array's own text leaves out its middle, and an object's says where it lies
        key = repr(phrases)
        if key not in self._kept:
            self._kept[key] = self._make(phrases)
            while len(self._kept) > KEPT_LISTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def attached(self, phrases: Any) -> Any:
        """The list with what is made of it attached. **Raises** as `make`."""
        prepared = PreparedPhrases(phrases)
        prepared.made[id(self._owner)] = (self._owner, self.of(phrases))  # the owner too, so that its id stays its own
        return prepared
