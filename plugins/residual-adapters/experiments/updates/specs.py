"""Training specs of the arms: every one begins at the base, and meets its data in the same proportions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data import Data
from settings import Settings, Size

BATCH = {"seconds": 20.0, "size": 16}


def name_of(number: int) -> str:
    """The name of the update of one set, counted from 1."""
    return f"set-{number}"


def training_data(data: Data, numbers: Sequence[int], settings: Settings) -> list[dict[str, Any]]:
    """Recordings and synthetic utterances of some sets, and general audio in proportion."""
    found: list[dict[str, Any]] = []
    teaching = 0.0
    for number in numbers:
        found.append({"manifest": str(data.path(f"real-{number}")), "weight": settings.real})
        found.append({"manifest": str(data.path(f"synthetic-{number}"))})
        teaching += settings.real * data.count(f"real-{number}") + data.count(f"synthetic-{number}")
    weight = settings.general * teaching / data.count("general")
    return [*found, {"manifest": str(data.path("general")), "weight": weight}] if weight else found


def spec(
    base: Path, data: Data, numbers: Sequence[int], settings: Settings, *, seed: int, steps: int,
    transform: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Training from `base` on some sets: of a transform where one is given, else of every weight."""
    found: dict[str, Any] = {
        "slt": 1,
        "kind": "train",
        "pipeline": str(base),
        "seed": seed,
        "data": {"train": training_data(data, numbers, settings)},
        "optimizer": {"learning_rate": settings.learning_rate, "clip_norm": 5},
        "schedule": {"shape": "cosine", "warmup_steps": max(1, steps // 10)},
        "budget": {"steps": steps},
        "batch": BATCH,
        "checkpoint": {"every_steps": steps},
        "log": {"tensorboard": False},
    }
    if transform is not None:
        found["set"] = {"transforms": [transform]}
        found["context"] = {"transcript": "text"}
    return found


def adapter(name: str, words: Sequence[str], settings: Settings) -> dict[str, Any]:
    """A residual adapter that is trained."""
    return {
        "use": "residual", "name": name, "words": list(words), "place": list(settings.place), "rank": settings.rank,
        "silence": settings.silence,
    }  # fmt: skip


def lora(name: str, words: Sequence[str], settings: Settings) -> dict[str, Any]:
    """A low-rank update that is trained."""
    return {
        "use": "lora", "name": name, "words": list(words), "place": list(settings.place), "rank": settings.rank,
    }  # fmt: skip


def fusion(mode: str, updates: Sequence[Path]) -> dict[str, Any]:
    """Finished updates whose fusion is learned."""
    return {"use": "residual", "updates": [str(path) for path in updates], "fusion": mode}


def steps_of(size: Size, count: int) -> int:
    """As many steps for each set, however many are learned in one run."""
    return size.steps * count
