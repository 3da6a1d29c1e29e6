"""Transforms in specs and bundles: their order, fields that stored weights decide, finishing, and tensors that have other
names today."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_bundle_places import resigned
from torch import Tensor

import sltcore
from sltcore.bundle import load_bundle, save_bundle
from sltcore.cli.app import run
from sltcore.errors import BundleError, SpecError
from sltcore.pipeline import Pipeline
from sltcore.spec import load_spec
from sltcore.types import Waveform

pytest.importorskip("slt_speech")
pytest.importorskip("slt_sub8bit")

FRONTEND = {"use": "log-mel", "n_mels": 20}
LSTM = {"use": "lstm", "hidden": 8, "layers": 2, "frontend": FRONTEND}
LETTERS = {"use": "ctc-greedy", "characters": "abc"}
CHIP = {"use": "nna", "chip": "generous-8bit"}


def spec(*transforms: dict[str, Any], encoder: dict[str, Any] = LSTM) -> dict[str, Any]:
    return {"slt": 1, "kind": "pipeline", "encoder": encoder, "decoder": LETTERS, "transforms": list(transforms)}


def written(folder: Path, *transforms: dict[str, Any], finish: bool) -> Path:
    """A bundle with these transforms."""
    pipeline = sltcore.load(spec(*transforms))
    for transform in pipeline.transforms if finish else ():
        transform.finish()
    return save_bundle(pipeline, folder)


def heard(pipeline: Pipeline) -> Tensor:
    sound = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.as_tensor(pipeline.model.encoder(Waveform(sound, torch.tensor([8000]), 16000), {}).values)


# -- order


@pytest.mark.parametrize("quantizer", ["sub8bit", "post-training", "parq"])
def test_a_quantizer_behind_a_chip_is_refused_with_the_order_that_works(quantizer: str) -> None:
    pytest.importorskip("slt_nna")
    first = {"use": quantizer, "bits": 4}
    with pytest.raises(SpecError) as found:
        load_spec(spec(CHIP, first))
    text = str(found.value)
    assert (
        f": transforms[1]: quantizer '{quantizer}' stands behind accelerator 'nna', whose ranges would be measured on"
        in text
    )
    assert text.endswith(f"put quantizers first: {quantizer}, nna")
    assert "\n" not in text
    assert [block.use for block in load_spec(spec(first, CHIP)).model.transforms] == [quantizer, "nna"]
    assert [block.use for block in load_spec(spec(CHIP)).model.transforms] == ["nna"]


def test_the_order_is_checked_where_training_sets_it_and_where_a_setting_adds_to_it() -> None:
    pytest.importorskip("slt_nna")
    run = {
        "slt": 1,
        "kind": "train",
        "pipeline": {key: value for key, value in spec().items() if key not in ("slt", "kind", "transforms")},
        "set": {"transforms": [CHIP, {"use": "sub8bit"}]},
        "data": {"train": [{"manifest": "calls.csv"}]},
        "budget": {"steps": 1},
    }
    with pytest.raises(SpecError, match="put quantizers first: sub8bit, nna"):
        load_spec(run)
    with pytest.raises(SpecError, match="put quantizers first: sub8bit, nna"):
        load_spec(spec(CHIP), overrides=["transforms[1]={use: sub8bit}"])


# -- what stored weights decide


@pytest.mark.parametrize(
    ("setting", "kept", "asked"),
    [
        ("transforms[0].bits=2", "4", "2"),
        ("transforms[0].bits_of={decoder: 2}", r"\{\}", r"\{'decoder': 2\}"),
        ("transforms[0].exclude=[decoder]", r"\[\]", r"\['decoder'\]"),
        ("transforms[0].scales=row", "kernel", "row"),
        ("transforms[0].levels=max", "lloyd-max", "max"),
    ],
)
def test_what_packed_weights_decide_cannot_be_set(tmp_path: Path, setting: str, kept: str, asked: str) -> None:
    folder = written(tmp_path / "small", {"use": "post-training", "bits": 4}, finish=True)
    path = setting.partition("=")[0].replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(
        BundleError,
        match=rf"small: {path} is {kept} in its stored weights, asked for is {asked}, which would change nothing; start from the "
        "bundle with float weights that it was made from, or leave the setting out$",
    ):
        load_bundle(folder, overrides=[setting])


def test_the_same_value_and_what_is_read_when_loading_may_be_set(tmp_path: Path) -> None:
    folder = written(tmp_path / "small", {"use": "post-training", "bits": 3, "compute": "int8"}, finish=True)
    expected = heard(load_bundle(folder))
    assert torch.equal(heard(load_bundle(folder, overrides=["transforms[0].bits=3"])), expected)
    assert load_bundle(folder, overrides=["transforms[0].compute=float"]).transforms[0].compute == "float"


def test_bits_of_an_attached_quantizer_are_those_it_was_attached_with(tmp_path: Path) -> None:
    folder = written(tmp_path / "open", {"use": "sub8bit", "bits": 4}, finish=False)
    with pytest.raises(BundleError, match=r"transforms\[0\]\.bits is 4 in its stored weights, asked for is 2"):
        load_bundle(folder, overrides=["transforms[0].bits=2"])
    assert load_bundle(folder, overrides=["transforms[0].anneal=0.25"]).transforms[0].make_scheme().anneal == 0.25
    anew = load_bundle(folder, overrides=["transforms[0]={use: sub8bit, bits: 2}"])
    assert set(anew.transforms[0].widths.values()) == {2}


# -- finishing on the command line


def slt(*words: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        run(list(words))
    return int(ended.value.code or 0)


def tensors(folder: Path) -> dict[str, Tensor]:
    with safe_open(folder / "weights.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_pack_finishes_when_told_and_nothing_changes_but_the_form(tmp_path: Path) -> None:
    attached = written(tmp_path / "attached", {"use": "sub8bit", "bits": 3}, finish=False)
    kernel = "encoder.layers.0.weight_ih_l0"
    for is_packed in (True, False):
        folder = tmp_path / f"packed-{is_packed}"
        options = ["--finish"] if is_packed else []
        assert slt("pack", str(attached), str(folder), *options) == 0
        names = set(tensors(folder))
        assert (f"transforms.0.{kernel}.codes" in names) is is_packed
        assert (f"model.{kernel}" not in names) is is_packed
        torch.testing.assert_close(heard(load_bundle(folder)), heard(load_bundle(attached)), rtol=0, atol=1e-5)


def test_pack_has_nothing_to_finish_without_transforms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "plain", finish=False)
    assert slt("pack", str(folder), str(tmp_path / "out"), "--finish") == 2
    told = capsys.readouterr().err
    assert re.search(r"^error: .*plain has no transforms, so --finish has nothing to do; leave it out, or .*\n$", told)
    assert not (tmp_path / "out").exists()


# -- tensors under the names of an earlier version


@pytest.mark.parametrize("finish", [None, False, True], ids=["float", "attached", "packed"])
def test_a_bundle_of_two_directions_from_before_they_had_layers_of_their_own_is_read(
    tmp_path: Path, finish: bool | None
) -> None:
    both = {**LSTM, "bidirectional": True}
    pipeline = sltcore.load(spec(*([] if finish is None else [{"use": "post-training", "bits": 4}]), encoder=both))
    for transform in pipeline.transforms if finish else ():
        transform.finish()
    folder = save_bundle(pipeline, tmp_path / "bundle")
    kept = {old_name(name): tensor for name, tensor in load_file(folder / "weights.safetensors").items()}
    assert not any("backward" in name for name in kept)
    assert sum("_l0_reverse" in name for name in kept) >= 8
    save_file(kept, folder / "weights.safetensors", metadata={"format": "pt"})
    resigned(folder)
    assert torch.equal(heard(load_bundle(folder)), heard(pipeline))


def old_name(name: str) -> str:
    """What a tensor of a direction was called while torch's own module held both."""
    before, found, after = name.partition("encoder.backward_layers.")
    if not found:
        return name
    place, own, *rest = after.split(".")
    return ".".join([f"{before}encoder.layers.{place}", f"{own}_reverse", *rest])
