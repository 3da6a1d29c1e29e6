"""The pretrained encoder: the same network as the package's own engine, whatever the batch, the length or the pieces."""

from __future__ import annotations

import functools
import importlib.util
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slt_speech.hama import labels
from slt_speech.hama.front_end import fourier_kernels, mel_filters, reflect_edges
from slt_speech.hama.network import HamaConformer
from slt_speech.hama.session import BLOCK_FRAMES
from sltcore.errors import ShapeError, StreamError
from sltcore.types import Encoded, Waveform

RATE = 16000
BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "hama_port.py"

Engine = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def model() -> HamaConformer:
    return HamaConformer().eval()


@pytest.fixture(scope="module")
def short_windows() -> HamaConformer:
    """Windows of 4 s: long recordings that cost little."""
    return HamaConformer(window_s=4.0, overlap_s=1.0, layers=(0, 2)).eval()


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The package's own engine, an independent implementation: samples [n] -> log-probabilities [t 191]."""
    session = pytest.importorskip("hama").ASRModel().session

    def run(samples: np.ndarray) -> np.ndarray:
        feeds = {"waveform": samples[None], "waveform_lengths": np.array([samples.size])}
        return np.asarray(session.run(["log_probs", "out_lengths"], feeds)[0][0])

    return run


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """44 s of a man reading Dickens, from the wheel moonshine-voice, at 16 kHz."""
    spec = importlib.util.find_spec("moonshine_voice")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the recording is in the wheel moonshine-voice: pip install --no-deps moonshine-voice==0.1.5")
    import soundfile
    import soxr

    path = Path(spec.submodule_search_locations[0]) / "assets" / "two_cities.wav"
    samples, rate = soundfile.read(path, dtype="float32")
    return np.asarray(soxr.resample(samples, rate, RATE), np.float32)


@functools.cache
def voiced(seconds: float, seed: int = 0) -> np.ndarray:
    """Something like speech: a gliding pulse train through two moving resonances, in bursts, over faint noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * time + seed)
    phase = np.cumsum(pitch) / RATE
    first, second = 500 + 250 * np.sin(2 * np.pi * 1.3 * time), 1500 + 600 * np.sin(2 * np.pi * 0.9 * time + 1)
    harmonics = np.arange(1, 25)[:, None]
    heights = 1 / (1 + ((harmonics * pitch - first) / 120) ** 2) + 0.5 / (1 + ((harmonics * pitch - second) / 150) ** 2)
    burst = np.clip(np.sin(2 * np.pi * 2.1 * time), 0, 1)
    signal = (heights * np.sin(2 * np.pi * harmonics * phase)).sum(0) * burst
    return np.asarray(0.1 * signal + 0.002 * rng.standard_normal(time.size), np.float32)


def encode(model: HamaConformer, *signals: np.ndarray, padding: float = 0.0) -> Encoded:
    """One batch of signals, with `padding` after the ends."""
    lengths = torch.tensor([signal.size for signal in signals])
    samples = torch.full((len(signals), int(lengths.max())), padding)
    for row, signal in zip(samples, signals, strict=True):
        row[: signal.size] = torch.from_numpy(signal)
    with torch.no_grad():
        encoded: Encoded = model(Waveform(samples, lengths, RATE))
    return encoded


def greedy(model: HamaConformer, encoded: Encoded) -> list[int]:
    with torch.no_grad():
        best: list[int] = model.log_probs(encoded)[0].argmax(-1).tolist()
    return best


def spelt(path: list[int]) -> list[str]:
    return [labels.read_labels()[label] for label, _ in labels.collapse(path)]


def assert_same_network(model: HamaConformer, engine: Engine, signal: np.ndarray) -> None:
    expected = engine(signal)
    with torch.no_grad():
        found = model.log_probs(encode(model, signal))[0].numpy()
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.mean() < 1e-4
    assert difference.max() < 0.05
    assert (found.argmax(1) == expected.argmax(1)).all()


# --- The same network as the engine ------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [201, 319, 320, 321, 1599, 1600, 1601, 8000, 15999])
def test_every_length_gives_the_engines_frames(model: HamaConformer, engine: Engine, samples: int) -> None:
    assert_same_network(model, engine, voiced(1.0)[:samples])


@pytest.mark.parametrize(
    "signal",
    [
        np.zeros(8000, np.float32),
        np.random.default_rng(0).uniform(-1, 1, 8000).astype(np.float32),
        np.eye(1, 8000, 4000, dtype=np.float32)[0],
    ],
    ids=["silence", "noise", "click"],
)
def test_extreme_signals_give_the_engines_frames(model: HamaConformer, engine: Engine, signal: np.ndarray) -> None:
    assert_same_network(model, engine, signal)


@pytest.mark.slow
@pytest.mark.parametrize("start_s", [0, 8, 16])
def test_recorded_speech_gives_the_engines_frames(
    model: HamaConformer, engine: Engine, speech: np.ndarray, start_s: int
) -> None:
    assert_same_network(model, engine, speech[start_s * RATE : (start_s + 8) * RATE])


def test_parameters_are_those_of_the_file(model: HamaConformer) -> None:
    # Counted from the file's header: all tensors but the two Fourier kernels and the mel filters.
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_004_095
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in model.parameters())


def test_stored_kernels_and_filters_are_the_closed_forms(model: HamaConformer) -> None:
    for stored, formula in zip(
        (model.front_end.real_kernel, model.front_end.imag_kernel), fourier_kernels(), strict=True
    ):
        torch.testing.assert_close(stored, formula, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.front_end.mel_filters, mel_filters(), rtol=1e-5, atol=1e-8)
    # The whole file is shifted by 12 bytes when the data's alignment is overlooked; this column shows it.
    assert model.front_end.mel_filters[:, 0].nonzero().flatten().tolist() == [2]


def test_random_weights_take_the_pretrained_state(model: HamaConformer) -> None:
    other = HamaConformer(weights="random").eval()
    signal = voiced(0.5)
    assert not torch.allclose(encode(other, signal).values, encode(model, signal).values, atol=0.1)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(encode(other, signal).values, encode(model, signal).values, rtol=0, atol=0)


def test_samples_are_clipped_like_the_engines(model: HamaConformer) -> None:
    loud = 20 * voiced(0.5)
    assert np.abs(loud).max() > 1
    expected = encode(model, loud.clip(-1, 1)).values
    torch.testing.assert_close(encode(model, loud).values, expected, rtol=0, atol=0)


def test_known_words_are_heard(model: HamaConformer, speech: np.ndarray) -> None:
    path = greedy(model, encode(model, speech[: 5 * RATE]))
    heard = "".join(label for label in spelt(path) if label != labels.WORD_BOUNDARY)
    # "It was the best of times, it was the worst of times"
    assert [heard.count(word) for word in ("bɛst", "wɝst", "taɪmz")] == [1, 1, 2]


# --- Batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0.0, 0.9, float("nan")])
def test_padding_never_leaks(model: HamaConformer, padding: float) -> None:
    signals = [voiced(seconds, seed) for seed, seconds in enumerate((1.0, 0.31, 2.0, 0.005, 1.37))]
    batch = encode(model, *signals, padding=padding)
    assert batch.values.isfinite().all()
    for i, signal in enumerate(signals):
        alone = encode(model, signal)
        frames = int(alone.lengths)
        assert int(batch.lengths[i]) == frames
        torch.testing.assert_close(batch.values[i, :frames], alone.values[0], rtol=0, atol=1e-4)
        assert (batch.values[i, frames:] == 0).all()


def test_long_and_short_utterances_share_a_batch(short_windows: HamaConformer) -> None:
    signals = [voiced(6.0, 1), voiced(0.7, 2), np.zeros(0, np.float32), voiced(4.5, 3)]
    batch = encode(short_windows, *signals, padding=float("nan"))
    for i, signal in enumerate(signals):
        alone = encode(short_windows, signal)
        frames = int(alone.lengths)
        assert int(batch.lengths[i]) == frames
        torch.testing.assert_close(batch.values[i, :frames], alone.values[0, :frames], rtol=0, atol=1e-4)
        torch.testing.assert_close(batch.layers[2][i, :frames], alone.layers[2][0, :frames], rtol=0, atol=1e-4)


def test_reflected_edges_are_numpys() -> None:
    signals = [np.arange(size, dtype=np.float32) for size in (201, 350, 1000)]
    lengths = torch.tensor([signal.size for signal in signals])
    samples = torch.full((3, 1000), float("nan"))
    for row, signal in zip(samples, signals, strict=True):
        row[: signal.size] = torch.from_numpy(signal)
    extended = reflect_edges(samples, lengths)
    for row, signal in zip(extended, signals, strict=True):
        np.testing.assert_array_equal(row[: signal.size + 400], np.pad(signal, 200, mode="reflect"))


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 200])
def test_very_short_audio_gives_one_finite_frame(model: HamaConformer, samples: int) -> None:
    encoded = encode(model, voiced(0.1)[:samples])
    assert encoded.lengths.tolist() == [min(samples, 1)]
    assert encoded.values.isfinite().all()
    session = model.open()
    session.push(voiced(0.1)[:samples])
    rest = session.finish()
    if samples == 0:
        assert rest is None
    else:
        assert rest is not None
        torch.testing.assert_close(rest.values, encoded.values, rtol=0, atol=1e-4)


def test_output_lengths_are_those_of_forward(model: HamaConformer) -> None:
    sizes = [1, 159, 160, 319, 320, 479, 480, 16000]
    encoded = encode(model, *[voiced(1.0)[:size] for size in sizes])
    assert encoded.lengths.tolist() == model.output_lengths(torch.tensor(sizes)).tolist()
    # Every second of the n // 160 + 1 spectra.
    assert encoded.lengths.tolist() == [len(range(0, size // 160 + 1, 2)) for size in sizes]
    assert encoded.values.shape == (len(sizes), 51, 144)
    assert encoded.frame_shift_s == 0.02


def test_layers_are_those_asked_for(model: HamaConformer) -> None:
    asked = HamaConformer(layers=(4, 0, 2)).eval()
    encoded = encode(asked, voiced(0.5))
    assert list(encoded.layers) == [0, 2, 4]
    torch.testing.assert_close(encoded.layers[4], encoded.values, rtol=0, atol=0)
    with torch.no_grad():
        third = asked.blocks[2](encoded.layers[2], None)
        torch.testing.assert_close(asked.blocks[3](third, None), encoded.values, rtol=0, atol=1e-4)
    torch.testing.assert_close(encoded.values, encode(model, voiced(0.5)).values, rtol=0, atol=0)
    assert encode(model, voiced(0.5)).layers == {}


# --- Long recordings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 160, 12345, 70000])
def test_stream_equals_forward(short_windows: HamaConformer, pieces: int) -> None:
    signal = voiced(11.3)
    signal = signal if pieces > 1 else signal[: 5 * RATE]
    whole = encode(short_windows, signal)
    size = pieces if pieces > 1 else 37
    session = short_windows.open()
    found = [session.push(signal[start : start + size]) for start in range(0, signal.size, size)]
    parts = [part for part in [*found, session.finish()] if part is not None]
    assert torch.equal(torch.cat([part.values for part in parts], 1), whole.values)
    assert torch.equal(torch.cat([part.layers[2] for part in parts], 1), whole.layers[2])
    starts = np.cumsum([0] + [part.values.shape[1] for part in parts[:-1]]) * 0.02
    assert [part.offset_s for part in parts] == pytest.approx(starts.tolist())
    assert sum(int(part.lengths) for part in parts) == int(whole.lengths)


def test_stream_of_one_window_equals_forward(model: HamaConformer) -> None:
    signal = voiced(11.3)  # More than one block of features.
    assert signal.size > BLOCK_FRAMES * 160
    session = model.open()
    assert session.push(torch.from_numpy(signal)) is None
    rest = session.finish()
    assert rest is not None
    torch.testing.assert_close(rest.values, encode(model, signal).values, rtol=0, atol=1e-4)


def test_memory_does_not_grow_with_the_recording(short_windows: HamaConformer) -> None:
    session = short_windows.open()
    noise = np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32)
    held = []
    for _ in range(10):
        session.push(0.01 * noise)
        held.append(session.held_samples)
    # Two windows less an overlap, one block of features, and one piece.
    assert max(held) <= (8 - 1) * RATE + BLOCK_FRAMES * 160 + 5 * RATE
    assert max(held[5:]) <= max(held[:5])


def test_no_label_of_recorded_speech_is_lost_or_doubled_at_a_join(model: HamaConformer, speech: np.ndarray) -> None:
    run = runpy.run_path(str(BENCHMARK))["RecordingOfWindows"](12.0, 4.0)
    with torch.no_grad():
        path, joins = run.run(speech)
    assert len(joins) == 5  # Windows start at 0, 8, 16, 24 and 32 s, and 12 s before the end.
    assert run.torn_joins(path, joins) == 0
    assert np.mean(np.array(path) == np.array(greedy(model, encode(model, speech)))) > 0.95


# --- Training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.0, 6.0])
def test_every_parameter_and_the_samples_receive_a_gradient(seconds: float) -> None:
    model = HamaConformer(window_s=4.0, overlap_s=1.0).train()
    samples = torch.from_numpy(voiced(seconds))[None].requires_grad_()
    encoded = model(Waveform(samples, torch.tensor([samples.shape[1]]), RATE))
    model.log_probs(encoded)[..., 40:60].mean().backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A shift of all keys changes no attention weight, so that third of in_proj.bias has none; the rest has.
        assert parameter.grad.abs().max() > 0, name
    assert samples.grad is not None
    assert samples.grad.isfinite().all()
    assert samples.grad.abs().max() > 0


def test_a_few_steps_learn() -> None:
    trained = HamaConformer().train()
    optimizer = torch.optim.AdamW(trained.parameters(), 3e-4)
    wave = Waveform(torch.from_numpy(voiced(1.0))[None], torch.tensor([RATE]), RATE)
    losses = []
    for _ in range(5):
        log_probs = trained.log_probs(trained(wave)).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(
            log_probs, torch.tensor([[7, 32, 42]]), torch.tensor([51]), torch.tensor([3]), blank=labels.BLANK_ID
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_autocast_stays_close(model: HamaConformer) -> None:
    exact = encode(model, voiced(1.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = encode(model, voiced(1.0))
    assert fast.values.dtype == torch.float32
    assert (fast.values - exact.values).abs().mean() < 0.05 * exact.values.abs().mean()
    assert np.mean(np.array(greedy(model, fast)) == np.array(greedy(model, exact))) > 0.9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_gives_the_same_frames(model: HamaConformer) -> None:
    expected = encode(model, voiced(1.0))
    wave = Waveform(torch.from_numpy(voiced(1.0))[None].cuda(), torch.tensor([RATE]).cuda(), RATE)
    with torch.no_grad():
        found = HamaConformer().eval().cuda()(wave)
    torch.testing.assert_close(found.values.cpu(), expected.values, rtol=0, atol=1e-2)


# --- Labels ---------------------------------------------------------------------------------------


def test_labels_are_the_engines(model: HamaConformer) -> None:
    engine_labels = pytest.importorskip("hama").ASRModel().decoder_tokens
    assert list(model.labels) == engine_labels
    assert len(model.labels) == model.head.out_features == 191
    assert model.labels[labels.BLANK_ID] == labels.BLANK
    assert model.labels[labels.WORD_BOUNDARY_ID] == labels.WORD_BOUNDARY


# --- Bad input ----------------------------------------------------------------------------------------------------


def test_other_rates_and_shapes_are_refused(model: HamaConformer) -> None:
    with pytest.raises(ShapeError, match=r"takes samples \[b n\] at 16000 Hz, got shape \(1, 8000\) at 8000 Hz"):
        model(Waveform(torch.zeros(1, 8000), torch.tensor([8000]), 8000))
    with pytest.raises(ShapeError, match=r"got shape \(8000,\) at 16000 Hz"):
        model(Waveform(torch.zeros(8000), torch.tensor([8000]), RATE))


def test_unknown_layers_and_unfit_windows_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"has no layer 5; it has 0 \(subsampled input\) to 4"):
        HamaConformer(layers=(1, 5), weights="random")
    with pytest.raises(
        ShapeError, match="overlap of 10 frames does not fit windows of 1500 frames; expected 20 to 750"
    ):
        HamaConformer(window_s=30.0, overlap_s=0.2, weights="random")


def test_sessions_refuse_bad_pieces_and_use_after_the_end(model: HamaConformer) -> None:
    session = model.open()
    with pytest.raises(ShapeError, match=r"push takes float samples \[n\], got torch.float32 \(1, 400\)"):
        session.push(torch.zeros(1, 400))
    with pytest.raises(ShapeError, match=r"got torch.int16 \(400,\)"):
        session.push(np.zeros(400, np.int16))
    session.finish()
    with pytest.raises(StreamError, match=r"is finished; open\(\) another"):
        session.push(torch.zeros(400))
    with pytest.raises(StreamError, match=r"is finished; open\(\) another"):
        session.finish()
