"""What every row of a report stands on: data, split rule, model size, steps, seeds; and where it ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sltcore.experiment.arms import arm_labels, mean_of
from sltcore.experiment.records import Measured, Records
from sltcore.spec.experiments import ExperimentSpec

Fact = str | int | float | None
RULES = {
    "seeded-text": "by text: 15 % of the distinct texts, drawn once, are the test part",
    "text": "by text: a text is in the test part when its hash, read as a fraction, is below 0.15",
    "speaker-and-text": "by speaker and text: test speakers say no text of the training part",
    "files": "as the corpus's own files say",
}


def facts_of(records: Records, measured: Mapping[str, Measured]) -> dict[str, Fact]:
    """In the order in which they are read. Command, machine and versions have parts of their own in a report."""
    spec, results = records.spec, records.results
    found: dict[str, Fact] = {}
    for stage in records.of_kind("measure"):
        held = measured.get(stage)
        if held is not None:
            count = held.draws(held.clusters).clusters
            clusters = f", {count} different values of {held.clusters}" if held.clusters else ""
            found[f"utterances of {stage}"] = f"{len(held.ids)}{clusters}"
    found["test data"] = _entries(records, "decode", "data") or None
    found["training data"] = _entries(records, "train", "train") or None
    found["dev data"] = _entries(records, "train", "dev") or None
    found["calibration data"] = _entries(records, "transform", "calibration") or None
    found["split rule"] = _rules(records) or None
    found["model size"] = _sizes(records, measured) or None
    found["training steps"] = _counted(records, "steps") or None
    found["utterances learned from"] = _counted(records, "utterances") or None
    found["utterances not learned from"] = _skipped(records) or None
    found["seeds"] = ", ".join(map(str, results.get("seeds", [])))
    found["size"] = results.get("size") or "full"
    found["engine"] = results.get("engine")
    found["bootstrap"] = f"{spec.get('replicates', 10_000)} replicates"
    if len(spec["claims"]) > 1:
        default = ExperimentSpec.model_fields["correction"].default
        found["correction for several claims"] = spec.get("correction", default)
    return {name: value for name, value in found.items() if value is not None}


def machine_of(records: Records) -> dict[str, str]:
    """Where it ran, as text; all hosts where units ran on several."""
    found = {}
    for name, value in records.results.get("machine", {}).items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if text:
            found[name] = text
    hosts = sorted({row["host"] for row in records.results.get("units", []) if row.get("host")})
    if len(hosts) > 1:
        found["hosts"] = ", ".join(hosts)
    return found


def _data(records: Records, do: str, part: str) -> Iterable[Mapping[str, Any]]:
    """Data entries of all stages of a kind, from what they did or, where none ran, from the spec."""
    for stage in records.spec["stages"].values():
        if stage["do"] != do:
            continue
        data = stage.get("data") or {}
        yield from (data.get(part) or []) if isinstance(data, Mapping) else data if part == "data" else []
        if part == "train" and isinstance(data, Mapping):
            yield from [*(data.get("private") or []), *(data.get("public") or [])]
        if part == "calibration":
            yield from stage.get("calibration") or []


def _entries(records: Records, do: str, part: str) -> str:
    return "; ".join(dict.fromkeys(data_text(entry) for entry in _data(records, do, part)))


def data_text(entry: Mapping[str, Any]) -> str:
    """A data entry in words: what, and which part of it."""
    if entry.get("corpus"):
        found = [str(entry["corpus"])]
    elif entry.get("manifest"):
        found = [Path(str(entry["manifest"])).name]
    elif entry.get("dataset"):
        text = str(entry["dataset"])
        found = [Path(text).name if Path(text).is_absolute() else text]
    else:
        found = [f"outputs of {entry.get('stage')}"]
    for name in ("config", "revision", "split"):
        if entry.get(name):
            found.append(f"{name} {entry[name]}")
    if entry.get("part"):
        low, high = (f"{100 * share:g}" for share in entry["part"])
        found.append(f"{low} to {high} % by the hash of the text")
    for column, values in (entry.get("where") or {}).items():
        found.append(f"{column} {' or '.join(map(str, values))}")
    for field, what in (("with_words", "with"), ("without_words", "without")):
        if entry.get(field):
            found.append(f"{what} the words {' '.join(entry[field])}")
    if entry.get("limit"):
        found.append(f"at most {entry['limit']} utterances")
    if entry.get("max_seconds"):
        found.append(f"at most {entry['max_seconds']:g} s each")
    if entry.get("weight", 1.0) != 1.0:
        found.append(f"weight {entry['weight']:g}")
    return ", ".join(found)


def _rules(records: Records) -> str:
    """How training and test parts of each source were told apart."""
    from sltcore.data.corpora import CORPORA

    found: dict[str, str] = {}
    entries = [entry for do, part in (("train", "train"), ("decode", "data")) for entry in _data(records, do, part)]
    for entry in entries:
        name = entry.get("corpus")
        if name and name in CORPORA:
            found[str(name)] = RULES.get(CORPORA[name].split_rule, CORPORA[name].split_rule)
        elif entry.get("split") and not entry.get("stage"):
            found[data_text({**entry, "split": None, "limit": None, "part": None})] = "as its own split column says"
    return "; ".join(f"{name}: {rule}" for name, rule in found.items())


def _sizes(records: Records, measured: Mapping[str, Measured]) -> str:
    """Parameters of each arm, once where all are equal."""
    found: dict[str, float] = {}
    for arm, label in arm_labels(records).items():
        known = mean_of(records.facts(arm, seed).get("parameters") for seed in records.seeds(arm))
        if known is not None:
            found[label] = known
    if len(set(found.values())) == 1:
        return f"{next(iter(found.values())):,.0f} parameters"
    return "; ".join(f"{label}: {count:,.0f} parameters" for label, count in found.items())


def _counted(records: Records, key: str) -> str:
    """A number that train stages tell, once where it is the same for all."""
    found = {}
    for stage in records.of_kind("train"):
        told = (records.facts(stage, seed).get(key) for seed in records.seeds(stage))
        counts = [int(count) for count in told if count is not None]
        if counts:
            found[stage] = " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))
    if len(set(found.values())) == 1 and len(found) > 1:
        return f"{next(iter(found.values()))} in each of {', '.join(found)}"
    return "; ".join(f"{stage}: {count}" for stage, count in found.items())


def _skipped(records: Records) -> str:
    """How many utterances each train stage could not learn from, such as those with no alignment."""
    found: dict[str, int] = {}
    for stage in records.of_kind("train"):
        counts: list[int] = [
            len(records.facts(stage, seed).get("skipped_utterances") or {}) for seed in records.seeds(stage)
        ]
        if any(counts):
            found[stage] = max(counts)
    return "; ".join(f"{stage}: {count}" for stage, count in found.items())
