"""Codes and bytes: sizes, round trips, and what a damaged state says."""

from __future__ import annotations

import pytest
import torch

from slt_sub8bit.packing import MOST_COLUMNS, PackedWeight, int8_levels, on_int8_grid, pack, packed_bytes, unpack
from slt_sub8bit.scheme import decoded
from sltcore.errors import PluginError
from sltcore.types import TableWeight


def weight(rows: int = 6, columns: int = 50, bits: int = 3, *, scales: int = 1, seed: int = 0) -> TableWeight:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, 2**bits, (rows, columns), generator=generator, dtype=torch.uint8)
    scale = torch.rand(scales, 1, generator=generator) + 0.5
    return TableWeight(indices, torch.randn(2**bits, generator=generator), scale[0, 0] if scales == 1 else scale)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_codes_come_back_and_take_their_bits(bits: int, count: int) -> None:
    codes = torch.randint(0, 2**bits, (count,), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert torch.equal(unpack(packed, bits, count), codes)
    assert packed.numel() == packed_bytes(count, bits) < count * bits / 8 + 8 * bits


def test_bit_j_of_word_p_is_bit_p_of_code_j() -> None:
    codes = torch.zeros(64, dtype=torch.uint8)
    codes[9], codes[40] = 5, 2
    words = [int.from_bytes(bytes(word), "little") for word in pack(codes, 3).view(3, 8).tolist()]
    assert words == [1 << 9, 1 << 40, 1 << 9]


def test_large_kernels_waste_nothing() -> None:
    assert packed_bytes(144 * 576, 5) * 8 == 144 * 576 * 5


def test_a_code_of_too_many_bits_is_refused() -> None:
    with pytest.raises(PluginError, match="a code is 9, 3 bits hold 0 to 7"):
        pack(torch.tensor([1, 9], dtype=torch.uint8), 3)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("scales", [1, 6])
def test_the_packed_weight_is_the_codebook_weight(bits: int, scales: int) -> None:
    given = weight(bits=bits, scales=scales)
    packed = PackedWeight.of(given)
    back = packed.table_weight()
    assert torch.equal(packed.reference(), decoded(given))
    assert torch.equal(back.indices, given.indices)
    assert torch.equal(back.table, given.table)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_int8_grid_is_within_half_a_step_and_rounds_once(bits: int) -> None:
    given = weight(bits=bits)
    grid = on_int8_grid(given)
    step = float(int8_levels(given.table).step * given.scale)
    assert float((decoded(grid) - decoded(given)).abs().max()) <= 0.5001 * step
    assert torch.equal(decoded(on_int8_grid(grid)), decoded(grid))
    assert torch.equal(PackedWeight.of(given, int8=True).reference(), decoded(grid))


def test_a_table_of_three_levels_takes_two_bits() -> None:
    given = TableWeight(torch.tensor([[0, 1, 2, 2]], dtype=torch.uint8), torch.tensor([-1.0, 0, 1]), torch.ones(()))
    packed = PackedWeight.of(given)
    assert packed.bits == 2
    assert torch.equal(packed.reference(), torch.tensor([[-1.0, 0, 1, 1]]))


def restored(state: dict[str, torch.Tensor], *, int8: bool = False) -> PackedWeight:
    return PackedWeight.restored(state, "layer.weight", (6, 50), int8=int8)


def test_the_state_restores_bit_for_bit() -> None:
    packed = PackedWeight.of(weight(scales=6))
    assert torch.equal(restored(packed.state("layer.weight")).reference(), packed.reference())


def test_damaged_states_are_refused_in_one_line() -> None:
    packed = PackedWeight.of(weight())
    state = packed.state("layer.weight")
    missing = {key: value for key, value in state.items() if not key.endswith("scale")}
    with pytest.raises(PluginError, match="the state has no layer.weight.scale"):
        restored(missing)
    with pytest.raises(PluginError, match=r"expected 120 of uint8: 300 weights of 3 bits"):
        restored(state | {"layer.weight.codes": packed.codes[:-8]})
    with pytest.raises(PluginError, match=r"expected 160 of uint8: 300 weights of 4 bits"):
        restored(state | {"layer.weight.table": torch.zeros(16)})
    with pytest.raises(PluginError, match="bits are set behind its last weight"):
        restored(state | {"layer.weight.codes": packed.codes | 128})
    with pytest.raises(PluginError, match="its table has values that are not finite"):
        restored(state | {"layer.weight.table": torch.full((8,), torch.nan)})
    with pytest.raises(PluginError, match="packed with compute: float"):
        restored(state, int8=True)
    with pytest.raises(PluginError, match=r"its scale is \[5\], expected \[1\] or \[6\]"):
        restored(state | {"layer.weight.scale": torch.ones(5)})
    with pytest.raises(PluginError, match="a code points behind its table of 5"):
        restored(state | {"layer.weight.table": torch.arange(5.0)})


def test_weights_that_no_kernel_could_read_are_refused() -> None:
    with pytest.raises(PluginError, match=r"shape \[0, 8\] cannot be packed: it has no values; leave the layer out"):
        PackedWeight.of(TableWeight(torch.zeros(0, 8, dtype=torch.uint8), torch.randn(8), torch.tensor(1.0)))
    with pytest.raises(PluginError, match=r"has an index 7, its table has 5 values"):
        PackedWeight.of(TableWeight(torch.full((2, 8), 7, dtype=torch.uint8), torch.randn(5), torch.tensor(1.0)))
    wide = TableWeight(torch.zeros(1, MOST_COLUMNS, dtype=torch.uint8), torch.randn(8), torch.tensor(1.0))
    with pytest.raises(
        PluginError, match=r"sums of 131072 products may leave 32 bits, 131071 cannot; use compute: float"
    ):
        PackedWeight.of(wide, int8=True)
    assert PackedWeight.of(wide).columns == MOST_COLUMNS


def test_a_sum_of_the_most_products_stays_within_32_bits() -> None:
    assert (MOST_COLUMNS - 1) * 128 * 127 < 2**31


def test_an_8_bit_table_that_kernels_would_not_look_up_is_refused() -> None:
    bytes_ = PackedWeight.of(weight(bits=8), int8=True)
    state = bytes_.state("layer.weight")
    state["layer.weight.table"] = bytes_.table.flip(0)
    with pytest.raises(PluginError, match=r"its table of 8 bits is not -128 to 127"):
        PackedWeight.restored(state, "layer.weight", bytes_.shape, int8=True)
