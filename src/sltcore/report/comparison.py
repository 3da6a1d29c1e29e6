"""Two reports side by side: every value of both, and what differs."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from sltcore.report.document import MARK, Cell, Chart, Column, Report, Series, Table, Verdict
from sltcore.report.numbers import moment

CAPTION = (
    "Difference is {a} − {b}. The two were run apart and are not paired, so the difference has no interval; "
    "“apart” says that the intervals of the two sides do not overlap, “overlap” that they do."
)


class _Side(NamedTuple):
    name: str
    report: Report


def compare(a: Report, b: Report, *, names: tuple[str, str] = ("this", "other")) -> Report:
    """A report of both: verdicts, each value of each arm with the difference a - b, curves in one chart, what was made
    otherwise, and the difference of the specs.

    Rows are matched by table, by their first column and by their mark. `names` is what the sides are called.
    """
    sides = _Side(names[0], a), _Side(names[1], b)
    titles = list(dict.fromkeys([a.title, b.title]))
    tables = [_verdicts(sides), *_values(sides), _made(sides)]
    return Report(
        title=" against ".join(titles) if len(titles) > 1 else f"{a.title}: {names[0]} against {names[1]}",
        kind="comparison",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        description=f"{names[0]}: {a.title}, {moment(a.created)}\n{names[1]}: {b.title}, {moment(b.created)}",
        limits="\n".join(dict.fromkeys(filter(None, [a.limits, b.limits]))),
        tables=[table for table in tables if table.rows],
        charts=_charts(sides),
        problems=[f"{side.name}: {problem}" for side in sides for problem in side.report.problems],
        spec_yaml=_difference(sides),
    )


def _verdicts(sides: tuple[_Side, _Side]) -> Table:
    """One row a claim: word and effect of both sides."""

    def key(verdict: Verdict) -> tuple[str, ...]:
        return verdict.measure, verdict.value, verdict.arm, verdict.versus, verdict.direction

    found = [{key(verdict): verdict for verdict in side.report.verdicts} for side in sides]
    columns = [Column(key="claim", label="claim"), Column(key="unit", label="unit of the effect")]
    for place, side in enumerate(sides):
        columns += [Column(key=f"word{place}", label=f"verdict, {side.name}")]
        columns += [Column(key=f"effect{place}", label=f"effect, {side.name}")]
    rows: list[dict[str, Cell]] = []
    for claim in dict.fromkeys([*found[0], *found[1]]):
        verdicts = [side.get(claim) for side in found]
        one = next(verdict for verdict in verdicts if verdict is not None)
        row: dict[str, Cell] = {"claim": one.text or f"{one.arm} against {one.versus}: {one.value}"}
        row["unit"] = one.effect_unit
        for place, verdict in enumerate(verdicts):
            row[f"word{place}"] = verdict.verdict if verdict else "not claimed"
            if verdict:
                row[f"effect{place}"] = {"value": verdict.effect, "low": verdict.low, "high": verdict.high}
        rows.append(row)
    return Table(title="Claims", caption="Effects with their intervals.", columns=columns, rows=rows)


def _values(sides: tuple[_Side, _Side]) -> list[Table]:
    """For each table that both have, or one of them, a row for each arm and value."""
    titles = dict.fromkeys(table.title for side in sides for table in side.report.tables)
    return [_joined(title, sides) for title in titles]


def _joined(title: str, sides: tuple[_Side, _Side]) -> Table:
    tables = [next((table for table in side.report.tables if table.title == title), None) for side in sides]
    known = [table for table in tables if table is not None]
    columns = {column.key: column for table in known for column in table.columns}
    rows = [_by_name(table) if table else {} for table in tables]
    joined: list[dict[str, Cell]] = []
    for name in dict.fromkeys([*rows[0], *rows[1]]):
        pair = rows[0].get(name, {}), rows[1].get(name, {})
        for column in columns.values():
            cells = pair[0].get(column.key), pair[1].get(column.key)
            if any(_number(cell) is not None for cell in cells):
                joined.append(_compared(name, column, cells))
    names = {"a": sides[0].name, "b": sides[1].name}
    first = known[0].columns[0].label if known[0].columns else "row"
    shown = [
        Column(key="row", label=first),
        Column(key="value", label="value"),
        Column(key="a", label=names["a"]),
        Column(key="b", label=names["b"]),
        Column(key="difference", label="difference"),
        Column(key="percent", label="difference", unit="%"),
        Column(key="side", label=f"{names['a']} is"),
        Column(key="intervals", label="intervals"),
    ]
    kept = [
        column for column in shown if column.key not in ("side", "intervals") or any(r.get(column.key) for r in joined)
    ]
    used = {column.key for column in kept} | {MARK}
    return Table(
        title=title,
        caption=CAPTION.format(**names),
        columns=kept,
        rows=[{key: cell for key, cell in row.items() if key in used} for row in joined],
    )


def _by_name(table: Table) -> dict[tuple[str, str, int], dict[str, Cell]]:
    """Rows by the text of their first column, their mark, and how often both came before."""
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for row in table.rows:
        first = row.get(table.columns[0].key) if table.columns else None
        name = str(first.get("value") if isinstance(first, dict) else first), str(row.get(MARK) or "")
        found[(*name, seen[name])] = row
        seen[name] += 1
    return found


def _compared(name: tuple[str, str, int], column: Column, cells: tuple[Cell, Cell]) -> dict[str, Cell]:
    a, b = (_number(cell) for cell in cells)
    label = f"{column.label},\N{NO-BREAK SPACE}{column.unit}" if column.unit else column.label
    row: dict[str, Cell] = {"row": name[0], "value": label, "a": _short(cells[0]), "b": _short(cells[1])}
    if name[1]:
        row[MARK] = name[1]
    if a is None or b is None:
        return row
    row["difference"] = a - b
    row["percent"] = 100 * (a - b) / abs(b) if b else None
    if column.better and a != b:
        row["side"] = "better" if (a < b) == (column.better == "lower") else "worse"
    elif column.better:
        row["side"] = "equal"
    ends = [end for cell in cells if isinstance(cell, dict) for end in (cell.get("low"), cell.get("high"))]
    known = [end for end in ends if end is not None]
    if len(known) == 4:
        row["intervals"] = "apart" if known[1] < known[2] or known[3] < known[0] else "overlap"
    return row


def _short(cell: Cell) -> Cell:
    """Without every seed's value, which stands in each side's own report."""
    return {key: value for key, value in cell.items() if key != "seeds"} if isinstance(cell, dict) else cell


def _number(cell: Cell) -> float | None:
    value = cell.get("value") if isinstance(cell, dict) else cell
    return value if isinstance(value, int | float) else None


def _made(sides: tuple[_Side, _Side]) -> Table:
    """Facts, machine and versions that are not the same on both sides."""

    def facts(report: Report) -> dict[str, Cell]:
        named: dict[str, Mapping[str, Cell]] = {
            "": report.facts,
            "machine: ": dict(report.machine),
            "version of ": dict(report.versions),
        }
        return {"command": report.command} | {
            f"{head}{key}": value for head, part in named.items() for key, value in part.items()
        }

    found = [facts(side.report) for side in sides]
    rows: list[dict[str, Cell]] = [
        {"what": key, **{f"side{place}": _text(values.get(key)) for place, values in enumerate(found)}}
        for key in dict.fromkeys([*found[0], *found[1]])
        if found[0].get(key) != found[1].get(key)
    ]
    columns = [Column(key="what", label="what")]
    columns += [Column(key=f"side{place}", label=side.name) for place, side in enumerate(sides)]
    return Table(title="What was made otherwise", caption="Everything else was the same.", columns=columns, rows=rows)


def _text(value: Cell) -> str:
    return "–" if value is None else str(value)


def _charts(sides: tuple[_Side, _Side]) -> list[Chart]:
    """Charts of one title and kind share an axis; their series are named after the sides."""
    keys = dict.fromkeys((chart.title, chart.kind) for side in sides for chart in side.report.charts)
    charts = []
    for key in keys:
        both = [(side, chart) for side in sides for chart in side.report.charts if (chart.title, chart.kind) == key]
        one = both[0][1]
        series = [
            Series(name=f"{entry.name}, {side.name}" if entry.name else side.name, points=entry.points)
            for side, chart in both
            for entry in chart.series
        ]
        charts.append(
            Chart(
                title=one.title, kind=one.kind, x_label=one.x_label, y_label=one.y_label, series=series,
                x_scale=one.x_scale, y_scale=one.y_scale, reference=one.reference,
            )
        )  # fmt: skip
    return charts


def _difference(sides: tuple[_Side, _Side]) -> str:
    """Lines that only one spec has, with three lines around them."""
    old, new = sides[1], sides[0]
    lines = difflib.unified_diff(
        old.report.spec_yaml.splitlines(), new.report.spec_yaml.splitlines(), old.name, new.name, lineterm=""
    )
    return "\n".join(lines)
