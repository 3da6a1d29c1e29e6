"""How updates work together, against sums written out by hand."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from adapter_models import WIDTH, by_hand, drawn_update, frames, tower
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slt_residual_adapters.branches import Piece
from slt_residual_adapters.folding import Folded
from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.update import Update
from sltcore.errors import ContextError, PluginError

NAMES = ("monday", "wednesday", "friday")


def worn(
    updates: list[Update], dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[nn.Module, ResidualAdapters]:
    model = tower(dtype)
    adapters = ResidualAdapters(updates=updates, **options)
    adapters.attach(model)
    return model, adapters


def drawn(dtype: torch.dtype = torch.float64, places: tuple[str, ...] = ("blocks.1",), **more: Any) -> list[Update]:
    base = tower(dtype)
    return [drawn_update(base, name, places=places, rank=2 + k, dtype=dtype, **more) for k, name in enumerate(NAMES)]


def at_block(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """An input and what the second block returns for it without updates."""
    model, x = tower(dtype), frames(dtype=dtype)
    return x, model.blocks[1](model.blocks[0](x))  # type: ignore[no-any-return]


def told(model: nn.Module, x: Tensor) -> Tensor:
    """What the second block returns, updates and all."""
    seen: list[Tensor] = []
    handle = model.blocks[1].register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[union-attr,index]
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("folds", [True, False])
@pytest.mark.parametrize(("mode", "share"), [("sum", 1.0), ("average", 1 / 3)])
def test_the_sum_is_parallel_every_update_sees_the_same_output(mode: Any, share: float, folds: bool) -> None:
    updates = drawn()
    weights = {"monday": 0.5, "friday": -2.0}
    model, _ = worn(updates, fusion=mode, weights=weights, folds=folds)
    x, y = at_block()
    expected = y + share * sum(weights.get(u.name, 1.0) * by_hand(u, "blocks.1", y) for u in updates)
    torch.testing.assert_close(told(model, x), expected, rtol=1e-12, atol=1e-12)


def test_stacking_feeds_each_update_what_the_one_before_left() -> None:
    updates = drawn()
    x, y = at_block()
    for order in permutations(updates):
        model, _ = worn(list(order), fusion="stack")
        current = y
        for update in order:
            current = current + by_hand(update, "blocks.1", current)
        torch.testing.assert_close(told(model, x), current, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["sum", "average", "attention", "gate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_order_of_updates_changes_no_bit(mode: Any, dtype: torch.dtype) -> None:
    outputs = []
    for order in permutations(drawn(dtype)):
        torch.manual_seed(0)  # the attention's queries start at random
        model, _ = worn(list(order), dtype, fusion=mode, weights={"monday": 0.3})
        with torch.no_grad():
            outputs.append(model(frames(dtype=dtype)))
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_the_order_of_a_stack_matters() -> None:
    updates = drawn()
    with torch.no_grad():
        one, other = (
            worn(list(order), fusion="stack")[0](frames(dtype=torch.float64)) for order in (updates, updates[::-1])
        )
    assert float((one - other).abs().max()) > 1e-3


def test_learned_fusions_start_as_average_and_as_sum() -> None:
    x = frames(dtype=torch.float64)
    with torch.no_grad():
        for learned, plain in (("attention", "average"), ("gate", "sum")):
            a, b = (worn(drawn(), fusion=mode)[0](x) for mode in (learned, plain))  # type: ignore[arg-type]
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_attention_is_the_softmax_of_scores_over_updates() -> None:
    updates = drawn()
    model, adapters = worn(updates, fusion="attention", attention_width=4)
    fusion: Any = adapters.sites["blocks.1"].fusion
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x, y = at_block()
    normed = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    added = [by_hand(update, "blocks.1", y) for update in updates]
    scores = torch.stack([((normed @ fusion.query.T) * (a @ fusion.key.T)).sum(-1) / 2.0 for a in added])
    shares = scores.exp() / scores.exp().sum(0)
    expected = y + sum(share[..., None] * a for share, a in zip(shares, added, strict=True)) @ fusion.value.T
    torch.testing.assert_close(told(model, x), expected, rtol=1e-12, atol=1e-12)


def test_a_gate_is_a_sigmoid_of_each_frame() -> None:
    updates = drawn()
    for folds in (True, False):
        model, adapters = worn(updates, fusion="gate", folds=folds)
        fusion: Any = adapters.sites["blocks.1"].fusion
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in fusion.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        x, y = at_block()
        normed = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        expected = y
        for update in updates:
            row = fusion.rows[update.name]
            gate = 2 / (1 + torch.exp(-(normed @ row[:WIDTH] + row[WIDTH])))
            expected = expected + gate[..., None] * by_hand(update, "blocks.1", y)
        torch.testing.assert_close(told(model, x), expected, rtol=1e-12, atol=1e-12)


# -- the fold


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.sampled_from([torch.float64, torch.float32]),
    st.lists(st.sampled_from(["silu", "relu", "gelu", "tanh"]), min_size=6, max_size=6),
    st.lists(st.sampled_from([1e-5, 1e-3]), min_size=6, max_size=6),
    st.integers(0, 10_000),
)
def test_the_folded_sum_is_the_sum(
    count: int, rank: int, dtype: torch.dtype, activations: list[str], eps: list[float], seed: int
) -> None:
    base = tower(dtype)
    updates = [
        drawn_update(base, f"u{seed}-{k}", rank=rank + k, dtype=dtype, activation=activations[k], eps=eps[k])
        for k in range(count)
    ]
    weights = {update.name: 0.5 + k for k, update in enumerate(updates)}
    x = frames(3, 7, dtype=dtype, seed=seed)
    with torch.no_grad():
        folded, plain = (worn(updates, dtype, weights=weights, folds=folds)[0] for folds in (True, False))
        y = base.blocks[0](x)
        a, b = (model.blocks[0](x) for model in (folded, plain))  # type: ignore[union-attr,index]
    assert y.shape == a.shape
    # The bars of the project: 1e-12 relative in float64, 2e-6 in float32, against the largest value.
    bar = 1e-12 if dtype is torch.float64 else 2e-6
    assert float((a - b).abs().max()) <= bar * float(b.abs().max())


def test_without_the_shift_of_the_norms_bias_the_fold_is_wrong_by_as_much_as_the_output() -> None:
    """Why a fold needs down b: leaving it out is the easy mistake."""
    (update, *_) = drawn()
    model, adapters = worn([update])
    del model
    piece = adapters.sites["blocks.1"].branches["monday"].piece()  # type: ignore[operator]
    y = frames(dtype=torch.float64)
    how = {"dtype": torch.float64, "device": torch.device("cpu")}
    right, wrong = (
        Folded([one], [1.0], **how)(y, y) - y  # type: ignore[arg-type]
        for one in (piece, Piece(piece.down, None, piece.up, piece.activation, piece.eps))
    )
    expected = by_hand(update, "blocks.1", y)
    torch.testing.assert_close(right, expected, rtol=1e-12, atol=1e-12)
    assert float((wrong - expected).norm()) > 0.3 * float(expected.norm())


def test_updates_of_different_kinds_fold_in_groups_of_their_own() -> None:
    base = tower(torch.float64)
    kinds = {"a": ("silu", 1e-5), "b": ("relu", 1e-5), "c": ("silu", 1e-5), "d": ("silu", 1e-3)}
    updates = [
        drawn_update(base, name, dtype=torch.float64, activation=activation, eps=eps)
        for name, (activation, eps) in kinds.items()
    ]
    model, adapters = worn(updates)
    with torch.no_grad():
        model(frames(dtype=torch.float64))
    (folded,) = adapters.sites["blocks.1"]._kept.values()
    found = {(group.activation, group.eps, group.down.shape[1]) for group in folded.groups}
    assert found == {("silu", 1e-5, 6), ("relu", 1e-5, 3), ("silu", 1e-3, 3)}
    assert folded.width == 12


def test_rows_beyond_one_chunk_are_all_changed() -> None:
    updates = drawn()
    model, _ = worn(updates)
    x = frames(3, 700, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:, 690:], model(x[:, 690:]), rtol=1e-12, atol=1e-12)


# -- which updates are on


@pytest.mark.parametrize("mode", ["sum", "average", "attention", "gate", "stack"])
def test_no_update_is_the_base_bit_for_bit(mode: Any) -> None:
    model, adapters = worn(drawn(), fusion=mode)
    x = frames(dtype=torch.float64)
    with torch.no_grad(), adapters.use({"updates": []}):
        assert torch.equal(model(x), tower(torch.float64)(x))


@pytest.mark.parametrize("mode", ["sum", "attention", "gate", "stack"])
def test_a_subset_is_what_these_updates_do_alone(mode: Any) -> None:
    updates = drawn()
    for chosen in (["monday"], ["friday", "monday"]):
        torch.manual_seed(0)
        model, adapters = worn(updates, fusion=mode)
        torch.manual_seed(0)
        alone, _ = worn([update for update in updates if update.name in chosen], fusion=mode)
        x = frames(dtype=torch.float64)
        with torch.no_grad(), adapters.use({"updates": chosen}):
            found = model(x)
        with torch.no_grad():
            assert torch.equal(found, alone(x))


@pytest.mark.parametrize("mode", ["sum", "average", "attention", "gate", "stack"])
@pytest.mark.parametrize("folds", [True, False])
def test_each_utterance_may_have_its_own_updates(mode: Any, folds: bool) -> None:
    model, adapters = worn(drawn(places=("blocks.0", "blocks.2")), fusion=mode, folds=folds)
    x = frames(4, 5, dtype=torch.float64)
    rows: list[Any] = [["monday"], [], None, ["wednesday", "monday"]]
    with torch.no_grad(), adapters.use({"updates": rows}):
        together = model(x)
    for place, names in enumerate(rows):
        with torch.no_grad(), adapters.use({} if names is None else {"updates": names}):
            torch.testing.assert_close(together[place], model(x[place : place + 1])[0], rtol=1e-12, atol=1e-12)


def test_updates_that_differ_need_an_axis_of_utterances() -> None:
    model, adapters = worn(drawn())
    with (
        pytest.raises(
            PluginError, match=r"blocks\.1: its output has shape \(2, 5, 6\), whose first axis does not run over the 3"
        ),
        adapters.use({"updates": [["monday"], [], []]}),
    ):
        model(frames(dtype=torch.float64))


def test_an_unknown_update_is_refused_with_the_name_that_was_meant() -> None:
    _, adapters = worn(drawn())
    match = r"context 'updates' names 'mondy', but .* Did you mean 'monday'\?"
    with pytest.raises(ContextError, match=match), adapters.use({"updates": ["mondy"]}):
        pass
