"""Whole models: attached, trained, finished and carried away."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slt_sub8bit.general import GeneralScheme
from slt_sub8bit.lloyd_max import LloydMaxScheme
from slt_sub8bit.quantizer import Sub8bit
from slt_sub8bit.uniform import UniformScheme
from sltcore.errors import PluginError
from sltcore.table_weights import table_weight


def seeded(make: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = make()
    return model.eval()


def stack() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)))


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gq(**options: Any) -> Sub8bit:
    return Sub8bit(GeneralScheme, **options)


class Watcher(nn.Module):
    """Reads its child's weight without calling the child, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.project.weight)


class Lstm(nn.LSTM):
    """A bare LSTM as the model itself, with one output."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(self.embed(x)))
        return result


class SelfAttention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


def fused_encoder() -> nn.Module:
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), num_layers=2, enable_nested_tensor=False
    )


MODELS: dict[str, tuple[Any, Tensor]] = {
    "a parent that reads its child": (Watcher, noise(2, 3, 8)),
    "a bare LSTM": (
        lambda: Lstm(8, 5, num_layers=2, bidirectional=True, batch_first=True, proj_size=3),
        noise(2, 3, 8),
    ),
    "a GRU in a list": (lambda: nn.Sequential(nn.GRU(8, 5, batch_first=True), First()), noise(2, 3, 8)),
    "an LSTM cell": (lambda: nn.Sequential(nn.LSTMCell(8, 5), First()), noise(3, 8)),
    "tied weights": (Tied, torch.arange(6).reshape(2, 3)),
    "attention": (SelfAttention, noise(2, 3, 8)),
    "attention with other keys": (partial(SelfAttention, kdim=8, vdim=8), noise(2, 3, 8)),
    "torch's fused encoder layer": (fused_encoder, noise(2, 3, 8)),
    "a 2-d convolution": (lambda: nn.Conv2d(3, 4, 3), noise(2, 3, 8, 8)),
}


class First(nn.Module):
    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        return x[0]


def with_hard_weights(model: nn.Module, quantizer: Sub8bit) -> nn.Module:
    """A float copy whose parameters were overwritten by the stored values: what the attached model must compute."""
    copied = copy.deepcopy(model)
    parameters = dict(copied.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in quantizer.kernels:
            table = quantizer.table(name)
            parameters[name].copy_(table.table[table.indices.long()] * table.scale)
    return copied


@pytest.mark.parametrize("what", MODELS)
def test_the_attached_model_computes_with_the_stored_values_and_the_finished_one_does_too(what: str) -> None:
    make, x = MODELS[what]
    model = seeded(make)
    plain, quantizer = copy.deepcopy(model), gq(bits=3)
    quantizer.attach(model)
    expected = with_hard_weights(plain, quantizer)(x)
    assert not torch.allclose(expected, plain(x), atol=1e-4)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)
    state_before = quantizer.state()
    quantizer.finish()
    with torch.no_grad():
        finished = model(x)
        torch.testing.assert_close(finished, expected, rtol=0, atol=1e-5)
    assert not {name for name, _ in model.named_parameters()} & set(quantizer.kernels)
    for state, wanted in ((quantizer.state(), finished), (state_before, None)):
        other = copy.deepcopy(plain)
        gq(bits=7).restore(other, {key: tensor.clone() for key, tensor in state.items()})
        with torch.no_grad():
            found = other(x)
        assert torch.equal(found, finished) if wanted is not None else torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("what", MODELS)
def test_detach_leaves_the_very_same_parameters_and_outputs(what: str) -> None:
    make, x = MODELS[what]
    model = seeded(make)
    before, expected = dict(model.named_parameters()), model(x)
    names = {id(module): set(module.__dict__) for module in model.modules()}
    quantizer = gq(bits=2)
    quantizer.attach(model)
    model.train()(x)
    quantizer.detach()
    model.eval()
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert set(before) == set(after)
    assert torch.equal(model(x), expected)
    assert {id(module): set(module.__dict__) for module in model.modules()} == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_training_reaches_weights_and_levels_and_the_parameters_stay_in_the_model() -> None:
    model, quantizer = stack(), gq(bits=2)
    parameters = list(model.parameters())
    quantizer.attach(model)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    (group,) = quantizer.parameter_groups()
    assert group["weight_decay"] == 0.0
    assert len(group["params"]) == 2
    optimizer = torch.optim.Adam([{"params": parameters}, group], lr=0.01)
    x, y = noise(64, 16), noise(64, 8, seed=2)
    losses = []
    model.train()
    for turn in range(80):
        quantizer.step(turn / 79)
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    model.eval()
    hard = float((model(x) - y).square().mean())
    assert losses[-1] < 0.7 * losses[0]
    assert hard < 0.7 * losses[0]


def test_an_error_within_forward_leaves_the_parameter_in_place() -> None:
    model, quantizer = stack(), gq()
    quantizer.attach(model)
    with pytest.raises(RuntimeError):
        model(noise(2, 3))
    assert model[0].weight is model[0]._parameters["weight"]


def test_a_deep_copy_is_quantized_on_its_own() -> None:
    model, quantizer = stack(), gq(bits=2)
    quantizer.attach(model)
    copied, x = copy.deepcopy(model), noise(2, 16)
    expected = model(x)
    assert torch.equal(copied(x), expected)
    with torch.no_grad():
        copied[0].weight.zero_()
    assert torch.equal(model(x), expected)
    assert not torch.equal(copied(x), expected)
    assert model[0].weight is model[0]._parameters["weight"]


def test_32_bits_is_the_float_model_bit_for_bit() -> None:
    model, quantizer = stack(), gq(bits=32)
    x = noise(4, 16)
    expected = model(x)
    quantizer.attach(model)
    assert torch.equal(model(x), expected)
    quantizer.finish()
    assert torch.equal(model(x), expected)
    assert quantizer.report(model).untouched == ("0", "2")


def test_bits_follow_the_last_pattern_that_matches() -> None:
    model, quantizer = stack(), gq(bits=3, bits_of={"*": 5, "2": 32})
    quantizer.attach(model)
    assert quantizer.widths == {"0.weight": 5}
    assert quantizer.report(model).untouched == ("2",)


@pytest.mark.parametrize(("scales", "count"), [("kernel", 1), ("gate", 20), ("row", 20)])
def test_scales_are_by_kernel_gate_or_row(scales: Any, count: int) -> None:
    model = seeded(lambda: Lstm(8, 5, batch_first=True))
    quantizer = gq(bits=2, scales=scales)
    quantizer.attach(model)
    table = quantizer.table("weight_hh_l0")
    assert table.scale.numel() == count
    assert len(table.scale.unique()) == {"kernel": 1, "gate": 4, "row": 20}[scales]


def test_the_report_counts_what_the_finished_model_holds() -> None:
    model, quantizer = seeded(lambda: Lstm(8, 5, batch_first=True)), gq(bits=3, scales="row")
    quantizer.attach(model)
    attached = quantizer.report(model)
    quantizer.finish()
    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    stored = sum(t.numel() * t.element_size() for t in (*model.state_dict().values(), *quantizer.state().values()))
    assert attached.disk_bytes == quantizer.report(model).disk_bytes == held == stored


def test_every_second_step_trains_the_float_weights_until_the_hard_phase() -> None:
    model, quantizer = stack(), Sub8bit(partial(GeneralScheme, anneal=0.75), bits=1, every=2)
    x = noise(2, 16)
    plain = model(x)
    quantizer.attach(model)
    model.train()
    is_plain = []
    for progress in (0.0, 0.1, 0.2, 0.3, 0.8, 0.9, 1.0):
        quantizer.step(progress)
        is_plain.append(torch.equal(model(x), plain))
    assert is_plain == [False, True, False, True, False, False, False]
    quantizer.step(0.1)
    assert not torch.equal(model.eval()(x), plain)


def test_the_rate_of_levels_is_a_factor_on_their_group_alone() -> None:
    model, quantizer = stack(), gq(rate=0.25)
    quantizer.attach(model)
    groups = [{"params": list(model.parameters()), "highest": 0.1}, {**quantizer.parameter_groups()[0], "highest": 0.1}]
    optimizer = quantizer.wrap_optimizer(torch.optim.SGD(groups, lr=0.1))
    assert [(g["lr"], g["highest"]) for g in optimizer.param_groups] == [(0.1, 0.1), (0.025, 0.025)]


def test_an_accelerator_finds_the_codebook_attached_and_finished() -> None:
    model, quantizer = stack(), gq(bits=2)
    quantizer.attach(model)
    attached = table_weight(model[0], "weight")
    quantizer.finish()
    finished = table_weight(model[0], "weight")
    assert attached is not None
    assert finished is not None
    for one, other in zip(attached, finished, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_with_int8_the_attached_model_answers_as_the_finished_one_bit_for_bit(bits: int) -> None:
    model, quantizer = stack(), gq(bits=bits, compute="int8")
    x = noise(5, 16)
    plain = model(x)
    quantizer.attach(model)
    with torch.no_grad():
        attached = model(x)
    model.train()
    quantizer.step(1.0)
    model(x).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    model.eval()
    quantizer.finish()
    with torch.no_grad():
        assert torch.equal(model(x), attached)
    assert bits < 8 or torch.allclose(attached, plain, atol=0.05)


def test_half_precision_models_keep_their_type() -> None:
    model, quantizer = stack().to(torch.bfloat16), gq(bits=4)
    quantizer.attach(model)
    assert model(noise(2, 16).bfloat16()).dtype == torch.bfloat16


def test_penalties_of_schemes_are_summed() -> None:
    class Strict(LloydMaxScheme):
        def penalty(self, weight: Tensor) -> Tensor:
            return weight.square().sum()

    model, quantizer = stack(), Sub8bit(Strict)
    quantizer.attach(model)
    expected = sum(float(model[place].weight.square().sum()) for place in (0, 2))
    penalty = quantizer.penalty()
    assert penalty is not None
    assert float(penalty) == pytest.approx(expected, rel=1e-5)
    assert gq().penalty() is None


def test_buffers_that_no_file_holds_are_counted_in_memory_alone() -> None:
    model = stack()
    model.register_buffer("made", torch.zeros(7, dtype=torch.float64), persistent=False)
    model.register_buffer("kept", torch.zeros(3))
    quantizer = gq(bits=2)
    quantizer.attach(model)
    for _ in range(2):
        size = quantizer.report(model)
        assert size.memory_bytes - size.disk_bytes == 7 * 8
        quantizer.finish()
    stored = [*model.state_dict().values(), *quantizer.state().values()]
    assert size.disk_bytes == sum(tensor.numel() * tensor.element_size() for tensor in stored)


def test_wrong_uses_are_refused_in_one_line() -> None:
    model = stack()
    quantizer = gq()
    with pytest.raises(PluginError, match=r"^Sub8bit\.finish: it is not attached; call attach"):
        quantizer.finish()
    with pytest.raises(PluginError, match=r"^Sub8bit\.detach: it is not attached; call attach"):
        quantizer.detach()
    quantizer.attach(model)
    with pytest.raises(PluginError, match=r"^Sub8bit\.attach: it is attached already, on Sequential"):
        quantizer.attach(model)
    with pytest.raises(
        PluginError, match=r"^0\.weight has a codebook of another quantizer already; quantize it once: exclude"
    ):
        gq().attach(model)
    state = quantizer.state()
    quantizer.finish()
    quantizer.finish()
    with pytest.raises(PluginError, match=r"^Sub8bit\.detach: it is finished, the float weights are gone"):
        quantizer.detach()
    with pytest.raises(PluginError, match=r"^Sequential is finished: 0\.weight is packed"):
        gq().attach(model)
    with pytest.raises(
        PluginError, match=r"^Linear has no weight 0\.weight and 1 more, which the saved state quantizes"
    ):
        gq().restore(nn.Linear(2, 2), state)
    with pytest.raises(PluginError, match=r"it is of another quantizer"):
        Sub8bit(UniformScheme).restore(stack(), state)


def test_wrong_bits_and_patterns_are_refused() -> None:
    with pytest.raises(PluginError, match=r"^bits: 9 bits; choose 1 to 8, or 32"):
        gq(bits=9)
    with pytest.raises(PluginError, match=r"^bits_of: head: 0 bits; choose 1 to 8"):
        gq(bits_of={"head": 0})
    with pytest.raises(
        PluginError,
        match=r"^budget_bytes is 10, but the kernels that bits_of names take 5\d\d by themselves; give more",
    ):
        gq(budget_bytes=10, bits_of={"*": 4}).attach(stack())
    with pytest.raises(PluginError, match=r"^bits_of: no weight is named like 'head'"):
        gq(bits_of={"head": 2}).attach(stack())
    model = stack()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(PluginError, match=r"^2\.weight holds NaN or infinity"):
        gq().attach(model)
    assert table_weight(model[0], "weight") is None
