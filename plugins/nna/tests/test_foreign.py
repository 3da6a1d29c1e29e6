"""What is promised for models that know nothing of sltcore: encoders of `transformers`, from tiny configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from slt_nna.floating import Floating
from slt_nna.nna import Nna

transformers = pytest.importorskip("transformers")
Made = Callable[..., Nna]


def wav2vec2(attention: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
    )
    mask = torch.ones(2, 400, dtype=torch.long)
    mask[1, 250:] = 0
    model = transformers.Wav2Vec2Model._from_config(config, attn_implementation=attention)
    return model, {"input_values": torch.randn(2, 400), "attention_mask": mask}


def bert(attention: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=20
    )
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    model = transformers.BertModel._from_config(config, attn_implementation=attention)
    return model, {"input_ids": torch.randint(0, 20, (2, 9)), "attention_mask": mask}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("make", [wav2vec2, bert])
def test_a_foreign_encoder_runs_on_the_chip(rounded: Made, make: Any, attention: str) -> None:
    torch.manual_seed(0)
    model, example = make(attention)
    model.eval()
    with torch.no_grad():
        expected = model(**example).last_hidden_state
    transform = rounded("mixed-8-16")
    transform.attach(model, iter([example]))
    events: list[Any] = []
    transform.listeners.append(events.append)
    with torch.no_grad():
        found = model(**example).last_hidden_state
    transform.listeners.clear()
    kept = slice(None) if make is bert else slice(0, 1)
    error = (found - expected)[kept].square().sum() / expected[kept].square().sum()
    assert 0 < error < 0.02
    host = {each.operator for each in events if not each.on_chip}
    assert host <= {"group_norm", "gate", "where"}
    assert sum(each.operator in ("linear", "convolution", "layer_norm") for each in events if each.on_chip) > 12


def test_masked_positions_do_not_matter(rounded: Made) -> None:
    torch.manual_seed(0)
    model, example = bert("sdpa")
    model.eval()
    rounded("mixed-8-16").attach(model, iter([example]))
    other = {**example, "input_ids": example["input_ids"].clone()}
    other["input_ids"][1, 5:] = 3
    with torch.no_grad():
        first, second = (model(**each).last_hidden_state for each in (example, other))
    assert torch.equal(first[1, :5], second[1, :5])


def test_without_rounding_a_foreign_encoder_trains_as_in_float(rounded: Made) -> None:
    torch.manual_seed(0)
    model, example = bert("eager")
    model.eval()
    gradients = []
    for chip in (False, True):
        if chip:
            transform = rounded()
            transform._emulation = Floating(transform.chip)
            transform.only = None
            transform.attach(model, iter([example]))
        model.zero_grad()
        model(**example).last_hidden_state.square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("make", [wav2vec2, bert])
def test_a_foreign_encoder_in_integers_is_the_emulation_bit_for_bit(make: Any) -> None:
    torch.manual_seed(0)
    model, example = make("sdpa")
    model.eval()
    transform = Nna("harsh")
    transform.attach(model, iter([example]))
    with torch.no_grad():
        emulated = model(**example).last_hidden_state
        lowered = transform.lower(model)(**example).last_hidden_state
    assert torch.equal(emulated, lowered)
