"""What measure stages do: statistics of each utterance under each arm, and values with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltcore.errors import DataError, did_you_mean
from sltcore.experiment.outputs import column, read_outputs
from sltcore.experiment.units import Unit, read_unit, write_json

if TYPE_CHECKING:
    import numpy as np

    from sltcore.audio import Recording
    from sltcore.interfaces import Metric
    from sltcore.registry import Registry

STATS, VALUES = "stats.npz", "values.json"
AUDIO = "audio"  # a reference that is no column: the recording that went in
_LISTED = 5


def measure(unit: Unit, folder: Path, places: Mapping[str, Path], registry: Registry | None) -> dict[str, Any]:
    """Measure all arms on the same utterances; writes stats.npz and values.json.

    stats.npz holds texts `ids` [n], `column:NAME` [n] for each column of the data (as text, empty where a row has none),
    and `stats:ARM:METRIC` [n s] float64. No pickle is written or read.
    """
    import numpy as np

    arms = {arm: _chosen(read_outputs(places[arm]), unit.fields.get("where") or {}, arm) for arm in unit.fields["of"]}
    ids, failed = _aligned(arms)
    first = next(iter(arms.values()))
    clusters = _clusters([first[name] for name in ids], unit.more.get("clusters"))
    arrays: dict[str, np.ndarray] = {"ids": np.array(ids)}
    for name in _columns(first.values()):
        arrays[f"column:{name}"] = np.array([_text(column(first[key], name)) for key in ids])
    values: dict[str, Any] = {arm: {} for arm in arms}
    metrics = {}
    for label, block in _labels(unit.fields["metrics"]).items():
        metric = make_metric(block, registry)
        metrics[label] = dict(block)
        rate_hz = metric.consumes.attributes.get("sample_rate_hz")
        references = _references(unit, first, ids, places[unit.fields["of"][0]], rate_hz)
        for arm, rows in arms.items():
            outputs = [_output(rows[name], places[arm], rate_hz) for name in ids]
            stats = _statistics(metric, outputs, references, ids, clusters)
            arrays[f"stats:{arm}:{label}"] = stats
            values[arm].update(_values(label, metric, stats, clusters, int(unit.more["replicates"])))
    np.savez(folder / STATS, **arrays)  # type: ignore[arg-type]
    found = {
        "utterances": len(ids),
        "clusters": {"column": unit.more.get("clusters"), "count": len(set(clusters))},
        "metrics": metrics,
        "arms": values,
        "cost": {arm: cost_of(places[arm], unit.fields.get("cost") or []) for arm in arms},
        "failed": failed,
    }
    write_json(folder / VALUES, found)
    return {"utterances": len(ids), "failed": failed}


def make_metric(block: Mapping[str, Any], registry: Registry | None = None) -> Metric:
    """The metric of a filled block, as values.json keeps it under `metrics`."""
    from sltcore.pipeline.build import build_component

    config = {name: value for name, value in block.items() if name != "use"}
    metric: Metric = build_component("metric", block["use"], config, registry=registry)
    return metric


def _labels(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Metrics by the name that claims call them: a second one of a name is NAME-2."""
    found: dict[str, Mapping[str, Any]] = {}
    for block in blocks:
        name = str(block["use"]).rpartition("/")[2]
        label, number = name, 2
        while label in found:
            label, number = f"{name}-{number}", number + 1
        found[label] = block
    return found


def _chosen(rows: Sequence[dict[str, Any]], where: Mapping[str, Sequence[Any]], arm: str) -> dict[str, dict[str, Any]]:
    """Rows by id, those that count."""
    for name in where:
        if rows and not any(column(row, name) is not None for row in rows):
            known = _columns(rows)
            raise DataError(
                f"where: the outputs of '{arm}' have no column '{name}'; there are: {', '.join(known)}.{did_you_mean(name, known)}"
            )
    kept = [
        row for row in rows if all(_text(column(row, name)) in map(_text, values) for name, values in where.items())
    ]
    if not kept:
        raise DataError(f"no utterance of '{arm}' is left to be measured; check where")
    return {row["id"]: row for row in kept}


def _aligned(arms: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Ids that all arms have, in the first one's order, and what failed in each.

    An utterance whose result is no text and that failed in one arm counts in none, because it has no empty form.
    **Raises** `DataError` where arms were decoded on other utterances.
    """
    names = list(arms)
    ids = list(arms[names[0]])
    for arm in names[1:]:
        other = set(arms[arm]) ^ set(ids)
        if other:
            raise DataError(
                f"'{names[0]}' and '{arm}' were decoded on other utterances: {len(other)} are in one of them only, such as "
                f"{', '.join(sorted(other)[:_LISTED])}; give both the same data"
            )
    failed = {arm: {name: row["error"] for name, row in rows.items() if "error" in row} for arm, rows in arms.items()}
    if any("output" in row for rows in arms.values() for row in rows.values()):
        lost = {name for names_ in failed.values() for name in names_}
        ids = [name for name in ids if name not in lost]
        if not ids:
            raise DataError("every utterance failed in one arm or another; see their unit.json")
    return ids, {arm: found for arm, found in failed.items() if found}


def _columns(rows: Any) -> list[str]:
    """Names of the data's columns in rows of outputs, by the data's names."""
    found = {}
    for row in rows:
        for name in row:
            if name == "reference":
                found["text"] = True
            elif name.startswith("data."):
                found[name.removeprefix("data.")] = True
            elif name not in ("id", "audio", "channel", "text", "score", "nbest", "output", "error"):
                found[name] = True
    return sorted(found)


def _clusters(rows: Sequence[Mapping[str, Any]], name: str | None) -> list[str]:
    """What is resampled together: equal values of a column, else each utterance."""
    if name is None:
        return [row["id"] for row in rows]
    known = _columns(rows)
    if name not in known and name != "id":
        raise DataError(
            f"clusters: the data have no column '{name}'; there are: {', '.join(known)}.{did_you_mean(name, known)}"
        )
    found = [column(row, name) for row in rows]
    return [row["id"] if value is None else _text(value) for row, value in zip(rows, found, strict=True)]


def _references(
    unit: Unit, rows: Mapping[str, Mapping[str, Any]], ids: Sequence[str], folder: Path, rate_hz: int | None
) -> list[Any]:
    """What should have come out, from a column of the data, or the recordings themselves at the metric's rate."""
    name = str(unit.fields.get("reference") or "text")
    if name == AUDIO:
        missing = [key for key in ids if not rows[key].get(AUDIO)]
        if missing:
            raise DataError(f"reference: {len(missing)} recordings lie in no file, such as {missing[0]}")
        return [_sound(folder / rows[key][AUDIO], rate_hz, rows[key].get("channel")) for key in ids]
    found = [column(rows[key], name) for key in ids]
    missing = [key for key, value in zip(ids, found, strict=True) if value is None]
    if missing:
        raise DataError(
            f"reference: {len(missing)} of {len(ids)} utterances have nothing in column '{name}', such as "
            f"{', '.join(missing[:_LISTED])}; columns: {', '.join(_columns(rows.values()))}"
        )
    return found


def _output(row: Mapping[str, Any], folder: Path, rate_hz: int | None) -> Any:
    """A result as a metric takes it; sound at the metric's rate."""
    from sltcore.types import Hypothesis, NBest

    if "output" not in row:
        found = row.get("nbest") or [{"text": row["text"], "score": row.get("score")}]
        return NBest([Hypothesis(h["text"], -math.inf if h["score"] is None else h["score"]) for h in found])
    path = folder / row["output"]
    if path.suffix == ".wav":
        return _sound(path, rate_hz)
    import numpy as np

    return np.load(path, allow_pickle=False)


def _sound(path: Path, rate_hz: int | None, channel: Any = None) -> Recording:
    """A recording at a rate, its own where no other is asked for."""
    from sltcore.audio import probe, read_audio

    return read_audio(path, rate_hz if rate_hz is not None else probe(path).sample_rate_hz, channel=channel)


def _statistics(
    metric: Metric, outputs: Sequence[Any], references: Sequence[Any], ids: Sequence[str], clusters: Sequence[str]
) -> np.ndarray:
    """One row for each utterance, in order. **Raises** `DataError` where a metric keeps another number."""
    metric.reset()
    metric.update(outputs, references, ids=ids, groups=clusters)
    stats = metric.per_item()
    if len(stats) != len(ids):
        raise DataError(
            f"{type(metric).__name__} kept {len(stats)} rows for {len(ids)} utterances; a claim needs one for each"
        )
    return stats


def _values(
    label: str, metric: Metric, stats: np.ndarray, clusters: Sequence[str], replicates: int
) -> dict[str, dict[str, Any]]:
    """METRIC.VALUE to value, interval, unit and direction; NaN where nothing is said."""
    import numpy as np

    from sltcore.experiment.bootstrap import interval

    found = interval(stats, metric.reduce, clusters=clusters, replicates=replicates, generator=np.random.default_rng(0))
    return {
        f"{label}.{name}": {
            "value": float(value.value),
            "low": float(value.low),
            "high": float(value.high),
            "unit": value.unit,
            "better": metric.directions.get(name, ""),
        }
        for name, value in found.items()
    }


def cost_of(folder: Path, wanted: Sequence[str]) -> dict[str, Any]:
    """What a decode stage cost: of `seconds`, `bytes` and `parameters` those that are wanted."""
    facts = read_unit(folder) or {}
    groups = {
        "seconds": ("run_seconds", "run_cpu_seconds", "audio_seconds", "device", "threads"),
        "bytes": ("bytes", "memory_bytes", "max_rss_bytes"),
        "parameters": ("parameters",),
    }
    found = {name: facts.get(name) for group in wanted for name in groups[group]}
    if "seconds" in wanted and facts.get("audio_seconds"):
        found["real_time_factor"] = round(facts["run_seconds"] / facts["audio_seconds"], 6)
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value)
