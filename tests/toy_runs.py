"""Fixtures of the experiments' tests: a toy experiment, and running it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import toy_experiment
from fake_plugins import Site

import sltcore
import sltcore.train
from sltcore.experiment import run_experiment
from sltcore.experiment.keys import _version
from sltcore.experiment.run import Results
from sltcore.registry import Registry

Spec = dict[str, Any]
PIPELINE = {"encoder": "gain", "decoder": "writer"}


@pytest.fixture
def registry(site: Site, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr(sltcore.train, "fit", toy_experiment.fit, raising=False)
    monkeypatch.syspath_prepend(str(site.folder))
    monkeypatch.setattr("sltcore.experiment.plan.REPLICATES", 200)
    _version.cache_clear()
    return toy_experiment.toy_registry(site)


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """base is trained; tuned goes on from it; both, and the untrained pipeline, are decoded and measured."""
    folder = tmp_path / "sound"
    folder.mkdir()
    lines = ["audio,text,speaker,place"]
    for number in range(6):
        samples = np.full(800 + number, 0.01 * (number + 1), dtype=np.float32)
        soundfile.write(folder / f"{number}.wav", samples, 16000, subtype="FLOAT")
        lines.append(f"{number}.wav,{samples.sum():.3f},s{number % 2},{'here' if number < 4 else 'there'}")
    (folder / "all.csv").write_text("\n".join(lines), encoding="utf-8")
    data = [{"manifest": str(folder / "all.csv")}]
    return {
        "slt": 1,
        "kind": "experiment",
        "name": "toy",
        "claims": [
            {"measure": "scores", "value": "distance.mean", "arm": "short", "versus": "plain", "clusters": "speaker"}
        ],
        "seeds": [0, 1],
        "stages": {
            "base": {"do": "train", "pipeline": PIPELINE, "data": {"train": data}, "budget": {"steps": 3}},
            "tuned": {"do": "train", "from": "base", "data": {"train": data}, "budget": {"steps": 2}},
            "plain": {"do": "decode", "pipeline": PIPELINE, "data": data},
            "short": {"do": "decode", "from": "tuned", "data": data},
            "long": {"do": "decode", "from": "base", "data": data},
            "scores": {"do": "measure", "of": ["plain", "short", "long"], "metrics": ["distance"]},
        },
        "arms": {"plain": {"role": "baseline"}, "short": {"role": "technique"}, "long": {"role": "control"}},
        "sizes": {"smoke": {"seeds": [0], "stages.base.budget.steps": 1}},
    }


@pytest.fixture
def run(registry: Registry, tmp_path: Path) -> Callable[..., Results]:
    def runner(spec: Spec, **options: Any) -> Results:
        return run_experiment(spec, out=options.pop("out", tmp_path / "out"), registry=registry, **options)

    return runner


def states(results: Results) -> dict[str, str]:
    return {unit.label: result.state for unit, result in results.units}


def values(results: Results, seed: int | None = 0) -> dict[str, Any]:
    folder = results.folder("scores", seed)
    assert folder is not None
    found: dict[str, Any] = json.loads((folder / "values.json").read_text())
    return found
