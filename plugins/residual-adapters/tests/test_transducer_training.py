"""A shipped transducer from its training to its updates and back: encoder blocks, prediction network and joint at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from adapter_bundles import contents
from safetensors.torch import load_file
from test_train_updates import run

import sltcore
from slt_residual_adapters.added import add, remove
from slt_residual_adapters.update import read_update, save_update
from sltcore.train import fit

pytest.importorskip("slt_speech")
pytestmark = pytest.mark.slow

PLACES = ["encoder.blocks.*", "decoder.prediction.layers.*", "decoder.joint.output"]
WORDS = ["cab", "acb", "abba", "b"]


PITCHES = {"a": 300, "b": 900, "c": 2700}


def manifest(folder: Path, name: str, said: list[str]) -> Path:
    """Texts, each letter a tone."""
    lines = ["id,audio,text"]
    time = np.arange(4000) / 16000
    for k, text in enumerate(said):
        letters = [0.3 * np.sin(2 * np.pi * PITCHES[letter] * time) * np.hanning(4000) for letter in text]
        soundfile.write(folder / f"{name}-{k}.wav", np.concatenate(letters).astype(np.float32), 16000)
        lines.append(f"{name}-{k},{name}-{k}.wav,{text}")
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def trained_base(folder: Path, table: Path) -> Path:
    """A transducer that has learned four sounds."""
    pipeline: dict[str, Any] = {
        "encoder": {
            "use": "conformer", "d_model": 16, "layers": 2, "heads": 2, "kernel": 3,
            "frontend": {"use": "log-mel", "n_mels": 20},
        },
        "decoder": {"use": "rnnt", "characters": "abc", "d_prediction": 12, "d_joint": 12, "max_symbols": 2},
    }  # fmt: skip
    spec = {
        "slt": 1,
        "kind": "train",
        "pipeline": pipeline,
        "data": {"train": [{"manifest": str(table)}]},
        "optimizer": {"learning_rate": 0.01},
        "budget": {"steps": 120},
        "batch": {"size": 4},
    }
    return fit(spec, out=folder, quiet=True).bundle


def heard(bundle: Path, sounds: list[str], search: str, **context: Any) -> list[tuple[str, float]]:
    """Texts, and their scores as far as they do not depend on the order of sums."""
    pipeline = sltcore.load(str(bundle), overrides=[f"decoder.search={search}"])
    return [(found.text, round(found.best.score, 3)) for found in pipeline(sounds, **context)]


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_updates_of_a_whole_transducer_are_trained_added_heard_and_taken_away(search: str, tmp_path: Path) -> None:
    table = manifest(tmp_path, "monday", WORDS)
    base = trained_base(tmp_path / "base", table)
    sounds = [str(tmp_path / f"monday-{k}.wav") for k in range(len(WORDS))]
    before, plain = contents(base), heard(base, sounds, search)
    left = {
        name: run(base, tmp_path / name, manifest(tmp_path, name, said), name, place=PLACES)
        for name, said in {"friday": ["cccc", "bcb", "ca", "aaa"], "sunday": ["b", "c", "abc", "cba"]}.items()
    }
    for name, bundle in left.items():
        update = read_update(bundle)
        parts = {place.rpartition(".")[0] or place for place in update.tensors}
        assert parts == {"encoder.blocks", "decoder.prediction.layers", "decoder.joint"}, parts
        kept, trained = load_file(base / "weights.safetensors"), load_file(bundle / "weights.safetensors")
        assert all((trained[key] == tensor).all() for key, tensor in kept.items())
        save_update(update, tmp_path / f"{name}.safetensors")
    add(base, [tmp_path / "friday.safetensors"])
    alone = heard(base, sounds, search)
    assert alone == heard(left["friday"], sounds, search)
    add(base, [tmp_path / "sunday.safetensors"])
    assert heard(base, sounds, search, updates=["friday"]) == alone
    assert heard(base, sounds, search, updates=[]) == plain
    both = heard(base, sounds, search)
    remove(base, ["friday"])
    assert heard(base, sounds, search) == heard(left["sunday"], sounds, search)
    assert len({str(one) for one in (plain, alone, both)}) > 1  # they do change what is heard
    remove(base, ["sunday"])
    assert contents(base) == before
