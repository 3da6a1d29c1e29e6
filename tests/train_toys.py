"""Tones that stand for letters, as a manifest, and specs that learn them in a second; components that show what training
does with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE_HZ = 8000
TONES_HZ = {"a": 400, "b": 900, "c": 1700, "d": 2700}


def tones(text: str, seed: int) -> np.ndarray:
    """0.12 s of a tone for each letter, silence for a space, with noise."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(int(0.12 * RATE_HZ)) / RATE_HZ
    parts = [np.sin(2 * np.pi * TONES_HZ[letter] * time_s) if letter in TONES_HZ else 0 * time_s for letter in text]
    samples = 0.2 * np.concatenate(parts)
    return (samples + generator.normal(0, 0.01, len(samples))).astype(np.float32)


def write_tones(folder: Path, count: int = 24, seed: int = 0, name: str = "train.csv") -> Path:
    """A manifest of recordings with random words of the letters a to d."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    lines = ["id,audio,text,speaker"]
    for index in range(count):
        text = "".join(generator.choice(list("abcd"), generator.integers(2, 6)))
        path = folder / f"{Path(name).stem}-{index:03d}.wav"
        soundfile.write(path, tones(text, seed * 1000 + index), RATE_HZ)
        lines.append(f"{Path(name).stem}-{index:03d},{path.name},{text},s{index % 3}")
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


FRONT_END = {"use": "log-mel", "n_mels": 16, "sample_rate_hz": RATE_HZ}
CONFORMER = {
    "use": "conformer",
    "frontend": FRONT_END,
    "d_model": 16,
    "layers": 1,
    "heads": 2,
    "ffn": 32,
    "kernel": 7,
    "subsampling": 2,
}
LSTM = {"use": "lstm", "hidden": 16, "layers": 1, "frontend": FRONT_END}


def train_spec(manifest: Path, dev: Path | None = None, **changes: Any) -> dict[str, Any]:
    """A run of twelve steps over a tiny network."""
    data: dict[str, Any] = {"train": [{"manifest": str(manifest)}]}
    if dev is not None:
        data["dev"] = [{"manifest": str(dev)}]
    spec = {
        "slt": 1,
        "kind": "train",
        "pipeline": {
            "encoder": LSTM,
            "decoder": {"use": "ctc-greedy", "characters": "abcd"},
            "metrics": ["cer"],
        },
        "data": data,
        "optimizer": {"learning_rate": 0.01},
        "schedule": {"shape": "constant", "warmup_steps": 0},
        "budget": {"steps": 12},
        "batch": {"size": 6, "seconds": 30},
        "evaluate": {"every_steps": 4},
        "checkpoint": {"every_steps": 5},
        "log": {"every_steps": 2, "tensorboard": False},
    }
    for name, value in changes.items():
        spec[name] = {**spec[name], **value} if isinstance(value, dict) and isinstance(spec.get(name), dict) else value
    return spec
