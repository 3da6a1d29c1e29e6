"""Integer codes in the guise of float tensors: what arranges them, keeps them, and keeps floats away from them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from slt_nna.backend import Weight
from slt_nna.chip import load_chip
from slt_nna.grid import Grid
from slt_nna.integer import IntegerTensor, Reference
from slt_nna.tags import Tag, put
from sltcore.errors import PluginError
from sltcore.table_weights import mark_origin, offer_table
from sltcore.types import TableWeight

GRID = Grid(2.0**-5, 8)
CODES = torch.arange(-12, 12, dtype=torch.int32).reshape(1, 2, 12)

ARRANGEMENTS: dict[str, tuple[Any, ...]] = {
    "reshape": (torch.Tensor.reshape, (4, 6)),
    "transpose": (torch.transpose, 1, 2),
    "slice": (torch.Tensor.__getitem__, (slice(None), 1, slice(2, 9, 3))),
    "flip": (torch.flip, (1,)),
    "pad": (functional.pad, (1, 2)),
    "reflect": (functional.pad, (3, 3), "reflect"),
    "pooled": (functional.max_pool1d, 3),
    "chosen": (torch.index_select, 2, torch.tensor([3, 3, 0])),
    "unfolded": (torch.Tensor.unfold, 2, 4, 2),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_arranging_codes_is_arranging_values(name: str) -> None:
    function, *more = ARRANGEMENTS[name]
    reference = Reference(load_chip("mixed-8-16"))
    found = reference.shape(function, (IntegerTensor(CODES), *more), {})
    assert isinstance(found, IntegerTensor)
    wanted = function(CODES.float() * GRID.scale, *more)
    assert found.shape == wanted.shape
    assert torch.equal(reference.leave(found, GRID), wanted)


def test_arrangements_of_several_and_into_several() -> None:
    reference, x = Reference(load_chip("mixed-8-16")), IntegerTensor(CODES)
    parts = reference.shape(torch.chunk, (x, 3, 2), {})
    assert [each.codes.shape for each in parts] == [(1, 2, 4)] * 3
    assert torch.equal(reference.shape(torch.cat, (list(parts), 2), {}).codes, CODES)
    data, sizes = reference.shape(torch._VF._pack_padded_sequence, (x, torch.tensor([2]), True), {})
    assert isinstance(data, IntegerTensor)
    assert type(sizes) is Tensor


def test_a_chip_tensor_looks_like_a_float_tensor_of_its_shape() -> None:
    x = IntegerTensor(CODES)
    assert (x.shape, x.dtype, x.device, x.dim(), x.is_floating_point()) == (
        (1, 2, 12), torch.float32, torch.device("cpu"), 3, True
    )  # fmt: skip


def test_values_leave_the_chip_where_nothing_intercepts() -> None:
    x = put(IntegerTensor(CODES), Tag("layer", GRID, 0))
    values = CODES * GRID.scale
    assert torch.equal(x + 1.0, values + 1.0)
    assert torch.equal(torch.cat([x, values]), torch.cat([values, values]))
    assert x.numpy().tolist() == x.tolist() == values.tolist()
    assert float(x[0, 0, 0]) == float(values[0, 0, 0])


def test_codes_are_not_changed_in_place_where_nothing_intercepts() -> None:
    with pytest.raises(
        PluginError, match=r"would change integer codes in place outside the chip; call the lowered model"
    ):
        put(IntegerTensor(CODES), Tag("layer", GRID, 0)).add_(1.0)
    with pytest.raises(PluginError, match="integer codes outside the chip have no grid; take results of the lowered"):
        IntegerTensor(CODES) + 1.0


def test_a_tensor_of_the_emulation_is_read_as_its_codes_and_any_other_refused() -> None:
    reference, grid = Reference(load_chip("mixed-8-16")), Grid(0.0371, 16)
    codes = torch.tensor([-32768, -1, 0, 7, 32767, -(2**31)], dtype=torch.int32)
    x = put(reference.leave(IntegerTensor(codes), grid), Tag("layer", grid, 0))
    assert x[-1] == -torch.inf
    found = reference.requantize(x, grid, grid)
    assert isinstance(found, IntegerTensor)
    assert torch.equal(found.codes, codes)
    with pytest.raises(PluginError, match="a Tensor without a grid met the integer form of a model"):
        reference.relu(torch.zeros(3), GRID)


def test_overwriting_reaches_codes_and_host_tensors() -> None:
    reference, x, host = Reference(load_chip("mixed-8-16")), IntegerTensor(CODES.clone()), torch.zeros(1, 2, 12)
    new = IntegerTensor(CODES + 1)
    reference.overwrite(x, new, GRID)
    reference.overwrite(host, new, GRID)
    assert torch.equal(x.codes, CODES + 1)
    assert torch.equal(host, (CODES + 1) * GRID.scale)


def test_a_copy_has_codes_of_its_own() -> None:
    x = IntegerTensor(CODES.clone())
    duplicate = copy.deepcopy(x)
    x.codes.zero_()
    assert torch.equal(duplicate.codes, CODES)


def test_excluded_entries_leave_as_minus_infinity() -> None:
    reference = Reference(load_chip("mixed-8-16"))
    x = reference.exclude(IntegerTensor(CODES), GRID, CODES > 3)
    assert torch.equal(reference.leave(x, GRID), (CODES * GRID.scale).masked_fill(CODES > 3, -torch.inf))


def linear(reference: Reference, weight: Tensor) -> Tensor:
    x = IntegerTensor(CODES)
    return reference.leave(reference.linear(x, GRID, Weight("w", weight), None, Grid(2.0**-4, 16)), Grid(2.0**-4, 16))


def test_codes_of_weights_are_made_once_and_again_when_they_change() -> None:
    reference, weight = Reference(load_chip("mixed-8-16")), torch.randn(3, 12)
    first = linear(reference, weight)
    packed = reference.weight(Weight("w", weight), channels=True)[0]
    assert packed.dtype == "int8"
    assert reference.weight(Weight("w", weight), channels=True)[0] is packed
    assert reference.weight(Weight("w", weight.clone()), channels=True)[0] is packed, "equal values, another tensor"
    with torch.no_grad():
        weight *= -1.0
    changed = reference.weight(Weight("w", weight), channels=True)[0]
    assert changed is not packed
    assert not torch.equal(linear(reference, weight), first)


def test_a_codebook_gives_the_codes_of_the_weight_that_it_stands_for() -> None:
    indices = torch.randint(0, 8, (3, 12), dtype=torch.uint8)
    table, scale = torch.linspace(-0.9, 1.1, 8), torch.tensor(0.37)
    weight, module = (table * scale)[indices.long()], torch.nn.Module()
    offer_table(module, "weight", lambda: TableWeight(indices, table, scale))
    marked = mark_origin(weight.clone(), module, "weight")
    found = [Reference(load_chip("harsh")).weight(Weight("w", each), channels=True) for each in (weight, marked)]
    assert found[0][0].tolist() == found[1][0].tolist()
    assert found[0][1] == found[1][1]
    assert len(set(found[1][0].flatten().tolist())) <= 8
