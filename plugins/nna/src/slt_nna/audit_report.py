"""An audit as a table for a terminal and as a page with a chart."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from slt_nna.audit import Audit, Row
from sltcore.errors import DataError
from sltcore.report import Chart, Column, Point, Report, Series, Table
from sltcore.report.document import Cell
from sltcore.report.page import render

MOST_BARS = 30
LIMITS = (
    "One operator at a time: errors of several operators add up or cancel, so the operators that hurt most alone are "
    "the first to look at, not a proof. The ratio is that of numbers, not of words recognized."
)


def audit_report(found: Audit, *, title: str, command: str = "") -> Report:
    """The page of an audit: what the whole chip costs, a chart of the worst operators, and all operators as a table."""
    return Report(
        title=title,
        kind="run",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        description=f"{found.chip.name}: {found.chip.description}",
        limits=LIMITS,
        facts={
            "chip": found.chip.name,
            "utterances": found.utterances,
            "output with all on the chip": db_text(found.whole_db),
            "operators": len(found.rows),
        },
        tables=[_kinds(found), _operators(found)],
        charts=_charts(found),
    )


def write_page(report: Report, path: Path) -> None:
    """Write a report as one HTML file. **Raises** `DataError` when it cannot be written."""
    try:
        path.write_text(render(report), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise DataError(f"{path}: the page cannot be written: {error.strerror}; choose another file") from None


def db_text(db: float) -> str:
    """A ratio as it is printed; an operator that changes nothing is exact.

    >>> db_text(13.37), db_text(float("inf"))
    ('13.4 dB', 'exact')
    """
    return f"{db:.1f} dB" if math.isfinite(db) else "exact" if db > 0 else "no signal"


def _kinds(found: Audit) -> Table:
    rows: list[dict[str, Cell]] = [{"kind": "all", "output": _cell(found.whole_db)}]
    rows += [{"kind": kind, "output": _cell(db)} for kind, db in found.kinds.items()]
    return Table(
        title="Kinds of operators",
        caption="The output's signal-to-error ratio with all operators of one kind on the chip, and with everything.",
        columns=[
            Column(key="kind", label="operators on the chip"),
            Column(key="output", label="output", unit="dB", better="higher"),
        ],
        rows=rows,
    )


def _operators(found: Audit) -> Table:
    return Table(
        title="Operators",
        caption="Signal-to-error ratios with that operator alone on the chip, the worst first.",
        columns=[
            Column(key="site", label="site"),
            Column(key="operator", label="operator"),
            Column(key="output", label="output of the model", unit="dB", better="higher"),
            Column(key="own", label="its own output", unit="dB", better="higher"),
        ],
        rows=[
            {"site": row.site, "operator": row.operator, "output": _cell(row.output_db), "own": _cell(row.own_db)}
            for row in found.rows
        ],
    )


def _charts(found: Audit) -> list[Chart]:
    rows = [row for row in found.rows if math.isfinite(row.output_db)][:MOST_BARS]
    if not rows:
        return []
    worst = rows[0]
    return [
        Chart(
            title="What hurts: the model's output with one operator on the chip",
            kind="bars",
            x_label="operator",
            y_label="signal-to-error ratio of the output, dB",
            series=[Series(name="output", points=[Point(x=_name(row), y=round(row.output_db, 1)) for row in rows])],
            alt=f"The shorter a bar, the more the operator hurts; most does {_name(worst)} with "
            f"{db_text(worst.output_db)}. Shown are the {len(rows)} that hurt most.",
        )
    ]


def _name(row: Row) -> str:
    return row.site if row.operator in row.site else f"{row.site} ({row.operator})"


def _cell(db: float) -> str | float:
    return round(db, 1) if math.isfinite(db) else "exact" if db > 0 else "no signal"
