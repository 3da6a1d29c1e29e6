"""Training specs: every model begins at the public start and takes as many further steps."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from settings import ALL, DELTA, RATE, UTTERANCES, Steps

from sltcore.data.examples import Example

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
ROWS: dict[str, Any] = {
    "a": "æ", "b": "b", "c": "k", "d": "d", "e": "ɛ", "f": "f", "g": "g", "h": "h", "i": "ɪ", "j": "d͡ʒ", "k": "k", "l": "l",
    "m": "m", "n": "n", "o": "oʊ", "p": "p", "q": {"label": "k", "bias": -2}, "r": "ɹ", "s": "s", "t": "t", "u": "u", "v": "v",
    "w": "w", "x": {"label": "k", "bias": -2}, "y": "j", "z": "z", "'": {"label": "<unk>", "scale": 0, "bias": -5},
}  # fmt: skip
"""Letters begin from the rows of the phones that they stand for."""


def start(data: Path, *, steps: int) -> dict[str, Any]:
    """The public model: letters on frozen frames, from public recordings with texts."""
    found = _spec([{"manifest": str(data)}], seed=0, steps=steps, rate=1e-3)
    found["pipeline"] = {"encoder": "kept-frames", "decoder": {"use": "ctc-greedy", "characters": LETTERS}}
    found["copy_rows"] = [{"source": "encoder.head", "to": "decoder.head", "rows": ROWS}]
    return found


def further(base: Path, spoken: Path, others: Path | None, share: float, *, seed: int, steps: int) -> dict[str, Any]:
    """From the public start, on public recordings with texts and, drawn as often, on `others`; `share` is the numbers of the
    first over those of the second."""
    data: list[dict[str, Any]] = [{"manifest": str(spoken)}]
    if others is not None:
        data.append({"manifest": str(others), "weight": share})
    return {**_spec(data, seed=seed, steps=steps, rate=5e-4), "pipeline": str(base)}


def dp_sgd(
    base: Path, private: Path, settings: Steps, epsilon: float | None, units: int, *, seed: int, steps: int
) -> dict[str, Any]:
    """From the public start, with clipped and noised gradients of units; `epsilon` None: clipped, without noise."""
    found = _spec([], seed=seed, steps=steps, rate=settings.learning_rate)
    mechanism = {
        "use": "dp-sgd", "epsilon": epsilon, "delta": DELTA, "unit": "unit", "steps": steps, "rate": RATE, "units": units,
        "utterances": UTTERANCES, "clip": 1.0,
    }  # fmt: skip
    data = {"private": [{"manifest": str(private)}]}
    return {
        **found, "pipeline": str(base), "trainable": list(settings.trainable), "data": data, "privacy": mechanism,
        "schedule": {"shape": "constant", "warmup_steps": 0},
    }  # fmt: skip


def _spec(data: list[dict[str, Any]], *, seed: int, steps: int, rate: float) -> dict[str, Any]:
    return {
        "slt": 1,
        "kind": "train",
        "seed": seed,
        "data": {"train": data},
        "trainable": list(ALL),
        "optimizer": {"learning_rate": rate},
        "schedule": {"shape": "cosine", "warmup_steps": max(1, steps // 10)},
        "budget": {"steps": steps},
        "batch": {"seconds": 20.0, "size": 16},
        "checkpoint": {"every_steps": steps},
        "log": {"tensorboard": False},
    }


def write_manifest(path: Path, examples: Sequence[Example]) -> Path:
    """Rows with the texts that they have now, as a spec reads them."""
    rows = [
        [e.item.id, str(e.item.source), e.item.text or "", str(e.item.extra["unit"]), f"{e.seconds:.3f}"]
        for e in examples
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "audio", "text", "unit", "seconds"], *rows])
    return path
