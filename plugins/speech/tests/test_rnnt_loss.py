"""The transducer loss against a sum over all alignments, and what it promises at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slt_speech.rnnt.lattice_kernels import exp32, log_sum_exp, softmax_row
from slt_speech.rnnt.loss import rnnt_loss

IMPLEMENTATIONS = ("compiled", "torch")
INF = math.inf


def alignments(frames: int, labels: int) -> Iterator[list[bool]]:
    """All orders of `frames` blanks (False) and `labels` labels (True) that end in a blank."""
    for places in combinations(range(frames + labels - 1), labels):
        yield [step in places for step in range(frames + labels - 1)] + [False]


def brute_force(logits: Tensor, targets: list[int], blank: int) -> Tensor:
    """-ln P of one utterance [t u+1 v], summed over all alignments in float64; differentiable."""
    logs = logits.double().log_softmax(dim=-1)
    sums = []
    for path in alignments(len(logits), len(targets)):
        t = u = 0
        total = logs.new_zeros(())
        for is_label in path:
            total = total + logs[t, u, targets[u] if is_label else blank]
            t, u = (t, u + 1) if is_label else (t + 1, u)
        sums.append(total)
    return -torch.stack(sums).logsumexp(dim=0)


def batch(
    seed: int = 0,
    *,
    frames: tuple[int, ...] = (5, 3, 1),
    labels: tuple[int, ...] = (3, 2, 0),
    vocabulary: int = 7,
    blank: int = 0,
    scale: float = 2.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    shape = (len(frames), max(frames), max(labels) + 1, vocabulary)
    logits = torch.randn(shape, generator=source, dtype=torch.float64) * scale
    ids = torch.randint(0, vocabulary - 1, (len(frames), max(labels)), generator=source)
    return logits, ids + (ids >= blank), torch.tensor(frames), torch.tensor(labels)


def run(loss: Callable[..., Tensor], logits: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Losses, and the gradient of sum((row + 1) * loss)."""
    leaf = logits.detach().clone().requires_grad_()
    losses = loss(leaf, *rest, **options)
    (losses * torch.arange(1, len(losses) + 1)).sum().backward()
    assert leaf.grad is not None
    return losses.detach(), leaf.grad


def expected(logits: Tensor, targets: Tensor, frames: Tensor, labels: Tensor, *, blank: int = 0) -> Tensor:
    """`brute_force` of every utterance."""
    rows = zip(logits, targets.tolist(), frames.tolist(), labels.tolist(), strict=True)
    return torch.stack([brute_force(x[:t, : u + 1], ids[:u], blank) for x, ids, t, u in rows])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("blank", [0, 3, 6])
@pytest.mark.parametrize(
    ("dtype", "loss_tolerance", "gradient_tolerance"),
    [
        (torch.float64, 1e-12, 1e-12),
        (torch.float32, 1e-6, 1e-6),
        (torch.float16, 1e-6, 1e-3),
        (torch.bfloat16, 1e-6, 8e-3),
    ],
)
def test_loss_and_gradient_are_those_of_all_alignments(
    implementation: str, blank: int, dtype: torch.dtype, loss_tolerance: float, gradient_tolerance: float
) -> None:
    logits, *rest = batch(blank, blank=blank)
    logits = logits.to(dtype)  # what the numbers are after rounding is what is asked
    losses, gradient = run(rnnt_loss, logits, *rest, blank=blank, implementation=implementation)
    true, true_gradient = run(expected, logits.double(), *rest, blank=blank)
    assert losses.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    assert torch.allclose(losses.double(), true, rtol=loss_tolerance, atol=0)
    assert torch.allclose(gradient.double(), true_gradient, rtol=gradient_tolerance, atol=gradient_tolerance)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=3),
    vocabulary=st.integers(2, 40),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_any_lengths_and_vocabulary(
    implementation: str, sizes: list[tuple[int, int]], vocabulary: int, seed: int, scale: float
) -> None:
    frames, labels = zip(*sizes, strict=True)
    logits, *rest = batch(seed, frames=frames, labels=labels, vocabulary=vocabulary, scale=scale)
    logits = logits.float()
    losses, gradient = run(rnnt_loss, logits, *rest, implementation=implementation)
    for row, (t, u) in enumerate(sizes):
        if t == 0:
            assert losses[row] == (INF if u else 0.0)
            assert not gradient[row].any()
            continue
        leaf = logits[row, :t, : u + 1].double().requires_grad_()
        true = brute_force(leaf, rest[0][row, :u].tolist(), 0)
        true.backward()
        assert torch.isclose(losses[row].double(), true, rtol=1e-6, atol=1e-6)
        assert leaf.grad is not None
        assert torch.allclose(gradient[row, :t, : u + 1].double(), (row + 1) * leaf.grad, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradcheck(implementation: str) -> None:
    logits, *rest = batch(frames=(4, 2), labels=(2, 1), vocabulary=4)
    assert torch.autograd.gradcheck(
        lambda x: rnnt_loss(x, *rest, implementation=implementation), logits.requires_grad_()
    )


def test_float32_equals_float64_on_long_utterances() -> None:
    """To 1e-7 in losses of about 900 nats, to 1e-5 in the gradient of every cell, relative to its largest entry."""
    logits, *rest = batch(frames=(120, 90), labels=(25, 20), vocabulary=50)
    logits = logits.float()
    losses, gradient = run(rnnt_loss, logits, *rest)
    true, true_gradient = run(rnnt_loss, logits.double(), *rest, implementation="torch")
    assert torch.allclose(losses.double(), true, rtol=1e-7, atol=0)
    largest = true_gradient.abs().amax(dim=3)
    far = (gradient.double() - true_gradient).abs().amax(dim=3) / largest.clamp_min(1e-300)
    assert (largest > 1e-29).sum() > 1000
    assert far[largest > 1e-29].max() < 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_stands_beyond_the_lengths_is_not_read(implementation: str, dtype: torch.dtype) -> None:
    logits, targets, frames, labels = batch()
    logits = logits.to(dtype)
    losses, gradient = run(rnnt_loss, logits, targets, frames, labels, implementation=implementation)
    t, u = torch.arange(logits.shape[1]), torch.arange(logits.shape[2])
    beyond = (t[:, None] >= frames[:, None, None]) | (u > labels[:, None, None])
    spoiled = logits.masked_fill(beyond[..., None], math.nan)
    ids = targets.masked_fill(u[:-1] >= labels[:, None], -100)
    again, again_gradient = run(rnnt_loss, spoiled, ids, frames, labels, implementation=implementation)
    assert torch.equal(losses, again)
    assert torch.equal(gradient, again_gradient)
    assert not gradient[beyond].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_frames_and_no_labels(implementation: str) -> None:
    ids = torch.zeros((3, 2), dtype=torch.int64) + 1
    losses, gradient = run(
        rnnt_loss,
        torch.randn(3, 4, 3, 5),
        ids,
        torch.tensor([0, 0, 4]),
        torch.tensor([0, 2, 0]),
        implementation=implementation,
    )
    assert losses[:2].tolist() == [0.0, INF]
    assert losses[2] > 0
    assert not gradient[:2].any()
    empty = torch.zeros(2, dtype=torch.int64)
    for shape in ((2, 0, 1, 5), (2, 0, 3, 5), (2, 3, 1, 5)):
        ids = torch.ones((2, shape[2] - 1), dtype=torch.int64)
        assert run(rnnt_loss, torch.randn(shape), ids, empty, empty, implementation=implementation)[0].tolist() == [
            0,
            0,
        ]
    none = empty[:0]
    assert rnnt_loss(torch.randn(0, 4, 3, 5), ids.new_zeros(0, 2), none, none, implementation=implementation).shape == (
        0,
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forbidden_labels(implementation: str, dtype: torch.dtype) -> None:
    """Logits of -inf: fewer alignments; none at all is a loss of +inf with gradient zero."""
    logits, *rest = batch(frames=(4, 4, 4), labels=(2, 2, 2))
    logits[0, 1, :, rest[0][0]] = -INF  # no label is written in frame 1
    logits[1, :, 1, 0] = -INF  # no frame ends after one label
    logits[2, 3, 2] = -INF  # the last cell has no probabilities at all
    logits = logits.to(dtype)
    losses, gradient = run(rnnt_loss, logits, *rest, implementation=implementation)
    true, true_gradient = run(expected, logits[:2].double(), *(x[:2] for x in rest))
    assert torch.allclose(losses[:2].double(), true, rtol=1e-6)
    assert torch.allclose(gradient[:2].double(), true_gradient.nan_to_num(0.0), atol=1e-5)
    assert losses[2] == INF
    assert not gradient[2].any()
    assert not gradient.isnan().any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e8), (torch.float16, 6e3), (torch.float64, 1e8)])
def test_huge_logits(implementation: str, dtype: torch.dtype, scale: float) -> None:
    logits, *rest = batch(3)
    logits = (logits * scale).to(dtype)
    losses, gradient = run(rnnt_loss, logits, *rest, implementation=implementation)
    true, true_gradient = run(expected, logits.double(), *rest)
    assert torch.allclose(losses.double(), true, rtol=1e-6)
    assert torch.allclose(gradient.double(), true_gradient, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_logits_beyond_any_resolution_give_no_nan(implementation: str) -> None:
    """At 1e30 even float64 sums are off by far more than a nat; shares of paths stay at most 1."""
    logits, *rest = batch(3, frames=(8, 8), labels=(4, 4))
    losses, gradient = run(rnnt_loss, (logits * 1e30).float(), *rest, implementation=implementation)
    assert losses.isfinite().all()
    assert gradient.abs().max() <= 4  # twice two arcs at most


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_shifted_logits_change_nothing(implementation: str) -> None:
    logits, *rest = batch()
    losses, gradient = run(rnnt_loss, logits, *rest, implementation=implementation)
    far, far_gradient = run(
        rnnt_loss, logits + 1e6 * torch.randn(3, 5, 4, 1).double(), *rest, implementation=implementation
    )
    assert torch.allclose(losses, far, atol=1e-8)
    assert torch.allclose(gradient, far_gradient, atol=1e-8)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("bad", [math.nan, INF])
def test_unusable_logits_give_nan_to_their_utterance_only(implementation: str, bad: float) -> None:
    logits, *rest = batch(frames=(4, 4), labels=(2, 2))
    logits[0, 2, 1, 3] = bad
    losses, gradient = run(rnnt_loss, logits.float(), *rest, implementation=implementation)
    assert losses.isnan().tolist() == [True, False]
    assert gradient[0, 2, 1].isnan().all()
    assert not gradient[1].isnan().any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clamp_limits_the_gradient_before_the_upstream_one(implementation: str, dtype: torch.dtype) -> None:
    logits, *rest = batch()
    logits = logits.to(dtype)
    _, free = run(rnnt_loss, logits.double(), *rest)
    _, limited = run(rnnt_loss, logits, *rest, clamp=0.1, implementation=implementation)
    rows = torch.arange(1, 4)[:, None, None, None]
    assert (free / rows).abs().max() > 0.5
    assert torch.allclose(
        limited.double(), (free / rows).clamp(-0.1, 0.1) * rows, atol=2e-3 if dtype == torch.bfloat16 else 1e-6
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_fastemit_weighs_label_arcs_and_keeps_the_loss(implementation: str) -> None:
    """By its definition: the gradient of label log-probabilities, from brute force over them, is multiplied."""
    logits, *rest = batch()
    weight = 0.3
    losses, gradient = run(rnnt_loss, logits, *rest, fastemit=weight, implementation=implementation)
    plain, _ = run(rnnt_loss, logits, *rest)
    leaf = logits.clone().requires_grad_()
    logs = leaf.log_softmax(dim=-1)
    raised = logs + weight * (logs - logs.detach())  # the value stays, the gradient is 1 + weight times
    weighed = torch.cat([logs[..., :1], raised[..., 1:]], dim=-1)
    total = 0
    for row, (t, u) in enumerate(zip(*(x.tolist() for x in rest[1:]), strict=True)):
        total = total + (row + 1) * _sum_of_paths(weighed[row, :t, : u + 1], rest[0][row, :u].tolist())
    torch.as_tensor(total).backward()
    assert torch.equal(losses, plain)
    assert leaf.grad is not None
    assert torch.allclose(gradient, leaf.grad, atol=1e-12)


def _sum_of_paths(logs: Tensor, targets: list[int]) -> Tensor:
    """-ln of the sum over alignments of given log-probabilities, blank 0."""
    sums = []
    for path in alignments(len(logs), len(targets)):
        t = u = 0
        total = logs.new_zeros(())
        for is_label in path:
            total = total + logs[t, u, targets[u] if is_label else 0]
            t, u = (t, u + 1) if is_label else (t + 1, u)
        sums.append(total)
    return -torch.stack(sums).logsumexp(dim=0)


def test_threads_and_layouts_do_not_change_a_bit() -> None:
    """Strided logits take the path of pieces, which half precision takes too; several threads take utterances apart."""
    logits, *rest = batch(frames=(60, 40, 50), labels=(12, 9, 0), vocabulary=150)
    logits = logits.float()
    before = torch.get_num_threads()
    results = []
    try:
        for threads, given_logits in (
            (1, logits),
            (2, logits),
            (2, logits.transpose(0, 3).contiguous().transpose(0, 3)),
        ):
            torch.set_num_threads(threads)
            results.append(run(rnnt_loss, given_logits, *rest))
    finally:
        torch.set_num_threads(before)
    for losses, gradient in results[1:]:
        assert torch.equal(losses, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_backward_may_be_called_again_and_logits_may_not_be_changed_between() -> None:
    logits, *rest = batch()
    leaf = logits.requires_grad_()
    kept = leaf * 1.0
    losses = rnnt_loss(kept, *rest)
    first, second = (torch.autograd.grad(losses.sum(), leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    kept.data.add_(0)  # unseen by autograd, and without effect
    with torch.no_grad():
        kept.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()


def test_exponential_is_accurate_to_two_units_in_the_last_place() -> None:
    x = np.concatenate([np.linspace(-87.3, 0, 200_001), np.linspace(-1e-3, 1e-3, 1001)]).astype(np.float32)
    ours = np.array([exp32(value) for value in x[::40]], np.float64)
    true = np.exp(x[::40].astype(np.float64))
    assert (np.abs(ours - true) / true).max() < 2 * 2.0**-23
    assert exp32(np.float32(-INF)) == 0.0
    assert exp32(np.float32(-1000)) == 0.0
    assert math.isnan(exp32(np.float32(math.nan)))


def test_rows_in_plain_numpy_are_those_the_kernels_compile() -> None:
    """The definitions that numba replaces, checked against torch."""
    row = np.random.default_rng(0).normal(size=37) * 5
    normalizer = log_sum_exp(row)
    assert normalizer == pytest.approx(float(torch.logsumexp(torch.from_numpy(row), 0)), rel=1e-14)
    out = np.empty_like(row)
    softmax_row(row, normalizer, 0.5, out)
    assert np.allclose(out, 0.5 * torch.softmax(torch.from_numpy(row), 0).numpy(), rtol=1e-13)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_cpu() -> None:
    logits, *rest = batch(frames=(30, 20), labels=(8, 3), vocabulary=20)
    losses, gradient = run(rnnt_loss, logits, *rest)
    leaf = logits.cuda().requires_grad_()
    on_gpu = rnnt_loss(leaf, *(x.cuda() for x in rest))
    (on_gpu * torch.arange(1, 3, device="cuda")).sum().backward()
    assert leaf.grad is not None
    assert torch.allclose(on_gpu.cpu(), losses, rtol=1e-12)
    assert torch.allclose(leaf.grad.cpu(), gradient, atol=1e-12)
