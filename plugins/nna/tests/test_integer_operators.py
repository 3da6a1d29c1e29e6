"""Every operator of the reference equals its definition, spelled out here with Python's unbounded integers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from slt_nna.backend import Kernels, RecurrentGrids, Weight
from slt_nna.chip import Chip, load_chip
from slt_nna.grid import Grid
from slt_nna.integer import IntegerTensor, Reference

EXCLUDED = -(2**31)


class Spelled:
    """The definitions, one number at a time."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.overflows = 0

    def rounded(self, x: Fraction) -> int:
        if self.chip.rounding == "truncate":
            return math.floor(x)
        if self.chip.rounding == "half_up":
            return math.floor(x + Fraction(1, 2))
        if self.chip.rounding == "half_away":
            return (1 if x >= 0 else -1) * math.floor(abs(x) + Fraction(1, 2))
        return round(x)

    def rescale(self, v: int, before: float, after: float) -> int:
        return self.rounded(v * _ratio(before / after, self.chip.multiplier_bits))

    def word(self, v: int, bits: int) -> int:
        half = 2 ** (bits - 1)
        return (v + half) % (2 * half) - half if self.chip.overflow == "wrap" else max(-half, min(half - 1, v))

    def put(self, v: int, before: float, out: Grid) -> int:
        return self.word(self.rescale(v, before, out.scale), out.bits)

    def dot(self, x: Sequence[int], w: Sequence[int], acc: int = 0) -> int:
        tile = self.chip.accumulator.tile or len(x)
        for start in range(0, len(x), tile):
            acc += sum(a * b for a, b in zip(x[start : start + tile], w[start : start + tile], strict=True))
            kept = self.word(acc, self.chip.accumulator.bits)
            self.overflows += kept != acc
            acc = kept
        return acc

    def scale(self, largest: float) -> float:
        scale = largest / (2 ** (self.chip.words.weight - 1) - 1)
        if scale == 0.0:
            return 1.0
        return scale if self.chip.scales == "free" else 2.0 ** math.ceil(math.log2(scale))

    def symmetric(self, values: Sequence[float], scale: float) -> list[int]:
        most = 2 ** (self.chip.words.weight - 1) - 1
        return [max(-most, min(most, round(each / scale))) for each in values]

    def weight(self, w: Tensor) -> tuple[list[list[int]], list[float]]:
        rows = w.double().flatten(1).tolist()
        scales = [self.scale(max(map(abs, row))) for row in rows]
        if self.chip.weight_scales == "tensor":
            scales = [max(scales)] * len(rows)
        return [self.symmetric(row, scale) for row, scale in zip(rows, scales, strict=True)], scales

    def bias(self, b: float, scale: float) -> int:
        half = 2 ** (self.chip.words.bias - 1)
        return max(-half, min(half - 1, round(b / scale)))

    def table(self, q: int, scale: float, function: str) -> int:
        table = getattr(self.chip.tables, function)
        n, one = table.entries, 2 ** (self.chip.words.table - 1)
        step, origin = (table.range / (n - 1), n - 1) if function == "exp" else (2 * table.range / n, n // 2)
        true: Callable[[float], float] = {
            "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
            "tanh": math.tanh,
            "phi": lambda x: (1 + math.erf(x / math.sqrt(2))) / 2,
            "exp": math.exp,
        }[function]

        def entry(i: int) -> int:
            return min(one - 1, round(true((i - origin) * step) * one))

        if table.interpolation == "nearest":
            return entry(max(0, min(n - 1, self.rescale(q, scale, step) + origin)))
        place = max(0, min((n - 1) * 256, self.rescale(q, scale, step / 256) + origin * 256))
        i, f = place >> 8, place & 255
        return self.rounded(Fraction(entry(i) * 256 + (entry(min(i + 1, n - 1)) - entry(i)) * f, 256))

    @property
    def one(self) -> float:
        """The scale of tables."""
        return 2.0 ** -(self.chip.words.table - 1)


@cache
def _ratio(ratio: float, bits: int) -> Fraction:
    """A power of two, or the nearest multiplier of so many bits over a power of two."""
    exact = Fraction(ratio)
    if math.frexp(ratio)[0] == 0.5:
        return exact
    n = next(n for n in itertools.count(-80) if exact * Fraction(2) ** n >= 2 ** (bits - 1))
    return Fraction(round(exact * Fraction(2) ** n)) / Fraction(2) ** n


def chips() -> Iterator[Any]:
    words = {"weight": 7, "activation": 8, "residual": 10, "preactivation": 11, "state": 12, "table": 9, "bias": 18}
    for rounding, overflow, scales in itertools.product(
        ("half_up", "half_even", "half_away", "truncate"), ("saturate", "wrap"), ("free", "power_of_two")
    ):
        linear = rounding in ("half_up", "truncate")
        table = {"entries": 32, "range": 4.0, "interpolation": "linear" if linear else "nearest"}
        chip = {
            "name": "spelled", "description": "test", "words": words, "rounding": rounding, "overflow": overflow,
            "scales": scales, "weight_scales": "channel" if overflow == "wrap" else "tensor", "multiplier_bits": 18,
            "accumulator": {"bits": 18, "tile": 5 if linear else None},
            "tables": {"sigmoid": table, "tanh": table, "phi": table, "exp": {**table, "entries": 33}},
        }  # fmt: skip
        yield pytest.param(load_chip(chip), id=f"{rounding}-{overflow}-{scales}")


@pytest.fixture(params=list(chips()))
def chip(request: pytest.FixtureRequest) -> Chip:
    return request.param  # type: ignore[no-any-return]


class Bench:
    """A reference, its definitions, and random operands."""

    def __init__(self, chip: Chip) -> None:
        self.chip, self.reference, self.spelled = chip, Reference(chip), Spelled(chip)
        self.generator = torch.Generator().manual_seed(7)

    def grid(self, bits: int, limit: float) -> Grid:
        scale = 2.0 ** math.ceil(math.log2(limit / 2 ** (bits - 1)))
        return Grid(scale * 0.83 if self.chip.scales == "free" else scale, bits)

    def random(self, *shape: int, spread: float = 1.0) -> Tensor:
        return spread * torch.randn(*shape, generator=self.generator)

    def codes(self, *shape: int, bits: int = 8) -> IntegerTensor:
        half = 2 ** (bits - 1)
        return IntegerTensor(torch.randint(-half, half, shape, generator=self.generator, dtype=torch.int32))

    def counted(self) -> bool:
        """Whether as many overflows were counted as there were."""
        return sum(self.reference.overflows.values()) == self.spelled.overflows


@pytest.fixture
def bench(chip: Chip) -> Bench:
    return Bench(chip)


def listed(x: Tensor) -> Any:
    assert isinstance(x, IntegerTensor)
    return x.codes.tolist()


def test_linear(bench: Bench) -> None:
    s, gx, out = bench.spelled, bench.grid(8, 2.0), bench.grid(8, 9.0)
    x, w, b = bench.codes(6, 13), bench.random(4, 13), bench.random(4, spread=400.0)
    rows, scales = s.weight(w)
    start = [s.bias(float(b[j]), scales[j] * gx.scale) for j in range(4)]
    wanted = [
        [s.put(s.dot(q, rows[j], start[j]), scales[j] * gx.scale, out) for j in range(4)] for q in x.codes.tolist()
    ]
    assert listed(bench.reference.linear(x, gx, Weight("w", w), b, out)) == wanted
    assert bench.counted()
    assert s.overflows


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolution_over_one_axis(bench: Bench, groups: int) -> None:
    s, gx, out = bench.spelled, bench.grid(8, 2.0), bench.grid(8, 9.0)
    x, w, b = bench.codes(2, 4, 11), bench.random(8, 4 // groups, 3), bench.random(8)
    rows, scales = s.weight(w)
    q = torch.nn.functional.pad(x.codes, (2, 2)).tolist()
    geometry: dict[str, Any] = {"stride": (2,), "padding": (2,), "dilation": (2,), "groups": groups}
    found = listed(bench.reference.convolution(x, gx, Weight("w", w), b, out, **geometry))
    for n, j, t in itertools.product(range(2), range(8), range(len(found[0][0]))):
        first = j // (8 // groups) * (4 // groups)
        taps = [q[n][c][2 * t + 2 * k] for c in range(first, first + 4 // groups) for k in range(3)]
        scale = scales[j] * gx.scale
        assert found[n][j][t] == s.put(s.dot(taps, rows[j], s.bias(float(b[j]), scale)), scale, out)
    assert len(found[0][0]) == (11 + 4 - 4 - 1) // 2 + 1
    assert bench.counted()


def test_convolution_over_two_axes(bench: Bench) -> None:
    s, gx, out = bench.spelled, bench.grid(8, 2.0), bench.grid(8, 9.0)
    x, w = bench.codes(1, 2, 5, 6), bench.random(3, 2, 2, 3)
    rows, scales = s.weight(w)
    q = torch.nn.functional.pad(x.codes, (0, 0, 1, 1)).tolist()
    geometry: dict[str, Any] = {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 1), "groups": 1}
    found = listed(bench.reference.convolution(x, gx, Weight("w", w), None, out, **geometry))
    for j, u, v in itertools.product(range(3), range(6), range(2)):
        taps = [q[0][c][u + a][2 * v + b] for c in range(2) for a in range(2) for b in range(3)]
        assert found[0][j][u][v] == s.put(s.dot(taps, rows[j]), scales[j] * gx.scale, out)


@pytest.mark.parametrize("factor", [1.0, 0.37, -0.25, 0.0])
def test_product_of_activations(bench: Bench, factor: float) -> None:
    s, ga, gb, out = bench.spelled, bench.grid(8, 2.0), bench.grid(8, 1.0), bench.grid(8, 5.0)
    a, b = bench.codes(2, 1, 3, 7), bench.codes(2, 7, 4)
    found = listed(bench.reference.matmul(a, ga, b, gb, out, factor=factor))
    p, q = a.codes.tolist(), b.codes.tolist()
    for n, m, i, j in itertools.product(range(2), range(2), range(3), range(4)):
        row = [s.word(-each, 8) if factor < 0 else each * (factor != 0.0) for each in p[n][0][i]]
        acc = s.dot(row, [q[m][k][j] for k in range(7)])
        assert found[n][m][i][j] == s.put(acc, ga.scale * gb.scale * (abs(factor) or 1.0), out)


def test_single_entries(bench: Bench) -> None:
    s, r = bench.spelled, bench.reference
    ga, gb, out = bench.grid(8, 2.0), bench.grid(10, 7.0), bench.grid(10, 4.0)
    a, b = bench.codes(500), bench.codes(500, bits=10)
    a.codes[3] = EXCLUDED
    pairs = list(zip(a.codes.tolist(), b.codes.tolist(), strict=True))

    def each(function: Callable[[int, int], int], *, keep: bool = True) -> list[int]:
        return [EXCLUDED if keep and p == EXCLUDED else function(p, q) for p, q in pairs]

    for sign in (1, -1):
        wanted = each(
            lambda p, q, sign=sign: s.word(
                s.rescale(p, ga.scale, out.scale) + sign * s.rescale(q, gb.scale, out.scale), 10
            )
        )
        assert listed(r.add(a, ga, b, gb, out, sign=sign)) == wanted
    assert listed(r.multiply(a, ga, b, gb, out)) == each(lambda p, q: s.put(p * q, ga.scale * gb.scale, out))
    assert listed(r.negate(a, ga)) == each(lambda p, q: s.word(-p, 8))
    for factor in (0.3, -1.9, 0.0):
        wanted = each(lambda p, q, f=factor: s.put(s.word(-p, 8) if f < 0 else p, ga.scale * abs(f), out) if f else 0)
        assert listed(r.scale(a, ga, factor, out)) == wanted
    assert listed(r.requantize(a, ga, out)) == each(lambda p, q: s.put(p, ga.scale, out))
    assert listed(r.relu(a, ga)) == each(lambda p, q: max(p, 0), keep=False)
    assert listed(r.relu(a, ga, most=1.1)) == each(lambda p, q: max(0, min(p, int(1.1 // ga.scale))), keep=False)
    for function in ("sigmoid", "tanh"):
        assert listed(r.lookup(a, ga, function)[0]) == each(lambda p, q, f=function: s.table(p, ga.scale, f))
    for function in ("sigmoid", "phi"):
        wanted = each(lambda p, q, f=function: s.put(p * s.table(q, gb.scale, f), ga.scale * s.one, out))
        assert listed(r.gate(a, ga, b, gb, function, out)) == wanted
    assert r.relabel(a, ga, 3.0)[1] == Grid(ga.scale * 3.0, 8)
    assert listed(r.relabel(a, ga, 3.0)[0]) == a.codes.tolist()


def test_softmax_leaves_excluded_entries_out(bench: Bench) -> None:
    s, bits = bench.spelled, bench.chip.words.probability
    grid, q = bench.grid(8, 5.0), bench.codes(7, 9)
    mask = bench.random(7, 9) > 0.5
    mask[2] = True
    q = bench.reference.exclude(q, grid, mask)  # type: ignore[assignment]
    found = listed(bench.reference.softmax(q, grid, -1)[0])
    for row, shares in zip(q.codes.tolist(), found, strict=True):
        e = [0 if each == EXCLUDED else s.table(each - max(row), grid.scale, "exp") for each in row]
        total = sum(e)
        shares_of_all = [(each * 2 ** (bits - 1) + total // 2) // total if total else 0 for each in e]
        wanted = [min(each, 2 ** (bits - 1) - 1) for each in shares_of_all]  # 1 is clipped where others wrap too
        assert shares == wanted
    other = bench.reference.softmax(IntegerTensor(q.codes.t().contiguous()), grid, 0)[0]
    assert torch.tensor(listed(other)).t().tolist() == found


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("bits", "width"), [(8, 24), (8, 1), (16, 520)])
def test_layer_norm(bench: Bench, affine: bool, bits: int, width: int) -> None:
    s, grid, out = bench.spelled, bench.grid(bits, 3.0), bench.grid(8, 2.0)
    x = bench.codes(3, width, bits=bits)
    x.codes[1] = 5
    w, b = (bench.random(width), bench.random(width)) if affine else (None, None)
    gg = s.scale(float(w.abs().max())) if w is not None else 1.0
    gain = s.symmetric(w.double().tolist(), gg) if w is not None else [1] * width
    shift = [s.bias(float(each), 2.0**-12 * gg) for each in b] if b is not None else [0] * width
    extra = min(math.floor(1e-5 * width**2 / grid.scale**2), 2**62)
    log, drop = math.ceil(math.log2(width)), 0
    while 2 * (bits + log - drop) + log > 62:
        drop += 1
    wanted = []
    for row in x.codes.tolist():
        t = [(width * each - sum(row)) >> drop for each in row]
        sigma = math.isqrt(sum(each * each for each in t) // width + (extra >> (2 * drop)))
        n = [(each * 4096 + (sigma >> 1)) // sigma if sigma else 0 for each in t]
        wanted.append([s.put(n[k] * gain[k] + shift[k], 2.0**-12 * gg, out) for k in range(width)])
    assert listed(bench.reference.layer_norm(x, grid, w, b, 1e-5, out)) == wanted


def test_batch_norm(bench: Bench) -> None:
    s, grid, out = bench.spelled, bench.grid(8, 3.0), bench.grid(8, 2.0)
    x, (mean, weight, bias), var = bench.codes(2, 5, 6), bench.random(3, 5), bench.random(5).abs() + 0.1
    slope = [float(w) * (1 / math.sqrt(float(v) + 1e-3)) for w, v in zip(weight, var, strict=True)]
    scale = s.scale(max(map(abs, slope)))
    gain = s.symmetric(slope, scale)
    shift = [s.bias(float(b) - float(m) * a, scale * grid.scale) for b, m, a in zip(bias, mean, slope, strict=True)]
    found = listed(bench.reference.batch_norm(x, grid, mean, var, weight, bias, 1e-3, out))
    for n, c, t in itertools.product(range(2), range(5), range(6)):
        q = int(x.codes[n, c, t])
        assert found[n][c][t] == s.put(q * gain[c] + shift[c], scale * grid.scale, out)


class Gates:
    """Kernels of a small recurrent layer with their codes and scales."""

    def __init__(self, bench: Bench, gates: int, projected: bool = False) -> None:
        self.d, self.p, s = 5, 3 if projected else 5, bench.spelled
        tensors = [bench.random(gates * self.d, 4), bench.random(gates * self.d, self.p)]
        biases = bench.random(2, gates * self.d)
        hr = bench.random(self.p, self.d)
        self.kernels = Kernels(
            Weight("ih", tensors[0]),
            Weight("hh", tensors[1]),
            biases[0],
            biases[1],
            Weight("hr", hr) if projected else None,
        )
        self.grids = RecurrentGrids(
            bench.grid(8, 0.9), bench.grid(11, 3.0), bench.grid(12, 1.5), bench.grid(8, 0.8) if projected else None
        )
        self.gx = bench.grid(8, 2.0)
        self.scales = [s.scale(float(each.abs().max())) for each in (*tensors, hr)]
        self.rows = [
            [s.symmetric(row, scale) for row in each.double().tolist()]
            for each, scale in zip((*tensors, hr), self.scales, strict=True)
        ]
        own, back = self.scales[0] * self.gx.scale, self.scales[1] * self.grids.hidden.scale
        self.units = own, back
        b = biases.double()
        self.both = [s.bias(float(each), own) for each in b[0] + b[1]]
        self.apart = [s.bias(float(x), own) for x in b[0]], [s.bias(float(x), back) for x in b[1]]


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_lstm(bench: Bench, projected: bool, reverse: bool) -> None:
    s, g = bench.spelled, Gates(bench, 4, projected)
    hidden, pre, cell, inner = g.grids
    assert cell is not None
    x, h0, c0 = bench.codes(6, 2, 4), bench.codes(2, g.p), bench.codes(2, g.d, bits=12)
    found, last_h, last_c = bench.reference.lstm(x, g.gx, g.kernels, g.grids, (h0, c0), reverse=reverse)
    hs, cs = h0.codes.tolist(), c0.codes.tolist()
    order = range(5, -1, -1) if reverse else range(6)
    for t, b in itertools.product(order, range(2)):
        u = [
            s.rescale(s.dot(x.codes[t, b].tolist(), g.rows[0][j], g.both[j]), g.units[0], pre.scale)
            for j in range(4 * g.d)
        ]
        v = [s.rescale(s.dot(hs[b], g.rows[1][j]), g.units[1], pre.scale) for j in range(4 * g.d)]
        z = [s.word(p + q, pre.bits) for p, q in zip(u, v, strict=True)]
        new = []
        for j in range(g.d):
            i, f, o = (s.table(z[k * g.d + j], pre.scale, "sigmoid") for k in (0, 1, 3))
            kept = s.rescale(f * cs[b][j], s.one * cell.scale, cell.scale)
            entered = s.rescale(i * s.table(z[2 * g.d + j], pre.scale, "tanh"), s.one * s.one, cell.scale)
            cs[b][j] = s.word(kept + entered, cell.bits)
            new.append(s.put(o * s.table(cs[b][j], cell.scale, "tanh"), s.one * s.one, inner or hidden))
        if inner is not None:
            new = [s.put(s.dot(new, row), g.scales[2] * inner.scale, hidden) for row in g.rows[2]]
        hs[b] = new
        assert found.codes[t, b].tolist() == new
    assert (listed(last_h), listed(last_c)) == (hs, cs)
    assert bench.counted()


def test_gru(bench: Bench) -> None:
    s, g = bench.spelled, Gates(bench, 3)
    hidden, pre, *_ = g.grids
    x, h0 = bench.codes(6, 2, 4), bench.codes(2, g.d)
    found, last = bench.reference.gru(x, g.gx, g.kernels, g.grids, h0)
    hs, one = h0.codes.tolist(), 2 ** (bench.chip.words.table - 1)
    for t, b in itertools.product(range(6), range(2)):
        q = x.codes[t, b].tolist()
        u = [s.rescale(s.dot(q, g.rows[0][j], g.apart[0][j]), g.units[0], pre.scale) for j in range(3 * g.d)]
        v = [s.rescale(s.dot(hs[b], g.rows[1][j], g.apart[1][j]), g.units[1], pre.scale) for j in range(3 * g.d)]
        new = []
        for j in range(g.d):
            r, z = (s.table(s.word(u[k * g.d + j] + v[k * g.d + j], pre.bits), pre.scale, "sigmoid") for k in (0, 1))
            m = s.rescale(r * s.word(v[2 * g.d + j], pre.bits), s.one * pre.scale, pre.scale)
            n = s.table(s.word(s.word(u[2 * g.d + j], pre.bits) + m, pre.bits), pre.scale, "tanh")
            mixed = s.rescale((one - z) * n, s.one * s.one, hidden.scale)
            new.append(s.word(mixed + s.rescale(z * hs[b][j], s.one * hidden.scale, hidden.scale), hidden.bits))
        hs[b] = new
        assert found.codes[t, b].tolist() == new
    assert listed(last) == hs
    assert bench.counted()
