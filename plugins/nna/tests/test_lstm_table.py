"""The error of a random LSTM on a chip, by the bits of gates and cell and the entries of tables."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from slt_nna.audit import Ratio
from slt_nna.chip import load_chip
from slt_nna.nna import Nna

H, FRAMES = 128, 400
RANGE = 8.0  # of gates and cell
ENTRIES = (64, 256, 1024)
MEASURED = {  # signal-to-error ratio in dB by (gate bits, cell bits), measured once with another program and other weights
    (8, 8): (13.4, 18.2, 22.8),
    (8, 16): (14.4, 22.9, 28.2),
    (16, 8): (13.9, 20.1, 23.6),
    (16, 16): (14.5, 25.6, 30.9),
}
FEW_DB = 3


def random_lstm() -> tuple[nn.Module, Tensor]:
    """Random inputs and weights, 1.5 times as large as torch draws them, so that gates are in use."""
    torch.manual_seed(0)
    model = nn.LSTM(H, H).eval()
    x = torch.randn(FRAMES, 1, H)
    with torch.no_grad():
        model.weight_ih_l0 *= 1.5
        model.weight_hh_l0 *= 1.5
    return model, x


def ratio_db(model: nn.Module, x: Tensor, gate_bits: int, cell_bits: int, entries: int) -> float:
    table = {"entries": entries, "range": 8.0, "interpolation": "nearest"}
    chip = load_chip(
        {
            "name": "table",
            "description": "8 bits but for gates and cell",
            "words": {"preactivation": gate_bits, "state": cell_bits},
            "rounding": "half_even",
            "scales": "free",
            "tables": {"sigmoid": table, "tanh": table},
        }
    )
    expected = model(x)[0]
    transform = Nna(chip)
    limits = {"l0:input": float(x.abs().max()), "l0": 1.0, "l0:pre": RANGE, "l0:state": RANGE}
    state = {f"range.{name}": torch.tensor(limit, dtype=torch.float64) for name, limit in limits.items()}
    transform.restore(model, state)
    ratio = Ratio()
    ratio.add(expected, model(x)[0])
    transform.detach()
    return ratio.db


@pytest.fixture(scope="module")
def table() -> dict[tuple[int, int], list[float]]:
    model, x = random_lstm()
    with torch.no_grad():
        found = {bits: [ratio_db(model, x, *bits, entries) for entries in ENTRIES] for bits in MEASURED}
    for bits, row in found.items():
        print(*bits, *(f"{db:.1f}" for db in row))
    return found


def test_the_error_of_a_random_lstm_is_what_was_measured_within_a_few_db(
    table: dict[tuple[int, int], list[float]],
) -> None:
    for bits, row in MEASURED.items():
        assert table[bits] == pytest.approx(list(row), abs=FEW_DB), bits


def test_a_coarse_table_hides_the_width_of_everything_else(table: dict[tuple[int, int], list[float]]) -> None:
    coarse, fine = ([row[place] for row in table.values()] for place in (0, -1))
    assert max(coarse) - min(coarse) < 3 < max(fine) - min(fine)


def test_a_wider_cell_helps_more_than_wider_gates(table: dict[tuple[int, int], list[float]]) -> None:
    for place in range(1, len(ENTRIES)):
        assert table[8, 16][place] > table[16, 8][place] > table[8, 8][place]
