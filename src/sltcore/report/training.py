"""The report of a training run, from the folder that `slt train` leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sltcore.errors import DataError
from sltcore.report.document import Cell, Chart, Column, Point, Report, Series, Table
from sltcore.report.numbers import duration

METRICS, SPEC = "metrics.jsonl", "spec.yaml"
PLACES = frozenset({"step", "epoch"})
UNITS = {
    "loss": "loss",
    "learning_rate": "learning rate",
    "gradient_norm": "norm of the gradient",
    "utterances_per_s": "utterances a second",
    "audio_s_per_s": "seconds of sound a second",
}
UNDRAWN = frozenset({"seconds", "skipped_steps", "skipped_utterances"})  # they only grow: told as facts


class Curve(NamedTuple):
    """A value at the steps at which it was written, in their order."""

    name: str
    points: list[tuple[int, float | None]]


def training_report(folder: str | Path) -> Report:
    """Curves of every number of metrics.jsonl, and first, best and last values.

    **Raises** `DataError` when the folder holds no run, or one that has written nothing yet.
    """
    path = Path(folder) / METRICS
    lines, torn = _lines(path)
    curves = _curves(lines)
    drawn = [curve for curve in curves if curve.name not in UNDRAWN]
    last = lines[-1]
    name, spec = _spec(path.with_name(SPEC))
    facts: dict[str, str | int | float | None] = {"steps": int(last["step"])}
    if isinstance(last.get("epoch"), int | float):
        facts["epochs"] = round(float(last["epoch"]), 3)
    growing = {curve.name: curve.points[-1][1] for curve in curves if curve.name in UNDRAWN}
    if (seconds := growing.get("seconds")) is not None:
        facts["time"] = duration(seconds)
    if skipped := growing.get("skipped_steps"):
        facts["steps left out, gradient not finite"] = int(skipped)
    if lost := growing.get("skipped_utterances"):
        facts["times that nothing was learned from an utterance, loss not finite"] = int(lost)
    return Report(
        title=name or f"Training run {path.parent.resolve().name}",
        kind="train",
        created=datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds"),
        command=f"slt train {path.with_name(SPEC)} --out {path.parent}" if spec else "",
        versions=_versions(path.parent / "bundle" / "provenance.json"),
        facts=facts,
        tables=[_table(drawn)],
        charts=_charts(drawn),
        problems=_problems(curves, torn),
        spec_yaml=spec,
    )


def _lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The lines in the order of their steps, and whether the last one is torn, as a run that was killed leaves it."""
    try:
        raw = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; name a folder that slt train has written") from None
    found = []
    for number, text in enumerate(raw, 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append(line)
        elif number < len(raw):
            raise DataError(
                f"{path}: line {number} is no JSON object with a step; copy the run again, or remove the line"
            )
    if not found:
        raise DataError(f"{path}: holds no steps yet; let slt train run longer")
    found.sort(key=lambda line: line["step"])
    return found, len(found) < len(raw)


def _curves(lines: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Every number by its name, nested ones as outer/inner; of a step that was written twice the later value."""
    found: dict[str, dict[int, float | None]] = {}
    for line in lines:
        for name, value in _flat(line).items():
            if name not in PLACES:
                found.setdefault(name, {})[line["step"]] = value
    return [Curve(name, list(found[name].items())) for name in sorted(found, key=_place)]


def _place(name: str) -> tuple[bool, bool, bool]:
    """Losses first, then what was measured on development data, then the rest."""
    base, inner = name.rpartition("/")[2], "/" in name
    return base != "loss", base != "loss" and not inner, inner


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}/")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[f"{prefix}{name}"] = float(value) if value is not None and math.isfinite(value) else None
    return found


def _charts(curves: Sequence[Curve]) -> list[Chart]:
    """A chart for each value; training and development values of one name share theirs."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.name.rpartition("/")[2], []).append(curve)
    charts = []
    for name, group in groups.items():
        label = UNITS.get(name, name)
        series = [
            Series(name=_side(curve.name), points=[Point(x=step, y=value) for step, value in curve.points])
            for curve in group
        ]
        title = label[0].upper() + label[1:] if name in UNITS else name
        charts.append(Chart(title=title, kind="lines", x_label="step", y_label=label, series=series))
    return charts


def _side(name: str) -> str:
    side = name.rpartition("/")[0]
    return {"": "training", "dev": "development"}.get(side, side)


def _table(curves: Sequence[Curve]) -> Table:
    columns = [
        Column(key="value", label="value"),
        Column(key="of", label="of"),
        Column(key="first", label="first"),
        Column(key="lowest", label="lowest"),
        Column(key="lowest_step", label="at step"),
        Column(key="highest", label="highest"),
        Column(key="highest_step", label="at step"),
        Column(key="last", label="last"),
    ]
    rows: list[dict[str, Cell]] = []
    for curve in curves:
        known = [(value, step) for step, value in curve.points if value is not None]
        name = curve.name.rpartition("/")[2]
        row: dict[str, Cell] = {"value": UNITS.get(name, name), "of": _side(curve.name)}
        if known:
            lowest, highest = min(known), max(known, key=lambda pair: (pair[0], -pair[1]))
            row |= {"first": known[0][0], "last": known[-1][0], "lowest": lowest[0], "lowest_step": lowest[1]}
            row |= {"highest": highest[0], "highest_step": highest[1]}
        rows.append(row)
    return Table(title="Values", caption="Of every number the run has written.", columns=columns, rows=rows)


def _problems(curves: Sequence[Curve], torn: bool) -> list[str]:
    found = [
        "the last line of metrics.jsonl is cut off; the run was killed, and goes on when slt train is called again"
    ]
    found = found if torn else []
    for curve in curves:
        missing = [step for step, value in curve.points if value is None]
        if missing:
            found.append(f"{curve.name} was not finite at {len(missing)} steps, first at step {missing[0]}")
    return found


def _spec(path: Path) -> tuple[str, str]:
    """Name and text of the spec, both empty where there is none; the name is read without a parser for YAML."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    names = [line.partition(":")[2].strip().strip("'\"") for line in text.splitlines() if line.startswith("name:")]
    return (names[0] if names else ""), text


def _versions(path: Path) -> dict[str, str]:
    """What the run's bundle was made with; nothing where there is no bundle yet."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict):
        return {}
    found = {"python": str(data["python"])} if "python" in data else {}
    distributions = data.get("distributions")
    for name, entry in (distributions if isinstance(distributions, dict) else {}).items():
        if isinstance(entry, dict) and "version" in entry:
            found[str(name)] = f"{entry['version']}{' (editable)' if entry.get('editable') else ''}"
    return found
