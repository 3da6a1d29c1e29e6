"""What is promised of ranges: measured as counted by hand, frozen, restored bit for bit, and never moved by padding."""

from __future__ import annotations

import math

import pytest
import torch

from slt_nna.chip import load_chip
from slt_nna.grid import Grid, multiplier, snap_up
from slt_nna.ranges import Histogram, Ranges
from slt_nna.singles import singles
from sltcore.errors import PluginError
from sltcore.types import Features


def measured(values: torch.Tensor, bits: int = 8, chip: str = "mixed-8-16", **options: object) -> Ranges:
    ranges = Ranges(load_chip(chip), **options)  # type: ignore[arg-type]
    ranges.begin()
    ranges.grid("a", bits)
    ranges.observe("a", values)
    ranges.freeze()
    return ranges


def test_the_largest_value_is_exact_however_values_arrive() -> None:
    histogram = Histogram()
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 5, 5000)
    for part in values.split(617):
        histogram.add(part)
    assert histogram.largest == float(values.abs().max())
    assert float(histogram.counts.sum()) == len(values)


def test_a_percentile_is_within_one_bin_of_the_sorted_values() -> None:
    values = torch.randn(20000, generator=torch.Generator().manual_seed(1))
    histogram = Histogram()
    for part in values.split(999):
        histogram.add(part)
    exact = float(values.abs().sort().values[math.ceil(20000 * 0.999) - 1])
    assert 0.0 <= histogram.percentile(99.9) - exact <= histogram.top / len(histogram.counts)


def test_entries_that_are_excluded_count_for_nothing() -> None:
    histogram = Histogram()
    histogram.add(torch.tensor([1.0, -math.inf, math.nan, 0.5]))
    assert histogram.largest == 1.0
    assert float(histogram.counts.sum()) == 2


def test_the_mse_limit_is_the_best_of_all_powers_of_two() -> None:
    values = torch.randn(50000, generator=torch.Generator().manual_seed(2))
    values[0] = 900.0
    grid = measured(values, bits=8, rule="mse", chip="harsh").grid("a", 8)

    def error(scale: float) -> float:
        codes = (values.double() / scale).round().clamp(-127, 127)
        return float((codes * scale - values).square().sum())

    assert grid.scale == min((2.0**-e for e in range(-4, 12)), key=error)


def test_the_max_rule_never_clips_and_percentile_does() -> None:
    values = torch.cat([torch.linspace(-1, 1, 5000), torch.tensor([50.0])])
    assert measured(values, rule="max").grid("a", 8).scale * 127 >= 50.0
    assert measured(values, rule="percentile", percent=99.9).grid("a", 8).scale * 127 < 2.1


def test_scales_are_powers_of_two_where_the_chip_shifts() -> None:
    assert math.frexp(measured(torch.randn(100), chip="harsh").grid("a", 8).scale)[0] == 0.5


def test_all_zeros_have_scale_one() -> None:
    assert measured(torch.zeros(10)).grid("a", 8) == Grid(1.0, 8)


@pytest.mark.parametrize("chip", ["mixed-8-16", "harsh", "generous-8bit"])
def test_restored_grids_are_bit_identical(chip: str) -> None:
    ranges = measured(torch.randn(1000, generator=torch.Generator().manual_seed(3)), chip=chip)
    other = Ranges(load_chip(chip))
    other.restore(ranges.state())
    assert other.grid("a", 8) == ranges.grid("a", 8)


def test_a_grid_without_a_range_is_refused_by_name() -> None:
    ranges = measured(torch.randn(10))
    with pytest.raises(PluginError, match=r"the range of 'b\|add' was never calibrated.*attach with calibration"):
        ranges.grid("b|add", 8)


def test_ranges_that_are_none_are_refused() -> None:
    ranges = Ranges(load_chip("harsh"))
    with pytest.raises(PluginError, match=r"range\.a is nan"):
        ranges.restore({"range.a": torch.tensor(math.nan)})
    with pytest.raises(PluginError, match="'weight' .* is no range"):
        ranges.restore({"weight": torch.zeros(3)})


def test_padding_is_cut_away() -> None:
    values = torch.arange(12.0).view(2, 3, 2)
    batch = Features(values, torch.tensor([3, 1]), 0.01)
    first, second = singles(batch)
    assert torch.equal(first.values, values[:1])
    assert torch.equal(second.values, values[1:, :1])
    assert second.lengths.tolist() == [1]
    assert [*singles(values)] == [values]


@pytest.mark.parametrize("bits", [2, 8, 24, 31])
def test_multipliers_are_the_nearest_of_their_width(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    for ratio in torch.exp2(torch.rand(200, generator=generator, dtype=torch.float64) * 40 - 25).tolist():
        factor, shift = multiplier(ratio, bits)
        if shift < 62:
            assert abs(factor * 2.0**-shift - ratio) <= ratio * 2.0**-bits
            assert factor.bit_length() == bits or factor == 1 << (factor.bit_length() - 1) or shift == 0
    assert multiplier(0.25, bits) == (1, 2)
    assert multiplier(8.0, bits) == (8, 0)


def test_snapping_goes_up_and_leaves_powers() -> None:
    assert [snap_up(value, "power_of_two") for value in (0.5, 0.5000001, 3.0, 0.0)] == [0.5, 1.0, 4.0, 1.0]
