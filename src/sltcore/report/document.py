"""What a report says, as plain values: the content of report.json, which the page only lays out.

Nothing is measured or drawn here. Lists hold their entries in the order in which they are shown. A number that is not
there (a unit failed, one seed has no spread) is None; NaN is written as null, and an infinite cell of a table as "∞".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from sltcore.errors import DataError
from sltcore.report.reading import plain, read

SCHEMA = 1

Better: TypeAlias = Literal["lower", "higher", ""]
# One entry of a table: a number or text, or {"value", "low", "high"} with an interval, and "seeds": [{"seed", "value"}]
# where every seed's value is shown. None: not measured.
Cell: TypeAlias = str | int | float | dict[str, Any] | None
MARK = "_mark"  # of a row that stands apart, such as "published, other data"
CELL_KEYS = frozenset({"value", "low", "high", "seeds"})


def unit_of_difference(unit: str) -> str:
    """What the difference of two values is counted in.

    >>> unit_of_difference("%"), unit_of_difference("dB")
    ('percentage points', 'dB')
    """
    return "percentage points" if unit == "%" else unit


@dataclass(frozen=True, kw_only=True)
class SeedEffect:
    """The difference of one seed; `seed` is None where nothing was drawn at random."""

    seed: int | None
    effect: float | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim that was written before the run, and what became of it.

    `effect`, `low`, `high` and the seeds' effects are differences arm - versus, in `unit`, or in percent of versus
    where `relative`; `margin` has the same unit. `level` is that of the interval, such as 0.95. `note` says what would
    settle an undecided claim, or why there is no figure.
    """

    text: str
    measure: str
    value: str
    arm: str
    versus: str
    verdict: Literal["supported", "not supported", "undecided"]
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    better: Better = ""
    direction: Literal["better", "not-worse", "different"] = "better"
    margin: float = 0.0
    relative: bool = False
    level: float = 0.95
    p: float | None = None
    p_adjusted: float | None = None
    seeds: list[SeedEffect] = field(default_factory=list)
    note: str = ""

    @property
    def effect_unit(self) -> str:
        """What the effect is counted in."""
        if self.relative:
            return f"% of {self.versus}"
        return unit_of_difference(self.unit)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table; `better` says which way a value improves."""

    key: str
    label: str
    unit: str = ""
    better: Better = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells by column key; the first column names the row, "_mark" sets one apart and says why."""

    title: str
    caption: str = ""
    columns: list[Column]
    rows: list[dict[str, Cell]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A value at `x`, a number or the name of a category, with its interval; `mark` as in a table."""

    x: float | str
    y: float | None
    low: float | None = None
    high: float | None = None
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that belong together, in the order in which they are joined."""

    name: str
    points: list[Point] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Bars and intervals have categories in `x`, lines numbers; `alt` says in a sentence or two what is to be seen.

    `reference` is a value to compare with, drawn as a line across: 0 for differences.
    """

    title: str
    kind: Literal["bars", "lines", "intervals"]
    x_label: str
    y_label: str
    series: list[Series] = field(default_factory=list)
    alt: str = ""
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    reference: float | None = None


@dataclass(frozen=True, kw_only=True)
class AudioRow:
    """A recording to hear; rows of equal `title` stand together. `src` is a data URI of an audio type."""

    title: str
    label: str
    text: str = ""
    src: str


@dataclass(frozen=True, kw_only=True)
class UnitRow:
    """One piece of work: a stage at a seed, and how it ended."""

    stage: str
    seed: int | None = None
    state: Literal["done", "reused", "failed", "skipped"]
    seconds: float | None = None
    host: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything a page shows, verdict first.

    `created` is a moment in ISO 8601, `facts` what every row stands on (data, split rule, model size, steps, seeds),
    `problems` what went wrong, one line each.
    """

    title: str
    kind: Literal["experiment", "train", "run", "comparison"]
    created: str
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    description: str = ""
    limits: str = ""
    facts: dict[str, str | int | float | None] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    audio: list[AudioRow] = field(default_factory=list)
    units: list[UnitRow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    spec_yaml: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the version of their shape under `schema`."""
        return {"schema": SCHEMA, **{entry.name: plain(getattr(self, entry.name)) for entry in fields(self)}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "report.json") -> Report:
        """The report of JSON values. **Raises** `DataError` that names the place in `source` and what belongs there."""
        if not isinstance(values, Mapping) or "schema" not in values:
            raise DataError(f"{source}: is no report of sltcore: it has no 'schema'; make one with slt report FOLDER")
        if values["schema"] != SCHEMA:
            raise DataError(
                f"{source}: has schema {values['schema']!r}, this version of sltcore reads {SCHEMA}; upgrade sltcore-lib, or make the report anew with slt report FOLDER"
            )
        found: Report = read(cls, {key: value for key, value in values.items() if key != "schema"}, source)
        for number, table in enumerate(found.tables):
            _check_rows(table, f"{source}: tables[{number}]")
        for number, row in enumerate(found.audio):
            if not row.src.startswith("data:audio/"):
                raise DataError(
                    f"{source}: audio[{number}].src is not a recording; expected a data URI that begins with data:audio/"
                )
        return found


def _check_rows(table: Table, where: str) -> None:
    """Cells belong to columns and have no keys but their own. **Raises** `DataError`."""
    keys = {column.key for column in table.columns} | {MARK}
    for number, row in enumerate(table.rows):
        for key, cell in row.items():
            if key not in keys:
                raise DataError(f"{where}.rows[{number}] has no column '{key}'; columns: {', '.join(sorted(keys))}")
            if isinstance(cell, dict):
                _check_cell(cell, f"{where}.rows[{number}].{key}")


def _check_cell(cell: dict[str, Any], where: str) -> None:
    if not set(cell) <= CELL_KEYS or "value" not in cell:
        raise DataError(
            f"{where}: a cell is a number, a text, or a map of value, low, high and seeds; got the keys {', '.join(map(str, cell)) or 'none'}"
        )
    read(str | int | float | None, cell["value"], f"{where}.value")
    for key in ("low", "high"):
        read(float | None, cell.get(key), f"{where}.{key}")
    for place, entry in enumerate(read(list[dict[str, float | None]], cell.get("seeds", []), f"{where}.seeds")):
        if set(entry) != {"seed", "value"}:
            raise DataError(
                f"{where}.seeds[{place}]: expected the keys seed and value, got {', '.join(entry) or 'none'}"
            )
