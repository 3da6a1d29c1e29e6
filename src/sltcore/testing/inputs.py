"""Inputs made from ports: deterministic batches of sound, frames, text and n-best lists, and what is done to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sltcore.types import Encoded, Features, Hypothesis, NBest, Port, Text, Waveform

SAMPLE_RATE_HZ = 16000
FRAME_SHIFT_S = 0.01
FEATURES = 80
MODEL = 16
SECONDS = (0.9, 0.53, 0.31)
FRAMES = (48, 31, 17)
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def generator(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def sample_rate_hz(port: Port) -> int:
    """The rate a port names, else 16 kHz."""
    return int(port.attributes.get("sample_rate_hz", SAMPLE_RATE_HZ))


def width(port: Port) -> int:
    """The number of features, or the model width, that a port names."""
    if port.type == "Features":
        return int(port.attributes.get("f", FEATURES))
    return int(port.attributes.get("d", MODEL))


def frame_shift_s(port: Port) -> float:
    """The frame shift a port names, else 10 ms."""
    return float(port.attributes.get("frame_shift_s", FRAME_SHIFT_S))


def sound(lengths: Sequence[int], rate_hz: int, *, seed: int = 0) -> Waveform:
    """Noise bursts, gliding tones and silence, a different mixture for each utterance: samples [b n] in [-1, 1]."""
    longest = max(lengths)
    source = generator(seed)
    time_s = torch.arange(longest) / rate_hz
    samples = torch.zeros(len(lengths), longest)
    for row, length in enumerate(lengths):
        pitch_hz = 110.0 + 90.0 * row + 40.0 * torch.rand(1, generator=source)
        tone = 0.3 * torch.sin(2 * torch.pi * pitch_hz * time_s * (1 + 0.2 * time_s))
        noise = 0.1 * torch.randn(longest, generator=source)
        gate = ((time_s * (3.0 + row)).long() % 3).float()  # silence, noise and tone, tone twice as loud
        samples[row] = (gate * tone + (gate == 1) * noise).clamp(-1, 1) + 1e-3 * torch.randn(longest, generator=source)
        samples[row, length:] = 0.0
    return Waveform(samples, torch.tensor(lengths), rate_hz)


def frames(lengths: Sequence[int], size: int, *, seed: int = 0) -> Tensor:
    """Smooth random frames [b t f], unit variance, zero after each length."""
    values = torch.randn(len(lengths), max(*lengths, 1), size, generator=generator(seed))
    values = 0.8 * values + 0.6 * torch.roll(values, 1, dims=1)
    inside = torch.arange(values.shape[1])[None] < torch.tensor(lengths)[:, None]
    return values * inside[..., None]


def batch(port: Port, *, seed: int = 0, lengths: Sequence[int] | None = None) -> Any:
    """A batch of what a port names; `lengths` in samples, frames or words. Three utterances of different lengths."""
    if port.type == "Waveform":
        rate_hz = sample_rate_hz(port)
        return sound(lengths or [round(s * rate_hz) for s in SECONDS], rate_hz, seed=seed)
    lengths = FRAMES if lengths is None else lengths
    if port.type == "Features":
        return Features(frames(lengths, width(port), seed=seed), torch.tensor(lengths), frame_shift_s(port))
    if port.type == "Encoded":
        return Encoded(frames(lengths, width(port), seed=seed), torch.tensor(lengths), frame_shift_s(port))
    if port.type == "Text":
        return Text(
            [" ".join(WORDS[(seed + row + i) % len(WORDS)] for i in range(2 + row)) for row in range(len(lengths))]
        )
    if port.type == "Hypotheses":
        return [nbest(3, seed=seed + row) for row in range(len(lengths))]
    pytest.skip(f"the kit has no inputs for {port}")


def nbest(size: int, *, seed: int = 0) -> NBest:
    """A list of different hypotheses, best first, with scores in nats."""
    offsets = [(seed + i) % len(WORDS) for i in range(size)]
    return NBest(
        Hypothesis(" ".join(WORDS[o : o + 2 + o % 3]), -1.0 - 0.7 * i, tokens=(o, i)) for i, o in enumerate(offsets)
    )


def lengths_of(x: Any) -> Tensor | None:
    """Lengths [b] where a value has them."""
    return getattr(x, "lengths", None)


def size_of(x: Any) -> int:
    """How many utterances a batch holds."""
    return len(x.texts) if isinstance(x, Text) else len(x) if isinstance(x, list) else len(x.lengths)


def array_of(x: Any) -> Tensor:
    """The padded tensor of a value."""
    return x.samples if isinstance(x, Waveform) else x.values


def with_array(x: Any, array: Tensor, lengths: Tensor | None = None) -> Any:
    """The same value with another padded tensor, and other lengths where given."""
    field = "samples" if isinstance(x, Waveform) else "values"
    return x._replace(**{field: array}, lengths=x.lengths if lengths is None else lengths)


def selected(x: Any, rows: Sequence[int]) -> Any:
    """Some utterances of a batch, in that order, padded as they were."""
    if isinstance(x, Text):
        return Text([x.texts[row] for row in rows])
    if isinstance(x, list):
        return [x[row] for row in rows]
    index = torch.tensor(rows)
    return with_array(x, array_of(x)[index], x.lengths[index])


def alone(x: Any, row: int) -> Any:
    """One utterance by itself, without padding."""
    one = selected(x, [row])
    if lengths_of(x) is None:
        return one
    return with_array(one, array_of(one)[:, : max(int(x.lengths[row]), 1)])


def with_junk(x: Any, *, extra: int, seed: int = 1) -> Any:
    """The same utterances with loud junk in their padding, and `extra` more units of it."""
    array = array_of(x)
    shape = (array.shape[0], array.shape[1] + extra, *array.shape[2:])
    loud = 2 * torch.rand(shape, generator=generator(seed)) - 1
    loud = loud if isinstance(x, Waveform) else 10 * loud
    inside = torch.arange(shape[1])[None] < x.lengths[:, None]
    loud[:, : array.shape[1]] = torch.where(
        inside[:, : array.shape[1]].reshape(*inside[:, : array.shape[1]].shape, *[1] * (array.ndim - 2)),
        array,
        loud[:, : array.shape[1]],
    )
    return with_array(x, loud)


def chunks(x: Any, sizes: Sequence[int]) -> Iterator[Any]:
    """A batch of one in chunks whose sizes repeat from `sizes`, the last one shorter."""
    array = array_of(x)
    start, turn = 0, 0
    while start < array.shape[1]:
        piece = array[:, start : start + sizes[turn % len(sizes)]]
        yield with_array(x, piece, torch.full((array.shape[0],), piece.shape[1]))
        start += piece.shape[1]
        turn += 1
