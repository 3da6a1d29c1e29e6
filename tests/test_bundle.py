"""Promises of bundles: the same outputs in another process, damage refused by name, parts swapped without retraining."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sltcore
from sltcore.bundle import describe_bundle, load_bundle, save_bundle
from sltcore.bundle.weights import fill_model, read_weights, save_weights
from sltcore.errors import BundleError, SltError

SPEC = {
    "slt": 1,
    "kind": "pipeline",
    "name": "tiny",
    "encoder": {"use": "lstm", "hidden": 16, "layers": 1, "frontend": {"use": "log-mel", "n_mels": 20}},
    "decoder": {"use": "ctc-greedy", "characters": "abcdefgh"},
}
SOUND = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return save_bundle(sltcore.load(SPEC), tmp_path_factory.mktemp("bundles") / "tiny")


def encode(pipeline) -> torch.Tensor:
    from sltcore.types import Waveform

    with torch.inference_mode():
        return pipeline.parts["encoder"](
            Waveform(torch.from_numpy(SOUND)[None], torch.tensor([16000]), 16000), {}
        ).values


def test_another_process_gives_bitwise_equal_outputs(bundle: Path, tmp_path: Path):
    script = (
        "import sys, numpy as np, sltcore, torch\n"
        "from sltcore.types import Waveform\n"
        "p = sltcore.load(sys.argv[1]); x = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)\n"
        "with torch.inference_mode(): e = p.parts['encoder'](Waveform(torch.from_numpy(x)[None], torch.tensor([16000]), 16000), {}).values\n"
        "np.save(sys.argv[2], e.numpy()); print(repr(p(x)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(bundle), str(tmp_path / "e.npy")], capture_output=True, text=True, check=True
    )
    here = sltcore.load(SPEC)
    assert np.array_equal(np.load(tmp_path / "e.npy"), encode(here).numpy())
    assert run.stdout.strip() == repr(here(SOUND))


def test_saving_a_loaded_bundle_gives_the_same_weights_file(bundle: Path, tmp_path: Path):
    again = save_bundle(load_bundle(bundle), tmp_path / "again")
    assert (again / "weights.safetensors").read_bytes() == (bundle / "weights.safetensors").read_bytes()
    assert (again / "spec.yaml").read_bytes() == (bundle / "spec.yaml").read_bytes()


def bundle_files(bundle: Path) -> list[str]:
    return sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file())


def test_truncation_at_any_byte_is_refused_with_the_files_name(bundle: Path, tmp_path: Path):
    picker = random.Random(0)
    for name in bundle_files(bundle):
        data = (bundle / name).read_bytes()
        cuts = {0, 1, len(data) - 1, *(picker.randrange(len(data)) for _ in range(12))}
        for cut in sorted(cuts):
            copy = tmp_path / "copy"
            shutil.copytree(bundle, copy)
            (copy / name).write_bytes(data[:cut])
            with pytest.raises(BundleError, match=name.replace(".", r"\.")):
                load_bundle(copy)
            shutil.rmtree(copy)


def test_any_edited_byte_is_refused_with_the_files_name(bundle: Path, tmp_path: Path):
    picker = random.Random(1)
    for name in bundle_files(bundle):
        data = bytearray((bundle / name).read_bytes())
        for _ in range(12):
            place = picker.randrange(len(data))
            changed = bytearray(data)
            changed[place] ^= 1 << picker.randrange(8)
            copy = tmp_path / "copy"
            shutil.copytree(bundle, copy)
            (copy / name).write_bytes(changed)
            with pytest.raises(BundleError, match=name.replace(".", r"\.")):
                load_bundle(copy)
            shutil.rmtree(copy)


def test_a_missing_file_and_a_folder_that_is_no_bundle_are_named(bundle: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "weights.safetensors").unlink()
    with pytest.raises(BundleError, match=r"weights.safetensors is missing; copy the bundle again"):
        load_bundle(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        BundleError, match=r"provenance.json is missing, so this is no bundle; make one with `slt pack SPEC DIR`"
    ):
        load_bundle(tmp_path / "empty")


def test_saving_never_overwrites_silently_and_never_leaves_halves(bundle: Path, tmp_path: Path):
    pipeline = sltcore.load(SPEC)
    with pytest.raises(BundleError, match="exists already"):
        save_bundle(pipeline, bundle)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="is no bundle, so --force will not replace it"):
        save_bundle(pipeline, tmp_path / "mine", force=True)
    target = save_bundle(pipeline, tmp_path / "b")
    pipeline.parts["decoder"].save_files = lambda: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    with pytest.raises(BundleError, match="cannot be written: No space left on device"):
        save_bundle(pipeline, target, force=True)
    assert load_bundle(target)(SOUND) == sltcore.load(SPEC)(SOUND)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "mine"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_place_is_one_line(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(BundleError, match="cannot be written"):
        save_bundle(sltcore.load(SPEC), tmp_path / "b")


def test_an_override_that_needs_weights_nobody_saved_says_so(bundle: Path):
    with pytest.raises(BundleError, match="has shape .* but the model expects .*; did an override change a size"):
        load_bundle(bundle, overrides=["encoder.hidden=17"])
    with pytest.raises(BundleError, match="holds no encoder.*; the overrides ask for weights that were never saved"):
        load_bundle(bundle, overrides=["encoder.layers=2"])


def test_shared_tensors_are_stored_once_and_shared_again(tmp_path: Path):
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    aliases = save_weights(tmp_path / "w.safetensors", model.state_dict())
    assert aliases == {"b.weight": "a.weight"}
    assert "b.weight" not in read_weights(tmp_path / "w.safetensors")


def test_weights_without_a_place_are_refused_unless_their_part_was_replaced(tmp_path: Path):
    stored = {"kept.weight": torch.zeros(2, 2), "gone.weight": torch.zeros(2)}
    model = nn.ModuleDict({"kept": nn.Linear(2, 2, bias=False)})
    with pytest.raises(BundleError, match="holds gone.weight, for which this model has no place"):
        fill_model(model, stored, bundle=tmp_path)
    fill_model(model, stored, bundle=tmp_path, replaced=["gone"])
    assert not model["kept"].weight.any()


def test_provenance_names_distributions_components_and_overrides(tmp_path: Path):
    folder = save_bundle(sltcore.load(SPEC, overrides=["seed=3"]), tmp_path / "b")
    facts = describe_bundle(folder)
    assert facts["provenance"]["overrides"] == ["seed=3"]
    assert facts["provenance"]["components"]["encoder.frontend"]["name"] == "log-mel"
    assert facts["provenance"]["distributions"]["torch"]["version"] == metadata.version("torch")
    assert set(facts["provenance"]["sha256"]) == {*bundle_files(folder)} - {"provenance.json"}


def test_each_bundle_carries_a_model_card(bundle: Path):
    card = (bundle / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sltcore")
    for part in ("# tiny", "sltcore.load(", "encoder.frontend", "Not stated by the spec"):
        assert part in card


def test_describing_a_bundle_loads_no_torch(bundle: Path):
    code = "import sys; from sltcore.bundle import describe_bundle; describe_bundle(sys.argv[1]); assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code, str(bundle)], check=True)


def test_a_newer_component_version_is_refused_with_the_command(bundle: Path, tmp_path: Path):
    from sltcore.bundle import provenance

    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    facts = json.loads((copy / "provenance.json").read_text())
    facts["components"]["encoder"]["version"] = 99
    facts.pop("self"), facts.pop("sha256"), facts.pop("bundle")
    provenance.write(copy, facts)
    with pytest.raises(
        BundleError,
        match="encoder was saved by encoder 'lstm' version 99, installed is version 1. Next: pip install -U sltcore-speech",
    ):
        load_bundle(copy)


def test_a_bundle_never_holds_pickle(bundle: Path):
    assert not [p for p in bundle.rglob("*") if p.suffix in (".pt", ".pth", ".pkl", ".bin")]


def test_hub_refusal_is_one_line(bundle: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from sltcore.bundle.hub import pull_bundle

    with pytest.raises(SltError, match="cannot pull from 'nobody/nothing'") as caught:
        pull_bundle("nobody/nothing", tmp_path / "pulled")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pulled").exists()
    assert not list(tmp_path.iterdir())


def test_push_uploads_a_verified_folder_and_pull_verifies_what_came(bundle: Path, tmp_path: Path, monkeypatch):
    import huggingface_hub

    from sltcore.bundle.hub import pull_bundle, push_bundle

    store = tmp_path / "hub"

    class Api:
        def create_repo(self, repository, private, exist_ok):
            assert private

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, store)
            return f"https://hub.example/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repository, revision, local_dir: shutil.copytree(store, local_dir, dirs_exist_ok=True),
    )
    assert push_bundle(bundle, "me/tiny").endswith("me/tiny")
    pulled = pull_bundle("me/tiny", tmp_path / "pulled")
    assert load_bundle(pulled)(SOUND) == load_bundle(bundle)(SOUND)
    (store / "spec.yaml").write_text("slt: 1\n")
    with pytest.raises(BundleError, match="spec.yaml"):
        pull_bundle("me/tiny", tmp_path / "again")
