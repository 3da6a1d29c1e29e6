"""Gradients of the emulation: those of the float operator at the values in use, and nothing where a number was clipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slt_nna.backend import Kernels, RecurrentGrids, Weight
from slt_nna.chip import load_chip
from slt_nna.emulated import Emulation
from slt_nna.grid import Grid
from sltcore.errors import PluginError

WIDE = {
    "name": "wide",
    "description": "words so wide that it is nearly float",
    "words": dict.fromkeys(
        ("weight", "activation", "residual", "preactivation", "state", "probability", "table", "output"), 16
    ),
    "accumulator": {"bits": 48},
    "tables": {name: {"entries": 4096, "range": 8.0, "interpolation": "linear"} for name in ("sigmoid", "tanh", "phi")}
    | {"exp": {"entries": 4097, "range": 16.0, "interpolation": "linear"}},
}
GRID = Grid(2.0**-12, 16)  # up to 8


@pytest.fixture
def wide() -> Emulation:
    torch.manual_seed(0)
    return Emulation(load_chip(WIDE))


def entered(emulation: Emulation, *shape: int, spread: float = 1.0, grid: Grid = GRID) -> Tensor:
    """Values on a grid that take gradients."""
    return emulation.enter(spread * torch.randn(*shape), grid).detach().requires_grad_()


def check(
    chip: Callable[..., Any], plain: Callable[..., Any], *inputs: Tensor, rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """Values are near those of the float function, and gradients are its gradients."""
    twins = [each.detach().clone().requires_grad_() for each in inputs]
    one, two = chip(*inputs), plain(*twins)
    torch.testing.assert_close(one, two, rtol=0, atol=5e-3)
    direction = torch.randn_like(two)
    (one * direction).sum().backward()
    (two * direction).sum().backward()
    for each, twin in zip(inputs, twins, strict=True):
        torch.testing.assert_close(each.grad, twin.grad, rtol=rtol, atol=atol)


def on_weights(emulation: Emulation, *shape: int) -> Tensor:
    """A float weight that is on its own grid already."""
    value, _ = emulation.constant(torch.randn(*shape), 16)
    return value.detach().requires_grad_()


def test_linear(wide: Emulation) -> None:
    w, b = on_weights(wide, 5, 7), torch.randn(5, requires_grad=True)
    out = Grid(2.0**-10, 16)
    x = entered(wide, 2, 3, 7)
    check(lambda x, w, b: wide.linear(x, GRID, Weight("w", w), b, out), functional.linear, x, w, b)


@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(wide: Emulation, groups: int) -> None:
    w, b = on_weights(wide, 6, 4 // groups, 3), torch.randn(6, requires_grad=True)
    out = Grid(2.0**-10, 16)
    geometry: dict[str, Any] = {"stride": (2,), "padding": (1,), "dilation": (1,), "groups": groups}
    check(
        lambda x, w, b: wide.convolution(x, GRID, Weight("w", w), b, out, **geometry),
        lambda x, w, b: functional.conv1d(x, w, b, 2, 1, 1, groups),
        entered(wide, 2, 4, 9), w, b,
    )  # fmt: skip


def test_products_of_activations_also_broadcast(wide: Emulation) -> None:
    out = Grid(2.0**-10, 16)
    check(
        lambda a, b: wide.matmul(a, GRID, b, GRID, out, factor=0.5),
        lambda a, b: 0.5 * torch.matmul(a, b),
        entered(wide, 2, 3, 4, 5), entered(wide, 3, 5, 6),
    )  # fmt: skip


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_and_products_of_entries_also_broadcast(wide: Emulation, sign: int) -> None:
    out = Grid(2.0**-10, 16)
    a, b = entered(wide, 2, 3, 4), entered(wide, 3, 1)
    check(lambda a, b: wide.add(a, GRID, b, GRID, out, sign=sign), lambda a, b: a + sign * b, a, b)
    a.grad = b.grad = None
    check(lambda a, b: wide.multiply(a, GRID, b, GRID, out), lambda a, b: a * b, a, b)


def test_functions_of_one_value(wide: Emulation) -> None:
    near = {"rtol": 1e-3, "atol": 1e-3}
    check(lambda x: wide.lookup(x, GRID, "sigmoid")[0], torch.sigmoid, entered(wide, 50), **near)
    check(lambda x: wide.lookup(x, GRID, "tanh")[0], torch.tanh, entered(wide, 50), **near)
    check(lambda x: wide.gate(x, GRID, x, GRID, "sigmoid", GRID), functional.silu, entered(wide, 50), **near)
    check(lambda x: wide.gate(x, GRID, x, GRID, "phi", GRID), functional.gelu, entered(wide, 50), **near)
    check(lambda x: wide.scale(x, GRID, -0.7, GRID), lambda x: -0.7 * x, entered(wide, 50))
    check(lambda x: wide.relabel(x, GRID, 0.25)[0], lambda x: 0.25 * x, entered(wide, 50))
    check(lambda x: wide.negate(x, GRID), torch.neg, entered(wide, 50))
    check(lambda x: wide.relu(x, GRID, most=1.0), lambda x: x.clamp(0, 1.0), entered(wide, 50))


def test_gated_halves(wide: Emulation) -> None:
    x = entered(wide, 3, 4, 10)

    def gated(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return wide.gate(a, GRID, b, GRID, "sigmoid", GRID)

    check(gated, functional.glu, x, rtol=1e-3, atol=1e-3)


def test_softmax_with_excluded_entries(wide: Emulation) -> None:
    mask = torch.rand(4, 6, 5) > 0.7
    mask[0, 0] = True

    def plain(x: Tensor) -> Tensor:
        return torch.softmax(x.masked_fill(mask, -torch.inf), -1).nan_to_num(0.0)

    x = entered(wide, 4, 6, 5)
    twin = x.detach().clone().requires_grad_()
    p, _ = wide.softmax(wide.exclude(x, GRID, mask), GRID, -1)
    direction = torch.randn(4, 6, 5)
    (p * direction).sum().backward()
    true = torch.softmax(twin.masked_fill(mask, -1e9), -1)
    wanted = true * (direction * ~mask)
    wanted.sum().backward()
    assert twin.grad is not None
    assert x.grad is not None
    alone = (~mask).sum(-1, keepdim=True) <= 1  # a probability of 1 is clipped, and has no gradient anyway
    torch.testing.assert_close(p, plain(x.detach()), rtol=0, atol=1e-3)
    torch.testing.assert_close(x.grad, torch.where(mask | alone, 0.0, twin.grad), rtol=1e-4, atol=1e-5)


def test_layer_norm(wide: Emulation) -> None:
    w, b = on_weights(wide, 12), torch.randn(12, requires_grad=True)
    out = Grid(2.0**-11, 16)
    check(
        lambda x, w, b: wide.layer_norm(x, GRID, w, b, 1e-5, out),
        lambda x, w, b: functional.layer_norm(x, (12,), w, b),
        entered(wide, 4, 3, 12), w, b,
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    check(lambda x: wide.layer_norm(x, GRID, None, None, 1e-5, out), lambda x: functional.layer_norm(x, (12,)),
          entered(wide, 5, 12), rtol=1e-3, atol=1e-4)  # fmt: skip


def test_batch_norm(wide: Emulation) -> None:
    mean, var = torch.randn(6), torch.rand(6) + 0.5
    w, b = torch.randn(6, requires_grad=True), torch.randn(6, requires_grad=True)
    out = Grid(2.0**-11, 16)
    check(
        lambda x, w, b: wide.batch_norm(x, GRID, mean, var, w, b, 1e-5, out),
        lambda x, w, b: functional.batch_norm(x, mean, var, w, b, False, 0.0, 1e-5),
        entered(wide, 3, 6, 5), w, b,
        rtol=1e-3, atol=2e-3,
    )  # fmt: skip


def test_embedding(wide: Emulation) -> None:
    indices = torch.tensor([1, 1, 3])
    w = on_weights(wide, 4, 5)
    check(lambda w: wide.embedding(indices, Weight("w", w))[0], lambda w: functional.embedding(indices, w), w)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "projected", "gru"])
def test_recurrence_through_time(wide: Emulation, kind: str, reverse: bool, packed: bool) -> None:
    """All weights, biases, inputs and first states, from the outputs and the last states together."""
    d, p = 5, 3 if kind == "projected" else 5
    gates = 3 if kind == "gru" else 4
    sizes = torch.tensor([3, 3, 2, 1]) if packed else torch.tensor([3] * 4)
    x = entered(wide, int(sizes.sum()), 4)
    hidden, state = Grid(2.0**-14, 16), Grid(2.0**-13, 16)
    weights = [on_weights(wide, gates * d, 4), on_weights(wide, gates * d, p)]
    biases = [torch.randn(gates * d, requires_grad=True) for _ in range(2)]
    projection = [on_weights(wide, p, d)] if kind == "projected" else []
    start = [entered(wide, 3, p, spread=0.3, grid=hidden)]
    start += [] if kind == "gru" else [entered(wide, 3, d, spread=0.3, grid=state)]
    grids = RecurrentGrids(hidden if kind != "projected" else Grid(2.0**-13, 16), GRID, state, hidden)
    if kind == "projected":
        start[0] = entered(wide, 3, p, spread=0.3, grid=grids.hidden)

    def chip(*given: Tensor) -> Tensor:
        x, w_ih, w_hh, b_ih, b_hh, *rest = given
        first = tuple(rest[-len(start) :])
        named = Weight("hr", rest[0]) if projection else None
        kernels = Kernels(Weight("ih", w_ih), Weight("hh", w_hh), b_ih, b_hh, named)
        inputs, used = (x, sizes) if packed else (x.view(4, 3, 4), None)
        if kind == "gru":
            found = wide.gru(inputs, GRID, kernels, grids, first[0], reverse=reverse, batch_sizes=used)
        else:
            both = (first[0], first[1])
            found = wide.lstm(inputs, GRID, kernels, grids, both, reverse=reverse, batch_sizes=used)
        return torch.cat([each.flatten() for each in found])

    def plain(*given: Tensor) -> Tensor:
        x, w_ih, w_hh, b_ih, b_hh, *rest = given
        states = list(rest[-len(start) :])
        outputs: list[Tensor] = [x] * 4
        frames = list(torch.split(x, sizes.tolist()))
        for index in reversed(range(4)) if reverse else range(4):
            n = len(frames[index])
            u, v = functional.linear(frames[index], w_ih, b_ih), functional.linear(states[0][:n], w_hh, b_hh)
            if kind == "gru":
                (r, z, new), (hr, hz, hn) = u.chunk(3, -1), v.chunk(3, -1)
                z = torch.sigmoid(z + hz)
                h = (1 - z) * torch.tanh(new + torch.sigmoid(r + hr) * hn) + z * states[0][:n]
                part = [h]
            else:
                i, f, g, o = (u + v).chunk(4, -1)
                c = torch.sigmoid(f) * states[1][:n] + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                part = [functional.linear(h, rest[0]) if projection else h, c]
            states = [torch.cat([new, old[n:]]) for new, old in zip(part, states, strict=True)]
            outputs[index] = part[0]
        return torch.cat([torch.cat(outputs).flatten(), *(each.flatten() for each in states)])

    check(chip, plain, x, *weights, *biases, *projection, *start, rtol=5e-3, atol=5e-3)


def test_what_was_clipped_has_no_gradient(wide: Emulation) -> None:
    narrow = Grid(2.0**-12, 12)  # up to 0.5
    x = torch.tensor([0.1, 3.0, -0.3, -2.0], requires_grad=True)
    wide.enter(x, narrow).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 0.0, 1.0, 0.0]
    y = entered(wide, 4, 20)
    w = on_weights(wide, 1, 20)
    z = wide.linear(y, GRID, Weight("w", w), None, narrow)
    z.sum().backward()
    clipped = functional.linear(y, w).abs() > 0.5
    assert clipped.any()
    assert y.grad is not None
    assert torch.equal((y.grad == 0).all(-1, keepdim=True), clipped)


def test_what_the_accumulator_lost_has_no_gradient_and_is_counted() -> None:
    chip = load_chip({**WIDE, "words": {"bias": 16}, "accumulator": {"bits": 16, "tile": 2}, "overflow": "wrap"})
    emulation = Emulation(chip)
    grid = Grid(1.0, 8)
    x = torch.tensor([[100.0] * 4, [1.0] * 4], requires_grad=True)
    emulation.site = "here"
    w = Weight("w", torch.full((1, 4), 127.0))
    emulation.linear(emulation.enter(x, grid), grid, w, None, Grid(256.0, 8)).sum().backward()
    assert x.grad is not None
    assert (x.grad[0] == 0).all()
    assert (x.grad[1] == 127).all()
    assert emulation.overflows["here"] >= 1


def test_tables_have_the_true_slope_or_their_own_and_none_outside() -> None:
    chip = load_chip({**WIDE, "tables": {"tanh": {"entries": 16, "range": 2.0}}})
    grid = Grid(2.0**-4, 8)
    x = torch.tensor([0.0, 0.5, 1.9, 2.5, -3.0], requires_grad=True)
    y, _ = Emulation(chip).lookup(x, grid, "tanh")
    y.sum().backward()
    assert x.grad is not None
    on_grid = torch.tensor([0.0, 0.5, 1.875])
    torch.testing.assert_close(x.grad, torch.cat([1 - torch.tanh(on_grid) ** 2, torch.zeros(2)]))
    x.grad = None
    y, _ = Emulation(chip, table_gradient="slope").lookup(x, grid, "tanh")
    y.sum().backward()
    step = torch.tensor(0.25)
    own = (torch.tanh(on_grid.round(decimals=2) + step) - torch.tanh(on_grid - step)) / 0.5
    torch.testing.assert_close(x.grad[:2], own[:2], rtol=0, atol=1e-3)
    assert x.grad[3:].tolist() == [0.0, 0.0]


def test_gradients_ignore_autocast(wide: Emulation) -> None:
    x, w = entered(wide, 4, 33), on_weights(wide, 6, 33)
    out = Grid(2.0**-9, 16)
    plain = wide.linear(x, GRID, Weight("w", w), None, out)
    with torch.autocast("cpu", torch.bfloat16):
        cast = wide.linear(x, GRID, Weight("w", w), None, out)
        cast.sum().backward()
    assert torch.equal(plain, cast)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, w.detach().sum(0).expand(4, -1))


def test_lower_float32_precision_changes_nothing(wide: Emulation) -> None:
    x, w = entered(wide, 4, 33), on_weights(wide, 6, 33)
    wanted = wide.linear(x, GRID, Weight("w", w), None, GRID)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(wide.linear(x, GRID, Weight("w", w), None, GRID), wanted)
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_unknown_table_gradient_is_refused() -> None:
    with pytest.raises(PluginError, match="table_gradient is 'smooth', expected one of true, slope"):
        Emulation(load_chip("harsh"), table_gradient="smooth")


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_empty_inputs_give_empty_outputs(wide: Emulation, kind: str) -> None:
    layer: Any = nn.LSTM(4, 5) if kind == "lstm" else nn.GRU(4, 5)
    kernels = Kernels(Weight("a", layer.weight_ih_l0), Weight("b", layer.weight_hh_l0))
    grids = RecurrentGrids(GRID, GRID, GRID if kind == "lstm" else None)
    for shape in ((0, 3, 4), (3, 0, 4)):
        h, last, *_ = getattr(wide, kind)(torch.zeros(shape), GRID, kernels, grids, None)
        assert h.shape == (*shape[:2], 5)
        assert last.shape == (shape[1], 5)
    nothing = torch.zeros(0, 4)
    assert wide.linear(nothing, GRID, Weight("w", torch.ones(3, 4)), None, GRID).shape == (0, 3)
    assert wide.add(nothing, GRID, nothing, GRID, GRID).shape == (0, 4)
    assert wide.softmax(nothing, GRID, -1)[0].shape == (0, 4)
    assert wide.layer_norm(nothing, GRID, torch.ones(4), None, 1e-5, GRID).shape == (0, 4)
    assert wide.gate(nothing, GRID, nothing + 1, GRID, "sigmoid", GRID).shape == (0, 4)
