"""Charts of an experiment: arms and their differences with intervals and every seed, and training curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sltcore.experiment.arms import arm_labels, arm_roles, difference_cell, shown_values, value_cell
from sltcore.experiment.records import Measured, Records
from sltcore.report import Chart, Point, Series
from sltcore.report.document import Cell, unit_of_difference

METRICS = "metrics.jsonl"
MOST_POINTS = 240
MOST_CHARTS = 48  # of training


def arm_charts(records: Records, measured: Measured) -> list[Chart]:
    """For each value that is claimed or stands for its metric: every arm, and every arm's difference to each baseline,
    with intervals and all seeds. Differences that all stand at a claim's verdict are not drawn again."""
    labels, roles = arm_labels(records), arm_roles(records)
    claims = [claim for claim in records.spec["claims"] if claim["measure"] == measured.stage]
    claimed = {(claim["value"], claim["arm"], claim["versus"]) for claim in claims if not claim.get("relative")}
    charts = []
    for shown in shown_values(records, measured)[0]:
        cells = {arm: value_cell(measured, arm, shown) for arm in labels}
        charts.append(_intervals(f"{shown.label} of each arm", shown.label, shown.unit, labels, cells))
        for baseline in (arm for arm in labels if roles[arm] == "baseline"):
            cells = {arm: difference_cell(measured, arm, baseline, shown) for arm in labels if arm != baseline}
            if {(shown.key, arm, baseline) for arm, cell in cells.items() if cell is not None} <= claimed:
                continue
            name, unit = f"{shown.label} minus that of {labels[baseline]}", unit_of_difference(shown.unit)
            charts.append(_intervals(name, "difference", unit, labels, cells, reference=0.0))
    return [chart for chart in charts if chart.series[0].points]


def _intervals(
    title: str,
    y_label: str,
    unit: str,
    labels: Mapping[str, str],
    cells: Mapping[str, Cell],
    *,
    reference: float | None = None,
) -> Chart:
    known = {labels[arm]: cell for arm, cell in cells.items() if isinstance(cell, dict)}
    means = [Point(x=label, y=cell["value"], low=cell["low"], high=cell["high"]) for label, cell in known.items()]
    seeds = [Point(x=label, y=entry["value"]) for label, cell in known.items() for entry in cell.get("seeds", [])]
    series = [Series(name="mean over seeds" if seeds else "value", points=means)]
    if seeds:
        series.append(Series(name="each seed", points=seeds))
    said = [
        f"{p.x}: {_number(p.y)}" + (f" ({_number(p.low)} to {_number(p.high)})" if p.low is not None else "")
        for p in means
    ]
    return Chart(
        title=title,
        kind="intervals",
        x_label="arm",
        y_label=_with_unit(y_label, unit),
        series=series,
        reference=reference,
        alt=f"{title} with 95 % intervals; {'; '.join(said)}.",
    )


def training_charts(records: Records) -> list[Chart]:
    """For each train stage its loss, and what its evaluations measured, by step, a line for each seed."""
    charts: list[Chart] = []
    for stage in records.of_kind("train"):
        runs = {}
        for seed in records.seeds(stage):
            place = records.place(stage, seed)
            if place is not None and (place / METRICS).is_file():
                runs["every seed" if seed is None else f"seed {seed}"] = _history(place / METRICS)
        names = list(dict.fromkeys(name for curves in runs.values() for name in curves))
        for name in names:
            if len(charts) < MOST_CHARTS:
                charts.append(_training_chart(stage, name, {run: curves.get(name, []) for run, curves in runs.items()}))
    return charts


def _training_chart(stage: str, name: str, runs: Mapping[str, Sequence[tuple[int, float | None]]]) -> Chart:
    label = "loss" if name == "loss" else f"{name.removeprefix('dev/')} on dev"
    ends = [f"{run}: {_number(points[0][1])} to {_number(points[-1][1])}" for run, points in runs.items() if points]
    return Chart(
        title=f"{stage}: {label}",
        kind="lines",
        x_label="step",
        y_label=label,
        series=[
            Series(name=run, points=[Point(x=step, y=value) for step, value in _thinned(points)])
            for run, points in runs.items()
            if points
        ],
        alt=f"{label} by step, first to last; {'; '.join(ends)}.",
    )


def _history(path: Path) -> dict[str, list[tuple[int, float | None]]]:
    """The loss, and every value of evaluations as dev/NAME, by step; torn lines are left out."""
    found: dict[str, dict[int, float | None]] = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            continue
        for name, value in _told(line):
            found.setdefault(name, {})[line["step"]] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def _told(line: Mapping[str, Any]) -> Iterable[tuple[str, float | None]]:
    values = {"loss": line["loss"]} if "loss" in line else {}
    values |= {f"dev/{name}": value for name, value in (line.get("dev") or {}).items()}
    for name, value in values.items():
        if value is None or isinstance(value, int | float):
            yield name, float(value) if value is not None and math.isfinite(value) else None


def _thinned(points: Sequence[tuple[int, float | None]]) -> list[tuple[int, float | None]]:
    """At most 240 points: means of equal stretches, at their last step, where a run has written more."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / MOST_POINTS)
    found: list[tuple[int, float | None]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        known = [value for _, value in stretch if value is not None]
        found.append((stretch[-1][0], sum(known) / len(known) if known else None))
    return found


def _with_unit(label: str, unit: str) -> str:
    return label if unit in ("", "1") else f"{label} ({unit})"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
