"""The transducer loss with a gradient of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slt_speech.rnnt import compiled_lattice, torch_lattice
from slt_speech.rnnt.problem import Implementation, Problem, check_logits, choose_implementation, state_problem
from sltcore.errors import ShapeError


def rnnt_loss(
    logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int = 0,
    clamp: float | None = None,
    fastemit: float = 0.0,
    implementation: Implementation | None = None,
) -> Tensor:
    """-ln P(target | frames) of each utterance under a transducer: [b], nats, not reduced.

    P is the sum over all alignments of the product of softmax probabilities: cell (t, u) has written u labels; a blank
    goes to (t + 1, u), label u + 1 to (t, u + 1); the end is a blank in the last frame after the last label.

    **Shapes**: `logits` [b t u+1 v] float16, bfloat16, float32 or float64, not normalized; `targets` [b u] integers,
    `logit_lengths` [b] in frames, `target_lengths` [b] in labels. What stands beyond the lengths is not read, and its
    gradient is zero. The result is float64 for float64 logits, else float32.

    Softmax is part of it: no tensor of log-probabilities is made. On the CPU the extra memory is the gradient and four
    floats for each cell of the lattice; sums of paths are float64 in any case. An impossible target (logits of -inf, or
    labels without frames) has loss +inf and gradient zero; an utterance with no frames and no labels has loss 0; logits
    that are NaN or +inf give NaN. In single and half precision the gradient of a cell that less than 1e-30 of all paths
    pass is written as zero.

    `clamp` limits every entry of the gradient with respect to the logits, before the upstream gradient multiplies it.
    `fastemit` f multiplies the gradient of every label arc by 1 + f, and leaves the loss as it is. `implementation` is
    chosen by the device: "compiled" on the CPU, "torch" elsewhere; the latter makes room for one utterance more.

    **Raises** `ShapeError`, `VocabularyError` or `TrainError` as `state_problem` says.

    Source: Graves, Sequence transduction with recurrent neural networks, 2012, arXiv 1211.3711, section 2.4; fastemit:
    Yu et al., FastEmit, 2021, arXiv 2010.11148, eq. 9 to 11. Deviation: gradients are written from the occupancies of
    arcs, so that no lattice of gradients is kept.
    """
    who = "rnnt_loss"
    check_logits(who, logits, "b, t, u+1, v")
    batch, frames, positions, vocabulary = logits.shape
    problem = state_problem(
        who,
        (batch, frames, vocabulary),
        targets,
        logit_lengths,
        target_lengths,
        device=logits.device,
        blank=blank,
        clamp=clamp,
        fastemit=fastemit,
    )
    if positions != problem.targets.shape[1] + 1:
        raise ShapeError(
            f"{who}: logits has {positions} label positions, but targets has {problem.targets.shape[1]} labels; expected "
            f"one position more than labels, the first being before any label"
        )
    return lattice_loss(logits, problem, choose_implementation(who, implementation, logits.device))


def lattice_loss(logits: Tensor, problem: Problem, implementation: Implementation) -> Tensor:
    """The loss [b] of checked arguments, over the cells that `problem.first` names."""
    result: Tensor = _LatticeLoss.apply(logits, problem, implementation)  # type: ignore[no-untyped-call]
    return result


class _LatticeLoss(torch.autograd.Function):
    """Saves the logits themselves, and of each cell only what fits into four floats."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, problem: Problem, implementation: Implementation) -> Tensor:
        lattice: Any = compiled_lattice if implementation == "compiled" else torch_lattice
        kept = lattice.forward(logits.detach(), problem)
        ctx.save_for_backward(logits, *kept)
        ctx.lattice, ctx.problem, ctx.kind = lattice, problem, type(kept)
        result: Tensor = (-kept.totals).to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, *kept = ctx.saved_tensors
        return ctx.lattice.backward(logits.detach(), ctx.problem, ctx.kind(*kept), upstream), None, None
