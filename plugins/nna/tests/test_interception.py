"""What is promised of the interception: which operator runs where, under which name, and what crosses over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slt_nna.events import ENTER, LEAVE, Event
from slt_nna.floating import Floating
from slt_nna.nna import Nna
from slt_nna.tags import Tag, behind, tag_of
from sltcore.errors import PluginError
from sltcore.table_weights import mark_origin, offer_table
from sltcore.types import TableWeight

Made = Callable[..., Nna]


class Calls(nn.Module):
    """Linear layers with a function of their outputs behind."""

    def __init__(self, function: Callable[..., Any], count: int = 2, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(4, width) for _ in range(count))
        self.scale = nn.Parameter(torch.full((width,), 0.75))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(*(layer(x) for layer in self.layers))


def float_chip(transform: Nna) -> Nna:
    """The same chip without rounding: what it computes must be what torch computes."""
    transform._emulation = Floating(transform.chip)
    transform.only = None
    return transform


def run(rounded: Made, module: nn.Module, x: Any, **options: Any) -> tuple[Any, list[Event], Nna]:
    """Output and events of one call on the chip."""
    module.eval()
    transform = rounded(**options)
    transform.attach(module, iter([x]))
    events: list[Event] = []
    transform.listeners.append(events.append)
    with torch.no_grad():
        output = module(x)
    transform.listeners.clear()
    return output, events, transform


def operators(events: list[Event]) -> list[tuple[str, str, bool]]:
    return [(each.operator, each.site, each.on_chip) for each in events]


class Outputs(nn.LSTM):
    """An LSTM without its last state."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0]  # type: ignore[no-any-return]


X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]).bool()[None, :, None]

FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: a + b,
    "alpha": lambda a, b: torch.add(a, 2.0, alpha=3),
    "subtract": lambda a, b: a - b,
    "from a number": lambda a, b: 1.0 - a,
    "multiply": lambda a, b: a * b,
    "by a number": lambda a, b: -0.3 * a / 4,
    "mask": lambda a, b: a * MASK + b * MASK.float(),
    "matmul": lambda a, b: a @ b.mT,
    "baddbmm": lambda a, b: torch.baddbmm(a @ b.mT, a, b.mT),
    "softmax": lambda a, b: torch.softmax(a, 1),
    "masked": lambda a, b: functional.softmax(a.masked_fill(~MASK, -1e9), 1),
    "float mask": lambda a, b: functional.softmax(a + torch.zeros(5, 1).masked_fill(~MASK[0], -1e9), 1),
    "where": lambda a, b: torch.where(a > 0, a, b) + torch.where(MASK, a, 0.5),
    "activations": lambda a, b: torch.sigmoid(a) * torch.tanh(b) + functional.silu(a) + functional.gelu(b),
    "glu": lambda a, b: functional.glu(torch.cat([a, b], -1), -1),
    "relu": lambda a, b: functional.relu6(4 * a) + b.clamp(min=0) + functional.hardtanh(a, 0.0, 0.5),
    "host": lambda a, b: torch.exp(a) + torch.logsumexp(b, -1, keepdim=True),
    "shapes": lambda a, b: torch.stack([a, b]).flatten(0, 1).unfold(1, 2, 1).transpose(1, 2).roll(1, 0)[1:, ::2],
    "attention": lambda a, b: functional.scaled_dot_product_attention(a, b, b, attn_mask=MASK[..., 0][:, None]),
    "causal": lambda a, b: functional.scaled_dot_product_attention(a, b, a, is_causal=True, scale=0.4),
    "split": lambda a, b: torch.cat([a.chunk(2, -1)[1], *b.split([1, 1, 2], -1)[:2]], -1) + torch.stack(list(a)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_rounding_every_function_is_what_torch_computes(rounded: Made, name: str) -> None:
    module = Calls(FUNCTIONS[name])
    expected = module(X)
    transform = float_chip(rounded())
    transform.attach(module, iter([X]))
    torch.testing.assert_close(module(X), expected, rtol=2e-5, atol=2e-6)
    module(X).sum().backward()
    assert module.layers[0].weight.grad is not None


def in_place(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    kept = a
    a += b
    a.mul_(2.0)
    b.masked_fill_(~MASK, 0.0)
    b[:, 0] = 1.5
    b[1] = a[0]
    c = functional.relu(a - 1.0, inplace=True)
    c.exp_()
    torch.add(a, b, out=(out := torch.empty(0)))
    return kept, b, c, out


def test_in_place_functions_change_what_they_are_called_on(rounded: Made) -> None:
    module = Calls(in_place)
    with torch.no_grad():
        expected = module(X)
    transform = float_chip(rounded())
    transform.attach(module, iter([X]))
    with torch.no_grad():
        for mine, theirs in zip(module(X), expected, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_in_place_functions_train_as_torch_does(rounded: Made) -> None:
    gradients = []
    for chip in (False, True):
        module = Calls(lambda a, b: (functional.relu(a, inplace=True) + b.mul_(0.5)).sum())
        if chip:
            float_chip(rounded()).attach(module, iter([X]))
        module(X).backward()
        gradients.append(module.layers[1].weight.grad)
    torch.testing.assert_close(*gradients)


def test_sites_are_named_by_the_weights_and_the_way_from_them(rounded: Made) -> None:
    _, events, transform = run(rounded, Calls(lambda a, b: functional.silu(a + b)), X)
    assert operators(events) == [
        (ENTER, "layers.0:input", True),
        ("linear", "layers.0", True),
        (ENTER, "layers.1:input", True),
        ("linear", "layers.1", True),
        ("add", "layers.1|add", True),
        ("gate", "layers.1|add|silu", True),
        (LEAVE, "layers.1|add|silu", True),
    ]
    linear = events[1]
    assert linear.bits == (8, 8)
    assert linear.weights[0].name == "layers.0.weight"
    assert linear.inputs[0].shape == X.shape
    assert events[4].bits == (8, 8, 16)
    names = {f"range.{name}" for name in ("layers.0", "layers.0:input", "layers.1", "layers.1:input")}
    assert set(transform.state()) == names | {"range.layers.1|add", "range.layers.1|add|silu"}


def test_a_loop_over_plain_operators_comes_back_to_its_names(rounded: Made) -> None:
    def loop(a: Tensor, b: Tensor) -> Tensor:
        state = a
        for _ in range(int(b.shape[1])):
            state = torch.tanh(state * b + a)
        return state

    module = Calls(loop)
    transform = rounded()
    transform.attach(module, iter([X]))
    assert module(torch.cat([X, X, X], 1)).shape == (2, 15, 4)
    assert behind(Tag("a|mul|add|mul|add", None, 0), "mul") == "a|mul|add|mul"


def test_what_the_host_does_leaves_and_enters_again(rounded: Made) -> None:
    _, events, _ = run(rounded, Calls(lambda a, b: torch.exp(a) + b), X)
    assert operators(events)[4:] == [
        (LEAVE, "layers.0", True),
        ("exp", "layers.0|exp", False),
        (ENTER, "layers.1|add:input0", True),
        ("add", "layers.1|add", True),
        (LEAVE, "layers.1|add", True),
    ]


def test_patterns_keep_layers_in_float(rounded: Made) -> None:
    module = Calls(lambda a, b: a * b)
    with torch.no_grad():
        kept = module.layers[0](X)
    _, events, _ = run(rounded, module, X, exclude=("layers.0", "*|multiply"))
    assert operators(events)[:2] == [("linear", "layers.0", False), (ENTER, "layers.1:input", True)]
    assert torch.equal(events[0].outputs[0], kept)
    assert ("multiply", "layers.1|multiply", False) in operators(events)


def test_operators_of_the_host_list_stay_there(rounded: Made) -> None:
    chip = {"name": "partial", "description": "few operators", "host": ["softmax", "gate", "lstm"]}
    _, events, _ = run(rounded, Calls(lambda a, b: functional.silu(torch.softmax(a, -1))), X, chip=chip)
    assert [each for each in operators(events) if not each[2]] == [
        ("softmax", "layers.0|softmax", False),
        ("gate", "layers.0|softmax|gate", False),
    ]
    _, events, _ = run(rounded, nn.Sequential(nn.Linear(4, 4), Outputs(4, 3, 2)), X, chip=chip)
    assert operators(events)[2:] == [(LEAVE, "0", True), ("lstm", "1:l0", False)]


def test_numbers_that_only_relabel_cost_nothing(rounded: Made) -> None:
    for chip in ("harsh", "generous-8bit"):
        _, events, transform = run(rounded, Calls(lambda a: 0.3 * a, 1), X, chip=chip)
        assert ("multiply" in [each.operator for each in events]) is (transform.chip.scales == "power_of_two")
    output, events, _ = run(rounded, Calls(lambda a: 0.5 * a, 1), X, chip="harsh")
    assert [each.operator for each in events] == [ENTER, "linear", LEAVE]
    assert output.shape == X.shape


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "batch_first": True}])
def test_recurrent_layers_equal_torch_without_rounding(rounded: Made, kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = kind(4, 3, **options)
    packed = (
        nn.utils.rnn.pack_padded_sequence(X, torch.tensor([5, 3]), batch_first=bool(options), enforce_sorted=False)
        if options
        else nn.utils.rnn.pack_padded_sequence(X.mT.permute(2, 0, 1)[:4], torch.tensor([4, 2]))
    )
    state = torch.randn(4 if options else 1, 2, 3)
    for given in ((X,), (packed,), (packed, (state, 2 * state) if kind is nn.LSTM else state)):
        with torch.no_grad():
            expected = module(*given)
        transform = float_chip(rounded())
        transform.attach(module, iter([given[0]]))
        with torch.no_grad():
            found = module(*given)
        transform.detach()
        flat = [torch.utils._pytree.tree_leaves(each) for each in (found, expected)]
        for mine, theirs in zip(*flat, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_recurrent_cells_are_one_frame_of_a_layer(rounded: Made) -> None:
    torch.manual_seed(0)
    for cell in (nn.LSTMCell(4, 3), nn.GRUCell(4, 3)):
        with torch.no_grad():
            expected = cell(X[0])
        _, events, _ = run(rounded, cell, X[0])
        assert [each.operator for each in events][1] in ("lstm", "gru")
        transform_free = [each for each in events if not each.on_chip]
        assert not transform_free
        assert len(expected[0]) > 0


def test_a_stream_that_hands_its_state_on_equals_the_whole() -> None:
    torch.manual_seed(0)
    module = nn.LSTM(4, 6, 2, batch_first=True).eval()
    transform = Nna("harsh")
    transform.attach(module, iter([X]))
    with torch.no_grad():
        whole, _ = module(X)
        first, state = module(X[:, :2])
        second, _ = module(X[:, 2:], state)
    assert torch.equal(torch.cat([first, second], 1), whole)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_multi_head_attention_is_its_parts(rounded: Made, need_weights: bool, apart: bool) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            width = {"kdim": 3, "vdim": 2} if apart else {}
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **width)

        def forward(self, x: Tensor) -> Any:
            padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
            causal = torch.ones(5, 5).triu(1).bool()
            key, value = (x[..., :3], x[..., :2]) if apart else (x, x)
            return self.attention(x, key, value, key_padding_mask=padding, attn_mask=causal, need_weights=need_weights)

    module = Attention().eval()
    expected, weights = module(X)
    transform = float_chip(rounded())
    transform.attach(module, iter([X]))
    found, shown = module(X)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (shown is None) is (not need_weights)
    if need_weights:
        torch.testing.assert_close(shown, weights)
    sites = {each.removeprefix("range.") for each in transform.state()}
    assert {"attention:q", "attention:k", "attention:v", "attention.out_proj"} <= sites


def test_fused_encoder_layers_are_taken_apart(rounded: Made) -> None:
    torch.manual_seed(0)
    module = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2).eval()
    _, events, _ = run(rounded, module, X)
    assert [each for each in events if not each.on_chip] == []
    assert sum(each.operator == "linear" for each in events) == 12


def test_weights_of_a_quantizer_keep_name_and_table(rounded: Made) -> None:
    module = Calls(lambda a: a, 1)
    layer: Any = module.layers[0]
    table = TableWeight(torch.zeros(4, 4, dtype=torch.uint8), torch.ones(2), torch.ones(()))
    offer_table(layer, "weight", lambda: table)
    substitute = layer.weight.detach().round(decimals=1)

    def substituted(x: Tensor) -> Any:
        return functional.linear(x, mark_origin(substitute, layer, "weight"), layer.bias)

    layer.forward = substituted
    _, events, _ = run(rounded, module, X)
    assert operators(events)[1] == ("linear", "layers.0", True)
    assert events[1].weights[0].table is table
    assert torch.equal(events[1].weights[0].value, substitute)


def test_weight_norm_counts_as_the_weight(rounded: Made) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(5, 5, 3, padding="same", groups=5)))
    _, events, _ = run(rounded, module, X)
    assert operators(events)[1] == ("convolution", "0", True)


def test_selected_operators_alone_are_rounded(rounded: Made) -> None:
    module = Calls(lambda a, b: a + b)
    with torch.no_grad():
        plain = module(X)
    _, _, transform = run(rounded, module, X, chip="harsh")
    with torch.no_grad():
        whole = module(X)
        transform.only = lambda operator, site: False
        torch.testing.assert_close(module(X), plain, rtol=1e-6, atol=1e-6)
        transform.only = lambda operator, site: (operator, site) == ("linear", "layers.1")
        second = module(X)
        transform.only = None
        assert torch.equal(module(X), whole)
        bits = transform.chip.words.activation
        grids = {name: transform.ranges.grid(name, bits) for name in ("layers.1:input", "layers.1")}
        transform.detach()
        entered = on(X, grids["layers.1:input"])
        expected = module.layers[0](X) + on(module.layers[1](entered), grids["layers.1"])
    assert torch.equal(second, expected)


def on(x: Tensor, grid: Any) -> Tensor:
    return torch.floor(x / grid.scale + 0.5).clamp(grid.least, grid.most) * float(grid.scale)


def test_autocast_is_off_inside(rounded: Made) -> None:
    module = Calls(lambda a, b: a @ b.mT)
    transform = rounded()
    transform.attach(module, iter([X]))
    expected = module(X)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(X), expected)


def test_inference_mode_works(rounded: Made) -> None:
    module = Calls(lambda a, b: functional.silu(a).masked_fill_(~MASK, 0.0) + b)
    transform = rounded()
    transform.attach(module, iter([X]))
    with torch.no_grad():
        expected = module(X)
    with torch.inference_mode():
        assert torch.equal(module(X), expected)


def test_an_operator_that_calibration_never_saw_is_named(rounded: Made) -> None:
    module = Calls(lambda a, b: a * b if a.shape[1] > 3 else a + b)
    transform = rounded()
    transform.attach(module, iter([X]))
    with pytest.raises(PluginError, match=r"range of 'layers\.1\|add' was never calibrated: known there: layers\.1"):
        module(X[:, :2])


def test_user_code_outside_sees_ordinary_tensors(rounded: Made) -> None:
    module = Calls(lambda a, b: a + b)
    transform = rounded()
    transform.attach(module, iter([X]))
    output = module(X)
    assert tag_of(output) is not None
    assert tag_of(output * 2) is None
    assert output.numpy(force=True).shape == (2, 5, 4)


def test_new_tensors_like_one_on_the_chip_cross_nothing(rounded: Made) -> None:
    def joined(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a.new_zeros(2, 1, 4), a], 1) * torch.ones_like(a[:, :1]).bool()

    output, events, _ = run(rounded, Calls(joined), X)
    assert output.shape == (2, 6, 4)
    assert not output[:, 0].any()
    assert [each.operator for each in events if each.site.startswith("layers.0")] == [ENTER, "linear", ENTER, LEAVE]


def returned(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    kept = a
    a *= 0.5
    a += b
    a[:, 0] = 0.25
    a[:, 1] = b[:, 1]
    a.unsqueeze_(1).squeeze_(1)
    b.masked_fill_(~MASK, 0.0)
    b.exp_()
    return kept, b


def test_what_was_changed_in_place_is_returned_and_trained(rounded: Made) -> None:
    found = []
    for chip in (False, True):
        module = Calls(returned)
        if chip:
            float_chip(rounded()).attach(module, iter([X]))
        outputs = module(X)
        (outputs[0].square().sum() + outputs[1].sum()).backward()
        found.append([*outputs, *(layer.weight.grad for layer in module.layers)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


class Causal(nn.Module):
    """Two causal convolutions, offline and chunk by chunk with what each remembers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = functional.silu(layer(functional.pad(x, (2, 0)))) + x
        return x

    def step(self, x: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        kept = []
        for index, layer in enumerate(self.layers):
            joined = torch.cat([memory[index] if memory else x.new_zeros(len(x), 4, 2), x], -1)
            kept.append(joined[..., -2:])
            x = functional.silu(layer(joined)) + x
        return x, kept


def test_a_stream_of_convolutions_equals_the_whole() -> None:
    module, x = Causal().eval(), torch.randn(2, 4, 12)
    transform = Nna("harsh")
    transform.attach(module, iter([x]))
    with torch.no_grad():
        whole, parts, memory = module(x), [], []
        for part in x.split(5, -1):
            with transform.use({}):
                output, memory = module.step(part, memory)
            parts.append(output)
    assert torch.equal(torch.cat(parts, -1), whole)


CASTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "to": lambda y: y.to(torch.float32),
    "keyword": lambda y: y.to(dtype=torch.float32),
    "copy": lambda y: y.to(torch.float32, copy=True),
    "device": lambda y: y.to("cpu", torch.float32),
    "float": lambda y: y.float(),
    "type": lambda y: y.type(torch.float32),
    "type_as": lambda y: y.type_as(y),
    "double": lambda y: y.to(torch.float64).float(),
}


@pytest.mark.parametrize("cast", CASTS)
def test_a_cast_to_float_keeps_the_values_in_integers_too(cast: str) -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.first(x)
            return self.last(y + CASTS[cast](y).pow(2))

    torch.manual_seed(0)
    module, x = Cast(), torch.randn(4, 6)
    transform = Nna("mixed-8-16")
    transform.attach(module, iter([x]))
    with torch.no_grad():
        assert torch.equal(module(x), transform.lower(module)(x))
