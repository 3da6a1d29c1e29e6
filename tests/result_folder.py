"""A folder of results as a run leaves it, written by hand: what is in it is known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sltcore.interfaces import Value

ITEMS, SEEDS = 60, (0, 1, 2)
ARMS = ("tuned", "plain", "fixed")  # nothing is drawn at random in the last one


class Errors:
    """A rate of two statistics, and the share of items that are wrong."""

    directions: Mapping[str, str] = {"rate": "lower", "wrong": "lower"}

    def reduce(self, stats: np.ndarray) -> Mapping[str, Value]:
        errors, length = stats.sum(axis=0)
        wrong = np.count_nonzero(stats[:, 0]) / len(stats)
        return {"rate": Value(100 * errors / length if length else math.nan, "%"), "wrong": Value(100 * wrong, "%")}


def experiment() -> dict[str, Any]:
    """Its spec: one arm is trained, one is not, two are decoded from one training."""
    data = [{"corpus": "asterisk-en", "split": "test", "limit": 60}]
    return {
        "slt": 1,
        "kind": "experiment",
        "name": "toy",
        "title": "Tuning helps",
        "description": "Does it?",
        "limits": "A toy.",
        "claims": [
            {"measure": "scores", "value": "errors.rate", "arm": "tuned", "versus": "fixed", "clusters": "speaker",
             "text": "Tuned makes fewer errors"},
            {"measure": "scores", "value": "errors.rate", "arm": "plain", "versus": "fixed", "relative": True,
             "direction": "not-worse", "margin": 5},
        ],
        "correction": "holm",
        "seeds": list(SEEDS),
        "replicates": 500,
        "stages": {
            "training": {"do": "train", "data": {"train": [{"manifest": "/somewhere/train.csv", "weight": 2.0}]}},
            "tuned": {"do": "decode", "from": "training", "data": data},
            "plain": {"do": "decode", "from": "training", "data": data},
            "fixed": {"do": "decode", "data": data},
            "scores": {"do": "measure", "of": list(ARMS)},
        },
        "arms": {
            "tuned": {"role": "technique", "label": "tuned arm"},
            "plain": {"role": "control"},
            "fixed": {"role": "baseline", "label": "as it was"},
        },
        "published": [
            {"arm": "tuned", "value": "errors.rate", "figure": 12.5, "unit": "%", "data": "LibriSpeech", "source": "A, table 2"},
            {"arm": "theirs", "value": "word F1", "figure": 60, "unit": "%", "data": "LibriSpeech", "source": "A, table 2"},
        ],
    }  # fmt: skip


def statistics() -> dict[str, np.ndarray]:
    """Per arm [s n 2]: errors and lengths."""
    source = np.random.default_rng(0)
    lengths = np.repeat(source.integers(4, 12, (1, ITEMS)), len(SEEDS), axis=0)
    found = {
        arm: np.stack([source.binomial(lengths, share), lengths], axis=2).astype(float)
        for arm, share in (("tuned", 0.1), ("plain", 0.3), ("fixed", 0.3))
    }
    found["fixed"][:] = found["fixed"][:1]
    return found


STAGES = {"training": ("train", []), "tuned": ("decode", ["training"]), "plain": ("decode", ["training"]),
          "fixed": ("decode", []), "scores": ("measure", list(ARMS))}  # fmt: skip


def write_results(
    folder: Path,
    *,
    failed: Sequence[tuple[str, int | None]] = (),
    unreached: Sequence[tuple[str, int | None]] = (),
    ids: Mapping[int, Sequence[str]] = {},
    **changes: Any,
) -> Path:
    """`failed` and `unreached` are units (stage, seed) without results, `ids` the utterances of a seed's measurement."""
    (folder / "experiment.yaml").write_text(
        yaml.safe_dump({**experiment(), **changes}, sort_keys=False), encoding="utf-8"
    )
    units = []
    for stage, (do, _) in STAGES.items():
        for seed in (None,) if stage == "fixed" else SEEDS:
            if (stage, seed) in unreached:
                continue
            row = {"stage": stage, "stages": [stage], "seed": seed, "do": do, "key": f"{stage}{seed}",
                   "state": "done", "seconds": 1.5, "host": "here", "error": "",
                   "folder": f"units/{stage}--{seed}"}  # fmt: skip
            if (stage, seed) in failed:
                row |= {"state": "failed", "error": "it broke", "folder": None}
            else:
                _unit(folder / str(row["folder"]), stage, seed, ids.get(seed or 0))
            units.append(row)
    results = {
        "schema": 1, "experiment": "toy", "created": "2026-01-02T03:04:05+00:00", "size": "small", "engine": "local",
        "command": "slt reproduce toy --size small", "versions": {"python": "3.11", "sltcore-lib": "0.2.0"},
        "machine": {"host": "here", "processors": 2, "gpus": []}, "seeds": list(SEEDS), "grids": {}, "units": units,
        "stages": {
            stage: {"do": do, "seeds": [None] if stage == "fixed" else list(SEEDS), "needs": needs, "settings": {}}
            for stage, (do, needs) in STAGES.items()
        },
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def _unit(folder: Path, stage: str, seed: int | None, ids: Sequence[str] | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"key": f"{stage}{seed}"}
    if stage == "training":
        lines = [{"step": step, "loss": 5.0 / step} for step in range(1, 801)]
        lines.append({"step": 800, "dev": {"loss": 0.5, "errors.rate": 11.0}})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 80')
        facts |= {"steps": 800, "utterances": 4321, "train_seconds": 10.0 + (seed or 0), "skipped_utterances": {"x": "too short"},
                  "privacy": {"epsilon": 2.0, "delta": 1e-5, "unit": "speaker", "data_dependent": False}}  # fmt: skip
    elif stage in ARMS:
        facts |= {"parameters": 1000, "audio": []}
        if stage != "plain":
            (folder / "audio").mkdir()
            (folder / "audio" / "000-in.wav").write_bytes(b"RIFF....")
            facts["audio"] = [{"id": "u0", "text": f"heard by {stage}", "reference": "said", "in": "audio/000-in.wav"}]
    elif stage == "scores":
        known = [f"u{i}" for i in range(ITEMS)]
        rows = [known.index(name) for name in ids] if ids is not None else list(range(ITEMS))
        arrays: dict[str, Any] = {
            f"stats:{arm}:errors": stats[SEEDS.index(seed or 0)][rows] for arm, stats in statistics().items()
        }
        arrays["ids"] = np.array([known[row] for row in rows])
        arrays["column:speaker"] = np.array([f"s{row % 25}" for row in rows])
        np.savez(folder / "stats.npz", **arrays)
        costs = {
            "parameters": 1000,
            "bytes": 4000,
            "memory_bytes": 4096,
            "run_seconds": 2.0 + (seed or 0),
            "real_time_factor": 0.1,
        }
        values = {
            "utterances": len(rows), "clusters": {"column": "speaker", "count": 25}, "metrics": {"errors": {"use": "errors"}},
            "arms": {arm: {} for arm in ARMS}, "cost": dict.fromkeys(ARMS, costs),
            "failed": {"plain": {"u7": "no sound"}} if seed == 1 else {},
        }  # fmt: skip
        (folder / "values.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "unit.json").write_text(json.dumps(facts), encoding="utf-8")
