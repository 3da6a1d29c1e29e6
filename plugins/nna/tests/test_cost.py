"""What a cost counts, against closed forms; the latency model, against its own sentences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slt_nna.backend import Weight
from slt_nna.chip import Chip, load_chip
from slt_nna.cost import Account, account, cost, weight_bytes
from slt_nna.nna import Nna
from sltcore.errors import PluginError
from sltcore.types import TableWeight

B, T = 2, 7


def counted(model: nn.Module, x: Tensor, chip: str | Chip = "harsh", **options: Any) -> Account:
    described = load_chip(chip)
    transform = Nna(described)
    model.eval()
    transform.attach(model, iter([x]))
    return account(transform, model, x, **options)


def on(account_: Account, operator: str) -> list[Any]:
    return [site for site in account_.sites if site.operator == operator]


def test_a_linear_layer_takes_positions_times_inputs_times_outputs() -> None:
    found = counted(nn.Sequential(nn.Linear(8, 5, bias=False)), torch.randn(B, T, 8))
    assert found.macs == B * T * 8 * 5
    (site,) = on(found, "linear")
    assert (site.on_chip, site.calls, site.site) == (True, 1, "0")
    assert site.bytes_in == B * T * 8 * 6 / 8, "6-bit activations"
    assert site.bytes_weights == 8 * 5, "8-bit weights"


@pytest.mark.parametrize(("groups", "stride", "kernel"), [(1, 1, 3), (1, 2, 5), (4, 1, 3), (8, 3, 1)])
def test_a_convolution_takes_outputs_times_kernel_times_group(groups: int, stride: int, kernel: int) -> None:
    model = nn.Conv1d(8, 16, kernel, stride=stride, groups=groups, padding=kernel // 2)
    x = torch.randn(B, 8, 12)
    found = counted(nn.Sequential(model), x)
    assert found.macs == model(x).numel() * kernel * 8 // groups
    assert on(found, "convolution")[0].bytes_weights == 16 * 8 // groups * kernel


def test_an_image_convolution_counts_both_axes_of_its_kernel() -> None:
    model = nn.Conv2d(2, 4, (3, 5), stride=2)
    x = torch.randn(B, 2, 11, 13)
    assert counted(nn.Sequential(model), x).macs == model(x).numel() * 2 * 3 * 5


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True])
def test_an_lstm_takes_four_gates_of_both_kernels_for_each_frame(layers: int, both: bool) -> None:
    d, h, ways = 6, 10, 2 if both else 1
    model = nn.LSTM(d, h, layers, batch_first=True, bidirectional=both)
    found = counted(model, torch.randn(B, T, d))
    inputs = [d] + [h * ways] * (layers - 1)
    assert found.macs == B * T * sum(ways * 4 * h * (size + h) for size in inputs)
    assert sum(site.bytes_weights for site in on(found, "lstm")) == sum(ways * 4 * h * (size + h) for size in inputs)


def test_a_projected_lstm_counts_its_projection() -> None:
    d, h, p = 6, 10, 4
    found = counted(nn.LSTM(d, h, proj_size=p, batch_first=True), torch.randn(B, T, d))
    assert found.macs == B * T * (4 * h * (d + p) + h * p)


def test_a_gru_takes_three_gates_of_both_kernels_for_each_frame() -> None:
    found = counted(nn.GRU(6, 10, batch_first=True), torch.randn(B, T, 6))
    assert found.macs == B * T * 3 * 10 * (6 + 10)


def test_attention_takes_its_projections_and_two_products() -> None:
    d, heads = 8, 2

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(d, heads, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.inner(x, x, x, need_weights=False)[0]
            return output

    found = counted(Attention(), torch.randn(B, T, d))
    projections, products = B * T * 4 * d * d, 2 * B * heads * T * T * (d // heads)
    assert found.macs == projections + products
    assert len(on(found, "softmax")) == 1


def test_totals_are_the_sums_of_the_operators() -> None:
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.LayerNorm(12), nn.Linear(12, 5))
    found = counted(model, torch.randn(B, T, 8))
    assert found.macs == sum(site.macs for site in found.sites)
    assert found.cost.bytes_moved >= sum(site.bytes_moved for site in found.sites)
    assert found.latency_s == pytest.approx(found.chip_s + found.host_s + found.crossing_s)
    assert found.cost.macs == found.macs
    assert found.cost.host_crossings == found.entries + found.exits


def test_an_operator_on_the_host_costs_two_crossings_more() -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 5))

    x = torch.randn(B, T, 8)
    whole = counted(model(), x, "harsh")
    apart = counted(model(), x, load_chip({**load_chip("harsh").model_dump(), "host": ["layer_norm"]}))
    assert apart.crossings == whole.crossings + 2
    assert apart.bytes_crossing > whole.bytes_crossing
    assert not on(apart, "layer_norm")[0].on_chip
    assert apart.host_s > whole.host_s


def test_the_latency_of_an_operator_is_the_longer_of_work_and_memory() -> None:
    base = load_chip("mixed-8-16").model_dump()
    x = torch.randn(1, T, 8)

    def seconds(**speed: float) -> float:
        found = counted(nn.Sequential(nn.Linear(8, 5)), x, load_chip({**base, "speed": {**base["speed"], **speed}}))
        (site,) = on(found, "linear")
        return float(site.seconds)

    moved = T * 8 + 8 * 5 + T * 5
    assert seconds(clock_hz=1e3, macs_per_cycle=2, bytes_per_s=1e12) == pytest.approx(T * 40 / 2e3)
    assert seconds(bytes_per_s=1e3, clock_hz=1e10) == pytest.approx(moved / 1e3)


def test_a_second_of_sound_is_what_totals_are_divided_by() -> None:
    found = counted(nn.Sequential(nn.Linear(8, 5)), torch.randn(B, T, 8), audio_s=0.5)
    assert found.per_second(found.macs) == 2 * found.macs
    assert found.to_dict()["per_second"]["macs"] == 2 * found.macs
    assert counted(nn.Sequential(nn.Linear(8, 5)), torch.randn(B, T, 8)).per_second(3) is None


def test_the_assumptions_name_the_figures_of_the_chip() -> None:
    text = " ".join(counted(nn.Sequential(nn.Linear(8, 5)), torch.randn(B, T, 8)).assumptions())
    for figure in ("64 a cycle", "250 MHz", "1 GB/s", "1 GFLOP/s", "20 us"):
        assert figure in text


def test_the_float_chip_moves_four_bytes_for_each_value() -> None:
    found = counted(nn.Sequential(nn.Linear(8, 5, bias=False)), torch.randn(B, T, 8), "ideal")
    assert found.macs == B * T * 40
    assert found.bytes_crossing == 4 * B * T * (8 + 5)
    assert found.bytes_moved == 4 * (B * T * 8 + 40 + B * T * 5) + found.bytes_crossing


class Recognizer(nn.Module):
    """Two recurrent layers, a softmax, and a projection that reads the frames and their weights."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        ways = 2 if both else 1
        self.rnn = nn.LSTM(6, 4, 2, batch_first=True, bidirectional=both)
        self.gate = nn.Linear(4 * ways, 4 * ways)
        self.head = nn.Linear(4 * ways, 3)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.rnn(x)[0]
        scores: Tensor = self.head(self.gate(frames).softmax(-1) * frames)
        return scores


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("chip", ["ideal", "mixed-8-16", "harsh"])
def test_hand_overs_are_those_that_a_hand_counts(chip: str, both: bool) -> None:
    """x enters and the scores leave; a softmax on the host takes its input and brings its result back; a recurrent layer on
    the host takes x as it is, and brings its frames once, though two operators read them."""
    x = torch.randn(B, T, 6)
    whole = counted(Recognizer(both), x, chip)
    assert (whole.entries, whole.exits) == (1, 1)
    without = counted(Recognizer(both), x, load_chip({**load_chip(chip).model_dump(), "host": ["softmax"]}))
    assert (without.entries, without.exits) == (2, 2)
    assert without.bytes_crossing - whole.bytes_crossing == B * T * 4 * (2 if both else 1) * 2 * (
        load_chip(chip).words.activation / 8
    )


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("chip", ["ideal", "harsh"])
def test_recurrent_states_stay_on_the_chip(chip: str, both: bool) -> None:
    """Of one direction and of two alike: x enters, y leaves, and the states wait for the next chunk."""
    model, x = nn.LSTM(6, 4, batch_first=True, bidirectional=both), torch.randn(B, T, 6)
    transform = Nna(chip)
    transform.attach(model.eval(), iter([x]))
    first = account(transform, model, x)
    assert (first.entries, first.exits) == (1, 1)
    with torch.no_grad(), transform.use({}):
        state = model(x)[1]
    second = account(transform, model, (x, state), call=lambda module, given: module(*given))
    assert (second.entries, second.exits) == (1, 1)


@pytest.mark.parametrize("both", [False, True])
def test_states_that_are_the_result_leave_the_chip(both: bool) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(6, 4, batch_first=True, bidirectional=both)

        def forward(self, x: Tensor) -> Tensor:
            state: Tensor = self.rnn(x)[1]
            return state

    found = counted(Last(), torch.randn(B, T, 6))
    assert (found.entries, found.exits) == (1, 1)


def test_what_a_part_of_a_model_gives_back_leaves_the_chip_too() -> None:
    model, x = nn.ModuleDict({"encoder": nn.Linear(8, 5), "head": nn.Linear(5, 3)}), torch.randn(B, T, 8)
    transform = Nna("mixed-8-16")

    def call(module: Any, value: Tensor) -> Tensor:
        result: Tensor = module["head"](module["encoder"](value))
        return result

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, value: Tensor) -> Tensor:
            return call(self.parts, value)

    whole = Whole().eval()
    transform.attach(whole, iter([x]))
    parts = account(transform, whole, x, call=lambda module, value: call(module.parts, value))
    assert parts.cost == account(transform, whole, x).cost
    assert (parts.entries, parts.exits) == (1, 1)


def test_a_table_weight_is_counted_by_its_indices_and_its_table() -> None:
    value = torch.zeros(5, 8)
    table = TableWeight(torch.zeros(5, 8, dtype=torch.uint8), torch.zeros(8), torch.ones(1))
    assert weight_bytes(Weight("w", value, None), 8) == 40
    assert weight_bytes(Weight("w", value, table), 8) == (40 * 3 + 8 * 8) / 8


def test_counting_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(8, 5), nn.Dropout(0.5))
    x = torch.randn(B, T, 8)
    transform = Nna(load_chip("mixed-8-16"))
    transform.attach(model, iter([x]))
    model.train()
    before = len(transform.listeners)
    first = cost(transform, model, x)
    assert model.training
    assert len(transform.listeners) == before
    assert cost(transform, model, x) == first == transform.cost(model, x)


def test_a_model_that_the_chip_does_not_see_is_refused() -> None:
    model, other = nn.Sequential(nn.Linear(8, 5)), nn.Sequential(nn.Identity())
    transform = Nna(load_chip("mixed-8-16"))
    transform.attach(model, iter([torch.randn(B, T, 8)]))
    with pytest.raises(PluginError, match="no operator of Sequential was seen by the chip 'mixed-8-16'"):
        account(transform, other, torch.randn(B, T, 8))


def test_a_dict_is_called_as_calibration_calls_it() -> None:
    model, x = nn.Linear(4, 6), torch.randn(3, 4)
    transform = Nna("mixed-8-16")
    transform.attach(model, iter([{"input": x}]))
    assert transform.cost(model, {"input": x}) == transform.cost(model, x)
