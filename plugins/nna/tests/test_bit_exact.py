"""The emulation and the integer reference agree in every bit: on millions of random numbers, and on whole models."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slt_nna.backend import Kernels, RecurrentGrids, Weight
from slt_nna.chip import Chip, load_chip
from slt_nna.emulated import Emulation
from slt_nna.grid import Grid
from slt_nna.integer import Reference

LEAST_COUNT = 1_000_000
ROUNDINGS = ("half_up", "half_away", "half_even", "truncate")
Pair = tuple[Tensor, Tensor]


def random_chip(draw: random.Random, rounding: str) -> Chip:
    """Any chip that the description allows, small words as likely as wide ones."""
    words = {
        name: draw.choice((4, 6, 8, 8, 11, 16))
        for name in ("weight", "activation", "residual", "preactivation", "state", "probability", "table")
    }
    free = draw.random() < 0.5
    products = max(words["weight"], words["activation"]) + words["activation"]
    bits = draw.randint(products, min(products + 14, 40 if free else 60))
    table = {
        "entries": draw.choice((16, 64, 256)) if not free else draw.randint(5, 300),
        "range": draw.choice((2.0, 4.0, 8.0)) if not free else draw.uniform(1.0, 9.0),
        "interpolation": draw.choice(("nearest", "linear")),
    }
    return load_chip(
        {
            "name": "random",
            "description": "drawn at random",
            "words": {**words, "bias": draw.randint(4, min(bits, 31))},
            "accumulator": {"bits": bits, "tile": draw.choice((None, None, 1, 7, 64))},
            "rounding": rounding,
            "overflow": draw.choice(("saturate", "wrap")),
            "scales": "free" if free else "power_of_two",
            "weight_scales": draw.choice(("tensor", "channel")),
            "multiplier_bits": draw.randint(4, min(31, 62 - bits, 44 - words["weight"])) if free else 24,
            "tables": dict.fromkeys(("sigmoid", "tanh", "phi"), table)
            | {"exp": {**table, "entries": table["entries"] + 1}},
        }
    )


class Trial:
    """A random chip, and operators on random operands in both forms; `count` numbers were compared."""

    def __init__(self, seed: int, rounding: str) -> None:
        self.draw = random.Random(seed)
        self.chip = random_chip(self.draw, rounding)
        self.words = self.chip.words
        self.backends = Emulation(self.chip), Reference(self.chip)
        self.generator = torch.Generator().manual_seed(seed)
        self.count = 0

    def normal(self, *shape: int, spread: float = 1.0) -> Tensor:
        return spread * torch.randn(*shape, generator=self.generator)

    def grid(self, bits: int) -> Grid:
        scale = 2.0 ** self.draw.randint(-2, 3) / 2 ** (bits - 1)
        return Grid(scale * (self.draw.uniform(0.5, 1.0) if self.chip.scales == "free" else 1.0), bits)

    def chip_tensor(self, *shape: int, bits: int) -> tuple[Pair, Grid]:
        grid, value = self.grid(bits), self.normal(*shape, spread=1.5)
        emulation, reference = self.backends
        return (emulation.enter(value, grid), reference.enter(value, grid)), grid

    def compare(self, call: Callable[[Any, int], Any], *grids: Grid) -> None:
        first, second = (call(backend, place) for place, backend in enumerate(self.backends))
        if isinstance(first, tuple) and isinstance(first[1], Grid):
            assert first[1] == second[1]
            first, second, grids = first[0], second[0], (first[1],)
        firsts, seconds = (each if isinstance(each, tuple) else (each,) for each in (first, second))
        for one, two, grid in zip(firsts, seconds, grids, strict=True):
            left = self.backends[1].leave(two, grid)
            assert torch.equal(one, left), f"{int((one != left).sum())} of {one.numel()} differ on {self.chip!r}"
            self.count += one.numel()

    def products(self) -> None:
        rows, inner, columns = (self.draw.randint(1, most) for most in (120, 150, 90))
        bits, out = self.words.activation, self.grid(self.words.activation)
        x, gx = self.chip_tensor(2, rows, inner, bits=bits)
        weight, bias = Weight("w", self.normal(columns, inner, spread=0.3)), self.normal(columns)
        self.compare(lambda backend, place: backend.linear(x[place], gx, weight, bias, out), out)
        y, gy = self.chip_tensor(2, inner, columns, bits=bits)
        factor = self.draw.choice((1.0, 0.125, 0.3))
        self.compare(lambda backend, place: backend.matmul(x[place], gx, y[place], gy, out, factor=factor), out)

    def convolutions(self) -> None:
        groups, per = self.draw.choice(((1, 3), (4, 1), (2, 5)))
        channels, size = groups * per, self.draw.randint(1, 6)
        x, gx = self.chip_tensor(2, channels, self.draw.randint(20, 120), bits=self.words.activation)
        weight, out = Weight("w", self.normal(groups * 4, per, size, spread=0.4)), self.grid(self.words.activation)
        bias, geometry = self.normal(groups * 4), {"groups": groups}
        for name, most in (("stride", 3), ("padding", 4), ("dilation", 3)):
            geometry[name] = (self.draw.randint(name != "padding", most),)  # type: ignore[assignment]
        self.compare(lambda backend, place: backend.convolution(x[place], gx, weight, bias, out, **geometry), out)

    def entries(self) -> None:
        shape = (self.draw.randint(1, 60), self.draw.randint(1, 400))
        a, ga = self.chip_tensor(*shape, bits=self.words.activation)
        b, gb = self.chip_tensor(*shape[1:], bits=self.words.residual)
        out, sign = self.grid(self.words.residual), self.draw.choice((1, -1))
        self.compare(lambda backend, place: backend.add(a[place], ga, b[place], gb, out, sign=sign), out)
        self.compare(lambda backend, place: backend.multiply(a[place], ga, b[place], gb, out), out)
        function = self.draw.choice(("sigmoid", "phi"))
        self.compare(lambda backend, place: backend.gate(a[place], ga, a[place], ga, function, out), out)
        c, gc = self.chip_tensor(*shape, bits=self.words.activation)
        self.compare(lambda backend, place: backend.gate(a[place], ga, c[place], gc, function, out), out)
        self.compare(lambda backend, place: backend.lookup(a[place], ga, "tanh"))
        self.compare(lambda backend, place: backend.requantize(a[place], ga, out), out)

    def rows(self) -> None:
        shape = (
            self.draw.randint(1, 90),
            self.draw.choice((1, 2, self.draw.randint(3, 200), self.draw.randint(3, 200))),
        )
        x, grid = self.chip_tensor(*shape, bits=self.draw.choice((self.words.activation, self.words.residual)))
        mask, out = self.normal(*shape) > 0.5, self.grid(self.words.activation)
        self.compare(lambda backend, place: backend.softmax(backend.exclude(x[place], grid, mask), grid, -1))
        gain, shift, mean, var = (
            self.normal(shape[1]),
            self.normal(shape[1]),
            self.normal(shape[1]),
            self.normal(shape[1]),
        )
        self.compare(lambda backend, place: backend.layer_norm(x[place], grid, gain, shift, 1e-5, out), out)
        self.compare(
            lambda backend, place: backend.batch_norm(x[place], grid, mean, var.abs(), gain, shift, 1e-5, out), out
        )

    def recurrences(self) -> None:
        t, b, f, d = (self.draw.randint(1, most) for most in (30, 4, 40, 40))
        x, gx = self.chip_tensor(t, b, f, bits=self.words.activation)
        reverse, biases = self.draw.random() < 0.5, (self.normal(4 * d), self.normal(4 * d))
        grids = RecurrentGrids(
            *(self.grid(bits) for bits in (self.words.activation, self.words.preactivation, self.words.state))
        )
        assert grids.state is not None
        wih, whh = self.normal(4 * d, f, spread=0.3), self.normal(4 * d, d, spread=0.3)
        kernels = Kernels(Weight("i", wih), Weight("h", whh), *biases)
        self.compare(
            lambda backend, place: backend.lstm(x[place], gx, kernels, grids, None, reverse=reverse),
            grids.hidden, grids.hidden, grids.state,
        )  # fmt: skip
        kernels = Kernels(
            Weight("i3", wih[: 3 * d]), Weight("h3", whh[: 3 * d]), biases[0][: 3 * d], biases[1][: 3 * d]
        )
        self.compare(
            lambda backend, place: backend.gru(x[place], gx, kernels, grids, None, reverse=reverse),
            grids.hidden, grids.hidden,
        )  # fmt: skip

    def run(self) -> int:
        for operators in (self.products, self.convolutions, self.entries, self.rows, self.recurrences):
            operators()
        emulation, reference = self.backends
        assert dict(emulation.overflows) == reference.overflows
        return self.count


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_million_random_numbers_agree_for_every_rounding(rounding: str) -> None:
    count = seed = 0
    while count < LEAST_COUNT:
        count += Trial(1000 * ROUNDINGS.index(rounding) + seed, rounding).run()
        seed += 1
    assert seed > 3


class Mixed(nn.Module):
    """All that plain layers do, with an odd number of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Sequential(
            nn.Conv1d(7, 9, 3, padding="same"), nn.BatchNorm1d(9), nn.GELU(), nn.MaxPool1d(3, 2)
        )
        self.layers = nn.TransformerEncoderLayer(9, 3, 17, batch_first=True)
        self.gru = nn.GRU(9, 5, 2, bidirectional=True, batch_first=True)
        self.lstm = nn.LSTM(10, 6, bidirectional=True, batch_first=True, proj_size=4)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        x = self.lstm(self.gru(self.layers(x))[0])[0]
        result: Tensor = self.head(torch.nn.functional.silu(x) * 0.3 + 1.0).softmax(-1)
        return result


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("seed", range(3))
def test_a_model_of_everything_agrees_on_random_chips(rounding: str, seed: int) -> None:
    from slt_nna.nna import Nna

    chip = random_chip(random.Random(1000 * ROUNDINGS.index(rounding) + seed), rounding)
    torch.manual_seed(seed)
    model, x = Mixed().eval(), torch.randn(2, 23, 7)
    transform = Nna(chip)
    transform.attach(model, iter([x]))
    lowered = transform.lower(model)
    with torch.no_grad():
        for each in (x, 5.0 * torch.randn(1, 40, 7)):
            assert torch.equal(model(each), lowered(each))
