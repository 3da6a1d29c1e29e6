"""Pruned transducer loss: a cheap joint finds where the alignments are, the real one is computed only there.

simple = simple_rnnt_loss(a, p, targets, t, u)                        # no tensor of logits
first = pruning_windows(simple.occupancy, t, u, size=5)
near = windowed(prediction, first, size=5)                             # [b t s d]
losses = pruned_rnnt_loss(joint(encoded[:, :, None], near), first, targets, t, u)
(losses + 0.5 * simple.losses).mean().backward()
"""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slt_speech.rnnt import compiled_lattice, torch_lattice
from slt_speech.rnnt.loss import lattice_loss
from slt_speech.rnnt.problem import Implementation, Problem, check_logits, choose_implementation, state_problem
from sltcore.errors import ShapeError, TrainError


class SimpleLoss(NamedTuple):
    """`losses` [b] with a gradient, and `occupancy` [b t u+1] without: the share of all alignments in each cell."""

    losses: Tensor
    occupancy: Tensor


def simple_rnnt_loss(
    encoded: Tensor,
    predicted: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int = 0,
    encoder_share: float = 0.0,
    prediction_share: float = 0.0,
    implementation: Implementation | None = None,
) -> SimpleLoss:
    """Transducer loss of logits that are a sum, encoded[b t v] + predicted[b u v], which are never formed.

    ln softmax normalizers of all sums are the logarithm of one product of matrices of exponentials, so that memory is
    that of a few [b t u+1]. Log-probabilities are mixed: `encoder_share` of the softmax of the encoder's logits alone,
    `prediction_share` of that of the prediction's, and the rest of the joint one; a little of each makes windows of an
    untrained model better.

    **Shapes**: `encoded` [b t v], `predicted` [b u+1 v] floats; the rest as `rnnt_loss`. Losses are float64 for float64
    logits, else float32.

    **Raises** as `rnnt_loss`; `TrainError` for shares that are negative or sum to more than 1.

    Source: Kuang et al., Pruned RNN-T for fast, memory-efficient ASR training, 2022, arXiv 2206.13236, sections 2.1 and
    2.3. Deviation: the encoder's own share is its plain softmax, without an average of the prediction's.
    """
    who = "simple_rnnt_loss"
    if min(encoder_share, prediction_share) < 0 or not encoder_share + prediction_share <= 1:
        raise TrainError(
            f"{who}: encoder_share is {encoder_share} and prediction_share {prediction_share}, expected numbers from 0 "
            f"that sum to 1 at most"
        )
    problem = _check_sum(who, encoded, predicted, targets, logit_lengths, target_lengths, blank)
    chosen = choose_implementation(who, implementation, encoded.device)
    exact = torch.float64 if encoded.dtype == torch.float64 else torch.float32
    e, p = encoded.to(exact), predicted.to(exact)
    joint = _joint_normalizers(e, p)[..., None]
    own = e.logsumexp(dim=-1)[:, :, None, None], p.logsumexp(dim=-1)[:, None, :, None]
    shares = encoder_share, prediction_share
    down = _mixed(e[:, :, None, blank, None], p[:, None, :, blank, None], joint, own, shares)[..., 0]
    u = targets.shape[1]
    inner = torch.arange(u, device=encoded.device) < problem.labels[:, None]
    ids = torch.where(inner, problem.targets, blank)
    from_encoder = e.gather(2, ids[:, None].expand(-1, e.shape[1], -1))[..., None]
    from_prediction = p[:, :u].gather(2, ids[..., None])[:, None]
    right = _mixed(from_encoder, from_prediction, joint[:, :, :u], (own[0], own[1][:, :, :u]), shares)[..., 0]
    right = torch.nn.functional.pad(right, (0, 1), value=-torch.inf)
    losses, occupancy = _ArcLoss.apply(down, right, problem, chosen)  # type: ignore[no-untyped-call]
    return SimpleLoss(losses, occupancy)


def pruning_windows(occupancy: Tensor, logit_lengths: Tensor, target_lengths: Tensor, *, size: int) -> Tensor:
    """The first label position of each frame's window of `size` positions: [b t] int64.

    Each window keeps the largest share of alignments (the sum of `occupancy` [b t u+1] in it), under three conditions:
    the first begins at 0; the last reaches the last label; a window begins no earlier than the one before it and shares at
    least one position with it. Where they contradict each other (more than t (size - 1) labels in t frames) no window
    begins at 0, and the pruned loss is infinite: take a larger size.

    **Raises** `ShapeError` for a size below 2, or lengths that do not fit.

    Source: Kuang et al. 2022, arXiv 2206.13236, section 2.2. Deviation: the sum is that of cells, not of blanks alone.
    """
    who = "pruning_windows"
    if size < 2:
        raise ShapeError(
            f"{who}: size is {size}, expected at least 2 label positions: with 1 no label could be written"
        )
    if occupancy.ndim != 3 or logit_lengths.shape != target_lengths.shape or logit_lengths.shape != occupancy.shape[:1]:
        raise ShapeError(
            f"{who}: occupancy, logit_lengths, target_lengths have shapes {tuple(occupancy.shape)}, "
            f"{tuple(logit_lengths.shape)}, {tuple(target_lengths.shape)}, expected (b, t, u+1), (b,), (b,)"
        )
    batch, frames, positions = occupancy.shape
    if frames == 0 or batch == 0:
        return torch.zeros((batch, frames), dtype=torch.int64, device=occupancy.device)
    size_here = min(size, positions)
    sums = torch.nn.functional.pad(occupancy.cumsum(dim=2), (1, 0))
    best = (sums[:, :, size_here:] - sums[:, :, : positions - size_here + 1]).argmax(dim=2)
    highest = (target_lengths.to(best.device, torch.int64) + 1 - size).clamp_min(0)[:, None]
    t = torch.arange(frames, device=best.device)
    slope = (size - 1) * t
    best = torch.minimum(best, torch.minimum(highest, slope))
    best = torch.where(t >= logit_lengths.to(best.device)[:, None] - 1, highest, best.cummax(dim=1).values)
    return (best - slope).flip(1).cummax(dim=1).values.flip(1) + slope


def windowed(prediction: Tensor, first: Tensor, *, size: int) -> Tensor:
    """The rows of `prediction` [b u+1 d] in each frame's window: [b t s d], s = `size`; beyond the end the last row."""
    positions = prediction.shape[1]
    index = (first[:, :, None] + torch.arange(size, device=first.device)).clamp_max(positions - 1)
    index = index + positions * torch.arange(len(prediction), device=first.device)[:, None, None]
    # rows of a matrix: the gradient of indexing two axes at once takes ten times as long
    rows = prediction.flatten(0, 1).index_select(0, index.flatten())
    return rows.reshape(*index.shape, prediction.shape[2])


def pruned_rnnt_loss(
    logits: Tensor,
    first: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int = 0,
    clamp: float | None = None,
    fastemit: float = 0.0,
    implementation: Implementation | None = None,
) -> Tensor:
    """`rnnt_loss` over the alignments that stay within windows: [b], nats, at least the full loss.

    **Shapes**: `logits` [b t s v], of which cell k of frame t belongs to label position first[b, t] + k; `first` [b t]
    integers as from `pruning_windows`; the rest as `rnnt_loss`. With windows that hold all positions it is the full loss.

    **Raises** as `rnnt_loss`. Source: Kuang et al. 2022, arXiv 2206.13236, section 2.2.
    """
    who = "pruned_rnnt_loss"
    check_logits(who, logits, "b, t, s, v")
    batch, frames, _, vocabulary = logits.shape
    problem = state_problem(
        who,
        (batch, frames, vocabulary),
        targets,
        logit_lengths,
        target_lengths,
        device=logits.device,
        first=first,
        blank=blank,
        clamp=clamp,
        fastemit=fastemit,
    )
    return lattice_loss(logits, problem, choose_implementation(who, implementation, logits.device))


def _check_sum(
    who: str, encoded: Tensor, predicted: Tensor, targets: Tensor, frames: Tensor, labels: Tensor, blank: int
) -> Problem:
    fits = encoded.ndim == 3 and predicted.ndim == 3 and targets.ndim == 2 and encoded.is_floating_point()
    if not fits or predicted.shape != (encoded.shape[0], targets.shape[1] + 1, encoded.shape[2]):
        raise ShapeError(
            f"{who}: encoded, predicted, targets have shapes {tuple(encoded.shape)}, {tuple(predicted.shape)}, "
            f"{tuple(targets.shape)}, expected floats (b, t, v), (b, u+1, v) and ids (b, u)"
        )
    size = (encoded.shape[0], encoded.shape[1], encoded.shape[2])
    return state_problem(who, size, targets, frames, labels, device=encoded.device, blank=blank)


def _joint_normalizers(e: Tensor, p: Tensor) -> Tensor:
    """ln sum_v exp(e[b t v] + p[b u v]): [b t u]. A sum that underflows, peaks being 80 nats apart, counts as the least."""
    tops = []
    for x in (e, p):
        top = x.detach().amax(dim=-1, keepdim=True)
        tops.append(torch.where(top == -torch.inf, 0.0, top))
    product = (e - tops[0]).exp() @ (p - tops[1]).exp().transpose(1, 2)
    return product.clamp_min(torch.finfo(product.dtype).tiny).log() + tops[0] + tops[1].transpose(1, 2)


def _mixed(e: Tensor, p: Tensor, joint: Tensor, own: tuple[Tensor, Tensor], shares: tuple[float, float]) -> Tensor:
    """Log-probabilities of one label: of the sum, of the encoder alone, of the prediction alone, in their shares."""
    parts = ((1.0 - sum(shares), e + p - joint), (shares[0], e - own[0]), (shares[1], p - own[1]))
    terms = [share * part for share, part in parts if share > 0]  # 0 times -inf is no 0
    return reduce(operator.add, terms).expand(joint.shape)


class _ArcLoss(torch.autograd.Function):
    """Loss of a lattice whose arcs have given log-probabilities; its gradient is minus their occupancies."""

    @staticmethod
    def forward(
        ctx: Any, down: Tensor, right: Tensor, problem: Problem, implementation: Literal["compiled", "torch"]
    ) -> tuple[Tensor, Tensor]:
        lattice: Any = compiled_lattice if implementation == "compiled" else torch_lattice
        wide = torch_lattice.wide_type(down)
        totals, by_blank, by_label = lattice.sum_lattice(down.detach().to(wide), right.detach().to(wide), problem)
        ctx.save_for_backward(by_blank.to(down.dtype), by_label.to(down.dtype))
        occupancy = (by_blank + by_label).to(down.dtype)
        ctx.mark_non_differentiable(occupancy)
        return (-totals).to(down.dtype), occupancy

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_blank, by_label = ctx.saved_tensors
        scale = -upstream[:, None, None]
        # An impossible target has no occupancies: its gradient is zero whatever comes from above.
        return (
            torch.where(by_blank == 0, 0.0, by_blank * scale),
            torch.where(by_label == 0, 0.0, by_label * scale),
            None,
            None,
        )
