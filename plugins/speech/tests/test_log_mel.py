"""The log-mel front end: Kaldi's and Whisper's numbers, whatever the batch, the padding or the chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slt_speech.config_encoders import LogMelConfig
from slt_speech.log_mel import LogMel, cut_mirrored, measure
from slt_speech.mel_filters import analysis_window, filter_bank, hz_to_mel, mel_to_hz
from slt_speech.mel_settings import MelSettings, kaldi, whisper
from sltcore.errors import ContextError, DataError, ShapeError, SpecError, StreamError
from sltcore.types import Features, Waveform

TOLERANCE = 1e-4
STREAMABLE = {
    "kaldi": kaldi(n_mels=23),
    "kaldi mirrored": kaldi(n_mels=23, framing="reflect", use_energy=True),
    "centred": whisper(n_mels=23, dynamic_range=None, drop_last_frame=False),
    "centred without the last": whisper(n_mels=23, dynamic_range=None),
    "short window": kaldi(8000, n_mels=10, win_length=60, hop_length=100, framing="reflect"),
    "short centred window": kaldi(
        8000, n_mels=10, win_length=60, hop_length=100, framing="center", drop_last_frame=True
    ),
    "sparse": kaldi(8000, n_mels=10, win_length=60, hop_length=100, framing="center", window="hamming"),
    "centred hamming": kaldi(n_mels=23, framing="center", window="hamming"),
    "long transform": kaldi(n_mels=23, n_fft=1024, framing="center"),
}
ALL = {
    **STREAMABLE,
    "whisper": whisper(n_mels=23),
    "dynamic range": kaldi(n_mels=23, dynamic_range=3.0),
    "utterance": kaldi(n_mels=23, normalize="utterance"),
    "global": kaldi(n_mels=2, normalize="global", mean=(9.0, 10.0), std=(2.0,)),
}


def sound(samples: int, rate_hz: int = 16000, seed: int = 0) -> Tensor:
    """A gliding tone in noise, then near silence: [1 n]."""
    source = torch.Generator().manual_seed(seed)
    time_s = torch.arange(samples) / rate_hz
    tone = 0.2 * torch.sin(2 * torch.pi * 300 * time_s * (1 + time_s))
    noise = 0.02 * torch.randn(samples, generator=source)
    return ((tone + noise) * (1.0 - 0.9 * (time_s > 0.6)))[None]


def waveform(samples: Tensor, lengths: list[int] | None = None, rate_hz: int = 16000) -> Waveform:
    return Waveform(samples, torch.tensor(lengths or [samples.shape[1]] * len(samples)), rate_hz)


def streamed(front: LogMel, samples: Tensor, sizes: list[int]) -> list[Features]:
    session, parts, start, turn = front.open({}), [], 0, 0
    while start < samples.shape[1]:
        piece = samples[:, start : start + sizes[turn % len(sizes)]]
        parts.append(session.push(waveform(piece, rate_hz=front.settings.sample_rate_hz)))
        start, turn = start + piece.shape[1], turn + 1
    return [part for part in [*parts, session.finish()] if part is not None]


@pytest.mark.parametrize("rate_hz", [16000, 8000])
@pytest.mark.parametrize("snip_edges", [True, False])
@pytest.mark.parametrize("window", ["povey", "hamming", "hann"])
def test_kaldi_equals_kaldi_native_fbank(rate_hz: int, snip_edges: bool, window: str) -> None:
    knf = pytest.importorskip("kaldi_native_fbank")
    samples = sound(rate_hz + 77, rate_hz)
    options = knf.FbankOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither = rate_hz, 0.0
    options.frame_opts.snip_edges, options.frame_opts.window_type = snip_edges, window
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = 40, 64.0, -200.0
    options.use_energy, options.raw_energy = True, window == "povey"
    reference = knf.OnlineFbank(options)
    reference.accept_waveform(rate_hz, (samples[0] * 32768).tolist())
    reference.input_finished()
    expected = np.stack([reference.get_frame(i) for i in range(reference.num_frames_ready)])
    # this package's "hann" is the periodic one
    config = LogMelConfig(
        sample_rate_hz=rate_hz,
        num_mel_bins=40,
        snip_edges=snip_edges,
        window=window,  # type: ignore[arg-type]
        window_periodic=window == "hann",
        low_freq_hz=64,
        high_freq_hz=-200,
        use_energy=True,
        raw_energy=window == "povey",
    )
    found = LogMel(config.settings())(waveform(samples, rate_hz=rate_hz), {}).values[0].numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < TOLERANCE


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("samples", [16000, 16123, 4321])
def test_whisper_equals_transformers(n_mels: int, samples: int) -> None:
    from transformers import WhisperFeatureExtractor

    x = sound(samples)
    extract = WhisperFeatureExtractor(feature_size=n_mels)
    expected = extract(x[0].numpy(), sampling_rate=16000, padding=False, return_tensors="np")["input_features"][0].T
    found = LogMel(LogMelConfig(preset="whisper", n_mels=n_mels).settings())(waveform(x), {}).values[0].numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < TOLERANCE


@pytest.mark.parametrize("window", ["hann", "hamming", "blackman"])
@pytest.mark.parametrize("periodic", [True, False])
def test_windows_equal_torch(window: str, periodic: bool) -> None:
    ours = analysis_window(MelSettings(window=window, window_periodic=periodic))  # type: ignore[arg-type]
    theirs = getattr(torch, f"{window}_window")(400, periodic=periodic)
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_scale_is_inverted(scale: str) -> None:
    hertz = torch.linspace(0, 8000, 999, dtype=torch.float64)
    assert torch.allclose(mel_to_hz(hz_to_mel(hertz, scale), scale), hertz, atol=1e-8)


def test_whole_spectrum_of_filters_sums_to_one_between_first_and_last_centre() -> None:
    weights = filter_bank(kaldi(n_mels=30, low_freq_hz=0.0)).double()
    covered = weights.sum(0)[20:200]  # neighbouring triangles add up to one between their centres
    assert torch.allclose(covered, torch.ones_like(covered), atol=1e-5)


@pytest.mark.parametrize("settings", ALL.values(), ids=ALL.keys())
def test_padding_never_leaks(settings: MelSettings) -> None:
    front = LogMel(settings)
    lengths = [9000, 5003, 700, 20, 0]
    samples = torch.cat([sound(9000, seed=seed) for seed in range(5)])
    samples = torch.where(torch.arange(9000) < torch.tensor(lengths)[:, None], samples, 5 * samples)
    together = front(waveform(samples, lengths, settings.sample_rate_hz), {})
    assert together.lengths.tolist() == front.output_lengths(torch.tensor(lengths)).tolist()
    for row, length in enumerate(lengths):
        alone = front(waveform(samples[row : row + 1, :length], [length], settings.sample_rate_hz), {})
        count = int(together.lengths[row])
        assert int(alone.lengths[0]) == count
        assert torch.allclose(alone.values[0], together.values[row, :count], atol=TOLERANCE)
        assert together.values[row, count:].abs().sum() == 0


@pytest.mark.parametrize("settings", ALL.values(), ids=ALL.keys())
def test_lengths_are_those_of_the_framing(settings: MelSettings) -> None:
    """Counted one by one: windows that fit, or centres before (or at) the end."""
    front, hop = LogMel(settings), settings.hop_length
    for count in [0, 1, 59, 60, 61, 199, 200, 399, 400, 401, *range(1590, 1610), 5000]:
        if settings.framing == "snip":
            expected = sum(1 for i in range(99) if i * hop + settings.win_length <= count)
        elif settings.framing == "reflect":
            expected = sum(1 for i in range(99) if i * hop + hop - hop // 2 <= count)
        else:
            expected = sum(1 for i in range(99) if i * hop <= count and count) - settings.drop_last_frame * (count > 0)
        assert int(front.output_lengths(torch.tensor([count]))) == expected


@pytest.mark.parametrize("settings", STREAMABLE.values(), ids=STREAMABLE.keys())
@pytest.mark.parametrize("sizes", [[160], [200], [1, 777, 3, 4000], [100000]])
@pytest.mark.parametrize("samples", [1, 150, 401, 6007, 6400])
def test_stream_equals_offline(settings: MelSettings, sizes: list[int], samples: int) -> None:
    front = LogMel(settings)
    x = sound(samples)
    offline = front(waveform(x, rate_hz=settings.sample_rate_hz), {}).values
    parts = streamed(front, x, sizes)
    online = torch.cat([part.values for part in parts], 1) if parts else torch.zeros(1, 0, settings.n_features)
    assert online.shape == offline.shape
    assert torch.allclose(online, offline, atol=TOLERANCE)


def test_stream_remembers_two_windows_at_most() -> None:
    front = LogMel(kaldi(framing="reflect"))
    session = front.open({})
    for _ in range(50):
        session.push(waveform(sound(1000)))
        assert session._samples is not None
        assert session._samples.shape[1] <= 2 * front.settings.win_length


@pytest.mark.parametrize("settings", STREAMABLE.values(), ids=STREAMABLE.keys())
def test_lookahead_is_how_much_of_a_prefix_may_change(settings: MelSettings) -> None:
    """Brute force over prefixes: all but the last lookahead_frames stay, and one fewer would be too few."""
    front, x = LogMel(settings), sound(4000)
    whole = front(waveform(x, rate_hz=settings.sample_rate_hz), {}).values[0]
    worst = 0
    for cut in range(2000, 2000 + settings.hop_length, 7):
        prefix = front(waveform(x[:, :cut], rate_hz=settings.sample_rate_hz), {}).values[0]
        changed = (prefix - whole[: len(prefix)]).abs().amax(1) > TOLERANCE
        worst = max(worst, len(prefix) - int(changed.nonzero()[0]) if changed.any() else 0)
    assert worst == front.lookahead_frames or (settings.window_periodic and worst == front.lookahead_frames - 1)


@pytest.mark.parametrize(("repeat", "mode"), [(False, "reflect"), (True, "symmetric")])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_mirrors_equal_numpy(repeat: bool, mode: Any, count: int) -> None:
    signal = np.arange(1.0, count + 1)
    expected = np.pad(signal, (70, 90), mode=mode)
    padded = torch.zeros(1, 60)
    padded[0, :count] = torch.from_numpy(signal)
    found = cut_mirrored(padded, torch.tensor([count]), begin=-70, span=160 + count, repeat=repeat)
    assert found[0].tolist() == expected.tolist()


def test_measured_statistics_normalise() -> None:
    recordings = [waveform(sound(8000, seed=seed)) for seed in range(3)]
    mean, std = measure(LogMel(kaldi(n_mels=20)), recordings)
    front = LogMel(kaldi(n_mels=20, normalize="global", mean=mean, std=std))
    values = torch.cat([front(recording, {}).values[0] for recording in recordings])
    assert torch.allclose(values.mean(0), torch.zeros(20), atol=1e-4)
    assert torch.allclose(values.std(0, correction=0), torch.ones(20), atol=1e-3)
    with pytest.raises(DataError, match="hold no frame"):
        measure(LogMel(), [waveform(torch.zeros(1, 100))])


def test_utterance_normalisation_is_zero_mean_and_unit_variance() -> None:
    values = LogMel(kaldi(normalize="utterance"))(waveform(sound(16000)), {}).values[0]
    assert torch.allclose(values.mean(0), torch.zeros(80), atol=1e-4)
    assert torch.allclose(values.std(0, correction=0), torch.ones(80), atol=1e-3)


def test_dither_comes_from_the_generator_in_training_only() -> None:
    front, x = LogMel(kaldi(dither=1.0)), waveform(sound(3000))
    plain = LogMel(kaldi())(x, {}).values
    assert torch.equal(front.eval()(x, {}).values, plain)
    front.train()

    def values(seed: int) -> Tensor:
        return front(x, {"generator": torch.Generator().manual_seed(seed)}).values

    assert torch.equal(values(1), values(1))
    assert not torch.equal(values(1), values(2))
    with pytest.raises(ContextError, match=r"dither is 1, but the call has no generator; pass generator="):
        front(x, {})


@pytest.mark.parametrize("settings", [kaldi(), whisper(), kaldi(power=1.0)], ids=["kaldi", "whisper", "magnitude"])
def test_gradient_reaches_the_samples_and_is_finite_on_silence(settings: MelSettings) -> None:
    for x in (sound(2000), torch.zeros(1, 2000)):
        x.requires_grad_(True)
        LogMel(settings)(waveform(x), {}).values.sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_long_recordings_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = waveform(torch.cat([sound(9000), sound(9000, seed=1)]), [9000, 7000])
    whole = LogMel(kaldi(framing="reflect"))(x, {}).values
    monkeypatch.setattr("slt_speech.log_mel.BLOCK_SAMPLES", 5000)
    assert torch.allclose(LogMel(kaldi(framing="reflect"))(x, {}).values, whole, atol=TOLERANCE)


def test_kaldi_and_whisper_names_say_the_same() -> None:
    samples = LogMelConfig(sample_rate_hz=8000, win_length=160, hop_length=40, n_mels=20).settings()
    milliseconds = LogMelConfig(sample_rate_hz=8000, frame_length_ms=20, frame_shift_ms=5, num_mel_bins=20).settings()
    assert samples == milliseconds == kaldi(8000, win_length=160, hop_length=40, n_mels=20)
    assert LogMelConfig().settings() == kaldi()
    assert LogMelConfig(preset="whisper").settings() == whisper()
    assert LogMelConfig(preset="whisper", dynamic_range=0).settings().dynamic_range is None
    assert LogMelConfig(preset="whisper", center=False).settings().framing == "snip"
    assert LogMelConfig(snip_edges=False).settings().framing == "reflect"
    assert LogMelConfig(center=True).settings().framing == "center"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_mels": 20, "num_mel_bins": 30}, "n_mels is 20 and num_mel_bins 30; they name one quantity"),
        ({"center": True, "snip_edges": True}, "center and snip_edges are both given"),
        ({"n_fft": 256}, "n_fft is 256, but a window has 400 samples"),
        ({"low_freq_hz": 9000}, "mel filters from 9000 to 8000 Hz at 16000 Hz"),
        ({"drop_last_frame": True}, "drop_last_frame needs centred frames"),
        ({"mean": 3.0}, "mean is given, but normalize is 'none'"),
        ({"normalize": "global", "mean": [1, 2], "std": 1.0}, "mean has 2 values; expected 1 or 80"),
        ({"normalize": "global", "mean": 1.0, "std": 0.0}, "std holds 0; every value must be above zero"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogMelConfig(**fields)


def test_wrong_input_is_refused_in_one_line() -> None:
    front = LogMel()
    with pytest.raises(ShapeError, match=r"log-mel consumes 16000 Hz, but the waveform has 8000 Hz; resample it"):
        front(waveform(torch.zeros(1, 500), rate_hz=8000), {})
    with pytest.raises(ShapeError, match=r"Waveform.samples has shape \(500,\), expected \(b, n\)"):
        front(Waveform(torch.zeros(500), torch.tensor([500]), 16000), {})
    with pytest.raises(ShapeError, match=r"lengths run from 0 to 501, but Waveform.samples has room for 500"):
        front(waveform(torch.zeros(2, 500), [0, 501]), {})
    with pytest.raises(ShapeError, match=r"lengths has shape \(1,\), expected \(2,\)"):
        front(waveform(torch.zeros(2, 500), [500]), {})
    with pytest.raises(ShapeError, match=r"consumes a Waveform, but was given Features"):
        front(Features(torch.zeros(1, 5, 80), torch.tensor([5]), 0.01), {})
    with pytest.raises(SpecError, match=r"hop_length is 0"):
        kaldi(hop_length=0)


@pytest.mark.parametrize("settings", [whisper(), kaldi(normalize="utterance")], ids=["dynamic range", "utterance"])
def test_whole_recording_statistics_cannot_stream(settings: MelSettings) -> None:
    front = LogMel(settings)
    assert front.lookahead_frames is None
    with pytest.raises(StreamError, match=r"log-mel cannot stream with .*; set normalize: none or global"):
        front.open({})


def test_finished_stream_refuses_more() -> None:
    session = LogMel().open({})
    assert session.finish() is None
    with pytest.raises(StreamError, match="the stream has finished; open another session"):
        session.push(waveform(sound(500)))
    with pytest.raises(StreamError, match="finished"):
        session.finish()
    with pytest.raises(ShapeError, match="a stream is one utterance, but the chunk holds 2"):
        LogMel().open({}).push(waveform(torch.zeros(2, 500)))
