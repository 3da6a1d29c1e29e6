"""Private data in disjoint shards, each unit in one of them, whoever else is in the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slt_pate.rows import UTTERANCE, column_of, id_of, source_of, unit_of, value_of
from sltcore.errors import PrivacyError

MOST_NAMED = 3


@dataclass(frozen=True)
class Shards:
    """Rows by teacher, and the teacher of each unit; a shard may be empty."""

    unit: str
    rows: tuple[tuple[Any, ...], ...]
    teacher_of: Mapping[str, int]
    names: frozenset[str]
    """Ids of all private rows."""
    sources: frozenset[str]
    """Files of all private rows."""

    def verify(self) -> None:
        """Look at every row again: **raises** `PrivacyError` where a unit, an id or a file stands in two shards."""
        _refuse_shared(
            [{unit_of(row, self.unit, place) for place, row in rows} for rows in self._placed()], f"{self.unit} "
        )
        _refuse_shared([{source for _, row in rows if (source := source_of(row))} for rows in self._placed()], "file ")

    def _placed(self) -> Iterable[list[tuple[int, Any]]]:
        before = 0
        for rows in self.rows:
            yield [(before + place, row) for place, row in enumerate(rows)]
            before += len(rows)

    def refuse_outside(self, rows: Sequence[Any], what: str) -> None:
        """**Raises** `PrivacyError` where a row of other data is private too: by unit, id or file.

        A row without a unit of its own is compared by id and file alone, as public recordings often have no speaker.
        """
        for place, row in enumerate(rows):
            checks: list[tuple[str, str | None, Iterable[str]]] = [("file", source_of(row), self.sources)]
            checks.append(("id", value_of(row, "id"), self.names))
            if self.unit != UTTERANCE:
                checks.append((self.unit, value_of(row, self.unit), self.teacher_of))
            for kind, value, known in checks:
                if value is not None and value in known:
                    raise PrivacyError(
                        f"{what} utterance '{id_of(row, place)}' has the {kind} '{value}', which is in the private data too; "
                        f"expected {what} data of others. Next: take it out of one of them"
                    )


def make_shards(private: Sequence[Any], teachers: int, *, unit: str, salt: int = 0, column: str = "") -> Shards:
    """Give each unit to the teacher `sha256(salt, unit) mod teachers`, or by `column`: a number below `teachers` names the
    teacher, any other value is hashed in the unit's place.

    A unit's shard is a function of that unit alone: were shards filled evenly, a unit that comes or goes would move others,
    and more than one teacher would change. Shards therefore differ in size, and some may be empty. A `column` has the same
    duty: its values must not depend on who else is in the data (a site or a device does not).

    **Raises** `DataError` for a row without a unit, `PrivacyError` where one unit has two values in `column`, and where
    `Shards.verify` finds something in two shards.
    """
    rows: list[list[Any]] = [[] for _ in range(teachers)]
    teacher_of: dict[str, int] = {}
    given: dict[str, str] = {}
    for place, row in enumerate(private):
        name = unit_of(row, unit, place)
        if column:
            value = column_of(row, column, place, what="private")
            if given.setdefault(name, value) != value:
                raise PrivacyError(
                    f"{unit} '{name}' has the {column} '{given[name]}' and '{value}'; expected one, as all of a {unit} goes to one "
                    f"teacher"
                )
            name_or_site, index = value, value.isdecimal() and int(value) < teachers
        else:
            name_or_site, index = name, False
        digest = hashlib.sha256(f"{salt}\0{name_or_site}".encode()).digest()
        teacher = int(name_or_site) if index else int.from_bytes(digest[:8], "big") % teachers
        teacher_of[name] = teacher
        rows[teacher].append(_with_place(row, place))
    sources = frozenset(source for row in private if (source := source_of(row)))
    names = frozenset(id_of(row, place) for place, row in enumerate(private))
    shards = Shards(unit, tuple(map(tuple, rows)), teacher_of, names, sources)
    shards.verify()
    return shards


def _with_place(row: Any, place: int) -> Any:
    """A mapping without an id gets its place in the data as one, so that it keeps it within its shard."""
    if isinstance(row, Mapping) and row.get("id") is None:
        return {**row, "id": id_of(row, place)}
    return row


def _refuse_shared(groups: Sequence[set[str]], what: str) -> None:
    seen: dict[str, int] = {}
    for teacher, group in enumerate(groups):
        for name in group:
            if seen.setdefault(name, teacher) != teacher:
                raise PrivacyError(
                    f"{what}'{name}' is in the shards of teachers {seen[name]} and {teacher}; expected one teacher for each, else "
                    f"it has two votes"
                )
