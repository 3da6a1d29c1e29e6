"""Where adapters can stand: any module of any model, whatever it returns."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from adapter_models import WIDTH, by_hand, drawn_update, frames, tower
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from slt_residual_adapters.outputs import first_tensor, with_first_tensor
from slt_residual_adapters.placement import named, own_width, places
from slt_residual_adapters.residual_adapters import ResidualAdapters
from sltcore.errors import PluginError


class Pair(NamedTuple):
    values: Tensor
    lengths: Tensor


@dataclass
class Held:
    values: Tensor
    note: str


class Shell(nn.Module):
    """A linear layer whose output is wrapped."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.inner(x))


class Whole(nn.Module):
    """Something, called `part`."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self.part(*arguments, **named)


def pinned(model: nn.Module, place: str = "part", d: int = WIDTH, **options: Any) -> tuple[ResidualAdapters, Any]:
    """An update with random numbers at one place of a model."""
    update = drawn_update(model, "monday", places=(place,), d=d)
    adapters = ResidualAdapters(updates=[update], **options)
    adapters.attach(model)
    return adapters, update


WRAPS: dict[str, Any] = {
    "tensor": lambda y: y,
    "tuple": lambda y: (y, "state"),
    "list": lambda y: [y, 1],
    "named tuple": lambda y: Pair(y, torch.tensor([1])),
    "nested": lambda y: ((y, 1), 2),
    "dict": lambda y: {"values": y, "more": 3},
    "ordered dict": lambda y: OrderedDict(values=y),
    "dataclass": lambda y: Held(y, "as it was"),
}


@pytest.mark.parametrize("what", WRAPS)
def test_the_first_tensor_of_any_output_is_changed_and_nothing_else(what: str) -> None:
    wrap = WRAPS[what]
    torch.manual_seed(0)
    model = Whole(Shell(wrap))
    x = frames()
    with torch.no_grad():
        plain = model.part.inner(x)  # type: ignore[union-attr,operator]
        _, update = pinned(model)
        found = model(x)
    expected = plain + by_hand(update, "part", plain).float()
    torch.testing.assert_close(first_tensor(found, "part"), expected, rtol=1e-5, atol=1e-5)
    assert type(found) is type(wrap(plain))
    assert repr(with_first_tensor(found, plain)) == repr(wrap(plain))


@pytest.mark.parametrize("wrap", [lambda y: (), lambda y: None, lambda y: "text"])
def test_an_output_without_a_tensor_is_refused(wrap: Any) -> None:
    model = Whole(Shell(wrap))
    pinned(model)
    if wrap(0) is None:
        with torch.no_grad():
            assert model(frames()) is None  # nothing was returned, so nothing is changed
        return
    with pytest.raises(PluginError, match="part returns .* but an adapter adds to a tensor"):
        model(frames())


def test_model_output_of_transformers_keeps_its_type() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    made = outputs.BaseModelOutput(last_hidden_state=frames())
    changed = with_first_tensor(made, frames() + 1)
    assert type(changed) is type(made)
    assert torch.equal(changed.last_hidden_state, frames() + 1)
    assert torch.equal(changed[0], frames() + 1)
    assert torch.equal(made[0], frames())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers(bidirectional: bool, batch_first: bool) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(WIDTH, WIDTH, batch_first=batch_first, bidirectional=bidirectional)
    model, d = Whole(lstm).eval(), WIDTH * (1 + bidirectional)
    x = frames(3, 3)
    with torch.no_grad():
        plain, (hidden, _) = lstm(x)
        adapters, update = pinned(model, d=d)
        (found, (kept, _)) = model(x)
        torch.testing.assert_close(found, plain + by_hand(update, "part", plain).float(), rtol=1e-5, atol=1e-5)
        assert torch.equal(hidden, kept)
        with adapters.use({"updates": [["monday"], [], ["monday"]]}):
            mixed = model(x)[0]
    axis = 0 if batch_first else 1
    for place in range(3):
        expected = plain if place == 1 else found
        torch.testing.assert_close(mixed.select(axis, place), expected.select(axis, place))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("place", ["part", "part.linear2"])
def test_layers_of_torch_s_transformer(place: str, batch_first: bool) -> None:
    """As many frames as utterances: only the layer itself says which axis is which."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=batch_first)
    model = Whole(layer).eval()
    adapters = ResidualAdapters(updates=[drawn_update(model, "monday", places=(place,))])
    x = frames(3, 3)
    with torch.no_grad():
        plain = model(x)
        adapters.attach(model)
        found = model(x)
        with adapters.use({"updates": [["monday"], [], ["monday"]]}):
            mixed = model(x)
    axis = 0 if batch_first else 1
    for row in range(3):
        expected = plain if row == 1 else found
        torch.testing.assert_close(mixed.select(axis, row), expected.select(axis, row))


def test_packed_sequences_with_updates_that_differ() -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
    model = Whole(lstm).eval()
    packed = pack_padded_sequence(frames(3, 6), torch.tensor([2, 6, 4]), batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        plain: PackedSequence = lstm(packed)[0]
        adapters, update = pinned(model)
        with adapters.use({"updates": [["monday"], [], ["monday"]]}):
            found: PackedSequence = model(packed)[0]
    change = by_hand(update, "part", plain.data).float()
    on = nn.utils.rnn.pad_packed_sequence(plain._replace(data=change), batch_first=True)[0]
    on[1] = 0
    whole, lengths = nn.utils.rnn.pad_packed_sequence(found, batch_first=True)
    expected = nn.utils.rnn.pad_packed_sequence(plain, batch_first=True)[0] + on
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-5)
    assert lengths.tolist() == [2, 6, 4]


def test_convolutions_are_changed_along_their_channels() -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(4, WIDTH, 3, padding=1)
    model, x = Whole(conv), torch.randn(2, 4, 9)
    with torch.no_grad():
        plain = conv(x)
        _, update = pinned(model)
        found = model(x)
    expected = plain + by_hand(update, "part", plain.mT).float().mT
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.stride() == plain.stride()


def test_a_transformers_model_from_a_config() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    torch.manual_seed(0)
    model = transformers.Wav2Vec2Model(config).eval()
    x = torch.randn(2, 1600)
    with torch.no_grad():
        plain = model(x).last_hidden_state
    adapters = ResidualAdapters("monday", rank=4)
    adapters.attach(model)
    assert list(adapters.sites) == ["encoder.layers.0", "encoder.layers.1"]
    with torch.no_grad():
        assert torch.equal(model(x).last_hidden_state, plain)
    model.train()
    with adapters.use({}):
        loss = model(x).last_hidden_state.square().mean()
    loss.backward()
    own = [p for group in adapters.parameter_groups() for p in group["params"]]
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in own)
    assert all(p.grad is None for p in model.parameters())
    adapters.detach()
    with torch.no_grad():
        assert torch.equal(model.eval()(x).last_hidden_state, plain)


def test_a_conformer_streams_with_updates_as_it_hears_whole() -> None:
    conformer = pytest.importorskip("slt_speech.conformer")
    from sltcore.types import Features

    torch.manual_seed(0)
    model = conformer.Conformer(8, 16, layers=2, heads=2, kernel=3, chunk_frames=2, left_chunks=2, convolution="causal")
    model.eval()
    whole = nn.ModuleDict({"encoder": model})
    pinned(whole, "encoder.blocks.1", d=16)
    x = torch.randn(1, 32, 8)
    with torch.no_grad():
        offline = model(Features(x, torch.tensor([32]), 0.01), {}).values
        session = model.open({})
        pieces = [session.push(Features(x[:, k : k + 8], torch.tensor([8]), 0.01)) for k in range(0, 32, 8)]
        pieces.append(session.finish())
    streamed = torch.cat([piece.values for piece in pieces if piece is not None], dim=1)
    torch.testing.assert_close(streamed, offline, rtol=1e-4, atol=1e-4)


def test_a_step_that_uses_forward_is_changed_once() -> None:
    class Stepping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.combine(x)

        def combine(self, x: Tensor) -> Tensor:
            result: Tensor = self.inner(x)
            return result

        def step(self, x: Tensor, state: int) -> tuple[Tensor, int]:
            return self(x), state + 1

    torch.manual_seed(0)
    part = Stepping()
    model, x = Whole(part), frames()
    with torch.no_grad():
        plain = part(x)
        adapters, update = pinned(model)
        expected = plain + by_hand(update, "part", plain).float()
        for found in (part(x), part.step(x, 0)[0], part.combine(x)):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        adapters.detach()
        assert torch.equal(part.step(x, 0)[0], plain)
    assert "step" not in vars(part)
    assert "combine" not in vars(part)


def test_an_error_in_front_of_a_module_leaves_its_places_in_order() -> None:
    part = nn.Linear(WIDTH, WIDTH)
    model, x = Whole(part).eval(), frames()
    plain = part(x).detach()

    def refuse(module: nn.Module, arguments: Any) -> None:
        raise ValueError("not now")

    handle = part.register_forward_pre_hook(refuse)
    pinned(model)
    for _ in range(2):
        with pytest.raises(ValueError, match="not now"):
            model(x)
    handle.remove()
    with torch.no_grad():
        assert not torch.allclose(model(x), plain)


def test_an_error_inside_a_module_leaves_its_places_in_order() -> None:
    class Failing(nn.Linear):
        fails = True

        def forward(self, x: Tensor) -> Tensor:
            if self.fails:
                raise ValueError("no such sound")
            return super().forward(x)

    part = Failing(WIDTH, WIDTH)
    model = Whole(part)
    _, update = pinned(model)
    with pytest.raises(ValueError, match="no such sound"):
        model(frames())
    Failing.fails = False
    with torch.no_grad():
        plain = nn.functional.linear(frames(), part.weight, part.bias)
        expected = plain + by_hand(update, "part", plain).float()
        torch.testing.assert_close(model(frames()), expected, rtol=1e-5, atol=1e-5)


# -- patterns and widths


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["blocks.*"], ["blocks.0", "blocks.1", "blocks.2"]),
        (["blocks.?", "!blocks.1"], ["blocks.0", "blocks.2"]),
        (["**.linear"], ["blocks.0.linear", "blocks.1.linear", "blocks.2.linear"]),
        (["head", "blocks.0"], ["blocks.0", "head"]),
        ([], ["blocks.0", "blocks.1", "blocks.2"]),
    ],
)
def test_patterns_choose_modules(patterns: list[str], expected: list[str]) -> None:
    assert list(named(tower(), patterns)) == expected


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["blcks.*"], "place: no module is named like 'blcks.*'; modules: blocks, .*"),
        (["blocks"], r"place: blocks is a ModuleList, which is never called; write 'blocks\.\*'"),
        (["blocks.*", "!blocks.*"], r"leave no module; write a pattern that keeps some"),
        (
            ["blocks.0.dropout"],
            "dropout \\(Dropout\\) does not say how wide its output is; set d, give calibration data",
        ),
    ],
)
def test_patterns_that_cannot_be_are_told(patterns: list[str], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        ResidualAdapters("monday", place=patterns).attach(tower())


def test_a_model_without_layers_is_told() -> None:
    with pytest.raises(PluginError, match="has no blocks and no linear or recurrent layers"):
        ResidualAdapters("monday").attach(nn.Sequential(nn.ReLU()))


def test_widths_are_known_or_seen() -> None:
    layers: dict[nn.Module, int] = {
        nn.Linear(3, 7): 7,
        nn.LSTM(3, 5, bidirectional=True): 10,
        nn.LSTM(3, 8, proj_size=4): 4,
        nn.GRU(3, 5): 5,
        nn.Conv1d(3, 9, 1): 9,
        nn.Embedding(3, 6): 6,
        nn.LayerNorm(11): 11,
        nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Dropout()): 7,
        nn.TransformerEncoderLayer(8, 2, 16): 8,
    }
    assert {own_width(layer) for layer in layers} == set(layers.values())
    for layer, width in layers.items():
        assert own_width(layer) == width
    assert own_width(nn.ReLU()) is None
    (seen,) = places(tower(), ["blocks.0.dropout"], example=frames())
    assert seen.d == WIDTH


def test_calibration_leaves_mode_and_statistics_alone() -> None:
    model = tower().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ResidualAdapters("monday", place=["blocks.0.dropout"]).attach(model, iter([frames()]))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_wrong_width_is_told_at_the_first_call() -> None:
    model = tower()
    ResidualAdapters("monday", place=["blocks.0"], d=WIDTH + 1).attach(model)
    with pytest.raises(PluginError, match=r"blocks\.0 returns \(2, 5, 6\), but its updates are 7 wide; write d: 6"):
        model(frames())
