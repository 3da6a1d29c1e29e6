"""What the transducer loss refuses, and that it agrees with published ones where they are installed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from slt_speech.rnnt.loss import rnnt_loss
from slt_speech.rnnt.problem import choose_implementation
from sltcore.errors import ShapeError, TrainError, VocabularyError

GOOD = {
    "logits": torch.zeros(2, 4, 3, 5),
    "targets": torch.ones(2, 2, dtype=torch.int64),
    "logit_lengths": torch.tensor([4, 3]),
    "target_lengths": torch.tensor([2, 1]),
}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"logits": torch.zeros(2, 4, 3)},
            ShapeError,
            r"logits is float32 \(2, 4, 3\), expected floats \(b, t, u\+1, v\)",
        ),
        ({"logits": torch.zeros(2, 4, 3, 5).long()}, ShapeError, "logits is int64"),
        ({"logits": torch.zeros(2, 4, 2, 5)}, ShapeError, "logits has 2 label positions, but targets has 2 labels"),
        (
            {"targets": torch.ones(3, 2).long()},
            ShapeError,
            r"targets is int64 \(3, 2\), expected integers \(b, u\) with b = 2",
        ),
        ({"targets": torch.ones(2, 2)}, ShapeError, "targets is float32"),
        (
            {"logit_lengths": torch.tensor([4])},
            ShapeError,
            r"logit_lengths is int64 \(1,\), expected integers \(b,\) with b = 2",
        ),
        ({"logit_lengths": torch.tensor([4, 5])}, ShapeError, r"logit_lengths\[1\] is 5, expected 0 to 4"),
        ({"target_lengths": torch.tensor([-1, 2])}, ShapeError, r"target_lengths\[0\] is -1, expected 0 to 2"),
        ({"target_lengths": torch.tensor([1.0, 2.0])}, ShapeError, "target_lengths is float32"),
        (
            {"targets": torch.tensor([[1, 1], [0, 1]])},
            VocabularyError,
            "target 1 has id 0 at position 0, expected .* except the blank, 0",
        ),
        (
            {"targets": torch.tensor([[1, 5], [1, 1]])},
            VocabularyError,
            "target 0 has id 5 at position 1, expected one of the ids 0 to 4",
        ),
        ({"blank": 5}, VocabularyError, "blank is 5, expected an id of the 5 logits: 0 to 4"),
        ({"blank": -1}, VocabularyError, "blank is -1"),
        ({"clamp": 0.0}, TrainError, "clamp is 0.0, expected a positive limit"),
        ({"clamp": math.nan}, TrainError, "clamp is nan"),
        ({"fastemit": -0.1}, TrainError, "fastemit is -0.1, expected a finite weight of at least 0"),
        ({"implementation": "fast"}, TrainError, "implementation is 'fast', expected 'compiled', 'torch' or None"),
    ],
)
def test_wrong_arguments_are_refused_by_name(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments = {**GOOD, **change}
    positional = [arguments.pop(name) for name in GOOD]
    with pytest.raises(error, match=f"rnnt_loss: {text}"):
        rnnt_loss(*positional, **arguments)


def test_compiled_is_refused_away_from_the_cpu() -> None:
    logits = torch.zeros(1, 2, 2, 3, device="meta")
    with pytest.raises(TrainError, match="'compiled' runs on the CPU, but the logits are on meta"):
        choose_implementation("rnnt_loss", "compiled", logits.device)
    assert choose_implementation("rnnt_loss", None, logits.device) == "torch"
    assert choose_implementation("rnnt_loss", None, torch.device("cpu")) == "compiled"


def test_of_each_cell_four_floats_are_kept_beside_the_logits() -> None:
    logits = torch.randn(2, 30, 9, 20, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.randint(1, 20, (2, 8), generator=torch.Generator().manual_seed(0))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):  # type: ignore[func-returns-value]
        rnnt_loss(logits, targets, torch.tensor([30, 20]), torch.tensor([8, 3]))
    beside = [each for each in kept if each.data_ptr() != logits.data_ptr()]
    assert len(beside) == len(kept) - 1
    per_utterance = 2 * 8
    assert sum(each.numel() * each.element_size() for each in beside) <= 4 * 4 * 2 * 30 * 9 + per_utterance


@pytest.mark.parametrize("fastemit", [0.0, 0.2])
@pytest.mark.slow
def test_equals_warprnnt_numba(fastemit: float) -> None:
    peer = pytest.importorskip("warprnnt_numba").RNNTLossNumba(blank=0, reduction="none", fastemit_lambda=fastemit)
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, 5, 7, generator=source)
    targets = torch.randint(1, 7, (2, 4), generator=source, dtype=torch.int32)
    lengths = torch.tensor([9, 6], dtype=torch.int32), torch.tensor([4, 2], dtype=torch.int32)
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours, other = rnnt_loss(mine, targets, *lengths, fastemit=fastemit), peer(theirs, targets, *lengths)
    (ours.sum() + other.sum()).backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    if not fastemit:  # theirs adds the weight to what it reports too
        assert torch.allclose(ours, other, rtol=1e-5)
    assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)


@pytest.mark.slow
def test_equals_torchaudio() -> None:
    try:
        peer = pytest.importorskip("torchaudio.functional", exc_type=ImportError).rnnt_loss
    except OSError as error:  # its library is of another build than this torch
        pytest.skip(f"torchaudio does not load: {error}")
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, 5, 7, generator=source)
    targets = torch.randint(1, 7, (2, 4), generator=source, dtype=torch.int32)
    lengths = torch.tensor([9, 6], dtype=torch.int32), torch.tensor([4, 2], dtype=torch.int32)
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours = rnnt_loss(mine, targets, *lengths, clamp=0.1)
    other = peer(theirs, targets, *lengths, blank=0, clamp=0.1, reduction="none")
    (ours.sum() + other.sum()).backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours, other, rtol=1e-5)
    assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)
