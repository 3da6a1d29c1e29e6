"""Bundles of a small recogniser, and updates trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import sltcore
from slt_residual_adapters.base_hash import hash_bundle
from slt_residual_adapters.update import Update, save_update
from sltcore.bundle import save_bundle

ENCODER = {"use": "lstm", "hidden": 8, "layers": 2, "frontend": {"use": "log-mel", "n_mels": 20}}
DECODER = {"use": "ctc-greedy", "characters": "abc "}


def spec(*transforms: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """A recogniser of four letters."""
    return {
        "slt": 1,
        "kind": "pipeline",
        "encoder": ENCODER,
        "decoder": DECODER,
        "transforms": list(transforms),
        "seed": seed,
    }


def base_bundle(folder: Path, *, seed: int = 0) -> Path:
    """A bundle without adapters."""
    return save_bundle(sltcore.load(spec(seed=seed)), folder)


def drawn(
    bundle: Path, name: str, *, words: tuple[str, ...] = (), scale: float = 1.0, place: str = "layers.1"
) -> Update:
    """An update of this base with random numbers."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    tensors = {
        f"encoder.{place}": {
            "gain": torch.randn(8, generator=generator),
            "bias": torch.randn(8, generator=generator),
            "down": torch.randn(3, 8, generator=generator),
            "up": scale * torch.randn(8, 3, generator=generator),
        }
    }
    return Update(name, hash_bundle(bundle), tensors, words=words, card={"data": "none, random numbers"})


def drawn_file(bundle: Path, path: Path, name: str, **more: Any) -> Path:
    """The same as a file."""
    return save_update(drawn(bundle, name, **more), path / f"{name}.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too, and every folder in it."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else b"a folder" for name, path in found.items()}
