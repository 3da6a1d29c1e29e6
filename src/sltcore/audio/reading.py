"""Reading recordings: any common file, bytes, array or `datasets` entry becomes mono float32 at one sample rate.

The sound is decoded by libsndfile (wav, flac, mp3, ogg, opus, aiff) or FFmpeg (G.722, GSM, m4a and the rest) and
resampled once, by soxr. Whole reads and streams give the same samples, bit for bit.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from sltcore.audio.decoders import DamagedError, Decoder, Samples, decode_array, decode_file
from sltcore.audio.headers import AUDIO_EXTENSIONS as AUDIO_EXTENSIONS
from sltcore.audio.headers import Shortfall, container, shortfall
from sltcore.errors import AudioError, did_you_mean

Channel = int | Literal["mix"] | None
Truncated = Literal["refuse", "keep"]

_RAW = {".g722": "g722", ".gsm": "gsm"}
_INTEGER_PEAK = 100.0  # float samples beyond this were never divided by the integer range
_QUALITY = "HQ"  # soxr: 20-bit precision, stop band below -120 dB


class Recording(NamedTuple):
    """Mono sound: `samples` (n,) float32 in [-1, 1]."""

    samples: Samples
    sample_rate_hz: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate_hz


class AudioFacts(NamedTuple):
    """What a recording's header says, before decoding."""

    duration_s: float
    sample_rate_hz: int
    channels: int


class AudioStream:
    """One pass over a recording in blocks (n,) float32 in [-1, 1], mono, at `sample_rate_hz`; a context manager.

    The blocks joined equal `read_audio` of the same source, whatever their size. `source_rate_hz` and `channels` are
    the file's own; `duration_s` is what its header says, None where it says nothing.

    Raises AudioError while iterating: NaN or infinite samples, damage found midway, an end before the promised one.
    """

    def __init__(
        self,
        name: str,
        decoder: Decoder,
        *,
        sample_rate_hz: int,
        channel: Channel,
        truncated: Truncated,
        block_s: float,
    ) -> None:
        self.name = name
        self.sample_rate_hz = sample_rate_hz
        self.source_rate_hz = decoder.rate_hz
        self.channels = decoder.channels
        self.duration_s = None if decoder.frames is None else decoder.frames / decoder.rate_hz
        self._decoder = decoder
        self._channel = channel
        self._truncated = truncated
        self._block = max(1, round(block_s * sample_rate_hz))

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._decoder.close()

    def __iter__(self) -> Iterator[Samples]:
        waiting: list[Samples] = []
        held = 0
        for piece in self._resampled():
            waiting.append(piece)
            held += len(piece)
            while held >= self._block:
                joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                yield joined[: self._block]
                waiting, held = [joined[self._block :]], len(joined) - self._block
        if held:
            yield np.concatenate(waiting)

    def _resampled(self) -> Iterator[Samples]:
        if self.source_rate_hz == self.sample_rate_hz:
            yield from (_clipped(block, self.name) for block in self._mono())
            return
        import soxr

        stream = soxr.ResampleStream(self.source_rate_hz, self.sample_rate_hz, 1, dtype="float32", quality=_QUALITY)
        for block in self._mono():
            yield _clipped(stream.resample_chunk(block), self.name)
        yield _clipped(stream.resample_chunk(np.zeros(0, np.float32), last=True), self.name)

    def _decoded(self) -> Iterator[Samples]:
        try:
            yield from self._decoder.blocks
        except DamagedError:
            if self._truncated == "refuse":
                raise

    def _mono(self) -> Iterator[Samples]:
        frames = 0
        for block in self._decoded():
            if self._channel in (None, "mix"):
                mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
            else:
                mono = block[:, int(self._channel or 0)]
            finite = np.isfinite(mono)
            if not finite.all():
                place = int(np.argmin(finite))
                kind = "NaN" if np.isnan(mono[place]) else "infinite"
                place += frames
                raise AudioError(
                    f"{self.name}: sample {place} ({place / self.source_rate_hz:.3f} s) is {kind}; write it again with "
                    f"finite samples in [-1, 1]"
                )
            frames += len(mono)
            yield np.ascontiguousarray(mono)
        if not frames:
            raise AudioError(f"{self.name} holds no samples; record or export it again")
        promised = self._decoder.frames
        if self._truncated == "refuse" and promised is not None and frames + self._decoder.slack < promised:
            raise _cut(self.name, Shortfall(promised / self.source_rate_hz, frames / self.source_rate_hz))


def read_audio(
    source: Any, sample_rate_hz: int = 16000, *, channel: Channel = None, truncated: Truncated = "refuse"
) -> Recording:
    """A whole recording as mono samples (n,) float32 in [-1, 1] at `sample_rate_hz`.

    `source` is a path, a file's bytes, an open binary file, an array of samples (then already at `sample_rate_hz`), a
    pair (array, rate), or an entry of a `datasets` Audio column (decoded or not). Integer arrays are divided by their
    range; in a two-dimensional array the shorter axis is the channels. `channel` None or "mix" averages the channels,
    a number takes one, from 0. `truncated="keep"` takes what is there of a recording that was cut.

    Raises AudioError: missing, a folder, unreadable, empty, not audio, cut, no samples, NaN or infinite samples, no
    such channel, an impossible rate.
    """
    with open_audio(source, sample_rate_hz, channel=channel, truncated=truncated) as stream:
        return Recording(np.concatenate(list(stream)), sample_rate_hz)


def open_audio(
    source: Any,
    sample_rate_hz: int = 16000,
    *,
    channel: Channel = None,
    truncated: Truncated = "refuse",
    block_s: float = 10.0,
) -> AudioStream:
    """The same recording in blocks of `block_s` seconds, in bounded memory: see `read_audio` for the arguments.

    Raises AudioError at once for what the header shows, while iterating for what only decoding shows.
    """
    _check_rate(sample_rate_hz, "the sample rate asked for")
    if truncated not in ("refuse", "keep"):
        raise AudioError(f"truncated={truncated!r} is neither 'refuse' nor 'keep'")
    if block_s <= 0:
        raise AudioError(f"block_s={block_s} must be above 0 seconds")
    name, decoder = _decoder(source, sample_rate_hz, truncated)
    try:
        _check_channel(name, channel, decoder.channels)
    except AudioError:
        decoder.close()
        raise
    return AudioStream(
        name, decoder, sample_rate_hz=sample_rate_hz, channel=channel, truncated=truncated, block_s=block_s
    )


def probe(source: Any) -> AudioFacts:
    """Duration, rate and channels of a recording, from its header; decoded only where the header does not say.

    Raises AudioError as `read_audio` does, for all that shows without decoding.
    """
    name, decoder = _decoder(source, 16000, "refuse")
    try:
        frames = decoder.frames
        if frames is None:
            frames = sum(len(block) for block in decoder.blocks)
        if not frames:
            raise AudioError(f"{name} holds no samples; record or export it again")
        return AudioFacts(frames / decoder.rate_hz, decoder.rate_hz, decoder.channels)
    finally:
        decoder.close()


def _check_rate(rate: object, what: str) -> None:
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not 100 <= rate <= 1_000_000:
        raise AudioError(f"{what} is {rate!r}; expected a whole number of samples a second, such as 16000")


def _check_channel(name: str, channel: Channel, channels: int) -> None:
    if channel is None or channel == "mix":
        return
    if isinstance(channel, bool) or not isinstance(channel, int) or not 0 <= channel < channels:
        numbers = "0" if channels == 1 else f"0 to {channels - 1}"
        raise AudioError(f"{name} has no channel {channel!r}; expected {numbers}, or 'mix' for the mean of all")


def _cut(name: str, short: Shortfall) -> AudioError:
    if short.promised_s is None or short.present_s is None:
        what = "it ends in the middle of its stream"
    else:
        what = f"it ends after {short.present_s:.2f} s of the {short.promised_s:.2f} s that its header promises"
    return AudioError(f"{name} was cut: {what}; copy it again, or pass truncated='keep' to take what is there")


def _clipped(block: Samples, name: str) -> Samples:
    if len(block) and max(float(block.max()), -float(block.min())) > _INTEGER_PEAK:
        raise AudioError(
            f"{name} has float samples up to {float(np.abs(block).max()):.0f}, expected [-1, 1]; divide by 32768 if "
            f"they were 16-bit integers"
        )
    return np.clip(block, -1.0, 1.0)


def _decoder(source: Any, sample_rate_hz: int, truncated: Truncated) -> tuple[str, Decoder]:
    """The decoder for any kind of source, and the name that messages use for it."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return str(path), _of_file(_open(path), str(path), path.suffix.lower(), truncated)
    if isinstance(source, bytes | bytearray | memoryview):
        return "the bytes", _of_file(io.BytesIO(bytes(source)), "the bytes", "", truncated)
    if isinstance(source, Mapping):
        return _of_entry(source, sample_rate_hz, truncated)
    if hasattr(source, "get_all_samples"):  # torchcodec's AudioDecoder, which `datasets` hands out
        decoded = source.get_all_samples()
        return "the decoder's audio", decode_array(decoded.data, int(decoded.sample_rate), "the decoder's audio")
    if hasattr(source, "read") and hasattr(source, "seek"):
        name = str(getattr(source, "name", "the open file"))
        return name, _of_file(source, name, Path(name).suffix.lower(), truncated)
    if isinstance(source, tuple):
        if len(source) != 2 or isinstance(source[0], int | float):
            raise AudioError(f"a pair (array, rate) was expected, not {_short(source)}; scipy's order is (rate, array)")
        _check_rate(source[1], "the rate of the array")
        return "the array", decode_array(source[0], int(source[1]), "the array")
    return "the array", decode_array(source, sample_rate_hz, "the array")


def _short(value: object) -> str:
    kind = type(value).__name__
    return f"a {kind} of length {len(value)}" if hasattr(value, "__len__") else f"a {kind}"


def _of_entry(entry: Mapping[str, Any], sample_rate_hz: int, truncated: Truncated) -> tuple[str, Decoder]:
    if entry.get("array") is not None:
        rate = entry.get("sampling_rate", sample_rate_hz)
        _check_rate(rate, "the entry's 'sampling_rate'")
        name = str(entry.get("path") or "the array")
        return name, decode_array(entry["array"], int(rate), name)
    path = entry.get("path")
    if entry.get("bytes") is not None:
        name = str(path or "the bytes")
        return name, _of_file(io.BytesIO(entry["bytes"]), name, Path(name).suffix.lower(), truncated)
    if path:
        return _decoder(str(path), sample_rate_hz, truncated)
    raise AudioError(f"an audio entry needs 'array', 'bytes' or 'path'; this one has {sorted(entry)}")


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        folder = path.parent
        if not folder.is_dir():
            raise AudioError(f"no file {path}: the folder {folder} does not exist") from None
        near = did_you_mean(path.name, sorted(entry.name for entry in folder.iterdir())[:10000])
        raise AudioError(f"no file {path}; check the name.{near}") from None
    except IsADirectoryError:
        raise AudioError(f"{path} is a folder; name a recording in it") from None
    except PermissionError:
        raise AudioError(f"{path} cannot be read: permission denied; allow it with chmod +r or copy it") from None
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror}; check the disk or copy the file") from None


def _of_file(file: BinaryIO, name: str, extension: str, truncated: Truncated) -> Decoder:
    try:
        file.seek(0)
        head = file.read(64)
        if not head:
            raise AudioError(f"{name} is empty (0 bytes); record or copy it again")
        kind = container(head)
        short = shortfall(file, kind) if truncated == "refuse" else None
        if short is not None:
            raise _cut(name, short)
        file.seek(0)
        raw = _RAW.get(extension) if kind is None or (kind == "mp3" and head[:3] != b"ID3") else None
        return decode_file(file, name, raw=raw, container=kind)
    except BaseException:
        file.close()
        raise
