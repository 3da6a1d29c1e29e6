"""PARQ through the optimizer of training, and what happens without torchao."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from slt_sub8bit.quantizer import Sub8bit
from slt_sub8bit.scheme import decoded
from slt_sub8bit.torchao_peers import Parq, TorchaoScheme
from sltcore.errors import PluginError

torchao = pytest.importorskip("torchao")


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 6))


def trained(model: nn.Module, quantizer: Parq, steps: int = 60) -> Any:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 12, generator=generator)
    y = torch.randn(64, 6, generator=generator)
    model.train()
    optimizer = quantizer.wrap_optimizer(torch.optim.AdamW(model.parameters(), lr=1e-2))
    for turn in range(steps):
        quantizer.step(turn / steps)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    quantizer.step(1.0)
    return optimizer


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_after_annealing_the_parameters_themselves_lie_on_the_levels(bits: int) -> None:
    model, quantizer = small(), Parq(bits=bits)
    quantizer.attach(model)
    trained(model, quantizer)
    for name, kernel in quantizer.kernels.items():
        table = quantizer.table(name)
        assert len(table.table) == 2**bits
        torch.testing.assert_close(kernel.parameter.detach(), table.table[table.indices.long()], atol=1e-6, rtol=1e-5)


def test_finished_equals_attached_and_learned_something() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 12, generator=generator), torch.randn(64, 6, generator=generator)
    model, quantizer = small(), Parq(bits=4)
    quantizer.attach(model)
    before = (model.eval()(x) - y).square().mean()
    trained(model, quantizer)
    with torch.no_grad():
        attached = model.eval()(x)
        assert (attached - y).square().mean() < 0.9 * before
        quantizer.finish()
        torch.testing.assert_close(model(x), attached, atol=1e-5, rtol=1e-5)


def test_early_in_training_the_optimizer_is_the_one_that_was_wrapped() -> None:
    plain, model = small(), small()
    quantizer = Parq(bits=2, anneal_start=0.9, anneal_end=1.0)
    quantizer.attach(model)
    x = torch.randn(8, 12)
    one = torch.optim.SGD(plain.parameters(), lr=0.1)
    two = quantizer.wrap_optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    model.train()
    for turn in range(3):
        quantizer.step(turn / 10)
        for optimizer, net in ((one, plain), (two, model)):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_widths_and_rates_of_groups_are_kept() -> None:
    model = small()
    quantizer = Parq(bits=4, bits_of={"0": 2})
    quantizer.attach(model)
    given = [
        {"params": [p], "lr": rate, "highest": rate}
        for p, rate in zip(model.parameters(), (1e-3, 2e-3, 3e-3, 4e-3), strict=False)
    ]
    optimizer = quantizer.wrap_optimizer(torch.optim.SGD(given, lr=1.0))
    found = {id(p): (g["lr"], g["highest"], g.get("quant_bits")) for g in optimizer.param_groups for p in g["params"]}
    w1, b1, w2, b2 = (found[id(p)] for p in model.parameters())
    assert (w1, b1, w2, b2) == ((1e-3, 1e-3, 2), (2e-3, 2e-3, None), (3e-3, 3e-3, 4), (4e-3, 4e-3, None))


def test_training_goes_on_from_a_checkpoint_bit_for_bit() -> None:
    """The latent weights lie in the optimizer's state, which a checkpoint holds."""
    x = torch.randn(16, 12)

    def steps(model: nn.Module, quantizer: Parq, optimizer: Any, turns: range) -> None:
        model.train()
        for turn in turns:
            quantizer.step(turn / 20)
            optimizer.zero_grad()
            (model(x) - 1).square().mean().backward()
            optimizer.step()

    model, quantizer = small(), Parq(bits=2, anneal_start=0.0, anneal_end=0.6)
    quantizer.attach(model)
    optimizer = quantizer.wrap_optimizer(torch.optim.AdamW(model.parameters(), lr=1e-2))
    steps(model, quantizer, optimizer, range(8))
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    kept, own = torch.utils._pytree.tree_map(
        lambda v: v.clone() if isinstance(v, torch.Tensor) else v, (optimizer.state_dict(), dict(quantizer.state()))
    )
    steps(model, quantizer, optimizer, range(8, 20))

    again, other = small(), Parq(bits=2, anneal_start=0.0, anneal_end=0.6)
    other.restore(again, own)
    again.load_state_dict(saved)
    resumed = other.wrap_optimizer(torch.optim.AdamW(again.parameters(), lr=1e-2))
    resumed.load_state_dict(kept)
    steps(again, other, resumed, range(8, 20))
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_torchao_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "torchao" or name.startswith("torchao.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(PluginError, match="parq needs torchao .*; install it with: pip install torchao"):
        Parq().attach(small())


def test_an_annealing_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(
        PluginError, match="anneal_start is 0.8 and anneal_end 0.2; give 0 <= anneal_start < anneal_end"
    ):
        Parq(anneal_start=0.8, anneal_end=0.2)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_torchao_qat_is_stored_as_torchao_computes_it(bits: int) -> None:
    from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

    weight = torch.randn(12, 32).requires_grad_()
    scheme = TorchaoScheme()
    scheme.start(weight, bits)
    table = scheme.table(weight)
    dtype = torch.int8 if bits == 8 else getattr(torch, f"int{bits}")
    expected = IntxFakeQuantizer(IntxFakeQuantizeConfig(dtype, "per_channel"))(weight)
    torch.testing.assert_close(scheme.weight(weight, hard=False), expected, atol=0, rtol=0)
    torch.testing.assert_close(decoded(table), expected.detach(), atol=1e-6, rtol=1e-5)
    assert len(table.table) == 2**bits
    assert int(table.indices.max()) < 2**bits
    scheme.weight(weight, hard=False).sum().backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) > 0


def test_torchao_qat_trains_and_finishes() -> None:
    model = small()
    quantizer = Sub8bit(TorchaoScheme, bits=4, scales="row")
    quantizer.attach(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x, y = torch.randn(64, 12), torch.randn(64, 6)
    losses = []
    for turn in range(40):
        quantizer.step(turn / 40)
        optimizer.zero_grad()
        loss = (model.train()(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    with torch.no_grad():
        attached = model.eval()(x)
        quantizer.finish()
        torch.testing.assert_close(model(x), attached, atol=1e-5, rtol=1e-5)


def test_torchao_at_one_bit_is_refused() -> None:
    with pytest.raises(PluginError, match="torchao's integers of 1 bit are 0 and -1; choose 2 to 8 bits"):
        Sub8bit(TorchaoScheme, bits=1, scales="row").attach(small())
