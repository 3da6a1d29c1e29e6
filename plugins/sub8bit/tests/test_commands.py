"""`slt sub8bit report`: every byte accounted for, and what is no quantized bundle refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from typer.testing import CliRunner

import sltcore
from slt_sub8bit.build import post_training, sub8bit
from slt_sub8bit.commands import app
from slt_sub8bit.config import PostTrainingConfig, Sub8bitConfig
from sltcore.bundle import load_bundle, save_bundle
from sltcore.errors import BundleError, PluginError
from sltcore.plugin import Ports
from sltcore.spec import load_spec
from sltcore.types import Waveform

pytest.importorskip("slt_speech")

LSTM = {"use": "lstm", "hidden": 8, "layers": 1, "frontend": {"use": "log-mel", "n_mels": 20}}
LETTERS = {"use": "ctc-greedy", "characters": "abc"}


def bundle(folder: Path, *transforms: dict[str, Any], finish: bool = True) -> Path:
    """A small recogniser with these transforms."""
    pipeline = sltcore.load(
        {"slt": 1, "kind": "pipeline", "encoder": LSTM, "decoder": LETTERS, "transforms": list(transforms)}
    )
    for transform in pipeline.transforms if finish else ():
        transform.finish()
    return save_bundle(pipeline, folder)


def report(folder: Path) -> dict[str, Any]:
    """What `--json` prints."""
    answer = CliRunner().invoke(app, ["report", str(folder), "--json"])
    assert answer.exit_code == 0, answer.output
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def tensor_bytes(folder: Path) -> dict[str, int]:
    """Bytes of every tensor in the file, read by safetensors itself."""
    with safe_open(folder / "weights.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}


@pytest.mark.parametrize("use", ["sub8bit", "post-training", "straight-through", "level-regularizer"])
@pytest.mark.parametrize("options", [{"bits": 3}, {"bits": 8, "compute": "int8", "scales": "row"}, {"bits": 1}])
def test_totals_are_those_of_the_file_and_of_the_quantizer(tmp_path: Path, use: str, options: dict[str, Any]) -> None:
    folder = bundle(tmp_path / "bundle", {"use": use, **options, "exclude": ["*weight_hh*"]})
    found, stored = report(folder), tensor_bytes(folder)
    pipeline = load_bundle(folder)
    size = pipeline.transforms[0].report(pipeline.model)
    assert found["is_finished"] is True
    assert found["file_bytes"] == (folder / "weights.safetensors").stat().st_size
    assert found["tensor_bytes"] == sum(stored.values()) == found["file_bytes"] - found["header_bytes"]
    assert (found["disk_bytes"], found["memory_bytes"]) == (size.disk_bytes, size.memory_bytes)
    assert found["disk_bytes"] == found["tensor_bytes"] == found["kernel_bytes"] + found["other_bytes"]
    in_memory = [*pipeline.model.parameters(), *pipeline.model.buffers()]
    assert found["memory_bytes"] == sum(tensor.numel() * tensor.element_size() for tensor in in_memory)
    for row in found["kernels"]:
        parts = [stored[f"transforms.0.{row['name']}.{part}"] for part in ("codes", "table", "scale")]
        assert [row["code_bytes"], row["table_bytes"], row["scale_bytes"]] == parts
        assert (row["bits"], row["levels"]) == (options["bits"], 2 ** options["bits"])
        assert row["share"] == sum(parts) / row["float_bytes"]
    assert found["untouched"] == ["encoder.layers.0"]
    assert [row["name"] for row in found["kernels"]] == [
        "encoder.layers.0.weight_ih_l0",
        "decoder.head.weight",
    ]


def test_before_finishing_it_says_what_finishing_will_leave(tmp_path: Path) -> None:
    quantizer = {"use": "sub8bit", "bits": 2, "scales": "gate", "bits_of": {"decoder": 5}}
    attached = report(bundle(tmp_path / "attached", quantizer, finish=False))
    finished = report(bundle(tmp_path / "finished", quantizer))
    assert attached["is_finished"] is False
    assert attached["file_bytes"] > finished["file_bytes"]
    assert attached["disk_bytes"] == finished["tensor_bytes"]
    for name in ("kernels", "other_bytes", "kernel_float_bytes", "memory_bytes"):
        assert attached[name] == finished[name]
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "attached")])
    assert (
        f"the file holds float weights; finished, its tensors take {finished['tensor_bytes']:,} bytes" in shown.stdout
    )


@pytest.mark.parametrize("finish", [True, False])
def test_two_quantizers_are_one_account(tmp_path: Path, finish: bool) -> None:
    first = {"use": "post-training", "bits": 4, "include": ["encoder"]}
    second = {"use": "sub8bit", "bits": 2, "include": ["decoder"]}
    both = report(bundle(tmp_path / "both", first, second, finish=finish))
    assert [row["bits"] for row in both["kernels"]] == [4, 4, 2]
    assert both["untouched"] == []
    assert both["disk_bytes"] == both["kernel_bytes"] + both["other_bytes"]


@pytest.mark.parametrize("finish", [True, False])
def test_bits_chosen_for_a_budget_come_with_their_predicted_and_measured_error(tmp_path: Path, finish: bool) -> None:
    quantizers = [
        {"use": "post-training", "budget_bytes": 1200, "include": ["encoder"]},
        {"use": "sub8bit", "budget_bytes": 60, "include": ["decoder"]},
    ]
    pipeline = sltcore.load({"slt": 1, "kind": "pipeline", "encoder": LSTM, "decoder": LETTERS})
    blocks = load_spec({"slt": 1, "kind": "pipeline", "decoder": LETTERS, "transforms": quantizers}).model.transforms
    sound = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    quantized = [
        (post_training if block.use == "post-training" else sub8bit)(block.config, Ports()) for block in blocks
    ]
    for quantizer in quantized:
        quantizer.attach(pipeline.model, iter([Waveform(sound, torch.tensor([8000]), 16000)]))
        if finish:
            quantizer.finish()
    pipeline.transforms.extend(quantized)
    pipeline.spec.model.transforms.extend(blocks)
    folder = save_bundle(pipeline, tmp_path / "bundle")
    found = report(folder)
    assert len(found["errors"]) == 2
    for row, quantizer in zip(found["errors"], quantized, strict=True):
        assert row["predicted"] == pytest.approx(quantizer.allocation.predicted, rel=1e-6)
        assert row["measured"] == pytest.approx(quantizer.allocation.measured, rel=1e-6)
    if finish:
        assert found["disk_bytes"] == found["tensor_bytes"] == found["kernel_bytes"] + found["other_bytes"]
    shown = CliRunner().invoke(app, ["report", str(folder)]).stdout
    for row in found["errors"]:
        assert (
            f"output error {row['predicted']:.2g} predicted (the sum over kernels alone), {row['measured']:.2g}"
            in shown
        )
    assert ("slt pack BUNDLE DIR --finish" in shown) is not finish


def test_the_table_has_a_row_for_each_kernel_and_the_totals(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", {"use": "post-training", "bits": 3, "exclude": ["decoder"]})
    lines = CliRunner().invoke(app, ["report", str(folder)]).stdout.splitlines()
    found = report(folder)
    assert lines[0].split() == ["weight", "shape", "bits", "levels", "packed", "table", "float", "share"]
    assert lines[1].split() == ["encoder.layers.0.weight_ih_l0", "32x60", "3", "8", "720", "36", "7,680", "9.8", "%"]
    assert f"2 kernels: {found['kernel_bytes']:,} bytes" in lines[4]
    assert (
        "1 module left alone: decoder.head (left out by include, exclude or 32 bits, or by another quantizer)" in lines
    )
    assert found["reasons"].keys() == {"decoder.head"}
    assert found["errors"] == []
    assert f"in memory: {found['memory_bytes']:,} bytes" in lines[-1]


def test_what_is_no_quantized_bundle_is_refused_in_one_line(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("slt: 1\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for path, kind, message in (
        (tmp_path / "nowhere", BundleError, "nowhere: there is no such folder; give one that `slt train`"),
        (spec, BundleError, "spec.yaml is a file, expected the folder of a bundle; make one with: slt pack"),
        (tmp_path / "empty", BundleError, "empty"),
        (bundle(tmp_path / "float"), PluginError, "has no quantizer of sub8bit, its transforms are: none; train it on"),
    ):
        answer = CliRunner().invoke(app, ["report", str(path)])
        assert answer.exit_code != 0
        assert isinstance(answer.exception, kind)
        assert message in str(answer.exception)
        assert "\n" not in str(answer.exception)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Sub8bitConfig, {"bits": 9}, "expected 1 to 8 bits, or 32 to leave weights as they are"),
        (Sub8bitConfig, {"bits_of": {"head": 16}}, "expected 1 to 8 bits, or 32"),
        (PostTrainingConfig, {"choices": [], "budget_bytes": 9}, "expected one width at least"),
        (PostTrainingConfig, {"choices": [2, 3]}, "choices are read under budget_bytes alone; give it, or set bits"),
        (Sub8bitConfig, {"kappa_start": 60}, r"kappa_start is 60.0, expected at most kappa_end \(50.0\)"),
    ],
)
def test_a_wrong_field_is_one_problem_that_says_what_was_expected(kind: Any, fields: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as found:
        kind(**fields)
    assert found.value.error_count() == 1


def test_a_filled_config_reads_back() -> None:
    config = Sub8bitConfig(bits=2)
    assert Sub8bitConfig(**config.model_dump()) == config
