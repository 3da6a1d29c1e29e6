"""From the folder that a run leaves to its report."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltcore.errors import DataError
from sltcore.experiment.arms import arm_labels, arm_tables
from sltcore.experiment.curves import arm_charts, training_charts
from sltcore.experiment.facts import facts_of, machine_of
from sltcore.experiment.judging import judged
from sltcore.experiment.records import Measured, Records, read_measured, read_records
from sltcore.report import AudioRow, Report, UnitRow

if TYPE_CHECKING:
    from sltcore.registry import Registry


def summarize(folder: str | Path, *, registry: Registry | None = None) -> Report:
    """The report of an experiment, as far as it has come: verdicts, tables, charts, recordings, and what went wrong.

    A claim whose arms are not measured is undecided, and says why. The bootstrap's random numbers are those of seed 0,
    so the same folder gives the same report.

    **Raises** `DataError` when the folder holds no results, or files of a finished unit cannot be read.
    """
    records = read_records(folder)
    problems = _problems(records)
    measured: dict[str, Measured] = {}
    for stage in records.of_kind("measure"):
        found = read_measured(records, stage, registry=registry, problems=problems)
        if found is not None:
            measured[stage] = found
    problems += _lost(records, measured)
    verdicts = judged(records, measured)
    spec, results = records.spec, records.results
    tables = [table for stage in measured.values() for table in arm_tables(records, stage)]
    charts = [chart for stage in measured.values() for chart in arm_charts(records, stage)]
    return Report(
        title=str(spec.get("title") or spec["name"]),
        kind="experiment",
        created=str(results.get("created", "")),
        command=str(results.get("command") or ""),
        versions={name: str(version) for name, version in results.get("versions", {}).items()},
        machine=machine_of(records),
        description=str(spec.get("description") or "").strip(),
        limits=str(spec.get("limits") or "").strip(),
        facts=facts_of(records, measured),
        verdicts=verdicts,
        tables=tables,
        charts=[*charts, *training_charts(records)],
        audio=_audio(records),
        units=_units(records),
        problems=problems,
        spec_yaml=records.text,
    )


def _units(records: Records) -> list[UnitRow]:
    return [
        UnitRow(
            stage=" = ".join(row["stages"]),
            seed=row["seed"],
            state=row["state"],
            seconds=row.get("seconds"),
            host=row.get("host") or "",
            error=row.get("error") or "",
        )
        for row in records.results.get("units", [])
    ]


def _problems(records: Records) -> list[str]:
    """Units that failed, and what was never reached."""
    found = []
    rows = records.results.get("units", [])
    for row in rows:
        if row["state"] == "failed":
            seed = "" if row["seed"] is None else f", seed {row['seed']}"
            found.append(f"{row['stage']}{seed} failed: {row['error']}")
    skipped = sum(row["state"] == "skipped" for row in rows)
    if skipped:
        found.append(f"{skipped} units were skipped, because what they need failed")
    missing = [
        stage if seed is None else f"{stage} seed {seed}"
        for stage in records.results["stages"]
        for seed in records.seeds(stage)
        if records.row(stage, seed) is None
    ]
    if missing:
        found.append(
            f"{len(missing)} units have not run yet, such as {missing[0]}; the same command goes on where it was"
        )
    return found


def _lost(records: Records, measured: dict[str, Measured]) -> list[str]:
    """Seeds without values, and utterances without result."""
    found = []
    labels = arm_labels(records)
    for stage, held in measured.items():
        wanted = records.seeds(stage)
        if len(held.seeds) < len(wanted):
            lost = ", ".join(str(seed) for seed in wanted if seed not in held.seeds)
            found.append(f"{stage}: no values for seed {lost}; means are over the other {len(held.seeds)}")
        for seed, values in held.values.items():
            for arm, failed in (values.get("failed") or {}).items():
                name, why = next(iter(failed.items()))
                at = "" if seed is None else f", seed {seed}"
                found.append(f"{labels.get(arm, arm)}{at}: {len(failed)} utterances failed, such as {name}: {why}")
    return found


def _audio(records: Records) -> list[AudioRow]:
    """Recordings of the first seed: what went in once, then what each arm made of it."""
    groups: dict[str, list[AudioRow]] = {}
    for arm, label in arm_labels(records).items():
        seed = next((seed for seed in records.seeds(arm) if records.place(arm, seed) is not None), None)
        place = records.place(arm, seed)
        kept: list[dict[str, Any]] = (records.facts(arm, seed).get("audio") or []) if place is not None else []
        for entry in kept:
            reference = entry.get("reference") or ""
            rows = groups.setdefault(entry["id"], [])
            if not rows and entry.get("in"):
                rows.append(_row(place, entry["in"], entry["id"], "recording", reference))
            if entry.get("out"):
                rows.append(_row(place, entry["out"], entry["id"], label, entry.get("text") or reference))
            elif entry.get("in"):
                rows[0] = _with_text(rows[0], label, entry.get("text") or "")
    return [row for rows in groups.values() for row in rows]


def _row(place: Path | None, name: str, title: str, label: str, text: str) -> AudioRow:
    assert place is not None  # entries are read from a unit that is there
    try:
        data = base64.b64encode((place / name).read_bytes()).decode("ascii")
    except OSError as error:
        raise DataError(
            f"{place / name} cannot be read: {error.strerror}; delete its folder and run the experiment again"
        ) from None
    return AudioRow(title=title, label=label, text=text, src=f"data:audio/wav;base64,{data}")


def _with_text(row: AudioRow, label: str, text: str) -> AudioRow:
    """A recording with what one more arm heard in it."""
    from dataclasses import replace

    return replace(row, text=f"{row.text} | {label}: {text or '(nothing)'}")
