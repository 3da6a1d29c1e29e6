"""A fusion that was learned goes with its updates into the shipped bundle, and with nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_bundles import base_bundle, contents, drawn_file, spec
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import sltcore
from slt_residual_adapters.added import add, read_added, remove
from slt_residual_adapters.commands import app
from slt_residual_adapters.learned_fusion import fingerprint, read_fusion, save_fusion
from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.update import read_update
from sltcore.bundle import load_bundle, save_bundle
from sltcore.errors import BundleError, PluginError, SpecError
from sltcore.types import Waveform

pytest.importorskip("slt_speech")

NAMES = ("monday", "friday")
MODES = ("attention", "gate")


def heard(pipeline: Any, **context: Any) -> Tensor:
    """Frames of a fixed sound."""
    sound = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), pipeline.using(context):
        return torch.as_tensor(pipeline.model.encoder(Waveform(sound, torch.tensor([8000]), 16000), {}).values)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return base_bundle(tmp_path / "base")


def trained(base: Path, tmp_path: Path, mode: str, names: tuple[str, ...] = NAMES, **more: Any) -> Path:
    """A bundle as training a fusion leaves it, with random numbers in the fusion."""
    files = [str(drawn_file(base, tmp_path, name)) for name in names]
    pipeline = sltcore.load(spec({"use": "residual", "updates": files, "fusion": mode, **more}))
    (adapters,) = pipeline.transforms
    assert isinstance(adapters, ResidualAdapters)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for site in adapters.sites.values():
            assert site.fusion is not None
            for parameter in site.fusion.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    adapters.finish()
    return save_bundle(pipeline, tmp_path / f"{mode}-{'-'.join(names)}")


def files_of(tmp_path: Path, names: tuple[str, ...] = NAMES) -> list[Path]:
    """Their updates."""
    return [tmp_path / f"{name}.safetensors" for name in names]


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_bundle_with_a_learned_fusion_hears_what_the_trained_one_does(
    mode: str, as_file: bool, base: Path, tmp_path: Path
) -> None:
    before, plain = contents(base), heard(load_bundle(base))
    fusion = trained(base, tmp_path, mode, attention_width=5, weights={"monday": 0.5})
    wanted = load_bundle(fusion)
    source = save_fusion(read_fusion(fusion), tmp_path / "fused.safetensors") if as_file else fusion
    add(base, files_of(tmp_path, ("monday",)), weight=0.5)
    assert not torch.equal(heard(load_bundle(base)), heard(wanted))
    add(base, [source, tmp_path / "friday.safetensors"])
    found = load_bundle(base)
    for chosen in ({}, {"updates": ["friday"]}, {"updates": []}):
        assert torch.equal(heard(found, **chosen), heard(wanted, **chosen))
    assert torch.equal(heard(found, updates=[]), plain)
    remove(base, list(NAMES))
    assert contents(base) == before


@pytest.mark.parametrize("mode", MODES)
def test_a_fusion_file_says_what_the_bundle_of_its_training_says(mode: str, base: Path, tmp_path: Path) -> None:
    of_bundle = read_fusion(trained(base, tmp_path, mode))
    of_file = read_fusion(save_fusion(of_bundle, tmp_path / "fused.safetensors"))
    assert {**of_file.__dict__, "tensors": None} == {**of_bundle.__dict__, "tensors": None}
    assert all(torch.equal(of_file.tensors[name], tensor) for name, tensor in of_bundle.tensors.items())
    assert of_file.mode == mode
    assert of_file.updates == {name: fingerprint(read_update(tmp_path / f"{name}.safetensors")) for name in NAMES}


def test_only_those_updates_that_it_was_learned_over_are_taken(base: Path, tmp_path: Path) -> None:
    fusion = trained(base, tmp_path, "gate")
    before = contents(base)
    monday, friday = files_of(tmp_path)
    with pytest.raises(PluginError, match=r"gate fusion was learned over friday, monday, but 'friday' is not added"):
        add(base, [monday, fusion])
    sunday = drawn_file(base, tmp_path, "sunday")
    with pytest.raises(PluginError, match="but 'sunday' was not among them; add exactly those"):
        add(base, [monday, friday, sunday, fusion])
    other = drawn_file(base, tmp_path / "other", "friday", scale=2.0)
    with pytest.raises(PluginError, match=r"learned over another update 'friday' \(sha256 .{8}… then, .{8}… here\)"):
        add(base, [monday, other, fusion])
    with pytest.raises(PluginError, match="was learned with weight 1 of 'monday', here it is 2"):
        add(base, [monday, friday, fusion], weight=2.0)
    with pytest.raises(SpecError, match="fusion 'sum' is asked for, but the given one is gate"):
        add(base, [monday, friday, fusion], fusion="sum")
    with pytest.raises(PluginError, match="2 learned fusions are given, but it takes one"):
        add(base, [monday, friday, fusion, trained(base, tmp_path, "attention")])
    elsewhere = base_bundle(tmp_path / "elsewhere", seed=1)
    again = [drawn_file(elsewhere, tmp_path / "elsewhere-updates", name) for name in NAMES]
    with pytest.raises(PluginError, match="gate fusion was learned on another base than bundle"):
        add(elsewhere, [*again, fusion])
    assert contents(base) == before


@pytest.mark.parametrize("mode", MODES)
def test_what_a_learned_fusion_needs_stays_until_another_is_named(mode: str, base: Path, tmp_path: Path) -> None:
    fusion = trained(base, tmp_path, mode)
    add(base, [*files_of(tmp_path), fusion])
    before = contents(base)
    add(base, files_of(tmp_path))  # as they are: nothing changes
    add(base, files_of(tmp_path), fusion=mode)
    assert contents(base) == before
    sunday = drawn_file(base, tmp_path, "sunday")
    with pytest.raises(
        PluginError, match=r"its \w+ fusion was learned over monday, friday as they are; .* --fusion sum"
    ):
        add(base, [sunday])
    with pytest.raises(
        PluginError, match="does not work without 'monday'; say how the rest shall be fused: --fusion sum"
    ):
        remove(base, ["monday"])
    with pytest.raises(SpecError, match=f"fusion '{mode}' is learned"):
        remove(base, ["monday"], fusion=mode)
    assert contents(base) == before
    remove(base, ["monday"], fusion="average")
    assert (read_added(base).names, read_added(base).fusion, read_added(base).learned) == (["friday"], "average", "")
    assert sorted(path.name for path in (base / "updates").iterdir()) == ["added.json", "friday.safetensors"]
    add(base, [files_of(tmp_path)[0], fusion])  # and back
    assert read_added(base).fusion == mode
    add(base, [sunday], fusion="sum")
    assert "learned.fusion.safetensors" not in contents(base / "updates")
    assert json.loads((base / "updates" / "added.json").read_text())["format"] == 1


def test_a_damaged_or_missing_fusion_is_told(base: Path, tmp_path: Path) -> None:
    add(base, [*trained_files(base, tmp_path)])
    path = base / "updates" / "learned.fusion.safetensors"
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"learned.fusion.safetensors does not match updates/added.json"):
        load_bundle(base)
    path.unlink()
    with pytest.raises(
        BundleError, match=r"learned.fusion.safetensors of updates/added.json is missing; add the fusion"
    ):
        load_bundle(base)


def trained_files(base: Path, tmp_path: Path) -> list[Path]:
    """A fusion and its updates."""
    fusion = trained(base, tmp_path, "attention")
    return [*files_of(tmp_path), fusion]


def test_what_is_no_fusion_is_told(base: Path, tmp_path: Path) -> None:
    update = drawn_file(base, tmp_path, "monday")
    save_file(load_file(update), tmp_path / "odd.safetensors", {"slt_fusion": '{"format": 7}'})
    save_file(load_file(update), tmp_path / "cut.safetensors", {"slt_fusion": "{"})
    save_file(load_file(update), tmp_path / "lacking.safetensors", {"slt_fusion": '{"format": 1}'})
    cases = {
        update: "it is no learned fusion; make one with `slt adapters save BUNDLE monday.safetensors`",
        tmp_path / "none.safetensors": "it cannot be read",
        tmp_path / "odd.safetensors": "format 7 is not 1, which this version reads. Next: pip install -U",
        tmp_path / "cut.safetensors": "its facts cannot be read; copy the file again",
        tmp_path / "lacking.safetensors": "its facts are not complete",
        base: "holds no learned fusion",
    }
    for path, message in cases.items():
        with pytest.raises(PluginError, match=message):
            read_fusion(path)


def test_a_fusion_that_is_still_trained_is_refused(base: Path, tmp_path: Path) -> None:
    bundle = trained(base, tmp_path, "gate")
    pipeline = load_bundle(bundle)
    pipeline.transforms[0].is_finished = False
    unfinished = save_bundle(pipeline, tmp_path / "unfinished")
    with pytest.raises(PluginError, match="its fusion is still being trained; give the bundle that a whole run left"):
        read_fusion(unfinished)


def test_the_command_line_saves_adds_lists_and_removes_a_fusion(base: Path, tmp_path: Path) -> None:
    fusion = trained(base, tmp_path, "gate")
    saved = tmp_path / "fused.safetensors"

    def call(*arguments: object) -> str:
        outcome = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
        assert outcome.exit_code == 0
        return outcome.stdout

    assert "fused.safetensors: the gate fusion of friday, monday, 18 parameters" in call("save", fusion, saved)
    assert "added the gate fusion of friday, monday" in call("add", base, *files_of(tmp_path), saved)
    assert "2 updates, fused by gate" in call("list", base)
    assert json.loads(call("list", base, "--json"))["fusion"] == "gate"
    shutil.rmtree(fusion)
    saved.unlink()
    assert torch.isfinite(heard(load_bundle(base))).all()  # the bundle holds all that it needs
    assert "removed 'friday'" in call("remove", base, "friday", "--fusion", "sum")
    assert "1 update, fused by sum" in call("list", base)
