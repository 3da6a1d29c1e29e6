"""The pruned transducer loss: the simple loss, the windows it finds, and the loss within windows."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slt_speech.rnnt.loss import rnnt_loss
from slt_speech.rnnt.pruned import pruned_rnnt_loss, pruning_windows, simple_rnnt_loss, windowed
from sltcore.errors import ShapeError, TrainError, VocabularyError

IMPLEMENTATIONS = ("compiled", "torch")
FRAMES, LABELS = torch.tensor([7, 5, 1]), torch.tensor([4, 2, 0])


def sums(seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder logits [b t v], prediction logits [b u+1 v], targets."""
    source = torch.Generator().manual_seed(seed)
    encoded = torch.randn(3, 7, 6, generator=source, dtype=torch.float64) * scale
    predicted = torch.randn(3, 5, 6, generator=source, dtype=torch.float64) * scale
    targets = torch.randint(1, 6, (3, 4), generator=source)
    return encoded.to(dtype).requires_grad_(), predicted.to(dtype).requires_grad_(), targets


def gradients(losses: Tensor, *leaves: Tensor) -> list[Tensor]:
    weights = torch.arange(1, len(losses) + 1)
    return list(torch.autograd.grad((losses * weights).sum(), leaves, retain_graph=True))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_simple_loss_is_the_full_loss_of_sums(implementation: Any, dtype: torch.dtype, tolerance: float) -> None:
    encoded, predicted, targets = sums(dtype=dtype)
    simple = simple_rnnt_loss(encoded, predicted, targets, FRAMES, LABELS, implementation=implementation)
    full = rnnt_loss(encoded[:, :, None] + predicted[:, None], targets, FRAMES, LABELS)
    assert torch.allclose(simple.losses, full, rtol=tolerance)
    for mine, true in zip(
        gradients(simple.losses, encoded, predicted), gradients(full, encoded, predicted), strict=True
    ):
        assert torch.allclose(mine, true, atol=2 * tolerance)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_occupancy_counts_every_alignment_where_it_is(implementation: Any) -> None:
    """By the definition: a path leaves each frame once, and writes each label once; beyond the lengths there is none."""
    encoded, predicted, targets = sums()
    _, occupancy = simple_rnnt_loss(encoded, predicted, targets, FRAMES, LABELS, implementation=implementation)
    assert not occupancy.requires_grad
    # each path visits t + u cells in all, first (0, 0) and last (t - 1, u)
    assert torch.allclose(occupancy.sum(dim=(1, 2)), (FRAMES + LABELS).double(), rtol=1e-12)
    assert torch.allclose(occupancy[:, 0, 0], torch.ones(3).double(), rtol=1e-12)
    for row, (t, u) in enumerate(zip(FRAMES.tolist(), LABELS.tolist(), strict=True)):
        assert occupancy[row, t - 1, u] == pytest.approx(1.0, rel=1e-12)
        assert not occupancy[row, t:].any()
        assert not occupancy[row, :, u + 1 :].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradcheck_of_the_mixed_simple_loss(implementation: Any) -> None:
    encoded, predicted, targets = sums()
    small = encoded[:2, :3, :4].detach().requires_grad_(), predicted[:2, :3, :4].detach().requires_grad_()
    rest = (targets[:2, :2].clamp_max(3), torch.tensor([3, 2]), torch.tensor([2, 1]))
    shares = {"encoder_share": 0.2, "prediction_share": 0.3}
    assert torch.autograd.gradcheck(
        lambda e, p: simple_rnnt_loss(e, p, *rest, **shares, implementation=implementation).losses, small
    )


def test_a_share_of_one_is_the_softmax_of_that_side_alone() -> None:
    encoded, predicted, targets = sums()
    for share, logits in (
        ("encoder_share", encoded[:, :, None].expand(-1, -1, 5, -1)),
        ("prediction_share", predicted[:, None].expand(-1, 7, -1, -1)),
    ):
        simple = simple_rnnt_loss(encoded, predicted, targets, FRAMES, LABELS, **{share: 1.0})
        assert torch.allclose(simple.losses, rnnt_loss(logits, targets, FRAMES, LABELS), rtol=1e-12)


def test_an_impossible_target_has_an_infinite_simple_loss_and_no_gradient() -> None:
    encoded, predicted, targets = sums()
    with torch.no_grad():
        encoded[0, :, targets[0, 1]] = -math.inf
    losses = simple_rnnt_loss(encoded, predicted, targets, FRAMES, LABELS).losses
    assert losses.isinf().tolist() == [True, False, False]
    by_encoder, _ = gradients(losses.nan_to_num(posinf=0.0), encoded, predicted)
    assert not by_encoder[0].nan_to_num().any()


def narrow(first: Tensor, size: int, row: int) -> list[range]:
    return [range(start, start + size) for start in first[row].tolist()]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 9)), min_size=1, max_size=4),
    size=st.integers(2, 6),
    seed=st.integers(0, 10_000),
)
def test_windows_hold_a_path(sizes: list[tuple[int, int]], size: int, seed: int) -> None:
    frames, labels = (torch.tensor(column) for column in zip(*sizes, strict=True))
    source = torch.Generator().manual_seed(seed)
    occupancy = torch.rand(len(sizes), int(frames.max()), int(labels.max()) + 1, generator=source) ** 4
    first = pruning_windows(occupancy, frames, labels, size=size)
    for row, (t, u) in enumerate(sizes):
        windows = narrow(first, size, row)[:t]
        assert u in windows[-1]
        assert windows[-1].start == max(0, u + 1 - size)
        for now, after in pairwise(windows):
            assert now.start <= after.start <= now.stop - 1
        if u <= t * (size - 1):
            assert windows[0].start == 0
            logits = torch.randn(1, t, size, 8, generator=source)
            ids = torch.randint(1, 8, (1, u), generator=source)
            lengths = torch.tensor([t]), torch.tensor([u])
            assert pruned_rnnt_loss(logits, first[row : row + 1, :t], ids, *lengths).isfinite().all()


def test_windows_follow_the_alignments() -> None:
    """A path through cells that only a window which moves with it can hold, found from their occupancy alone."""
    occupancy = torch.zeros(1, 20, 11)
    path = [(t, u) for t in range(20) for u in ([t // 2, t // 2 + 1] if t % 2 else [t // 2])]
    for t, u in path:
        occupancy[0, t, u] = 1.0
    first = pruning_windows(occupancy, torch.tensor([20]), torch.tensor([10]), size=3)
    assert all(u in narrow(first, 3, 0)[t] for t, u in path)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pruned_loss_is_the_full_loss_with_the_other_cells_forbidden(implementation: Any, dtype: torch.dtype) -> None:
    """Forbidden by log-probabilities of -inf on each arc into a cell outside, over log-probabilities as logits."""
    encoded, predicted, targets = sums(scale=2.0)
    full = (encoded[:, :, None] + predicted[:, None]).detach().to(dtype)
    _, occupancy = simple_rnnt_loss(encoded, predicted, targets, FRAMES, LABELS)
    first = pruning_windows(occupancy, FRAMES, LABELS, size=3)
    index = (first[:, :, None] + torch.arange(3)).clamp_max(4)
    near = full.gather(2, index[..., None].expand(-1, -1, -1, 6)).requires_grad_()
    losses = pruned_rnnt_loss(near, first, targets, FRAMES, LABELS, implementation=implementation)
    logs = full.double().log_softmax(dim=-1).requires_grad_()
    true = torch.stack([_within(logs, targets, first, 3, row) for row in range(3)])
    assert torch.allclose(losses.double(), true, rtol=1e-12 if dtype == torch.float64 else 1e-6)
    (mine,), (by_log,) = gradients(losses, near), gradients(true, logs)
    by_logit = by_log - logs.exp() * by_log.sum(dim=-1, keepdim=True)  # through log_softmax
    expected = torch.zeros_like(full, dtype=torch.float64)
    inside = first[:, :, None] + torch.arange(3) <= 4
    spread = torch.where(inside[..., None], mine.double(), 0.0)
    expected.scatter_add_(2, index[..., None].expand(-1, -1, -1, 6), spread)
    assert torch.allclose(expected, by_logit, atol=2e-2 if dtype == torch.bfloat16 else 1e-6)


def _within(logs: Tensor, targets: Tensor, first: Tensor, size: int, row: int) -> Tensor:
    """-ln of the sum over alignments within windows, cell by cell, in torch operations."""
    t, u = int(FRAMES[row]), int(LABELS[row])
    windows = narrow(first, size, row)
    arrived: dict[tuple[int, int], Tensor] = {(0, 0): logs.new_zeros(())}
    for frame in range(t):
        for place in range(u + 1):
            here = arrived.get((frame, place))
            if here is None or place not in windows[frame]:
                continue
            steps = [((frame + 1, place), here + logs[row, frame, place, 0])]
            if place < u and place + 1 in windows[frame]:
                steps.append(((frame, place + 1), here + logs[row, frame, place, targets[row, place]]))
            for cell, value in steps:
                arrived[cell] = torch.logaddexp(arrived[cell], value) if cell in arrived else value
    return -arrived[t, u]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_windows_of_all_positions_are_the_full_loss(implementation: Any) -> None:
    encoded, predicted, targets = sums()
    logits = encoded[:, :, None] + predicted[:, None]
    first = torch.zeros(3, 7, dtype=torch.int64)
    options: dict[str, Any] = {"implementation": implementation, "clamp": 0.2, "fastemit": 0.1}
    pruned = pruned_rnnt_loss(logits, first, targets, FRAMES, LABELS, **options)
    full = rnnt_loss(logits, targets, FRAMES, LABELS, **options)
    assert torch.equal(pruned, full)
    for mine, true in zip(gradients(pruned, encoded, predicted), gradients(full, encoded, predicted), strict=True):
        assert torch.equal(mine, true)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_windows_without_a_path_give_an_infinite_loss_and_no_gradient(implementation: Any) -> None:
    """Four labels in one frame, two positions wide; and windows that part."""
    logits = torch.randn(2, 2, 2, 6, requires_grad=True)
    first = torch.tensor([[3, 3], [0, 3]])
    losses = pruned_rnnt_loss(
        logits,
        first,
        torch.ones(2, 4).long(),
        torch.tensor([1, 2]),
        torch.tensor([4, 4]),
        implementation=implementation,
    )
    losses.sum().backward()
    assert losses.tolist() == [math.inf, math.inf]
    assert logits.grad is not None
    assert not logits.grad.any()


def test_windowed_rows_are_those_of_the_positions() -> None:
    prediction = torch.arange(10.0).reshape(2, 5, 1).requires_grad_()
    rows = windowed(prediction, torch.tensor([[0, 2], [1, 4]]), size=3)
    assert rows[..., 0].tolist() == [[[0, 1, 2], [2, 3, 4]], [[6, 7, 8], [9, 9, 9]]]
    rows.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad[..., 0].tolist() == [[1, 1, 2, 1, 1], [0, 1, 1, 1, 3]]


def test_wrong_arguments_are_refused_by_name() -> None:
    encoded, predicted, targets = sums()
    rest = (targets, FRAMES, LABELS)
    with pytest.raises(
        TrainError, match="encoder_share is 0.7 and prediction_share 0.7, expected numbers from 0 that sum"
    ):
        simple_rnnt_loss(encoded, predicted, *rest, encoder_share=0.7, prediction_share=0.7)
    with pytest.raises(TrainError, match="encoder_share is -0.1"):
        simple_rnnt_loss(encoded, predicted, *rest, encoder_share=-0.1)
    with pytest.raises(
        ShapeError, match=r"encoded, predicted, targets have shapes \(3, 7, 6\), \(3, 4, 6\), \(3, 4\), expected"
    ):
        simple_rnnt_loss(encoded, predicted[:, :4], *rest)
    with pytest.raises(VocabularyError, match="simple_rnnt_loss: blank is 6"):
        simple_rnnt_loss(encoded, predicted, *rest, blank=6)
    with pytest.raises(ShapeError, match="size is 1, expected at least 2 label positions"):
        pruning_windows(torch.zeros(3, 7, 5), FRAMES, LABELS, size=1)
    with pytest.raises(ShapeError, match=r"shapes \(3, 7\), \(3,\), \(3,\), expected \(b, t, u\+1\), \(b,\), \(b,\)"):
        pruning_windows(torch.zeros(3, 7), FRAMES, LABELS, size=2)
    logits, first = torch.zeros(3, 7, 2, 6), torch.zeros(3, 7, dtype=torch.int64)
    with pytest.raises(
        ShapeError, match=r"pruned_rnnt_loss: first is int64 \(3, 6\), expected integers \(b, t\) = \(3, 7\)"
    ):
        pruned_rnnt_loss(logits, first[:, :6], *rest)
    with pytest.raises(ShapeError, match="first holds -1, expected label positions from 0; see pruning_windows"):
        pruned_rnnt_loss(logits, first - 1, *rest)
