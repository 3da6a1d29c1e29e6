"""Models of other libraries, and modules that make their weight anew in each call."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from slt_sub8bit.general import GeneralScheme
from slt_sub8bit.quantizer import Sub8bit

PAGE = Path(__file__).parents[3] / "docs" / "quantization.md"


def test_transformers_models_are_quantized_tied_weights_too() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=33, n_positions=12)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    x, quantizer = torch.arange(10).unsqueeze(0), Sub8bit(GeneralScheme, bits=3)
    plain = model(x).logits
    quantizer.attach(model)
    assert "transformer.h.0.attn.c_attn.weight" in quantizer.kernels
    assert "lm_head.weight" not in quantizer.kernels
    assert "transformer.wte.weight" in quantizer.kernels
    with torch.no_grad():
        attached = model(x).logits
        assert not torch.allclose(attached, plain, atol=1e-3)
        quantizer.finish()
        torch.testing.assert_close(model(x).logits, attached, rtol=0, atol=1e-5)


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not beside the plugin")
def test_the_example_of_the_documentation_prints_what_stands_there(capsys: pytest.CaptureFixture[str]) -> None:
    """The page shows it; it runs here, where transformers is loaded anyway."""
    pytest.importorskip("transformers")
    text = PAGE.read_text(encoding="utf-8")
    blocks = dict(re.findall(r'^```\w+ title="(wav2vec2\.\w+)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL))
    with torch.random.fork_rng(devices=[]):
        exec(compile(blocks["wav2vec2.py"], "wav2vec2.py", "exec"), {})
    assert capsys.readouterr().out == blocks["wav2vec2.txt"]


def test_weight_normed_modules_stay_float_and_are_reported_with_the_reason() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 8, 3)), nn.Conv1d(8, 2, 1))
    quantizer = Sub8bit(GeneralScheme, bits=2)
    quantizer.attach(model)
    name = "0.parametrizations.weight"
    for _ in range(2):
        assert quantizer.report(model).untouched == (name,)
        assert quantizer.reasons(model)[name].startswith("WeightNorm makes its weight anew in each call")
        quantizer.finish()
    assert {f"{name}.original0", f"{name}.original1"} <= set(dict(model.named_parameters()))
