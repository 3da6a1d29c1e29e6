"""The reference's arithmetic equals Python's own integers and fractions, number by number."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from slt_nna.chip import Accumulator, Chip, Table, load_chip
from slt_nna.grid import Grid
from slt_nna.integer import kernels
from slt_nna.integer.numbers import Rules, entered, factor
from slt_nna.integer.products import operand, packed, short, sums_of_columns, sums_of_rows
from slt_nna.integer.tables import Tables

ROUNDINGS = ("half_up", "half_away", "half_even", "truncate")


def rounded(x: Fraction, rounding: str) -> int:
    """The rule in words: nearest with ties up, away from zero, or to even; or the floor."""
    if rounding == "truncate":
        return math.floor(x)
    if rounding == "half_up":
        return math.floor(x + Fraction(1, 2))
    if rounding == "half_away":
        return (1 if x >= 0 else -1) * math.floor(abs(x) + Fraction(1, 2))
    return round(x)


def some_integers(seed: int, count: int = 400) -> Any:
    generator = np.random.default_rng(seed)
    wide = generator.integers(-(2**61), 2**61, count) >> generator.integers(0, 61, count)
    return np.concatenate([wide, np.arange(-33, 34)])


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("n", [0, 1, 2, 5, 17, 40, 61, 62])
def test_a_shift_rounds_as_the_rule_says_negative_halves_included(rounding: str, n: int) -> None:
    for v in some_integers(n).tolist():
        assert kernels.shifted(v, n, ROUNDINGS.index(rounding)) == rounded(Fraction(v, 2**n), rounding)


@pytest.mark.parametrize("bits", [2, 6, 8, 16, 20])
def test_a_word_saturates_or_keeps_its_low_bits(bits: int) -> None:
    half = 2 ** (bits - 1)
    for v in some_integers(bits).tolist():
        assert kernels.narrowed(v, half, False) == max(-half, min(half - 1, v))
        assert kernels.narrowed(v, half, True) == (v + half) % (2 * half) - half


@pytest.mark.parametrize("ratio", [1.0, 0.25, 8.0, 0.3, 1e-9, 7.7, 1234.5, 2.0**-70, 1 - 2.0**-40])
@pytest.mark.parametrize("bits", [2, 8, 24])
def test_a_multiplier_is_the_nearest_of_its_bits_and_powers_of_two_are_exact(ratio: float, bits: int) -> None:
    m, n = factor(ratio, bits)
    exact = Fraction(ratio)
    if math.frexp(ratio)[0] == 0.5:
        assert Fraction(m, 2**n) == max(exact, Fraction(1, 2**62))
    else:
        assert 0 <= n <= 62
        assert abs(Fraction(m, 2**n) - exact) <= max(exact / 2 ** (bits - 1), Fraction(1, 2**62))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_rescaling_multiplies_and_rounds_once(rounding: str) -> None:
    v = np.random.default_rng(3).integers(-(2**31), 2**31, 2000)
    rules = Rules(chip_with(rounding=rounding))
    for ratio in (0.37, 0.001234, 2.0**-9, 3.0):
        m, n = factor(ratio, 24)
        found = np.empty_like(v)
        kernels.rescale_all(v, rules.step(ratio), found)
        assert found.tolist() == [rounded(Fraction(int(each) * m, 2**n), rounding) for each in v]


def test_a_number_too_large_for_its_multiplier_is_clipped_before() -> None:
    v, found = np.array([2**50, -(2**50), 3]), np.empty(3, np.int64)
    kernels.rescale_all(v, Rules(chip_with()).step(2.0**20), found)
    assert found.tolist() == [2**62, -(2**62), 3 * 2**20]


@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("largest", [1.0, 127 / 1024, 0.3, 1e-30, 0.0, 5e9])
def test_a_constant_has_the_least_scale_that_holds_it(bits: int, largest: float) -> None:
    most = 2 ** (bits - 1) - 1
    free, shift = (Rules(chip_with(scales=each)).constant_scale(largest, bits) for each in ("free", "power_of_two"))
    if largest == 0.0:
        assert free == shift == 1.0
        return
    wanted = max(largest / most, 2.0**-60)
    assert free == wanted
    assert math.frexp(shift)[0] == 0.5
    assert shift / 2 < wanted <= shift


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_floats_enter_by_the_same_rule_and_saturate(rounding: str) -> None:
    x = np.array([0.5, -0.5, 1.5, -1.5, 2.5, 0.49, -0.51, 1e9, -1e9, np.nan, np.inf, -np.inf], np.float32)
    codes = entered(x, 1.0, 8, rounding).tolist()
    assert codes[:7] == [rounded(Fraction(float(each)), rounding) for each in x[:7]]
    assert codes[7:] == [127, -128, 0, 127, -128]


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize(("bits", "tile"), [(32, None), (18, 64), (18, 33), (17, None), (20, 1)])
@pytest.mark.parametrize("inner", [130, 1, 31])
def test_sums_are_narrowed_behind_every_tile_and_overflows_are_counted(
    bits: int, tile: int | None, overflow: str, inner: int
) -> None:
    rules = Rules(chip_with(overflow=overflow, accumulator=Accumulator(bits=bits, tile=tile)))
    generator = np.random.default_rng(bits)
    x, w = generator.integers(-128, 128, (2, 5, inner)), generator.integers(-127, 128, (2, 3, inner))
    bias = generator.integers(-60000, 60000, (2, 3))
    half, overflows = 2 ** (bits - 1), 0
    wanted = np.zeros((2, 5, 3), np.int64)
    for g, i, j in np.ndindex(2, 5, 3):
        total = int(bias[g, j])
        for start in range(0, inner, tile or inner):
            stop = min(start + (tile or inner), inner)
            total += sum(int(x[g, i, k]) * int(w[g, j, k]) for k in range(start, stop))
            kept = (total + half) % (2 * half) - half if overflow == "wrap" else max(-half, min(half - 1, total))
            overflows += kept != total
            total = kept
        wanted[g, i, j] = total
    found = sums_of_rows(rules, operand(x), 8, packed(w, 8), 8, bias)
    assert found.values.tolist() == wanted.tolist()
    assert found.overflows == overflows
    if short(rules, inner, 8, 8):
        found = sums_of_columns(rules, operand(x.swapaxes(1, 2)), 8, packed(w, 8), 8, bias)
        assert found.values.swapaxes(1, 2).tolist() == wanted.tolist()
        assert found.overflows == overflows


@pytest.mark.parametrize(("bits", "other"), [(16, 16), (16, 8), (12, 10)])
def test_wide_operands_are_summed_beyond_32_bits(bits: int, other: int) -> None:
    rules = Rules(chip_with(accumulator=Accumulator(bits=62)))
    x = np.full((1, 1, 4096), -(2 ** (bits - 1)))
    w = np.full((1, 1, 4096), -(2 ** (other - 1)) + 1)
    found = sums_of_rows(rules, operand(x), bits, packed(w, other), other, None)
    assert found.values.tolist() == [[[4096 * int(x[0, 0, 0]) * int(w[0, 0, 0])]]]


def chip_with(**changes: Any) -> Chip:
    """A chip whose every field may be changed, checked or not."""
    base = load_chip("mixed-8-16").model_copy(update={"scales": "free"})
    return base.model_copy(update=changes)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
@pytest.mark.parametrize("scale", [2.0**-5, 0.037, 0.9])
@pytest.mark.parametrize(("function", "count"), [("sigmoid", 64), ("sigmoid", 33), ("exp", 65)])
def test_a_table_gives_its_entries_as_the_rule_says(
    rounding: str, interpolation: str, scale: float, function: str, count: int
) -> None:
    table = Table(entries=count, range=4.0, interpolation=interpolation, gain=1.1)  # type: ignore[arg-type]
    tables = load_chip("mixed-8-16").tables.model_copy(update={function: table})
    chip = chip_with(rounding=rounding, tables=tables)
    one = 2 ** (chip.words.table - 1)
    step, origin = (4.0 / (count - 1), count - 1) if function == "exp" else (8.0 / count, count // 2)
    true = {"sigmoid": lambda x: 1 / (1 + math.exp(-x)), "exp": math.exp}[function]
    entries = [max(-one, min(one - 1, round(1.1 * true((i - origin) * step) * one))) for i in range(count)]
    q = [-each for each in range(256)] if function == "exp" else list(range(-128, 128))
    wanted = []
    for each in q:
        m, n = factor(scale / (step if interpolation == "nearest" else step / 256), chip.multiplier_bits)
        place = rounded(Fraction(each * m, 2**n), rounding)
        if interpolation == "nearest":
            wanted.append(entries[max(0, min(count - 1, place + origin))])
            continue
        place = max(0, min((count - 1) * 256, place + origin * 256))
        low, high = entries[place >> 8], entries[min((place >> 8) + 1, count - 1)]
        wanted.append(rounded(Fraction(low * 256 + (high - low) * (place & 255), 256), rounding))
    assert Tables(Rules(chip)).codes(function, Grid(scale, 8)).tolist() == wanted


@pytest.mark.parametrize("v", [0, 1, 2, 3, 4, 15, 16, 17, 2**31, 2**62 - 1, 2**62, 2**62 + 12345, 2**63 - 1])
def test_roots_are_whole(v: int) -> None:
    assert kernels.root(v) == math.isqrt(v)
