"""A report as report.json and as one page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from sltcore.errors import DataError
from sltcore.report.document import AudioRow, Report

JSON, HTML = "report.json", "report.html"
MOST_BYTES = 2_000_000
# Most rows of a table and most charts; less where the page would be too large. The last charts, those of training, go
# before rows of a table that somebody would read.
AMOUNTS = ((2_000, None), (500, None), (500, 24), (500, 12), (100, None), (100, 12), (20, None), (20, 6))
MOST_POINTS = 240  # rows of the values of a chart
MOST_TEXT = 100_000  # characters of the spec and of any other text


def write(report: Report, folder: str | Path) -> tuple[Path, Path]:
    """Write report.json and report.html below `folder`, each whole or not at all, and return their paths.

    **Raises** `DataError` when the report does not hold what its fields promise, or the folder cannot be written.
    """
    values = report.to_dict()
    checked = Report.from_dict(json.loads(json.dumps(values)), source="report")
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        text = json.dumps(values, ensure_ascii=False, indent=1) + "\n"
        return _replace(target / JSON, text), _replace(target / HTML, render(checked))
    except OSError as error:
        raise DataError(
            f"{target}: the report cannot be written: {error.strerror}; choose another folder with --out"
        ) from None


def _replace(path: Path, text: str) -> Path:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def render(report: Report, *, most_bytes: int = MOST_BYTES) -> str:
    """The page as HTML of at most `most_bytes`: recordings that do not fit are left out, then rows of long tables
    and the last charts."""
    page = ""
    for rows, charts in AMOUNTS:
        silent = _render(report, [], rows, charts)
        room = most_bytes - len(silent.encode()) - 1_000
        if room < 0:
            continue
        heard: list[AudioRow] = []
        for row in report.audio:
            room -= len(row.src) + 4 * len(row.text) + 4 * len(row.title) + 8 * len(row.label) + 500
            if room < 0:
                break
            heard.append(row)
        page = _render(report, heard, rows, charts)
        break
    if not page:
        raise DataError(
            f"the page of '{report.title[:80]}' would be larger than {most_bytes / 1e6:g} MB even without recordings; report.json has everything"
        )
    return page


def _render(report: Report, audio: Sequence[AudioRow], rows: int, charts: int | None) -> str:
    from sltcore.report import layout
    from sltcore.report.numbers import moment

    style, script = _part("style.css"), _part("sorting.js")
    page = str(
        _template().render(
            report=report,
            kind=layout.KINDS[report.kind],
            moment=moment(report.created),
            headline=layout.headline(report.verdicts),
            verdicts=[layout.verdict_view(verdict, index) for index, verdict in enumerate(report.verdicts)],
            tables=[layout.table_view(table, rows) for table in report.tables],
            figures=[
                layout.figure(chart, f"c{index}", min(rows, MOST_POINTS))
                for index, chart in enumerate(report.charts[:charts])
            ],
            undrawn=len(report.charts[charts:]) if charts is not None else 0,
            audio=layout.groups(audio),
            unheard=len(report.audio) - len(audio),
            units=layout.table_view(layout.units_table(report.units), rows) if report.units else None,
            spec=report.spec_yaml[:MOST_TEXT],
            better=layout.BETTER,
            style=style,
            script=script,
            style_hash=_digest(style),
            script_hash=_digest(script),
        )
    )
    return page.encode("utf-8", "backslashreplace").decode()  # a name of a file may hold what no text may


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    from sltcore.report.numbers import number

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: value if isinstance(value, str) else number(value)
    return environment.from_string(_part("report.html"))


@cache
def _part(name: str) -> Any:
    from markupsafe import Markup

    return Markup((files("sltcore.report") / name).read_text(encoding="utf-8"))


def _digest(text: str) -> str:
    """How a content security policy names what may stand in the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
