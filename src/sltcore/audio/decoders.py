"""Decoders: an open file or an array becomes blocks of float32 frames; libsndfile first, FFmpeg for what it cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sltcore.errors import AudioError

Samples = NDArray[np.float32]
BLOCK_FRAMES = 1 << 16
_UNKNOWN_FRAMES = 1 << 60  # libsndfile says SF_COUNT_MAX where a header is silent
_GSM_FRAME = (33, 160)  # bytes and samples of one frame, ETSI EN 300 961


class DamagedError(AudioError):
    """A recording that decodes up to a point; what came before has been handed out."""


class Decoder(NamedTuple):
    """An opened recording: `blocks` yields frames (n, channels) float32; `frames` is what the header promises.

    `slack` is the number of frames by which a whole file may miss its promise (an encoder's padding).
    """

    rate_hz: int
    channels: int
    frames: int | None
    slack: int
    blocks: Iterator[Samples]
    close: Callable[[], None]


def decode_array(values: Any, rate_hz: int, name: str) -> Decoder:
    """An array of samples (n,) or (n, channels), its shorter axis taken as channels; integers divided by their range.

    Raises AudioError where `values` is no array of numbers with one or two axes.
    """
    kind = type(values).__name__
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AudioError(f"a {kind} is no recording: expected a path, bytes or an array of samples") from error
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2) or array.dtype in (np.int64, np.uint64):
        shape = "x".join(map(str, array.shape)) or "single"
        raise AudioError(
            f"{name} is a {kind} ({shape} {array.dtype}); expected a path, bytes, or samples (n,) or "
            f"(n, channels) as floats in [-1, 1] or 8-, 16- or 32-bit integers"
        )
    if array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T
    frames = array.reshape(len(array), -1) if len(array) else np.zeros((0, 1))
    blocks = (_scaled(frames[i : i + BLOCK_FRAMES]) for i in range(0, len(frames), BLOCK_FRAMES))
    return Decoder(rate_hz, max(1, frames.shape[1]), len(frames), 0, blocks, lambda: None)


def _scaled(block: NDArray[Any]) -> Samples:
    """Samples of any type as float32, integers divided by their range."""
    if block.dtype.kind == "u":
        half = (np.iinfo(block.dtype).max + 1) / 2
        block = (block.astype(np.float64) - half) / half
    elif block.dtype.kind == "i":
        block = block.astype(np.float64) / (np.iinfo(block.dtype).max + 1.0)
    return np.ascontiguousarray(block, dtype=np.float32)


def decode_file(file: BinaryIO, name: str, *, raw: str | None, container: str | None) -> Decoder:
    """The decoder for an open file: `raw` names a headerless coding ("g722", "gsm"), `container` what the header says.

    Raises AudioError where nothing can decode it.
    """
    if raw is not None:
        return _ffmpeg(file, name, raw, container)
    if container in ("mp4", "matroska"):
        return _ffmpeg(file, name, None, container)
    import soundfile

    try:
        return _sndfile(file, name)
    except soundfile.LibsndfileError:
        file.seek(0)
        return _ffmpeg(file, name, None, container)


def _sndfile(file: BinaryIO, name: str) -> Decoder:
    import soundfile

    sound = soundfile.SoundFile(file)
    frames = sound.frames if 0 <= sound.frames < _UNKNOWN_FRAMES else None

    step = 4096 if sound.format == "FLAC" else BLOCK_FRAMES  # of a cut FLAC, libsndfile loses the whole last read

    def blocks() -> Iterator[Samples]:
        done = 0
        while True:
            try:
                block = sound.read(step, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise _damaged(name, done / sound.samplerate, str(error)) from error
            if not len(block):
                return
            done += len(block)
            yield block

    def close() -> None:
        sound.close()
        file.close()

    slack = sound.samplerate // 4 if sound.format == "MP3" else 0  # its length is an estimate where no tag gives it
    return Decoder(sound.samplerate, sound.channels, frames, slack, blocks(), close)


def _ffmpeg(file: BinaryIO, name: str, raw: str | None, container: str | None) -> Decoder:
    try:
        import av
    except ImportError as error:
        raise AudioError(f"{name}: this kind of recording is read by PyAV; run: pip install av") from error
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if raw == "gsm" and (size % _GSM_FRAME[0] or file.read(1)[0] >> 4 != 0xD):
        raise AudioError(f"{name} is not GSM 06.10: expected frames of 33 bytes that begin with 0xD; record it again")
    file.seek(0)
    try:
        media = av.open(file, format=raw, mode="r")
        streams = media.streams.audio
        if not streams:
            raise AudioError(f"{name} holds no sound; name a recording (wav, flac, mp3, ogg, m4a, g722, gsm)")
        stream = streams[0]
        rate, channels = int(stream.rate or 0), int(stream.channels)
        if rate <= 0 or channels <= 0:
            raise _not_audio(name, container)
    except (av.FFmpegError, ValueError) as error:
        raise _not_audio(name, container) from error
    frames = None
    if raw == "g722":
        frames = 2 * size  # 64 kbit/s, two samples a byte at 16 kHz: ITU-T G.722
    elif raw == "gsm":
        frames = size // _GSM_FRAME[0] * _GSM_FRAME[1]
    elif stream.duration is not None and stream.time_base is not None:
        frames = round(stream.duration * stream.time_base * rate)
    return Decoder(
        rate, channels, frames, 0 if raw else rate // 4, _ffmpeg_blocks(media, stream, name), _closer(media, file)
    )


def _closer(media: Any, file: BinaryIO) -> Callable[[], None]:
    def close() -> None:
        media.close()
        file.close()

    return close


def _ffmpeg_blocks(media: Any, stream: Any, name: str) -> Iterator[Samples]:
    import av

    done = 0
    waiting: list[Samples] = []
    held = 0
    rate = int(stream.rate)
    try:
        for frame in media.decode(stream):
            if frame.sample_rate != rate:
                raise AudioError(
                    f"{name} changes its rate from {rate} to {frame.sample_rate} Hz midway; convert it to wav"
                )
            block = _frame(frame)
            waiting.append(block)
            held += len(block)
            done += len(block)
            if held >= BLOCK_FRAMES:
                yield np.concatenate(waiting)
                waiting, held = [], 0
    except av.FFmpegError as error:
        raise _damaged(name, done / rate, str(error)) from error
    if held:
        yield np.concatenate(waiting)


def _frame(frame: Any) -> Samples:
    """One FFmpeg frame as (n, channels) float32 in [-1, 1], whatever its sample format."""
    values = frame.to_ndarray()
    planar = frame.format.is_planar
    channels = frame.layout.nb_channels
    values = values.T if planar else values.reshape(-1, channels)
    if values.dtype.kind in "ui":
        return _scaled(values)
    return np.ascontiguousarray(values, dtype=np.float32)


def _not_audio(name: str, container: str | None) -> AudioError:
    if container:
        return AudioError(f"{name} begins like {container} but cannot be decoded: it was cut or damaged; copy it again")
    return AudioError(
        f"{name} is not audio that can be read; expected wav, flac, mp3, ogg, opus, m4a, or raw G.722 or GSM under the "
        f"endings .g722 and .gsm"
    )


def _damaged(name: str, second: float, reason: str) -> DamagedError:
    return DamagedError(
        f"{name} is damaged or was cut at {second:.2f} s ({reason.strip()}); copy it again, or pass truncated='keep' "
        f"to take what is there"
    )
