"""Weight sites are found wherever a model keeps them, and what is left alone is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slt_sub8bit.kernels import find_kernels, left_alone
from sltcore.errors import PluginError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.rnn = nn.LSTM(4, 6, num_layers=2, bidirectional=True, proj_size=3)
        self.attention = nn.MultiheadAttention(6, 2)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7)
        self.position = nn.Parameter(torch.zeros(5, 6))


def names(model: nn.Module, **patterns: list[str]) -> list[str]:
    return [kernel.name for kernel in find_kernels(model, **patterns).kernels]


def test_every_known_kind_is_found_input_and_recurrent_kernels_apart() -> None:
    found = names(Small())
    assert {
        "embed.weight",
        "conv.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "head.weight",
    } <= set(found)
    assert {f"rnn.weight_{kind}_l1_reverse" for kind in ("ih", "hh", "hr")} <= set(found)
    assert not any("bias" in name or "norm" in name or name == "position" for name in found)


def test_a_bare_lstm_is_not_left_alone_in_silence() -> None:
    lstm = nn.LSTM(4, 5)
    assert names(lstm) == ["weight_ih_l0", "weight_hh_l0"]
    found = find_kernels(lstm, ["weight_ih_l0"])
    assert found.untouched == ("",)  # the model itself still holds a float matrix


def test_what_is_left_alone_is_listed_by_module() -> None:
    assert find_kernels(Small()).untouched == ("",)
    assert find_kernels(Small(), exclude=["embed", "rnn.weight_hr*"]).untouched == ("", "embed", "rnn")


def test_tied_weights_are_one_kernel_with_two_places() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    model[1].weight = model[0].weight
    (kernel,) = find_kernels(model).kernels
    assert [place.name for place in kernel.places] == ["0.weight", "1.weight"]
    assert names(model, include=["1"]) == ["0.weight"]


def test_other_parameters_are_taken_when_named_and_not_by_a_wildcard() -> None:
    assert "position" not in names(Small(), include=["*"])
    assert names(Small(), include=["position"]) == ["position"]


def test_patterns_name_parameters_and_modules_around_them() -> None:
    model = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), "head": nn.Linear(3, 2)})
    expected = ["encoder.0.weight", "encoder.1.weight"]
    for pattern in ("encoder", "encoder.*", "encoder.?", "encoder.*.weight"):
        assert names(model, include=[pattern]) == expected
    assert names(model, exclude=["encoder"]) == ["head.weight"]


def test_shapes_rows_and_gates() -> None:
    by_name = {kernel.name: kernel for kernel in find_kernels(Small()).kernels}
    conv, ih, hr = by_name["conv.weight"], by_name["rnn.weight_ih_l0"], by_name["rnn.weight_hr_l0"]
    assert (conv.rows, conv.columns, conv.numel) == (4, 12, 48)
    assert (ih.gates, hr.gates, by_name["attention.in_proj_weight"].gates, conv.gates) == (4, 1, 3, 1)


def test_a_parametrized_weight_is_untouched_and_listed() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    found = find_kernels(model)
    assert [kernel.name for kernel in found.kernels] == ["1.weight"]
    assert found.untouched == ("0.parametrizations.weight",)


def test_every_module_left_alone_has_a_reason() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3))
    with pytest.warns(FutureWarning):
        old = torch.nn.utils.weight_norm(nn.Conv1d(3, 4, 3))
    model = nn.Sequential(conv, old, nn.Linear(3, 3), nn.ConvTranspose1d(3, 3, 3), nn.Linear(3, 3))
    found = find_kernels(model, exclude=["2"])
    reasons = left_alone(model, found.kernels)
    assert tuple(reasons) == found.untouched == ("0.parametrizations.weight", "1", "2", "3")
    assert reasons["0.parametrizations.weight"] == (
        "WeightNorm makes its weight anew in each call; remove_parametrizations makes it a plain one"
    )
    assert reasons["1"] == "weight_norm makes its weight anew in each call; remove_weight_norm makes it a plain one"
    assert reasons["2"] == "left out by include, exclude or 32 bits, or by another quantizer"
    assert reasons["3"] == "ConvTranspose1d.weight is of no known kind; include names it"
    nn.utils.parametrize.remove_parametrizations(conv, "weight")
    torch.nn.utils.remove_weight_norm(old)
    assert [kernel.name for kernel in find_kernels(model).kernels] == ["0.weight", "1.weight", "2.weight", "4.weight"]


@pytest.mark.parametrize("what", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused_with_a_near_name(what: str) -> None:
    with pytest.raises(
        PluginError,
        match=rf"^{what}: no weight is named like 'embd'; weights are: position, embed\.weight.* Did you mean 'embed'\?$",
    ):
        find_kernels(Small(), **{what: ["embd"]})


def test_a_model_without_matrices_is_refused() -> None:
    with pytest.raises(PluginError, match=r"^nothing to quantize in LayerNorm: .* its matrices are: none$"):
        find_kernels(nn.LayerNorm(3))
