"""Stretches of a question's words, found by place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Span = tuple[int, int]
"""The first word and the one behind the last."""


class Spans:
    """Spans none of which is long: those around one are found without a look at all of them."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._stops: dict[int, dict[int, None]] = {}
        self._longest = 0
        for start, stop in spans:
            self._stops.setdefault(start, {})[stop] = None
            self._longest = max(self._longest, stop - start)

    def around(self, start: int, stop: int) -> Iterator[Span]:
        """Those that have a word in common with `start` to `stop`.

        >>> list(Spans([(0, 1), (0, 3), (2, 4), (4, 5)]).around(1, 3))
        [(0, 3), (2, 4)]
        """
        for first in range(start - self._longest + 1, stop):
            for last in self._stops.get(first, ()):
                if start < last:
                    yield first, last

    def is_within_longer(self, start: int, stop: int) -> bool:
        """Whether `start` to `stop` is a part of one that has more words.

        >>> found = Spans([(0, 1), (0, 3)])
        >>> found.is_within_longer(0, 1), found.is_within_longer(0, 3), found.is_within_longer(2, 4)
        (True, False, False)
        """
        return any(
            first <= start and stop <= last and last - first > stop - start for first, last in self.around(start, stop)
        )
