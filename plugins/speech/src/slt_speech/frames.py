"""Checks and masks for batches of samples and frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sltcore.errors import PortError, ShapeError, StreamError
from sltcore.types import Encoded, Features, Waveform

if TYPE_CHECKING:
    from torch import Tensor


def frame_mask(lengths: Tensor, count: int) -> Tensor:
    """[b count] bool, true where a frame belongs to its utterance."""
    return torch.arange(count, device=lengths.device)[None, :] < lengths[:, None]


def blank_padding(values: Tensor, lengths: Tensor) -> Tensor:
    """Values [b t d] with zeros after each length."""
    return values.masked_fill(~frame_mask(lengths, values.shape[1])[:, :, None], 0.0)


def check_waveform(x: Any, sample_rate_hz: int | None, who: str) -> Waveform:
    """`x` itself; **raises** `ShapeError` when it is no Waveform [b n] with lengths [b] at this sample rate (None: any)."""
    if not isinstance(x, Waveform):
        raise ShapeError(f"{who} consumes a Waveform, but was given {type(x).__name__}")
    check_lengths(x.samples, x.lengths, axes="b n", name="Waveform.samples", who=who)
    if sample_rate_hz is not None and x.sample_rate_hz != sample_rate_hz:
        raise ShapeError(
            f"{who} consumes {sample_rate_hz} Hz, but the waveform has {x.sample_rate_hz} Hz; resample it, or set sample_rate_hz"
        )
    return x


def check_features(x: Any, count: int | None, who: str) -> Features | Encoded:
    """`x` itself; **raises** `ShapeError` when it is no Features (or Encoded) [b t f] with `count` features (None: any)."""
    if not isinstance(x, Features | Encoded):
        raise ShapeError(f"{who} consumes Features, but was given {type(x).__name__}")
    check_lengths(x.values, x.lengths, axes="b t f", name=f"{type(x).__name__}.values", who=who)
    if count is not None and x.values.shape[2] != count:
        swapped = "; axes t and f look swapped" if x.values.shape[1] == count else ""
        raise ShapeError(
            f"{who}: {type(x).__name__}.values has shape {tuple(x.values.shape)}, expected (b, t, f) with f = {count}{swapped}"
        )
    return x


def check_lengths(values: Tensor, lengths: Tensor, *, axes: str, name: str, who: str) -> None:
    """**Raises** `ShapeError` when `values` has not these axes, or `lengths` is not [b] within them."""
    wanted = axes.split()
    if values.ndim != len(wanted):
        raise ShapeError(f"{who}: {name} has shape {tuple(values.shape)}, expected ({', '.join(wanted)})")
    if lengths.shape != values.shape[:1]:
        raise ShapeError(
            f"{who}: lengths has shape {tuple(lengths.shape)}, expected ({values.shape[0]},): one for each utterance"
        )
    if lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= values.shape[1]:
        raise ShapeError(
            f"{who}: lengths run from {int(lengths.min())} to {int(lengths.max())}, "
            f"but {name} has room for {values.shape[1]}"
        )


def check_single(x: Any, who: str) -> None:
    """**Raises** `ShapeError` when a chunk of a stream holds other than one utterance."""
    if x.lengths.shape[0] != 1:
        raise ShapeError(f"{who}: a stream is one utterance, but the chunk holds {x.lengths.shape[0]}; open one each")


def refuse_finished(finished: bool, who: str) -> None:
    """**Raises** `StreamError` when a session has ended."""
    if finished:
        raise StreamError(f"{who}: the stream has finished; open another session for the next utterance")


def with_layers(kept: Sequence[int], asked: Sequence[int], first: int, last: int, who: str) -> tuple[int, ...]:
    """The depths that an encoder keeps, those `asked` for added; **raises** `PortError` for one outside `first` to `last`."""
    wrong = [depth for depth in asked if not first <= depth <= last]
    if wrong:
        raise PortError(f"{who}: layer {wrong[0]} is asked for; depths run from {first} to {last}")
    return tuple(sorted({*kept, *asked}))


def prefix_lookahead(chunk: int, factor: int, ahead: int) -> int:
    """Frames at the end of a prefix's encoding that later input may still change.

    An encoder that works in chunks of `chunk` frames, each of `factor` input frames of which the last `ahead` are open,
    counts `ceil(t / factor)` frames after t and has settled `chunk · floor((t - ahead) / (chunk · factor))`; this is the
    largest difference over t.
    """
    return chunk + math.ceil((ahead - 1) / factor)


def joined(parts: list[Any]) -> Any | None:
    """What a session has to say now: None, one part, or several joined along the frames."""
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    changes: dict[str, Any] = {
        "values": torch.cat([part.values for part in parts], 1),
        "lengths": torch.stack([part.lengths for part in parts]).sum(0),
    }
    if isinstance(first, Encoded) and first.layers:
        changes["layers"] = {depth: torch.cat([part.layers[depth] for part in parts], 1) for depth in first.layers}
    return first._replace(**changes)
