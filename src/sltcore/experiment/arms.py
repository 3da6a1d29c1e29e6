"""Tables of an experiment's arms: what was measured, how far from each baseline, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sltcore.experiment.judging import compared, finite, seeds_of_difference
from sltcore.experiment.records import Measured, Records, Seed
from sltcore.experiment.statistics import Estimate, level_of
from sltcore.report import Column, Table
from sltcore.report.document import MARK, Better, Cell, unit_of_difference

LEVEL = 0.95
PUBLISHED = "published, other data"
_COST = (
    ("parameters", "parameters", ""),
    ("bytes", "size on disk", "bytes"),
    ("memory_bytes", "weights in memory", "bytes"),
    ("run_seconds", "time to decode", "s"),
    ("real_time_factor", "real-time factor", "1"),
)
_TRAINING = (("steps", "training steps", ""), ("train_seconds", "time to train", "s"))
_PRIVACY = (("epsilon", "privacy loss ε", ""), ("delta", "at δ", ""), ("protects", "protects one", ""))
_LOWER = frozenset({*(key for key, _, _ in _COST), "epsilon"})


class Shown(NamedTuple):
    """One value of a table of arms."""

    metric: str
    name: str
    label: str
    unit: str
    better: Better

    @property
    def key(self) -> str:
        """METRIC.VALUE."""
        return f"{self.metric}.{self.name}"


def arm_labels(records: Records) -> dict[str, str]:
    """How each arm is called, stages of a grid by what they set."""
    found = {}
    for name, arm in records.spec["arms"].items():
        for stage in records.stages(name):
            settings = ", ".join(f"{path} {value}" for path, value in records.settings(stage).items())
            given = arm.get("label") or ""
            alone = not settings or (given and stage == name)
            found[stage] = (given or stage) if alone else f"{given or stage} ({settings})"
    return found


def arm_roles(records: Records) -> dict[str, str]:
    """technique, baseline or control, for each arm."""
    return {stage: arm["role"] for name, arm in records.spec["arms"].items() for stage in records.stages(name)}


def shown_values(records: Records, measured: Measured) -> tuple[list[Shown], list[Shown]]:
    """What matters, in the order of the claims, and of every other metric its first value; then all the rest."""
    every = [
        Shown(metric, name, "", value.unit, _better(measured.direction(metric, name)))
        for metric in measured.metrics
        for name, value in next(
            measured.system(arm, label, measured.clusters) for arm, label in measured.stats if label == metric
        ).items()
    ]
    counts: dict[str, int] = {}
    for entry in every:
        counts[entry.name] = counts.get(entry.name, 0) + 1
    known = {
        entry.key: entry._replace(label=entry.name if counts[entry.name] == 1 else f"{entry.name} ({entry.metric})")
        for entry in every
    }
    claimed = [claim["value"] for claim in records.spec["claims"] if claim["measure"] == measured.stage]
    of_claims = {value.partition(".")[0] for value in claimed}
    first = [f"{metric}.{measured.names(metric)[0]}" for metric in measured.metrics if metric not in of_claims]
    main = [known[key] for key in dict.fromkeys([*claimed, *first]) if key in known]
    return main, [entry for entry in known.values() if entry not in main]


def _better(direction: str) -> Better:
    return "lower" if direction == "lower" else "higher" if direction == "higher" else ""


def arm_tables(records: Records, measured: Measured) -> list[Table]:
    """The table of arms of one measure stage and, where metrics give more values than are claimed, one of those."""
    main, rest = shown_values(records, measured)
    labels, roles = arm_labels(records), arm_roles(records)
    arms = [arm for arm in labels if any((arm, metric) in measured.stats for metric in measured.metrics)]
    baselines = [arm for arm in arms if roles[arm] == "baseline"]
    columns = [Column(key="arm", label="arm"), Column(key="role", label="role")]
    rows: list[dict[str, Cell]] = [{"arm": labels[arm], "role": roles[arm]} for arm in arms]
    for shown in main:
        columns.append(Column(key=shown.key, label=shown.label, unit=shown.unit, better=shown.better))
        for row, arm in zip(rows, arms, strict=True):
            row[shown.key] = value_cell(measured, arm, shown)
        for baseline in baselines:
            key = f"{shown.key} - {baseline}"
            label = f"{shown.label}, minus {labels[baseline]}"
            unit = unit_of_difference(shown.unit)
            columns.append(Column(key=key, label=label, unit=unit, better=shown.better))
            for row, arm in zip(rows, arms, strict=True):
                row[key] = None if arm == baseline else difference_cell(measured, arm, baseline, shown)
    costs = {arm: costs_of(records, measured, arm) for arm in arms}
    for key, label, unit in (*_COST, *_TRAINING, *_PRIVACY):
        if any(costs[arm].get(key) is not None for arm in arms):
            columns.append(Column(key=key, label=label, unit=unit, better="lower" if key in _LOWER else ""))
            for row, arm in zip(rows, arms, strict=True):
                row[key] = costs[arm].get(key)
    _add_published(records, measured, labels, {shown.key: shown for shown in main}, columns, rows)
    caption = _caption(records, measured, arms)
    tables = [Table(title=_title("Arms", records, measured), caption=caption, columns=columns, rows=rows)]
    if rest:
        tables.append(_rest(records, measured, arms, labels, rest, caption))
    return tables


def _rest(
    records: Records,
    measured: Measured,
    arms: Sequence[str],
    labels: Mapping[str, str],
    rest: Sequence[Shown],
    caption: str,
) -> Table:
    columns = [Column(key="arm", label="arm")]
    columns += [Column(key=entry.key, label=entry.label, unit=entry.unit, better=entry.better) for entry in rest]
    rows: list[dict[str, Cell]] = [
        {"arm": labels[arm], **{entry.key: value_cell(measured, arm, entry) for entry in rest}} for arm in arms
    ]
    return Table(title=_title("Further values", records, measured), caption=caption, columns=columns, rows=rows)


def _title(title: str, records: Records, measured: Measured) -> str:
    return title if len(records.of_kind("measure")) == 1 else f"{title}: {measured.stage}"


def value_cell(measured: Measured, arm: str, shown: Shown) -> Cell:
    """The mean over seeds with its interval and every seed; None where the arm was not measured."""
    if (arm, shown.metric) not in measured.stats:
        return None
    found = level_of(
        measured.system(arm, shown.metric, measured.clusters)[shown.name], measured.draws(measured.clusters)
    )
    low, high = bounded(found, shown.better)
    return _cell(found, low, high, measured.seeds_of(arm))


def bounded(estimate: Estimate, better: Better) -> tuple[float, float]:
    """The interval of a value, that of a percentage kept from 0 to 100 where all of its seeds are.

    Bounds that allow for other seeds may reach further than a percentage can. One that is better the lower may be an
    error rate, which insertions take beyond 100.
    """
    low, high = estimate.interval(LEVEL)
    if estimate.unit != "%" or not all(0 <= value <= 100 for value in estimate.seeds) or math.isnan(low):
        return low, high
    return max(0.0, low), high if better == "lower" else min(100.0, high)


def difference_cell(measured: Measured, arm: str, baseline: str, shown: Shown) -> Cell:
    """The mean over seeds of arm - baseline with its interval and every seed; None where one was not measured."""
    if (arm, shown.metric) not in measured.stats or (baseline, shown.metric) not in measured.stats:
        return None
    found = compared(measured, arm, baseline, shown.key, clusters=measured.clusters)
    return _cell(found, *found.interval(LEVEL), seeds_of_difference(measured, arm, baseline))


def _cell(estimate: Estimate, low: float, high: float, seeds: Sequence[Seed]) -> Cell:
    cell: dict[str, Any] = {"value": finite(estimate.value), "low": finite(low), "high": finite(high)}
    if len(estimate.seeds) > 1:
        each = zip(seeds, estimate.seeds, strict=True)
        cell["seeds"] = [{"seed": seed, "value": finite(value)} for seed, value in each]
    return cell


def costs_of(records: Records, measured: Measured, arm: str) -> dict[str, Any]:
    """What an arm cost, on average over seeds: its decode stage, and all training before it."""
    runs = [values["cost"].get(arm, {}) for values in measured.values.values()]
    found = {key: mean_of(run.get(key) for run in runs) for key, _, _ in _COST}
    trained = [stage for stage in records.above(arm) if stage in records.of_kind("train")]
    if trained:
        for key, _, _ in _TRAINING:
            sums = []
            for seed in measured.seeds:
                parts: list[Any] = [records.facts(stage, seed).get(key) for stage in trained]
                sums.append(None if None in parts else sum(parts))
            found[key] = mean_of(sums)
        found |= _privacy(records, trained, measured.seeds)
    return found


def _privacy(records: Records, trained: Sequence[str], seeds: Sequence[Seed]) -> dict[str, Any]:
    """What the training of an arm spent: losses of several stages are added, the largest of all seeds is told."""
    spent = [[cost for stage in trained if (cost := records.facts(stage, seed).get("privacy"))] for seed in seeds]
    if not any(spent):
        return {}
    told = (
        f"{cost['unit']}{', depending on the data' if cost.get('data_dependent') else ''}"
        for costs in spent
        for cost in costs
    )
    return {
        "epsilon": max(sum(cost["epsilon"] for cost in costs) for costs in spent),
        "delta": max(sum(cost["delta"] for cost in costs) for costs in spent),
        "protects": "; ".join(dict.fromkeys(told)),
    }


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of what is known; a whole number stays one."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if all(value == known[0] for value in known):
        return known[0]
    return float(sum(known) / len(known))


def _add_published(
    records: Records,
    measured: Measured,
    labels: Mapping[str, str],
    shown: Mapping[str, Shown],
    columns: list[Column],
    rows: list[dict[str, Cell]],
) -> None:
    """Figures of papers, each system on each data a row of its own; those we have no column for as text."""
    groups: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for entry in records.spec.get("published") or []:
        row = groups.setdefault(
            (entry["arm"], entry["data"], entry["source"]),
            {
                "arm": labels.get(entry["arm"], entry["arm"]),
                "role": "",
                "source": f"{entry['source']}; on {entry['data']}",
                MARK: PUBLISHED,
            },
        )
        known = shown.get(entry["value"])
        if known is not None and known.unit == entry.get("unit", "%"):
            row[known.key] = entry["figure"]
        else:
            more = f"{entry['value']} {entry['figure']:g} {entry.get('unit', '%')}".strip()
            row["published"] = f"{row['published']}; {more}" if row.get("published") else more
    if not groups:
        return
    if any("published" in row for row in groups.values()):
        columns.append(Column(key="published", label="other measure"))
    columns.append(Column(key="source", label="source and data"))
    rows += groups.values()


def _caption(records: Records, measured: Measured, arms: Sequence[str]) -> str:
    count = measured.draws(measured.clusters).clusters
    items = f"{len(measured.ids)} utterances"
    items += f" in {count} clusters of equal {measured.clusters}" if measured.clusters else ""
    if not measured.drawn & set(arms):
        return f"Measured on {items}; 95 % intervals over utterances. Nothing is drawn at random."
    seeds = ", ".join(map(str, measured.seeds))
    if len(measured.seeds) == 1:
        return f"Seed {seeds}, measured on {items}; 95 % intervals over utterances only, as one seed has no spread."
    means = f"Means over {len(measured.seeds)} seeds ({seeds})"
    return f"{means}, measured on {items}; 95 % intervals over utterances and seeds."
