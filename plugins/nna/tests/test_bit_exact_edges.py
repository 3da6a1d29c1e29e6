"""Where the arithmetic has an edge, the emulation and the integer reference are still equal, and right."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slt_nna.backend import Weight
from slt_nna.chip import Chip, load_chip
from slt_nna.emulated import Emulation, portable
from slt_nna.emulated.arithmetic import Limits
from slt_nna.grid import Grid
from slt_nna.integer import Reference
from slt_nna.nna import Nna
from sltcore.errors import PluginError

ROUNDINGS = ("half_up", "half_away", "half_even", "truncate")


def described(**fields: Any) -> Chip:
    return load_chip({"name": "edge", "description": "for tests", **fields})


def both(chip: Chip, value: Tensor, grid: Grid) -> list[tuple[Any, Tensor]]:
    return [(backend, backend.enter(value, grid)) for backend in (Emulation(chip), Reference(chip))]


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_probability_of_one_is_the_largest_code(overflow: str, columns: int) -> None:
    chip, grid = described(overflow=overflow), Grid(2.0**-4, 8)
    scores = torch.tensor([[5.0, -5.0, -6.0], [0.0, 0.0, 0.0], [-8.0, 7.9, -8.0]])[:, :columns]
    found = []
    for backend, x in both(chip, scores, grid):
        shares, out = backend.softmax(x, grid, -1)
        found.append(backend.leave(shares, out))
    assert torch.equal(*found)
    assert float(found[0].min()) >= 0.0
    most = 1.0 - 2.0 ** -(chip.words.probability - 1)
    assert float(found[0].max()) == most
    assert torch.allclose(found[0], scores.softmax(-1), atol=0.02)


class Shaped(nn.Module):
    """One operator whose input is taken as it comes."""

    def __init__(self, operator: str) -> None:
        super().__init__()
        self.operator = operator
        layers = {
            "linear": nn.Linear(4, 2),
            "convolution": nn.Conv1d(4, 2, 3),
            "depthwise": nn.Conv1d(4, 4, 3, groups=4),
            "long": nn.Conv1d(4, 2, 17),
            "lstm": nn.LSTM(4, 3, batch_first=True),
            "gru": nn.GRU(4, 3, batch_first=True),
            "matmul": nn.Linear(4, 4),
        }
        self.layer = layers[operator]

    def forward(self, x: Tensor) -> Tensor:
        if self.operator == "matmul":
            y = self.layer(torch.ones(x.shape[0], 4, 4))
            result: Tensor = torch.matmul(y, functional.pad(y, (0, 0, 0, x.shape[-1] - 4)))
            return result
        if self.operator in ("lstm", "gru"):  # below the module, which looks at widths itself
            zeros = torch.zeros(1, x.shape[0], 3)
            first = (zeros, zeros) if self.operator == "lstm" else zeros
            recurrent = getattr(torch, self.operator)
            output: Tensor = recurrent(x, first, self.layer._flat_weights, True, 1, 0.0, False, False, True)[0]
            return output
        found: Tensor = self.layer(x)
        return found


RIGHT = {"convolution": (2, 4, 9), "depthwise": (2, 4, 9), "long": (2, 4, 20)}


@pytest.mark.parametrize("operator", ["linear", "convolution", "depthwise", "long", "lstm", "gru", "matmul"])
@pytest.mark.parametrize("width", [3, 7])
def test_the_integer_form_refuses_a_wrong_width(operator: str, width: int) -> None:
    """numpy and compiled loops would read beside the operands and give numbers."""
    transform, model = Nna("mixed-8-16"), Shaped(operator).eval()
    shape = RIGHT.get(operator, (2, 4, 4))
    transform.attach(model, iter([torch.randn(shape)]))
    lowered = transform.lower(model)
    with torch.no_grad():
        assert torch.equal(lowered(torch.ones(shape)), model(torch.ones(shape)))
        wrong = torch.randn(shape[0], width, shape[2]) if operator in RIGHT else torch.randn(2, 4, width)
        with pytest.raises(
            PluginError, match=r"takes \d+ (features|channels|rows in its second operand), and was given"
        ):
            lowered(wrong)
        with pytest.raises(RuntimeError):  # as torch and the emulation do
            model(wrong)


def test_the_integer_form_refuses_rows_that_an_embedding_has_not() -> None:
    transform, model = Nna("mixed-8-16"), nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)).eval()
    transform.attach(model, iter([torch.arange(5)[None]]))
    lowered = transform.lower(model)
    for wrong in (-1, 5):
        with pytest.raises(PluginError, match=f"an embedding of 5 rows was asked for row {wrong}"):
            lowered(torch.tensor([[0, wrong]]))


def test_the_integer_form_refuses_a_state_of_another_batch() -> None:
    model = nn.LSTM(4, 3).eval()
    transform = Nna("mixed-8-16")
    transform.attach(model, iter([torch.randn(5, 2, 4)]))
    lowered = transform.lower(model)
    state = torch.ones(1, 1, 3)
    with pytest.raises(PluginError, match="takes 2 rows in its first"), lowered.running(), torch.no_grad():
        torch.lstm(torch.randn(5, 2, 4), (state, state), lowered.model._flat_weights, True, 1, 0.0, False, False, False)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_code_comes_back_from_the_host(rounding: str) -> None:
    """float32(code * scale) lies below code * scale for half of the codes of a free scale."""
    chip = described(rounding=rounding, scales="free")
    for scale, bits in ((0.0123456789, 16), (1 / 3, 8), (7.1e-5, 16)):
        grid = Grid(scale, bits)
        codes = torch.arange(grid.least, grid.most + 1)
        for backend, x in both(chip, (codes.double() * scale).float(), grid):
            value = backend.leave(x, grid)
            assert torch.equal(backend.leave(backend.enter(value, grid), grid), value)
            assert torch.equal(torch.round(value.double() / scale).long(), codes)
        assert torch.equal(portable.enter(value, scale, ROUNDINGS.index(rounding), _limits(grid))[0], value)


@pytest.mark.parametrize("rounding", ["half_up", "truncate"])
def test_values_that_no_code_stands_for_are_rounded_as_before(rounding: str) -> None:
    chip, grid = described(rounding=rounding, scales="free"), Grid(0.0123456789, 8)
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).clamp(-1.5, 1.5)
    wanted = torch.floor(values.double() / grid.scale + (0.5 if rounding == "half_up" else 0.0))
    for backend, x in both(chip, values, grid):
        assert torch.equal(torch.round(backend.leave(x, grid).double() / grid.scale), wanted)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_chunks_equal_the_whole_with_free_scales_and_truncation(kind: Any) -> None:
    """Last states of several layers leave the chip between chunks, and come back as they were."""
    torch.manual_seed(0)
    model = kind(6, 8, 2, batch_first=True).eval()
    transform = Nna(described(rounding="truncate", scales="free", words={"bias": 24}))
    x = torch.randn(3, 40, 6)
    transform.attach(model, iter([x]))
    lowered = transform.lower(model)
    with torch.no_grad():
        for each in (model, lowered):
            whole = each(x)[0]
            first, state = each(x[:, :15])
            second, _ = each(x[:, 15:], state)
            assert torch.equal(torch.cat([first, second], 1), whole)


def _limits(grid: Grid) -> Limits:
    return Limits(grid.least, grid.most, False)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_a_constant_row_is_normalised_to_zeros_with_and_without_eps(eps: float) -> None:
    chip, grid, out = described(), Grid(2.0**-4, 8), Grid(2.0**-5, 8)
    rows = torch.tensor([[1.5, 1.5, 1.5, 1.5], [0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 1.0, -1.0]])
    found = [
        backend.leave(backend.layer_norm(x, grid, None, None, eps, out), out) for backend, x in both(chip, rows, grid)
    ]
    assert torch.equal(*found)
    assert torch.equal(found[0][:2], torch.zeros(2, 4))
    emulation = Emulation(chip)
    x = emulation.enter(rows, grid).requires_grad_()
    emulation.layer_norm(x, grid, None, None, eps, out).square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_overflows_are_counted_for_the_layer_of_each_thread() -> None:
    """Two threads that run two layers at once on one chip: names and counts do not mix."""
    chip, grid = described(words={"bias": 16}, accumulator={"bits": 16, "tile": 1}), Grid(2.0**-4, 8)
    emulation, gate = Emulation(chip), threading.Barrier(2)
    weight = Weight("w", torch.ones(1, 16))
    x = torch.full((1, 16), 7.0)

    def run(site: str, rows: int) -> None:
        entered = emulation.enter(x.expand(rows, 16), grid)
        emulation.operator, emulation.site = "linear", site
        gate.wait()
        emulation.linear(entered, grid, weight, None, grid)

    threads = [threading.Thread(target=run, args=each) for each in (("first", 1), ("second", 3))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    first = emulation.overflows["first"]
    assert first > 0
    assert emulation.overflows == {"first": first, "second": 3 * first}
