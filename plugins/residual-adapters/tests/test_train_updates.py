"""Updates through `slt train`: from a bundle, one after the other, as independent files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from adapter_bundles import base_bundle, contents, spec
from safetensors.torch import load_file

import sltcore
from slt_residual_adapters.added import add, remove
from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.update import read_update, save_update
from sltcore.bundle import save_bundle
from sltcore.errors import SltError
from sltcore.train import fit

pytest.importorskip("slt_speech")
pytestmark = pytest.mark.slow


def manifest(folder: Path, name: str, texts: list[str]) -> Path:
    """Noise with texts."""
    lines = ["id,audio,text"]
    for k, text in enumerate(texts):
        sound = 0.1 * np.random.default_rng([k, len(name)]).standard_normal(16000).astype(np.float32)
        soundfile.write(folder / f"{name}-{k}.wav", sound, 16000)
        lines.append(f"{name}-{k},{name}-{k}.wav,{text}")
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(base: Path, out: Path, table: Path, name: str, **more: Any) -> Path:
    """The bundle that training an update leaves."""
    spec = {
        "slt": 1,
        "kind": "train",
        "pipeline": str(base),
        "set": {"transforms": [{"use": "residual", "name": name, "rank": 4, "words": ["cab"], "silence": 0.1, **more}]},
        "data": {"train": [{"manifest": str(table)}]},
        "context": {"transcript": "text"},
        "optimizer": {"learning_rate": 0.01},
        "budget": {"steps": 6},
        "batch": {"size": 4},
    }
    return fit(spec, out=out, quiet=True).bundle


def test_updates_are_trained_from_one_base_and_become_files(tmp_path: Path) -> None:
    base = base_bundle(tmp_path / "base")
    before = contents(base)
    tables = {
        "monday": manifest(tmp_path, "monday", ["cab", "a cab", "ab ba", "b"]),
        "friday": manifest(tmp_path, "friday", ["bac", "c c", "ab", "a b c"]),
    }
    bundles = {name: run(base, tmp_path / name, table, name) for name, table in tables.items()}
    assert contents(base) == before
    stored = load_file(base / "weights.safetensors")
    for name, bundle in bundles.items():
        trained = load_file(bundle / "weights.safetensors")
        assert all(torch.equal(trained[key], tensor) for key, tensor in stored.items())
        update = read_update(bundle)
        assert update.card["data"] == f"manifest {name}.csv"
        assert (update.name, update.words, update.card["steps"]) == (name, ("cab",), 6)
        assert any(float(parts["up"].abs().max()) > 0 for parts in update.tensors.values())
    files = [save_update(read_update(bundle), tmp_path / f"{name}.safetensors") for name, bundle in bundles.items()]
    add(base, files)
    sound = str(tmp_path / "monday-0.wav")
    alone = sltcore.load(bundles["monday"])(sound)
    both = sltcore.load(base)
    assert both(sound, updates=["monday"]) == alone
    by_bundles = sltcore.load(
        base, overrides=[f"transforms=[{{use: residual, updates: {list(map(str, bundles.values()))}}}]"]
    )
    assert by_bundles(sound) == both(sound)
    remove(base, ["monday", "friday"])
    assert contents(base) == before


def test_training_again_gives_the_same_bits(tmp_path: Path) -> None:
    base = base_bundle(tmp_path / "base")
    table = manifest(tmp_path, "monday", ["cab", "a cab", "ab ba", "b"])
    one, other = (
        save_update(read_update(run(base, tmp_path / out, table, "monday")), tmp_path / f"{out}.safetensors")
        for out in "ab"
    )
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(("fusion", "parameters"), [("gate", 4), ("attention", 6)])
def test_a_fusion_is_trained_on_a_bundle_of_updates(fusion: str, parameters: int, tmp_path: Path) -> None:
    base = base_bundle(tmp_path / "base")
    table = manifest(tmp_path, "monday", ["cab", "a cab", "ab ba", "b"])
    other = manifest(tmp_path, "friday", ["abc", "c ab", "bb", "cc a"])
    tables = {"monday": table, "friday": other}
    paths = [str(run(base, tmp_path / name, each, name)) for name, each in tables.items()]
    both: Any = {"use": "residual", "updates": paths, "fusion": fusion}
    spec = {
        "slt": 1,
        "kind": "train",
        "pipeline": str(base),
        "set": {"transforms": [both]},
        "data": {"train": [{"manifest": str(table)}]},
        "budget": {"steps": 3},
        "batch": {"size": 4},
    }
    bundle = fit(spec, out=tmp_path / fusion, quiet=True).bundle
    state = load_file(bundle / "weights.safetensors")
    learned = {key: tensor for key, tensor in state.items() if ".fusion.encoder" in key}
    assert len(learned) == parameters
    assert [key for key, tensor in learned.items() if not tensor.any()] == []
    (adapters,) = sltcore.load(bundle).transforms
    assert isinstance(adapters, ResidualAdapters)
    kept = adapters.state()
    assert all(torch.equal(kept[key.removeprefix("transforms.0.")], tensor) for key, tensor in learned.items())
    with pytest.raises(SltError, match="no parameter is left to train"):
        fit({**spec, "set": {"transforms": [{**both, "fusion": "sum"}]}}, out=tmp_path / "sum", quiet=True)


@pytest.mark.parametrize("decoder", ["ctc-greedy", "rnnt"])
def test_an_update_is_trained_and_validated_in_bfloat16(decoder: str, tmp_path: Path) -> None:
    plain = spec()
    plain["decoder"] = {"use": decoder, "characters": "abc "}
    base = save_bundle(sltcore.load(plain), tmp_path / "base")
    table = manifest(tmp_path, "monday", ["cab", "a cab", "ab ba", "b"])
    training = {
        "slt": 1,
        "kind": "train",
        "pipeline": str(base),
        "set": {"transforms": [{"use": "residual", "name": "monday", "rank": 4, "words": ["cab"], "silence": 0.1}]},
        "data": {"train": [{"manifest": str(table)}], "dev": [{"manifest": str(table)}]},
        "context": {"transcript": "text"},
        "optimizer": {"learning_rate": 0.01},
        "budget": {"steps": 4},
        "evaluate": {"every_steps": 2},
        "batch": {"size": 4},
        "precision": "bfloat16",
    }
    made = fit(training, out=tmp_path / "out", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    measured = [line["dev"]["loss"] for line in lines if "dev" in line]
    assert len(measured) >= 2
    assert all(math.isfinite(loss) for loss in measured)
    tensors = [tensor for parts in read_update(made.bundle).tensors.values() for tensor in parts.values()]
    assert all(tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in tensors)
    kept, trained = load_file(base / "weights.safetensors"), load_file(made.bundle / "weights.safetensors")
    assert all(torch.equal(trained[key], tensor) for key, tensor in kept.items())
