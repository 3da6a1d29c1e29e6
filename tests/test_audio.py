"""Promises of sltcore.audio about what is read: formats, rates, channels, resampling, streaming."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from sltcore.audio import AUDIO_EXTENSIONS, AudioFacts, Recording, open_audio, probe, read_audio

RATE = 44100


def sine(hertz: float = 440.0, seconds: float = 1.0, rate: int = RATE, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encode(path: Path, samples: np.ndarray, rate: int, *, codec: str, container: str) -> None:
    media = av.open(str(path), "w", format=container)
    stream = media.add_stream(codec, rate=rate, layout="mono")
    frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
    frame.sample_rate = rate
    for packet in [*stream.encode(frame), *stream.encode(None)]:
        media.mux(packet)
    media.close()


def tone_of(samples: np.ndarray, rate: int) -> tuple[float, float]:
    """The frequency and peak of the strongest sine, from the middle half, by a windowed Fourier transform."""
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    window = np.hanning(len(middle))
    spectrum = np.abs(np.fft.rfft(middle * window, 1 << 18))
    return float(np.argmax(spectrum)) * rate / (1 << 18), 2 * float(spectrum.max()) / window.sum()


@pytest.mark.parametrize(
    ("name", "options", "rate"),
    [
        ("a.wav", {"subtype": "PCM_16"}, 44100),
        ("b.wav", {"subtype": "PCM_U8"}, 22050),
        ("c.wav", {"subtype": "FLOAT"}, 11025),
        ("d.wav", {"subtype": "PCM_24", "format": "RF64"}, 48000),
        ("e.wav", {"subtype": "GSM610"}, 8000),
        ("f.flac", {}, 96000),
        ("g.mp3", {}, 22050),
        ("h.ogg", {}, 44100),
        ("i.opus", {"format": "OGG", "subtype": "OPUS"}, 48000),
        ("j.aiff", {}, 16000),
        ("k.au", {"subtype": "ULAW"}, 8000),
        ("l.gsm", {"format": "RAW", "subtype": "GSM610"}, 8000),
    ],
)
def test_every_container_gives_the_same_tone(tmp_path: Path, name: str, options: dict[str, str], rate: int) -> None:
    path = tmp_path / name
    soundfile.write(path, sine(rate=rate), rate, **options)
    recording = read_audio(path)
    hertz, peak = tone_of(recording.samples, 16000)
    assert hertz == pytest.approx(440, abs=1)
    assert peak == pytest.approx(0.5, rel=0.05)
    assert recording.duration_s == pytest.approx(1.0, abs=0.05)
    assert recording.samples.dtype == np.float32
    assert recording.samples.ndim == 1
    facts = probe(path)
    assert (facts.sample_rate_hz, facts.channels) == (rate, 1)
    assert facts.duration_s == pytest.approx(1.0, abs=0.05)
    assert path.suffix in AUDIO_EXTENSIONS


@pytest.mark.parametrize(
    ("name", "codec", "container", "rate"), [("a.g722", "g722", "g722", 16000), ("b.m4a", "aac", "mp4", 44100)]
)
def test_ffmpeg_reads_what_libsndfile_cannot(tmp_path: Path, name: str, codec: str, container: str, rate: int) -> None:
    encode(tmp_path / name, sine(rate=rate), rate, codec=codec, container=container)
    hertz, peak = tone_of(read_audio(tmp_path / name).samples, 16000)
    assert hertz == pytest.approx(440, abs=1)
    assert peak == pytest.approx(0.5, rel=0.05)


def test_g722_lasts_one_second_for_each_8000_bytes(tmp_path: Path) -> None:
    # ITU-T G.722: 64 kbit/s, whatever the file's sound
    encode(tmp_path / "a.g722", sine(rate=16000, seconds=0.75), 16000, codec="g722", container="g722")
    size = (tmp_path / "a.g722").stat().st_size
    assert probe(tmp_path / "a.g722") == AudioFacts(size / 8000, 16000, 1)
    assert read_audio(tmp_path / "a.g722").duration_s == size / 8000


def test_the_content_decides_over_the_name(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(), RATE)
    (tmp_path / "a.g722").write_bytes((tmp_path / "a.wav").read_bytes())
    np.testing.assert_array_equal(read_audio(tmp_path / "a.g722").samples, read_audio(tmp_path / "a.wav").samples)


def test_a_raw_name_wins_over_a_chance_mp3_sync(tmp_path: Path) -> None:
    encode(tmp_path / "a.g722", sine(rate=16000), 16000, codec="g722", container="g722")
    data = b"\xff\xfb" + (tmp_path / "a.g722").read_bytes()[2:]
    (tmp_path / "a.g722").write_bytes(data)
    assert read_audio(tmp_path / "a.g722").duration_s == len(data) / 8000


def test_all_kinds_of_source_give_the_same_samples(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "a.wav"
    wanted = sine(rate=16000, seconds=0.3)
    soundfile.write(path, wanted, 16000, subtype="FLOAT")
    data = path.read_bytes()

    class Decoded:
        data = torch.from_numpy(wanted)[None]
        sample_rate = 16000

    class Decoder:
        def get_all_samples(self) -> type[Decoded]:
            return Decoded

    sources: list[Any] = [
        path,
        str(path),
        data,
        bytearray(data),
        io.BytesIO(data),
        wanted,
        wanted.tolist(),
        torch.from_numpy(wanted),
        (wanted, 16000),
        Recording(wanted, 16000),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
        {"array": wanted, "sampling_rate": 16000},
        Decoder(),
    ]
    for source in sources:
        np.testing.assert_array_equal(read_audio(source).samples, wanted)


def test_bytes_of_a_raw_coding_are_known_by_the_path_beside_them(tmp_path: Path) -> None:
    encode(tmp_path / "a.g722", sine(rate=16000), 16000, codec="g722", container="g722")
    entry = {"bytes": (tmp_path / "a.g722").read_bytes(), "path": "prompt.g722"}
    np.testing.assert_array_equal(read_audio(entry).samples, read_audio(tmp_path / "a.g722").samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32])
def test_integers_are_divided_by_their_range(dtype: type[np.integer]) -> None:
    info = np.iinfo(dtype)
    extremes = np.array([info.min, info.max, 0 if info.min else (info.max + 1) // 2], dtype)
    lowest, highest, zero = read_audio((extremes, 16000)).samples
    assert lowest == -1.0
    assert highest == pytest.approx(1.0, abs=2 / (info.max / (2 if not info.min else 1)))
    assert zero == 0.0


def test_channels_are_chosen_or_averaged(tmp_path: Path) -> None:
    left, right = sine(300, rate=16000), sine(700, rate=16000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", channel=0).samples, left)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", channel=1).samples, right)
    for channel in (None, "mix"):
        np.testing.assert_allclose(
            read_audio(tmp_path / "a.wav", channel=channel).samples, (left + right) / 2, atol=1e-7
        )
    assert probe(tmp_path / "a.wav").channels == 2
    for array in (np.stack([left, right]), np.stack([left, right], 1)):
        np.testing.assert_array_equal(read_audio(array, channel=1).samples, right)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("target", [8000, 16000])
def test_a_sine_stays_a_sine(rate: int, target: int) -> None:
    # closed form: the same sine sampled at the new rate; the ends see the filter's edge
    got = read_audio((sine(997, rate=rate), rate), target).samples
    wanted = sine(997, rate=target)
    assert len(got) == len(wanted)
    edge = target // 50
    np.testing.assert_allclose(got[edge:-edge], wanted[edge:-edge], atol=2e-5)


def test_what_is_above_the_new_nyquist_frequency_disappears() -> None:
    got = read_audio((sine(11000, rate=48000), 48000), 16000).samples
    assert np.abs(got[400:-400]).max() < 1e-5  # 94 dB down


def test_resampling_agrees_with_an_independent_resampler() -> None:
    # band-limited noise below 6 kHz, where scipy's polyphase filter and soxr's both pass everything
    noise = np.random.default_rng(0).standard_normal(48000)
    spectrum = np.fft.rfft(noise)
    spectrum[6000:] = 0
    noise = (0.1 * np.fft.irfft(spectrum)).astype(np.float32)
    got = read_audio((noise, 48000), 16000).samples
    other = resample_poly(noise.astype(np.float64), 1, 3, window=("kaiser", 12.0))
    np.testing.assert_allclose(got[800:-800], other[800:-800], atol=2e-3)
    assert np.corrcoef(got[800:-800], other[800:-800])[0, 1] > 0.9999


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
@pytest.mark.parametrize("block_s", [0.01, 0.333, 100.0])
def test_a_stream_joined_equals_the_whole_read(tmp_path: Path, rate: int, block_s: float) -> None:
    noise = (0.1 * np.random.default_rng(1).standard_normal((rate * 3 + 7, 2))).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, rate, subtype="FLOAT")
    with open_audio(tmp_path / "a.wav", block_s=block_s) as stream:
        assert (stream.source_rate_hz, stream.channels) == (rate, 2)
        assert stream.duration_s == pytest.approx(3, abs=0.01)
        blocks = list(stream)
    whole = read_audio(tmp_path / "a.wav")
    np.testing.assert_array_equal(np.concatenate(blocks), whole.samples)
    assert all(len(block) == round(block_s * 16000) for block in blocks[:-1])
    assert len(whole.samples) == pytest.approx((rate * 3 + 7) * 16000 / rate, abs=1)


@pytest.mark.slow
def test_three_hours_stream_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "long.flac"
    minute = sine(440, 60, 8000)
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(180):
            file.write(minute)
    tracemalloc.start()
    total = 0
    with open_audio(path) as stream:
        assert stream.duration_s == 3 * 3600
        for block in stream:
            total += len(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 3 * 3600 * 16000
    assert peak < 16 * 2**20  # the whole recording would take 691 MB


def test_output_never_leaves_the_unit_interval() -> None:
    square = np.where(sine(997, rate=44100) >= 0, 1.0, -1.0).astype(
        np.float32
    )  # resampled, it overshoots by 9 % (Gibbs)
    assert np.abs(read_audio((square, 44100)).samples).max() == 1.0


def test_a_streamed_wav_of_unknown_length_is_whole(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(rate=16000), 16000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    place = data.index(b"data") + 4
    data[4:8] = data[place : place + 4] = b"\xff\xff\xff\xff"  # as ffmpeg writes to a pipe
    (tmp_path / "a.wav").write_bytes(data)
    assert read_audio(tmp_path / "a.wav").duration_s == 1.0
