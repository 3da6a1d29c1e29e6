"""Where two results differ, told in one clause."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sltcore.types import Encoded, Features, Hypothesis, NBest, Text, Waveform


def difference(a: Any, b: Any, *, tolerance: float = 0.0) -> str | None:
    """Where `a` and `b` differ by more than `tolerance`, or None. Padding does not count.

    Tensors compare bit for bit at tolerance 0 (NaN equals NaN); hypotheses by text and tokens, their scores and times
    within the tolerance.
    """
    if type(a) is not type(b) and not (isinstance(a, list | tuple) and isinstance(b, list | tuple)):
        return f"one is {type(a).__name__}, the other {type(b).__name__}"
    if isinstance(a, Encoded | Features | Waveform):
        return between_batches(a, b, tolerance=tolerance)
    if isinstance(a, Tensor):
        return between_tensors(a, b, tolerance=tolerance)
    if isinstance(a, Hypothesis):
        return between_hypotheses(a, b, tolerance=tolerance)
    if isinstance(a, Text):
        return difference(list(a.texts), list(b.texts), tolerance=tolerance)
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"one has {len(a)} entries, the other {len(b)}"
        what = "hypothesis" if isinstance(a, NBest) else "utterance"
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            found = difference(one, other, tolerance=tolerance)
            if found:
                return f"{what} {index}: {found}"
        return None
    if isinstance(a, float):
        return None if close(a, b, tolerance) else f"{a:.9g} against {b:.9g}"
    return None if a == b else f"{shortened(a)} against {shortened(b)}"


def close(a: float, b: float, tolerance: float) -> bool:
    """Equal, both NaN, or no further apart than the tolerance."""
    return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance


def shortened(value: Any) -> str:
    """At most 60 characters of a value."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def between_batches(a: Any, b: Any, *, tolerance: float) -> str | None:
    """The first utterance and frame that differ."""
    unit = "sample" if isinstance(a, Waveform) else "frame"
    if a.lengths.tolist() != b.lengths.tolist():
        return f"the lengths are {a.lengths.tolist()} against {b.lengths.tolist()} {unit}s"
    one = a.samples if isinstance(a, Waveform) else a.values
    other = b.samples if isinstance(b, Waveform) else b.values
    for row, length in enumerate(a.lengths.tolist()):
        found = between_frames(one[row, :length], other[row, :length], tolerance=tolerance, unit=unit)
        if found:
            return f"utterance {row}: {found}"
    return None


def between_frames(a: Tensor, b: Tensor, *, tolerance: float, unit: str = "frame") -> str | None:
    """The first frame [t ...] that differs, how many do, and the largest difference."""
    if a.shape != b.shape:
        return f"shape {tuple(a.shape)} against {tuple(b.shape)}"
    gap = (a.detach().double() - b.detach().double()).abs()
    gap = torch.where(a.isnan() & b.isnan(), torch.zeros_like(gap), gap.nan_to_num(math.inf))
    gap = torch.where(a == b, torch.zeros_like(gap), gap).reshape(len(a), -1)
    worst = gap.amax(dim=1) if gap.shape[1] else gap.new_zeros(len(a))
    off = (worst > tolerance).nonzero().flatten().tolist()
    if not off:
        return None
    return (
        f"{unit} {off[0]} is the first of {len(off)} among {len(a)} that differ, by up to {float(worst.max()):.3g} "
        f"(allowed: {tolerance:g})"
    )


def between_tensors(a: Tensor, b: Tensor, *, tolerance: float) -> str | None:
    """The first entry that differs."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype} {tuple(a.shape)} against {b.dtype} {tuple(b.shape)}"
    return between_frames(a.reshape(-1), b.reshape(-1), tolerance=tolerance, unit="entry")


def between_hypotheses(a: Hypothesis, b: Hypothesis, *, tolerance: float) -> str | None:
    """Text, tokens, score and times, in this order."""
    if a.text != b.text:
        return f"text {shortened(a.text)} against {shortened(b.text)}"
    if tuple(a.tokens) != tuple(b.tokens):
        return f"tokens {shortened(a.tokens)} against {shortened(b.tokens)}"
    if not close(float(a.score), float(b.score), tolerance * max(1.0, abs(a.score))):
        return f"score {a.score:.9g} against {b.score:.9g}"
    if len(a.times) != len(b.times):
        return f"{len(a.times)} times against {len(b.times)}"
    for one, other in zip(a.times, b.times, strict=True):
        if not all(close(x, y, tolerance) for x, y in zip(one, other, strict=True)):
            return f"times {one} against {other}"
    return None


def joined(pieces: Sequence[Any]) -> Any | None:
    """The frames that a session returned, one after the other, as a batch of one; None where there were none."""
    kept: list[Any] = [piece for piece in pieces if piece is not None]
    if not kept:
        return None
    values = torch.cat([piece.values[:, : int(piece.lengths[0])] for piece in kept], dim=1)
    first: Any = kept[0]
    return first._replace(values=values, lengths=torch.tensor([values.shape[1]]))
