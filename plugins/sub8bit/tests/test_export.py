"""ONNX files: what they hold, what ONNX Runtime computes from them, and when they are refused."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from slt_sub8bit.export import export_onnx, float_copy
from slt_sub8bit.lloyd_max import LloydMaxScheme
from slt_sub8bit.quantizer import Sub8bit
from slt_sub8bit.uniform import UniformScheme
from sltcore.errors import PluginError

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

mse = partial(UniformScheme, range="mse")
FREE = {"x": {0: "batch", 1: "time"}, "y": {0: "batch", 1: "time"}}


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(24, 32)
        self.rnn = kind(32, 40, batch_first=True, bidirectional=True)
        self.head = nn.Linear(80, 16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.rnn(torch.relu(self.embed(x)))[0]))


def finished(model: nn.Module, make: Any, **settings: Any) -> nn.Module:
    quantizer = Sub8bit(make, **settings)
    quantizer.attach(model)
    quantizer.finish()
    return model.eval()


def run(path: Path, **feeds: Tensor) -> Any:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: x.numpy() for name, x in feeds.items()})


@pytest.mark.parametrize(
    ("make", "bits", "scales", "type_"),
    [
        (LloydMaxScheme, 1, "kernel", "uint2"),
        (LloydMaxScheme, 2, "row", "uint2"),
        (LloydMaxScheme, 3, "gate", "uint4"),
        (LloydMaxScheme, 8, "kernel", "uint8"),
        (mse, 3, "row", "int4"),
        (mse, 8, "row", "int8"),
    ],
)
def test_every_kernel_is_stored_as_codes_and_computes_the_same(
    tmp_path: Path, make: Any, bits: int, scales: str, type_: str
) -> None:
    model = finished(Recurrent(), make, bits=bits, scales=scales)
    x = torch.randn(2, 9, 24)
    done = export_onnx(
        model, x, tmp_path / "m.onnx", names=["x"], outputs=["y"], free=FREE, further=[torch.randn(3, 17, 24)]
    )
    assert len(done.kernels) >= 6
    assert set(done.kernels.values()) == {type_}
    assert done.difference < 1e-5 * done.largest
    other = torch.randn(5, 4, 24)
    with torch.no_grad():
        difference = np.abs(run(tmp_path / "m.onnx", x=other)[0] - model(other).numpy()).max()
    assert difference < (1e-5 if type_.startswith("u") else 0.05) * done.largest


def test_the_file_is_as_small_as_its_codes(tmp_path: Path) -> None:
    done = export_onnx(
        finished(nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)), LloydMaxScheme, bits=4),
        torch.randn(2, 256),
        tmp_path / "m.onnx",
    )
    weights = 2 * 256 * 512
    assert done.file_bytes == (tmp_path / "m.onnx").stat().st_size
    assert weights / 2 < done.file_bytes < weights / 2 + 4 * 768 + 3000
    assert done.float_bytes > 4 * weights


def test_integer_layers_are_exported_with_float_activations(tmp_path: Path) -> None:
    model = finished(Recurrent(), LloydMaxScheme, bits=4, compute="int8")
    done = export_onnx(model, torch.randn(2, 9, 24), tmp_path / "m.onnx", names=["x"], outputs=["y"], free=FREE)
    assert 1e-5 * done.largest < done.difference < 0.05 * done.largest  # what rounding activations changes


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
def test_other_gates_are_recognized(tmp_path: Path, kind: type[nn.RNNBase]) -> None:
    model = finished(Recurrent(kind), LloydMaxScheme, bits=4, scales="row")
    done = export_onnx(model, torch.randn(2, 9, 24), tmp_path / "m.onnx", names=["x"], outputs=["y"], free=FREE)
    assert {"rnn.weight_ih_l0", "rnn.weight_hh_l0_reverse", "embed.weight"} <= set(done.kernels)


@pytest.mark.parametrize(
    "model", [Recurrent(), nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), nn.Conv1d(4, 8, 3)]
)
def test_a_float_copy_computes_the_same_from_plain_modules(model: nn.Module) -> None:
    x = torch.randn(2, 4, 24) if isinstance(model, Recurrent) else torch.randn(2, 4, 16)
    plain = type(model)
    finished(model, LloydMaxScheme, bits=3)
    copied = float_copy(model)
    with torch.no_grad():
        torch.testing.assert_close(copied(x), model(x), atol=1e-6, rtol=1e-5)
    assert type(copied) is plain
    assert all("Packed" not in type(module).__name__ for module in copied.modules())
    assert type(model) is not plain or any("Packed" in type(module).__name__ for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("use", ["conformer", "lstm"])
def test_a_bundle_becomes_a_graph_of_free_length(tmp_path: Path, use: str) -> None:
    pytest.importorskip("slt_speech")
    import sltcore
    from slt_sub8bit.commands import app
    from sltcore.bundle import save_bundle
    from sltcore.types import Features

    size = {"d_model": 32, "heads": 2} if use == "conformer" else {"hidden": 32, "bidirectional": True}
    encoder = {"use": use, "frontend": "log-mel", "layers": 2, **size}
    decoder = {"use": "ctc-greedy", "characters": "abc"}
    quantizer = {"use": "sub8bit", "bits": 2}
    pipeline = sltcore.load(
        {"slt": 1, "kind": "pipeline", "encoder": encoder, "decoder": decoder, "transforms": [quantizer]}
    )
    pipeline.transforms[0].finish()
    save_bundle(pipeline, tmp_path / "bundle")
    answer = CliRunner().invoke(app, ["export", str(tmp_path / "bundle"), str(tmp_path / "m.onnx"), "--json"])
    assert answer.exit_code == 0, answer.output
    facts = json.loads(answer.output)
    assert facts["difference"] < 1e-4
    assert set(facts["kernels"].values()) == {"uint2"}
    assert facts["file_bytes"] == (tmp_path / "m.onnx").stat().st_size < facts["float_bytes"]
    whole, lengths = torch.randn(3, 77, 80), torch.tensor([77, 50, 3])
    part = pipeline.parts["encoder"]
    part.frontend = None
    with torch.no_grad():
        encoded = part(Features(whole, lengths, 0.01), {})
        expected = pipeline.parts["decoder"].log_probs(encoded)
    found, found_lengths = run(tmp_path / "m.onnx", features=whole, lengths=lengths)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert found_lengths.tolist() == encoded.lengths.tolist()
    shown = CliRunner().invoke(app, ["export", str(tmp_path / "bundle"), str(tmp_path / "n.onnx")])
    assert "ONNX Runtime differs from the model by" in shown.output


def test_a_model_that_still_trains_is_refused(tmp_path: Path) -> None:
    model = Recurrent()
    Sub8bit(LloydMaxScheme, bits=2).attach(model)
    with pytest.raises(
        PluginError, match=r"embed has a quantizer attached that is not finished; call its finish\(\) first"
    ):
        export_onnx(model, torch.randn(1, 3, 24), tmp_path / "m.onnx")


def test_a_graph_that_computes_something_else_is_refused_and_not_kept(tmp_path: Path) -> None:
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.layer(x)) if float(x.sum()) > 0 else -x

    model = finished(Choosy(), LloydMaxScheme, bits=2)
    with pytest.raises(
        PluginError, match="ONNX Runtime's outputs differ from those of Choosy by .*export a part of it"
    ):
        export_onnx(model, torch.ones(2, 16), tmp_path / "m.onnx", further=[-torch.ones(2, 16)])
    assert not (tmp_path / "m.onnx").exists()


def test_a_model_that_torch_cannot_export_is_refused(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svdvals(self.layer(x))

    with pytest.raises(PluginError, match="Strange cannot be exported: torch says '.*'; export a part of it"):
        export_onnx(finished(Strange(), LloydMaxScheme, bits=2), torch.randn(4, 16), tmp_path / "m.onnx")


def test_without_onnx_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        PluginError, match=r"an ONNX export needs onnxruntime; install it with: pip install 'sltcore-sub8bit\["
    ):
        export_onnx(nn.Linear(4, 4), torch.randn(1, 4), tmp_path / "m.onnx")
