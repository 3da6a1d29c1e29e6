"""The LSTM encoder: the cell's equations, packed utterances, and a stream with carried state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from slt_speech.config_encoders import LstmConfig
from slt_speech.log_mel import LogMel
from slt_speech.lstm import FrameStack, Lstm
from slt_speech.mel_settings import kaldi
from sltcore.errors import PortError, ShapeError, SpecError, StreamError
from sltcore.types import Encoded, Features, Waveform

TOLERANCE = 1e-5
FEATURES = 6
STREAMING: dict[str, dict[str, Any]] = {
    "plain": {"stack": 1, "stride": 1, "layer_norm": False},
    "stacked": {"stack": 3, "stride": 3},
    "overlapping": {"stack": 5, "stride": 2, "projection": 4},
}
ALL: dict[str, dict[str, Any]] = {
    **STREAMING,
    "two directions": {"bidirectional": True, "stack": 2, "stride": 2},
    "two directions, projected": {"bidirectional": True, "projection": 3, "stack": 4, "stride": 3},
}


def encoder(frontend: Any = FEATURES, **settings: Any) -> Lstm:
    torch.manual_seed(0)
    return Lstm(frontend, 8, **{"layers": 2, **settings}).eval()


def features(count: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, count, FEATURES, generator=torch.Generator().manual_seed(0))


def batch_of(values: Tensor, lengths: list[int] | None = None) -> Features:
    return Features(values, torch.tensor(lengths or [values.shape[1]] * len(values)), 0.01)


@pytest.mark.parametrize("settings", ALL.values(), ids=ALL.keys())
def test_padding_never_leaks(settings: dict[str, Any]) -> None:
    model, lengths, values = encoder(**settings), [31, 17, 2, 1, 0], features(31, batch=5)
    together = model(batch_of(values, lengths), {})
    assert together.lengths.tolist() == model.output_lengths(torch.tensor(lengths)).tolist()
    for row, length in enumerate(lengths):
        alone = model(batch_of(values[row : row + 1, :length], [length]), {})
        count = -(-length // settings["stride"])
        assert int(alone.lengths[0]) == int(together.lengths[row]) == count
        assert torch.allclose(alone.values[0, :count], together.values[row, :count], atol=TOLERANCE)
        assert together.values[row, count:].abs().sum() == 0


@pytest.mark.parametrize("settings", ALL.values(), ids=ALL.keys())
def test_gradient_reaches_every_parameter(settings: dict[str, Any]) -> None:
    model = encoder(**settings).train()
    out = model(batch_of(features(30, batch=3), [30, 12, 0]), {}).values
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def recurrence(x: Tensor, layer: Any, projected: bool) -> Tensor:
    """Equations of the cell, one frame at a time: [t h] of [t f]."""
    weight_x, weight_h, bias_x, bias_h = (
        getattr(layer, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    cell, hidden, out = torch.zeros(8), torch.zeros(weight_h.shape[1]), []
    for frame in x:
        gates = weight_x @ frame + bias_x + weight_h @ hidden + bias_h
        enter, forget, candidate, leave = gates.chunk(4)
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        hidden = layer.weight_hr_l0 @ hidden if projected else hidden
        out.append(hidden)
    return torch.stack(out)


@pytest.mark.parametrize("projection", [None, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_frames_equal_the_cell_equations(projection: int | None, bidirectional: bool) -> None:
    model = encoder(bidirectional=bidirectional, projection=projection, stack=2, stride=2)
    values = features(12)
    x = values[0].reshape(6, 2 * FEATURES)
    for depth, (layer, norm) in enumerate(zip(model.layers, model.norms, strict=True)):
        outputs = [recurrence(x, layer, projection is not None)]
        if bidirectional:
            outputs.append(recurrence(x.flip(0), model.backward_layers[depth], projection is not None).flip(0))
        x = norm(torch.cat(outputs, 1))
    assert torch.allclose(model(batch_of(values), {}).values[0], x, atol=TOLERANCE)


def test_two_directions_equal_torch_over_packed_sequences() -> None:
    model, values, lengths = (
        encoder(bidirectional=True, layers=1, stack=1, stride=1),
        features(31, batch=3),
        [31, 17, 4],
    )
    backwards = {f"{name}_reverse": weight for name, weight in model.backward_layers[0].state_dict().items()}
    layer = torch.nn.LSTM(FEATURES, 8, batch_first=True, bidirectional=True)
    layer.load_state_dict({**model.layers[0].state_dict(), **backwards})
    packed = pack_padded_sequence(values, torch.tensor(lengths), batch_first=True)
    expected = model.norms[0](pad_packed_sequence(layer(packed)[0], batch_first=True)[0])
    found = model(batch_of(values, lengths), {}).values
    for row, length in enumerate(lengths):
        assert torch.allclose(found[row, :length], expected[row, :length], atol=TOLERANCE)


@pytest.mark.parametrize("settings", STREAMING.values(), ids=STREAMING.keys())
@pytest.mark.parametrize("sizes", [[1], [2, 7, 1], [100]])
@pytest.mark.parametrize("count", [1, 5, 30])
def test_stream_equals_offline(settings: dict[str, Any], sizes: list[int], count: int) -> None:
    model, values = encoder(**settings, return_layers=[1]), features(count)
    offline = model(batch_of(values), {})
    session = model.open({})
    parts: list[Encoded | None] = []
    start = turn = 0
    while start < count:
        piece = values[:, start : start + sizes[turn % len(sizes)]]
        parts.append(session.push(batch_of(piece)))
        start, turn = start + piece.shape[1], turn + 1
    parts.append(session.finish())
    said = [part for part in parts if part is not None]
    assert torch.allclose(torch.cat([part.values for part in said], 1), offline.values, atol=TOLERANCE)
    assert torch.allclose(torch.cat([part.layers[1] for part in said], 1), offline.layers[1], atol=TOLERANCE)
    assert said[-1].offset_s == pytest.approx(
        model.offset_s + (offline.values.shape[1] - said[-1].values.shape[1]) * model.frame_shift_s
    )


def test_stream_equals_offline_from_samples() -> None:
    model = encoder(LogMel(kaldi(n_mels=20)), stack=4, stride=3)
    samples = 0.1 * torch.randn(1, 9011, generator=torch.Generator().manual_seed(0))
    offline = model(Waveform(samples, torch.tensor([9011]), 16000), {}).values
    session = model.open({})
    parts = [session.push(Waveform(p, torch.tensor([p.shape[1]]), 16000)) for p in samples.split(700, 1)]
    parts.append(session.finish())
    assert torch.allclose(torch.cat([part.values for part in parts if part is not None], 1), offline, atol=1e-4)


@pytest.mark.parametrize(("stack", "stride"), [(1, 1), (3, 3), (5, 2), (4, 1), (3, 2)])
def test_stack_reads_its_stride_and_what_came_before(stack: int, stride: int) -> None:
    x = torch.arange(1.0, 8.0)[None, :, None]
    found = FrameStack(stack, stride)(x)[0]
    assert len(found) == -(-7 // stride)
    for i, row in enumerate(found):
        frames = range((i + 1) * stride - stack, (i + 1) * stride)
        assert row.tolist() == [float(j + 1) if 0 <= j < 7 else 0.0 for j in frames]


@pytest.mark.parametrize("settings", STREAMING.values(), ids=STREAMING.keys())
def test_lookahead_is_how_much_of_a_prefix_may_change(settings: dict[str, Any]) -> None:
    """Brute force over prefixes."""
    model, values = encoder(**settings), features(30)
    whole, worst = model(batch_of(values), {}).values[0], 0
    for cut in range(8, 20):
        prefix = model(batch_of(values[:, :cut]), {}).values[0]
        changed = (prefix - whole[: len(prefix)]).abs().amax(1) > TOLERANCE
        worst = max(worst, len(prefix) - int(changed.nonzero()[0]) if changed.any() else 0)
    assert worst == model.lookahead_frames


def test_layers_are_returned_on_request() -> None:
    out = encoder(return_layers=[2, 1])(batch_of(features(20)), {})
    assert list(out.layers) == [1, 2]
    assert torch.equal(out.layers[2], out.values)


def test_a_wrapper_may_ask_for_layers_later() -> None:
    model = encoder()
    assert model.depths == 2
    model.keep_layers([])
    assert not model(batch_of(features(20)), {}).layers
    model.keep_layers([1])
    model.keep_layers([2])
    out = model(batch_of(features(20)), {})
    assert list(out.layers) == [1, 2]
    assert torch.equal(out.layers[model.depths], out.values)
    with pytest.raises(PortError, match="lstm: layer 0 is asked for; depths run from 1 to 2"):
        model.keep_layers([0])


def test_width_is_that_of_the_port() -> None:
    for settings, width in (({}, 8), ({"bidirectional": True}, 16), ({"bidirectional": True, "projection": 3}, 6)):
        model = encoder(**settings)
        assert model.produces.attributes["d"] == width
        assert model(batch_of(features(9)), {}).values.shape == (1, 3, width)
    empty = model(batch_of(features(0), [0]), {})
    assert empty.values.shape == (1, 0, 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stack": 2, "stride": 3}, "stack 2 with stride 3 drops frames unread; set stack to 3"),
        ({"projection": 8}, "projection 8 is not below hidden 8"),
        ({"return_layers": [0]}, "return_layers names 0; depths run from 1 to 2"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        encoder(**settings)
    with pytest.raises(ValueError, match=message):
        LstmConfig(frontend=None, hidden=8, layers=2, **settings)


def test_features_are_described_once() -> None:
    with pytest.raises(
        ValueError, match="num_features is given, but the front end says it; remove it, or set frontend: null"
    ):
        LstmConfig(num_features=20)


def test_wrong_input_is_refused_in_one_line() -> None:
    with pytest.raises(StreamError, match=r"lstm cannot stream in two directions, .*; set bidirectional: false"):
        encoder(bidirectional=True).open({})
    with pytest.raises(
        ShapeError, match=r"lstm: Features.values has shape \(1, 9, 7\), expected \(b, t, f\) with f = 6"
    ):
        encoder()(batch_of(torch.zeros(1, 9, 7)), {})
    session = encoder().open({})
    session.finish()
    with pytest.raises(StreamError, match="lstm: the stream has finished"):
        session.finish()


@pytest.mark.parametrize("projection", [None, 3])
@pytest.mark.parametrize("nested", [False, True])
def test_weights_of_torchs_two_directions_are_taken_and_give_its_output(projection: int | None, nested: bool) -> None:
    """Earlier versions kept both directions in one nn.LSTM a layer, whose tensors end in `_reverse`."""
    torch.manual_seed(1)
    sizes = {"batch_first": True, "bidirectional": True, "proj_size": projection or 0}
    width = 2 * (projection or 8)
    first, second = nn.LSTM(FEATURES, 8, **sizes), nn.LSTM(width, 8, **sizes)
    model = encoder(bidirectional=True, projection=projection, stack=1, stride=1, layer_norm=False)
    old = {
        f"layers.{place}.{name}": t
        for place, layer in enumerate((first, second))
        for name, t in layer.state_dict().items()
    }
    assert any(name.endswith("_reverse") for name in old)
    outer = nn.ModuleDict({"encoder": model}) if nested else model
    outer.load_state_dict({f"encoder.{name}" if nested else name: tensor for name, tensor in old.items()})
    values = features(13)
    with torch.no_grad():
        expected = second(first(values)[0])[0]
        found = model(batch_of(values), {}).values
    assert torch.allclose(found, expected, atol=TOLERANCE)
    assert {name for name in model.state_dict() if "_reverse" in name} == set()


def test_todays_names_stay_as_they_are() -> None:
    model = encoder(bidirectional=True)
    assert {name: model.renamed(name) for name in model.state_dict()} == {name: name for name in model.state_dict()}
    other = encoder(bidirectional=True)
    other.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="layers.2.weight_hh_l0_reverse|backward_layers.2"):
        other.load_state_dict({**model.state_dict(), "layers.2.weight_hh_l0_reverse": torch.zeros(32, 8)})
