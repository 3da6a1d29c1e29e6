"""A query as Spider's scorer holds it, with what it leaves out left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Unit(NamedTuple):
    """A column, maybe aggregated."""

    aggregate: str
    column: str
    distinct: bool | None = False


class Term(NamedTuple):
    """A column, or an operation on two."""

    operation: str
    left: Unit
    right: Unit | None = None


class Condition(NamedTuple):
    """`term [not] operation first [and second]`; values are strings in quotes, floats, units or queries."""

    negated: bool
    operation: str
    term: Term
    first: Any
    second: Any = None


class Conditions(NamedTuple):
    """Conditions in order, and the words between them."""

    units: tuple[Condition, ...] = ()
    connectors: tuple[str, ...] = ()

    @property
    def swallows(self) -> bool:
        """Whether the last value is a column: after one the scorer skips all words up to the next clause, JOIN or AND."""
        return bool(self.units) and isinstance(self.units[-1].second or self.units[-1].first, Unit)


class Form(NamedTuple):
    """One SELECT, with what follows it by INTERSECT, UNION or EXCEPT."""

    distinct: bool | None = False
    select: tuple[tuple[str, Term], ...] = ()
    tables: tuple[Any, ...] = ()
    on: Conditions = Conditions()
    where: Conditions = Conditions()
    group: tuple[Unit, ...] = ()
    having: Conditions = Conditions()
    order: tuple[str, tuple[Term, ...]] | None = None
    limit: bool = False
    intersect: Any = None
    union: Any = None
    minus: Any = None
    """What EXCEPT takes away."""

    def followed(self, by: Mapping[str, Form]) -> Form:
        """With other queries after INTERSECT, UNION and EXCEPT; those not named stay."""
        return self._replace(
            intersect=by.get("intersect", self.intersect),
            union=by.get("union", self.union),
            minus=by.get("except", self.minus),
        )

    def following(self) -> list[tuple[str, Form]]:
        """What is intersected, united, taken away."""
        named = (("intersect", self.intersect), ("except", self.minus), ("union", self.union))
        return [(name, form) for name, form in named if form is not None]
