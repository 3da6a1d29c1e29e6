"""What the page shows of a report: texts, signs and keys to sort by, ready to be laid out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from markupsafe import Markup

from sltcore.report.charts import NARROW, WIDE, claimed, drawing, forest, values
from sltcore.report.document import MARK, AudioRow, Cell, Chart, Column, Table, UnitRow, Verdict
from sltcore.report.numbers import decimals_of, duration, interval, number
from sltcore.report.svg import colour, marker

SIGNS = {
    "supported": "✓", "not supported": "✕", "undecided": "?",
    "done": "✓", "reused": "↺", "failed": "✕", "skipped": "–",
}  # fmt: skip
KINDS = {"experiment": "Experiment", "train": "Training run", "run": "Run", "comparison": "Comparison"}
BETTER = {"lower": "lower is better", "higher": "higher is better", "": ""}


class CellView(NamedTuple):
    """A cell: its text, the interval and seeds below it, and what it is sorted by."""

    text: str
    interval: str = ""
    seeds: str = ""
    sort: str = ""


class RowView(NamedTuple):
    mark: str
    cells: list[CellView]


class TableView(NamedTuple):
    """A table; `apart` are the rows that stand apart, by their marks."""

    title: str
    caption: str
    columns: list[tuple[Column, bool]]  # with whether its cells are numbers
    rows: list[RowView]
    apart: dict[str, list[RowView]]
    missing: int  # rows that are only in report.json


class Figure(NamedTuple):
    """A chart for both widths, with its legend and its values."""

    title: str
    wide: Markup
    narrow: Markup
    legend: list[tuple[Markup, str]]
    values: TableView


class VerdictView(NamedTuple):
    verdict: Verdict
    sign: str
    slug: str
    effect: str
    interval: str
    unit: str
    seeds: list[tuple[str, str]]
    conditions: list[tuple[str, str]]
    figure: Figure | None


def table_view(table: Table, most: int) -> TableView:
    """A table whose columns have one number of decimals each; rows that stand apart keep the digits they came with."""
    columns = [(column, _is_numeric(table, column)) for column in table.columns]
    own = replace(table, rows=[row for row in table.rows if not row.get(MARK)])
    places = {c.key: decimals_of(_numbers(own, c), _half_widths(own, c)) for c in table.columns}
    shown = table.rows[:most]
    rows = [
        RowView(
            _text(row.get(MARK)),
            [_cell(row.get(c.key), None if row.get(MARK) else places[c.key]) for c in table.columns],
        )
        for row in shown
    ]
    apart: dict[str, list[RowView]] = {}
    for row in rows:
        if row.mark:
            apart.setdefault(row.mark, []).append(row)
    missing = len(table.rows) - len(shown)
    return TableView(table.title, table.caption, columns, [row for row in rows if not row.mark], apart, missing)


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else ""


def _value(cell: Cell) -> str | int | float | None:
    return cell.get("value") if isinstance(cell, dict) else cell


def _numbers(table: Table, column: Column) -> list[float]:
    found = (_value(row.get(column.key)) for row in table.rows)
    return [value for value in found if isinstance(value, int | float)]


def _half_widths(table: Table, column: Column) -> list[float]:
    cells = [cell for row in table.rows if isinstance(cell := row.get(column.key), dict)]
    ends = [(cell.get("low"), cell.get("high")) for cell in cells]
    return [(high - low) / 2 for low, high in ends if low is not None and high is not None]


def _is_numeric(table: Table, column: Column) -> bool:
    texts = sum(isinstance(_value(row.get(column.key)), str) for row in table.rows)
    return len(_numbers(table, column)) > texts


def _cell(cell: Cell, decimals: int | None) -> CellView:
    value = _value(cell)
    if isinstance(value, str):
        infinite = {"∞": "inf", "-∞": "-inf"}.get(value, "")
        return CellView(value.replace("-∞", "−∞"), sort=infinite)
    limits, seeds = "", ""
    if isinstance(cell, dict):
        low, high = cell.get("low"), cell.get("high")
        if decimals is None and value is not None and low is not None and high is not None:
            decimals = decimals_of([value, low, high], [(high - low) / 2])
        limits = interval(low, high, decimals)
        seeds = " · ".join(number(entry["value"], decimals) for entry in cell.get("seeds", []))
    return CellView(number(value, decimals), limits, seeds, "" if value is None else repr(value))


def figure(chart: Chart, name: str, most: int) -> Figure:
    """A chart in both widths; `name` is the beginning of its ids."""
    legend: list[tuple[Markup, str]] = []
    if len(chart.series) > 1:
        legend = [(_swatch(chart, index, name), series.name) for index, series in enumerate(chart.series)]
    wide, narrow = drawing(chart, WIDE, f"{name}w"), drawing(chart, NARROW, f"{name}n")
    return Figure(chart.title, wide, narrow, legend, table_view(values(chart, most), most))


def _swatch(chart: Chart, index: int, name: str) -> Markup:
    """A small picture of a series."""
    from sltcore.report.svg import element, pattern, shape

    if chart.kind == "bars" and chart.y_scale == "linear":
        drawn = [
            element("defs", pattern(index, f"{name}-l{index}")),
            element(
                "rect", class_=f"bar {colour(index)}", x=1, y=2, width=26, height=12, fill=f"url(#{name}-l{index})"
            ),
        ]
    else:
        line = element(
            "path", class_=f"line {colour(index)} d{shape(index) if chart.kind == 'lines' else 0}", d="M0 8 H28"
        )
        drawn = [line, marker(index, 14.0, 8.0)]
    return element("svg", *drawn, viewBox="0 0 28 16", width=28, height=16, aria_hidden="true")


def verdict_view(verdict: Verdict, index: int) -> VerdictView:
    """A claim with its effect in words and as a picture."""
    unit = verdict.effect_unit
    told = [verdict.effect, verdict.low, verdict.high, *(seed.effect for seed in verdict.seeds)]
    ends = (verdict.low, verdict.high)
    decimals = decimals_of(told, [] if None in ends else [(verdict.high - verdict.low) / 2])  # type: ignore[operator]
    percent = f"{number(100 * verdict.level)} %"
    chart = None
    if verdict.effect is not None:
        pictured = forest(verdict, unit, f"mean, {percent}")
        name = f"v{index}"
        regions = claimed(verdict)
        chart = Figure(
            pictured.title,
            drawing(pictured, WIDE, f"{name}w", regions),
            drawing(pictured, NARROW, f"{name}n", regions),
            [],
            table_view(values(pictured, 200), 200),
        )
    return VerdictView(
        verdict,
        SIGNS[verdict.verdict],
        verdict.verdict.replace(" ", "-"),
        number(verdict.effect, decimals, sign=True),
        interval(verdict.low, verdict.high, decimals, sign=True),
        unit,
        [("–" if s.seed is None else str(s.seed), number(s.effect, decimals, sign=True)) for s in verdict.seeds],
        _conditions(verdict, unit, percent),
        chart,
    )


def _conditions(verdict: Verdict, unit: str, percent: str) -> list[tuple[str, str]]:
    """What was fixed before the run, and the tests."""
    sides = {
        "better": "better than", "not-worse": "not worse than", "different": "different from",
    }  # fmt: skip
    claim = f"{verdict.arm} {sides[verdict.direction]} {verdict.versus}"
    rows = [
        (
            "claim",
            f"{claim}, by more than the margin" if verdict.direction != "not-worse" else f"{claim}, within the margin",
        ),
        ("measure", " ".join(filter(None, [verdict.value, f"of {verdict.measure}"]))),
        ("margin", f"{number(verdict.margin)} {unit.removesuffix('s') if verdict.margin == 1 else unit}".strip()),
        ("interval", f"{percent}, of the difference {verdict.arm} − {verdict.versus}"),
    ]
    if verdict.better:
        rows[1] = ("measure", f"{rows[1][1]}, {BETTER[verdict.better]}")
    if verdict.p is not None:
        adjusted = "" if verdict.p_adjusted is None else f", adjusted for all claims {number(verdict.p_adjusted)}"
        rows.append(("p", f"{number(verdict.p)}{adjusted}"))
    return rows


def headline(verdicts: Sequence[Verdict]) -> str:
    """How the claims came out, in one line: 1 of 3 claims supported, 2 undecided."""
    if not verdicts:
        return ""
    if len(verdicts) == 1:
        return f"The claim is {verdicts[0].verdict}"
    counts = Counter(verdict.verdict for verdict in verdicts)
    if len(counts) == 1:
        return f"{'Both' if len(verdicts) == 2 else f'All {len(verdicts)}'} claims are {verdicts[0].verdict}"
    parts = [f"{counts[word]} {word}" for word in ("supported", "not supported", "undecided") if counts[word]]
    return f"{len(verdicts)} claims: {', '.join(parts)}"


def units_table(units: Sequence[UnitRow]) -> Table:
    """Units as a table, with host and error only where there are any."""
    columns = [Column(key="stage", label="stage"), Column(key="seed", label="seed"), Column(key="state", label="state")]
    columns.append(Column(key="seconds", label="time", unit="s"))
    columns += [Column(key="host", label="machine")] if any(unit.host for unit in units) else []
    columns += [Column(key="error", label="error")] if any(unit.error for unit in units) else []
    rows: list[dict[str, Cell]] = [
        {
            "stage": unit.stage,
            "seed": unit.seed,
            "state": f"{SIGNS[unit.state]}\N{NO-BREAK SPACE}{unit.state}",
            "seconds": unit.seconds,
            "host": unit.host,
            "error": unit.error,
        }
        for unit in units
    ]
    keys = {column.key for column in columns}
    return Table(
        title="Units of work",
        caption=units_line(units),
        columns=columns,
        rows=[{key: cell for key, cell in row.items() if key in keys} for row in rows],
    )


def units_line(units: Sequence[UnitRow]) -> str:
    """How many units ended how, and how long they took together."""
    counts = Counter(unit.state for unit in units)
    states = ", ".join(f"{counts[state]} {state}" for state in ("done", "reused", "failed", "skipped") if counts[state])
    seconds = [unit.seconds for unit in units if unit.seconds is not None]
    return f"{states}; {duration(sum(seconds))} of work" if seconds else states


def groups(audio: Sequence[AudioRow]) -> dict[str, list[AudioRow]]:
    """Recordings by title."""
    found: dict[str, list[AudioRow]] = {}
    for row in audio:
        found.setdefault(row.title, []).append(row)
    return found
