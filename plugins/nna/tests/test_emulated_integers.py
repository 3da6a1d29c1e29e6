"""Every operator of the emulation gives the numbers of the integer reference, bit for bit, on random chips and inputs."""

# ruff: noqa: B023 - every function given to `check` is called before its loop goes on

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slt_nna.backend import Kernels, RecurrentGrids, Weight
from slt_nna.chip import Chip, load_chip
from slt_nna.emulated import Emulation
from slt_nna.grid import Grid
from slt_nna.integer import Reference

ROUNDINGS = ("half_up", "half_away", "half_even", "truncate")
SHIPPED = ("generous-8bit", "mixed-8-16", "harsh")


def variant(rounding: str, **changes: Any) -> Chip:
    """A chip of many word sizes, with free scales unless told otherwise."""
    free = changes.get("scales", "free") == "free"
    inner = {"nearest": 256, "linear": 64}[changes.get("interpolation", "nearest")]
    interpolation = changes.pop("interpolation", "nearest")
    odd = {"range": 5.3 if free else 4.0, "interpolation": interpolation}
    chip: dict[str, Any] = {
        "name": "variant",
        "description": "a chip of a test",
        "words": {
            "weight": 8, "activation": 9, "residual": 14, "preactivation": 12, "state": 13, "probability": 7, "table": 10,
            "bias": 20,
        },
        "rounding": rounding,
        "scales": "free",
        "tables": {
            "sigmoid": {"entries": inner, **odd},
            "tanh": {"entries": inner, **odd},
            "phi": {"entries": inner, **odd},
            "exp": {"entries": inner + 1, **odd},
        },
    }  # fmt: skip
    return load_chip({**chip, **changes})


def chips() -> Iterator[Any]:
    for name in SHIPPED:
        yield pytest.param(load_chip(name), id=name)
    for rounding, overflow in product(ROUNDINGS, ("saturate", "wrap")):
        yield pytest.param(variant(rounding, overflow=overflow), id=f"{rounding}-{overflow}-free")
    narrow = {"bits": 21, "tile": 7}
    yield pytest.param(variant("half_up", accumulator=narrow), id="tiles-free")
    yield pytest.param(variant("truncate", accumulator=narrow, overflow="wrap"), id="tiles-wrap")
    yield pytest.param(variant("half_even", accumulator=narrow, scales="power_of_two"), id="tiles-shift")
    yield pytest.param(variant("half_away", weight_scales="channel", multiplier_bits=15), id="channels-free")
    yield pytest.param(variant("half_up", weight_scales="channel", scales="power_of_two"), id="channels-shift")
    yield pytest.param(variant("half_even", interpolation="linear"), id="linear-tables")
    yield pytest.param(variant("half_away", interpolation="linear", scales="power_of_two"), id="linear-tables-shift")
    wide = {"weight": 16, "activation": 16, "residual": 16, "table": 16, "preactivation": 16, "state": 16, "bias": 32}
    yield pytest.param(variant("half_up", words=wide, accumulator={"bits": 34}), id="sixteen-bits")
    yield pytest.param(
        variant("half_away", words={**wide, "bias": 30}, accumulator={"bits": 32, "tile": 5}), id="sixteen-tiles"
    )


ALL = list(chips())


class Both:
    """The emulation and the reference of a chip, on the same inputs."""

    def __init__(self, chip: Chip, seed: int = 0) -> None:
        self.chip = chip
        self.emulation, self.reference = Emulation(chip), Reference(chip)
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, spread: float = 1.0) -> Tensor:
        return spread * torch.randn(*shape, generator=self.generator)

    def grid(self, bits: int, limit: float) -> Grid:
        """A grid whose largest value is near `limit`."""
        scale = limit / 2 ** (bits - 1)
        return Grid(
            scale * 1.037 if self.chip.scales == "free" else 2.0 ** round(torch.tensor(scale).log2().item()), bits
        )

    def chip_tensor(
        self, *shape: int, bits: int | None = None, limit: float = 2.5
    ) -> tuple[tuple[Tensor, Tensor], Grid]:
        """Random values in both forms, some of them clipped."""
        grid = self.grid(bits or self.chip.words.activation, limit)
        value = self.normal(*shape)
        return (self.emulation.enter(value, grid), self.reference.enter(value, grid)), grid

    def check(self, call: Callable[[Any, int], Any], *grids: Grid) -> None:
        """call(backend, 0 or 1) gives equal results."""
        results = [call(backend, place) for place, backend in enumerate((self.emulation, self.reference))]
        results = [each if isinstance(each, tuple) else (each,) for each in results]
        if isinstance(results[0][-1], Grid):
            assert results[0][-1] == results[1][-1]
            grids, results = (results[0][-1],), [each[:-1] for each in results]
        for one, two, grid in zip(*results, grids or (None,), strict=True):
            left = self.reference.leave(two, grid)
            assert one.dtype == torch.float32
            assert one.shape == left.shape
            assert torch.equal(one, left), f"{int((one != left).sum())} of {one.numel()} differ"


@pytest.fixture(params=ALL)
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


@pytest.mark.parametrize("bits", [2, 6, 8, 16])
def test_entering_rounds_and_clips_alike(both: Both, bits: int) -> None:
    x = torch.cat([both.normal(3, 331).flatten(), torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0])])
    grid = both.grid(bits, 2.0)
    ties = (torch.arange(-40, 40) / 2) * grid.scale
    both.check(lambda backend, place: backend.enter(torch.cat([x, ties]), grid), grid)


@pytest.mark.parametrize("features", [1, 5, 64, 333])
def test_linear_layers_are_exact(both: Both, features: int) -> None:
    x, gx = both.chip_tensor(3, 7, features)
    weight, bias = Weight("w", both.normal(11, features, spread=0.2)), both.normal(11)
    for limit in (0.3, 4.0):
        out = both.grid(both.chip.words.activation, limit * features**0.5)
        both.check(lambda backend, place: backend.linear(x[place], gx, weight, bias, out), out)
        both.check(lambda backend, place: backend.linear(x[place], gx, weight, None, out), out)
    assert both.emulation.overflows == both.reference.overflows


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", [8, 16])
def test_a_million_random_vectors_are_exact(rounding: str, bits: int) -> None:
    """Dot products of 37 entries, and sums and products of two: 10^6 of each."""
    words = {"weight": bits, "activation": bits, "residual": bits, "table": 8, "bias": 32}
    both = Both(variant(rounding, words=words, accumulator={"bits": 38}), seed=bits)
    x, gx = both.chip_tensor(1009, 37)
    out = both.grid(bits, 6.0)
    weight, bias = Weight("w", both.normal(1000, 37, spread=0.2)), both.normal(1000)
    both.check(lambda backend, place: backend.linear(x[place], gx, weight, bias, out), out)
    a, ga = both.chip_tensor(1000, 1009)
    b, gb = both.chip_tensor(1000, 1009, limit=5.0)
    both.check(lambda backend, place: backend.add(a[place], ga, b[place], gb, out), out)
    both.check(lambda backend, place: backend.multiply(a[place], ga, b[place], gb, out), out)
    both.check(lambda backend, place: backend.requantize(b[place], gb, out), out)
    both.check(lambda backend, place: backend.gate(a[place], ga, b[place], gb, "sigmoid", out), out)


CONVOLUTIONS: list[Mapping[str, Any]] = [
    {"x": (2, 6, 23), "w": (6, 1, 5), "stride": (1,), "padding": (2,), "dilation": (1,), "groups": 6},
    {"x": (2, 6, 23), "w": (8, 3, 4), "stride": (3,), "padding": (0,), "dilation": (2,), "groups": 2},
    {"x": (1, 3, 9, 11), "w": (5, 3, 3, 3), "stride": (2, 2), "padding": (0, 1), "dilation": (1, 1), "groups": 1},
    {"x": (2, 4, 9, 8), "w": (4, 2, 3, 2), "stride": (1, 2), "padding": (2, 1), "dilation": (2, 1), "groups": 2},
    {"x": (2, 70, 12), "w": (16, 70, 1), "stride": (1,), "padding": (0,), "dilation": (1,), "groups": 1},
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: "x".join(map(str, case["w"])))
@pytest.mark.parametrize("biased", [True, False])
def test_convolutions_are_exact(both: Both, case: Mapping[str, Any], biased: bool) -> None:
    x, gx = both.chip_tensor(*case["x"])
    weight = Weight("w", both.normal(*case["w"], spread=0.5))
    bias = both.normal(case["w"][0]) if biased else None
    out = both.grid(both.chip.words.activation, 4.0)
    geometry = {key: case[key] for key in ("stride", "padding", "dilation", "groups")}
    both.check(lambda backend, place: backend.convolution(x[place], gx, weight, bias, out, **geometry), out)
    assert both.emulation.overflows == both.reference.overflows


@pytest.mark.parametrize("factor", [1.0, 0.3, 2.0])
def test_products_of_activations_are_exact(both: Both, factor: float) -> None:
    words = both.chip.words
    a, ga = both.chip_tensor(2, 3, 10, 37, bits=words.residual)
    b, gb = both.chip_tensor(3, 37, 13)
    out = both.grid(words.activation, 10.0)
    both.check(lambda backend, place: backend.matmul(a[place], ga, b[place], gb, out, factor=factor), out)


@pytest.mark.parametrize(
    "shapes", [((4, 5, 6), (4, 5, 6)), ((4, 5, 6), (5, 1)), ((6,), (2, 3, 6)), ((1, 1, 1), (2, 1, 3))]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_and_products_of_entries_are_exact(both: Both, shapes: tuple[tuple[int, ...], ...], sign: int) -> None:
    words = both.chip.words
    a, ga = both.chip_tensor(*shapes[0])
    b, gb = both.chip_tensor(*shapes[1], bits=words.residual, limit=7.0)
    mask = both.normal(*shapes[0]) > 1.0
    a = tuple(backend.exclude(a[place], ga, mask) for place, backend in enumerate((both.emulation, both.reference)))
    for limit in (1.0, 9.0):
        out = both.grid(words.residual, limit)
        both.check(lambda backend, place: backend.add(a[place], ga, b[place], gb, out, sign=sign), out)
        both.check(lambda backend, place: backend.multiply(a[place], ga, b[place], gb, out), out)


@pytest.mark.parametrize("bits", [6, 8, 16])
def test_functions_of_one_code_are_exact_at_every_code(both: Both, bits: int) -> None:
    grid = both.grid(bits, 6.0)
    every = torch.arange(grid.least, grid.most + 1) * grid.scale
    x = both.emulation.enter(every, grid), both.reference.enter(every, grid)
    out = both.grid(both.chip.words.activation, 3.0)
    for function in ("sigmoid", "tanh"):
        both.check(lambda backend, place: backend.lookup(x[place], grid, function))
    for function in ("sigmoid", "phi"):
        both.check(lambda backend, place: backend.gate(x[place], grid, x[place], grid, function, out), out)
    for factor in (0.3, -1.7, 0.0, 5.0):
        both.check(lambda backend, place: backend.scale(x[place], grid, factor, out), out)
    both.check(lambda backend, place: backend.requantize(x[place], grid, out), out)
    both.check(lambda backend, place: backend.requantize(x[place], grid, grid), grid)
    both.check(lambda backend, place: backend.negate(x[place], grid), grid)
    both.check(lambda backend, place: backend.relu(x[place], grid), grid)
    both.check(lambda backend, place: backend.relu(x[place], grid, most=2.7), grid)
    both.check(lambda backend, place: backend.relabel(x[place], grid, 0.5), Grid(grid.scale * 0.5, grid.bits))
    mask = both.normal(len(every)) > 0
    both.check(lambda backend, place: backend.fill(x[place], grid, mask, 1.3), grid)


def test_gated_halves_are_exact(both: Both) -> None:
    x, grid = both.chip_tensor(3, 50, 12, limit=4.0)
    out = both.grid(both.chip.words.activation, 2.0)
    for axis in (-1, 1):
        halves = [backend.shape(torch.chunk, (x[place], 2, axis), {}) for place, backend in enumerate(
            (both.emulation, both.reference))]  # fmt: skip
        both.check(
            lambda backend, place: backend.gate(halves[place][0], grid, halves[place][1], grid, "sigmoid", out), out
        )


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("bits", [6, 9, 16])
def test_softmax_is_exact_with_excluded_entries(both: Both, dim: int, bits: int) -> None:
    x, grid = both.chip_tensor(9, 31, 17, bits=bits, limit=6.0)
    both.check(lambda backend, place: backend.softmax(x[place], grid, dim))
    mask = both.normal(9, 31, 17) > 0.3
    mask[2], mask[:, :, 5] = True, True
    excluded = both.emulation.exclude(x[0], grid, mask), both.reference.exclude(x[1], grid, mask)
    both.check(lambda backend, place: backend.softmax(excluded[place], grid, dim))


@pytest.mark.parametrize("features", [1, 3, 64, 1000])
@pytest.mark.parametrize("bits", [6, 8, 16])
def test_layer_norm_is_exact(both: Both, features: int, bits: int) -> None:
    x, grid = both.chip_tensor(13, features, bits=bits)
    for scaled, shifted, limit in product((True, False), (True, False), (1.0, 4.0)):
        weight = 1.0 + both.normal(features, spread=0.3) if scaled else None
        bias = both.normal(features) if shifted else None
        out = both.grid(both.chip.words.activation, limit)
        both.check(lambda backend, place: backend.layer_norm(x[place], grid, weight, bias, 1e-5, out), out)


def test_batch_norm_is_exact(both: Both) -> None:
    x, grid = both.chip_tensor(4, 6, 11)
    weight, bias, mean, var = both.normal(6), both.normal(6), both.normal(6), both.normal(6).abs() + 0.1
    out = both.grid(both.chip.words.activation, 4.0)
    both.check(lambda backend, place: backend.batch_norm(x[place], grid, mean, var, weight, bias, 1e-5, out), out)
    both.check(lambda backend, place: backend.batch_norm(x[place], grid, mean, var, None, None, 1e-5, out), out)


def test_embeddings_and_constants_are_exact(both: Both) -> None:
    indices, table = torch.tensor([[0, 3, 2], [4, 4, 1]]), both.normal(5, 7)
    both.check(lambda backend, place: backend.embedding(indices, Weight("w", table)))
    for value in (table, torch.zeros(3), torch.tensor(0.3)):
        both.check(lambda backend, place: backend.constant(value, 8))


def test_threads_change_nothing(both: Both) -> None:
    x, gx = both.chip_tensor(6, 300, 256)
    weight, bias = Weight("w", both.normal(256, 256, spread=0.2)), both.normal(256)
    kernel = Weight("k", both.normal(300, 1, 3))
    out = both.grid(both.chip.words.activation, 8.0)
    before = torch.get_num_threads()

    def run(threads: int) -> list[Tensor]:
        emulation = Emulation(both.chip)
        torch.set_num_threads(threads)
        y = emulation.linear(x[0], gx, weight, bias, out)
        geometry: Any = {"stride": (1,), "padding": (1,), "dilation": (1,), "groups": 300}
        z = emulation.convolution(x[0], gx, kernel, None, out, **geometry)
        a, b = y.chunk(2, -1)
        p, _ = emulation.softmax(z, out, -1)
        found = [y, z, p, emulation.add(y, out, z, out, out), emulation.gate(a, out, b, out, "sigmoid", out)]
        found += [emulation.layer_norm(y, out, None, None, 1e-5, out), emulation.lookup(z, out, "tanh")[0]]
        return [*found, torch.tensor(sum(emulation.overflows.values()))]

    try:
        assert all(map(torch.equal, run(1), run(3)))
    finally:
        torch.set_num_threads(before)


def recurrent_case(both: Both, kind: str, projected: bool) -> tuple[Kernels, RecurrentGrids]:
    cells: Any = nn.LSTM(13, 10, proj_size=6 if projected else 0) if kind == "lstm" else nn.GRU(13, 10)
    names = [name for name, _ in cells.named_parameters()]
    held = {name: 2.5 * value.detach() for name, value in cells.named_parameters()}
    projection = Weight("hr", held["weight_hr_l0"]) if "weight_hr_l0" in names else None
    weights = Weight("ih", held["weight_ih_l0"]), Weight("hh", held["weight_hh_l0"])
    words = both.chip.words
    grids = RecurrentGrids(
        both.grid(words.activation, 0.9),
        both.grid(words.preactivation, 3.0),
        both.grid(words.state, 1.5) if kind == "lstm" else None,
        both.grid(words.activation, 0.8) if projected else None,
    )
    return Kernels(*weights, held["bias_ih_l0"], held["bias_hh_l0"], projection), grids


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("projected", [False, True])
def test_lstm_is_exact(both: Both, packed: bool, reverse: bool, projected: bool) -> None:
    torch.manual_seed(5)
    kernels, grids = recurrent_case(both, "lstm", projected)
    sizes = torch.tensor([4, 4, 3, 3, 1]) if packed else None
    x, gx = both.chip_tensor(*((15,) if packed else (5, 4)), 13)
    assert grids.state is not None
    found = (grids.hidden, grids.hidden, grids.state)
    start_h, start_c = both.normal(4, 6 if projected else 10, spread=0.4), both.normal(4, 10, spread=0.5)
    for state in (False, True):

        def call(backend: Any, place: int, state: bool = state) -> Any:
            first = (backend.enter(start_h, grids.hidden), backend.enter(start_c, grids.state)) if state else None
            return backend.lstm(x[place], gx, kernels, grids, first, reverse=reverse, batch_sizes=sizes)

        both.check(call, *found)
    assert both.emulation.overflows == both.reference.overflows


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_gru_is_exact(both: Both, packed: bool, reverse: bool) -> None:
    torch.manual_seed(5)
    kernels, grids = recurrent_case(both, "gru", False)
    sizes = torch.tensor([4, 4, 3, 3, 1]) if packed else None
    x, gx = both.chip_tensor(*((15,) if packed else (5, 4)), 13)
    start = both.normal(4, 10, spread=0.4)
    for state in (False, True):

        def call(backend: Any, place: int, state: bool = state) -> Any:
            first = backend.enter(start, grids.hidden) if state else None
            return backend.gru(x[place], gx, kernels, grids, first, reverse=reverse, batch_sizes=sizes)

        both.check(call, grids.hidden, grids.hidden)
