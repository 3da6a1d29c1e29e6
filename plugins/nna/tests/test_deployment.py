"""What was decided about a model's chip holds when `slt nna audit` and `slt nna cost` look at the saved model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import sltcore
from slt_nna.chip import load_chip
from slt_nna.deployment import place
from slt_nna.nna import Nna
from slt_nna.ranges import Ranges
from sltcore.bundle import save_bundle
from sltcore.data import iter_inputs
from sltcore.pipeline import Item, Pipeline

OPTIONS: dict[str, Any] = {
    "include": ["encoder*", "decoder.head"],
    "exclude": ["decoder.head"],
    "range": "percentile",
    "percent": 99.0,
    "table_gradient": "slope",
}


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", np.clip(0.2 * noise, -1, 1), 16000)
    soundfile.write(tmp_path / "soft.wav", 0.001 * noise, 16000)
    return tmp_path / "loud.wav"


@pytest.fixture
def bundle(tmp_path: Path, recording: Path) -> Iterator[Path]:
    """A pipeline with its head on the host, calibrated on a loud recording."""
    pipeline = spelled("mixed-8-16")
    transform = next(each for each in pipeline.transforms if isinstance(each, Nna))
    transform.detach()
    transform.attach(pipeline.model, iter([pipeline.batch([pipeline.read(item(recording))])]))
    save_bundle(pipeline, tmp_path / "bundle")
    return tmp_path / "bundle"


def item(path: Path) -> Item:
    return next(iter(iter_inputs([str(path)])))


def spelled(chip: str) -> Pipeline:
    return sltcore.load(
        {
            "slt": 1,
            "kind": "pipeline",
            "encoder": {"use": "lstm", "hidden": 12, "layers": 1, "dropout": 0},
            "decoder": {"use": "ctc-greedy", "characters": "abc"},
            "transforms": [{"use": "nna", "chip": chip, **OPTIONS}],
        }
    )


def ranges_of(transform: Nna) -> dict[str, float]:
    return {name: float(value) for name, value in transform.state().items()}


def stored(bundle: Path) -> dict[str, float]:
    transform = next(each for each in sltcore.load(str(bundle)).transforms if isinstance(each, Nna))
    return ranges_of(transform)


@pytest.mark.parametrize("chip", ["mixed-8-16", "harsh"])
def test_what_stays_on_the_host_stays_there(bundle: Path, recording: Path, chip: str) -> None:
    placed = place(str(bundle), load_chip(chip), [item(recording)])
    wanted = {key: tuple(value) if isinstance(value, list) else value for key, value in OPTIONS.items()}
    assert wanted.items() <= dict(placed.transform.options).items()
    assert not any("head" in name for name in placed.transform.state())
    assert any("encoder" in name for name in placed.transform.state())
    assert [each for each in placed.pipeline.transforms if isinstance(each, Nna)] == [placed.transform]


def test_the_same_chip_keeps_the_ranges_of_the_bundle(bundle: Path, recording: Path) -> None:
    soft = recording.with_name("soft.wav")
    assert ranges_of(place(str(bundle), load_chip("mixed-8-16"), [item(soft)]).transform) == stored(bundle)


@pytest.mark.parametrize(("chip", "rule"), [("harsh", None), ("mixed-8-16", "max")])
def test_another_chip_or_rule_measures_anew(bundle: Path, recording: Path, chip: str, rule: str | None) -> None:
    soft = recording.with_name("soft.wav")
    placed = place(str(bundle), load_chip(chip), [item(soft)], range_rule=rule)
    assert placed.transform.options["range"] == (rule or OPTIONS["range"])
    assert isinstance(placed.transform.ranges, Ranges)
    assert ranges_of(placed.transform) != stored(bundle)


def test_a_spec_whose_chip_was_never_calibrated_is_measured(tmp_path: Path, recording: Path) -> None:
    spec = {
        "slt": 1,
        "kind": "pipeline",
        "encoder": {"use": "lstm", "hidden": 12, "layers": 1, "dropout": 0},
        "decoder": {"use": "ctc-greedy", "characters": "abc"},
        "transforms": [{"use": "nna", "chip": "mixed-8-16", **OPTIONS}],
    }
    (tmp_path / "asr.yaml").write_text(json.dumps(spec))
    placed = place(str(tmp_path / "asr.yaml"), load_chip("mixed-8-16"), [item(recording)])
    assert placed.transform.state()
    with torch.no_grad():
        placed.pipeline.model.encoder(placed.inputs[0], {})
