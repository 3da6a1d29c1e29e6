"""Small material for tests of training data: a tiny pipeline, and recordings made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import sltcore
from sltcore.data.examples import Example
from sltcore.pipeline import Pipeline
from sltcore.spec.training import TrainFields
from sltcore.types import Item

RATE = 16000
SMALL = {
    "slt": 1,
    "kind": "pipeline",
    "encoder": {
        "use": "lstm",
        "frontend": {"use": "log-mel", "n_mels": 20},
        "hidden": 8,
        "layers": 1,
        "dropout": 0.0,
    },
    "decoder": {"use": "ctc-greedy", "characters": "abcdefghijklmnopqrstuvwxyz'"},
}


def small_pipeline() -> Pipeline:
    """An LSTM of 8 units over 20 mel bands, and letters."""
    return sltcore.load(SMALL)


def recording(path: Path, seconds: float, *, seed: int = 0, subtype: str = "PCM_16") -> Path:
    """A wav of noise at 16 kHz."""
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    soundfile.write(path, samples, RATE, subtype=subtype)
    return path


def make_examples(folder: Path, seconds: list[float], text: str = "ab", **extra: Any) -> list[Example]:
    """One recording for each length."""
    found = []
    for index, length in enumerate(seconds):
        path = recording(folder / f"u{index}.wav", length, seed=index)
        found.append(Example(Item(f"u{index}", str(path), text, extra=extra), length))
    return found


def fields(**values: Any) -> TrainFields:
    """The fields of a training run."""
    return TrainFields.model_validate(values)
