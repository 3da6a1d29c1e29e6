"""Promises of the augmentations beyond the kit's: length laws, spectra, gains, and how much is hidden."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slt_speech.augmentations.draws import choice, uniform, whole
from slt_speech.augmentations.spec_augment import SpecAugment
from slt_speech.augmentations.speed import Speed, changed_lengths
from slt_speech.augmentations.volume import Volume
from sltcore.errors import ShapeError, SpecError
from sltcore.pipeline import build_component
from sltcore.types import Features, Waveform

RATE = 16000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wave(*rows: torch.Tensor) -> Waveform:
    lengths = torch.tensor([len(row) for row in rows])
    samples = torch.zeros(len(rows), int(lengths.max()))
    for place, row in enumerate(rows):
        samples[place, : len(row)] = row
    return Waveform(samples, lengths, RATE)


def tone(hz: float, seconds: float, peak: float = 0.5) -> torch.Tensor:
    return peak * torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * RATE)) / RATE)


def peak_hz(samples: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs()
    return float(spectrum.argmax()) * RATE / len(samples)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 1.7])
def test_speed_divides_the_length_and_multiplies_the_pitch(factor: float) -> None:
    part = Speed([factor])
    x = wave(tone(500, 1.0), tone(800, 0.5))
    out = part(x, {}, generator())
    assert out.lengths.tolist() == [math.ceil(16000 / factor), math.ceil(8000 / factor)]
    assert out.lengths.tolist() == part.output_lengths(x.lengths).tolist()  # type: ignore[union-attr]
    assert out.sample_rate_hz == RATE
    for row, hz in enumerate((500, 800)):
        heard = peak_hz(out.samples[row, : int(out.lengths[row])])
        assert heard == pytest.approx(hz * factor, abs=2 * RATE / int(out.lengths[row]))


def test_speed_is_the_sound_at_other_times() -> None:
    """Against the closed form: the sample at time i is the tone at time i times the factor."""
    out = Speed([1.25])(wave(tone(300, 0.5)), {}, generator()).samples[0]
    expected = tone(300 * 1.25, 0.4)
    middle = slice(400, -400)  # the filter's reach at the edges
    torch.testing.assert_close(out[middle], expected[middle], atol=1e-4, rtol=0)


def test_speed_folds_nothing_back() -> None:
    """A tone at 7 kHz twice as fast would be at 14 kHz, beyond Nyquist: it must vanish."""
    out = Speed([2.0])(wave(tone(7000, 0.5)), {}, generator()).samples[0]
    assert float(out[200:-200].abs().max()) < 1e-3


def test_factor_one_changes_no_bit() -> None:
    x = wave(tone(440, 0.3), torch.zeros(1))
    out = Speed([1.0])(x, {}, generator())
    assert torch.equal(out.samples, x.samples)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=4), st.floats(0.25, 4.0))
def test_every_length_follows_the_law(lengths: list[int], factor: float) -> None:
    x = Waveform(0.1 * torch.ones(len(lengths), max(lengths)), torch.tensor(lengths), RATE)
    out = Speed([factor])(x, {}, generator())
    assert out.lengths.tolist() == [math.ceil(length / factor) for length in lengths]
    assert out.lengths.tolist() == changed_lengths(x.lengths, factor).tolist()
    assert bool(out.samples.isfinite().all())


def test_factors_are_drawn_equally_often() -> None:
    part = Speed([0.9, 1.0, 1.1])
    assert part.output_lengths(torch.tensor([100])) is None
    source = generator(3)
    out = part(Waveform(torch.zeros(600, 99), torch.full((600,), 99), RATE), {}, source)
    counts = [int((out.lengths == n).sum()) for n in (110, 99, 90)]
    assert sum(counts) == 600
    assert min(counts) > 150  # 200 expected, standard deviation 11.5


def test_volume_multiplies_and_never_clips() -> None:
    x = wave(tone(200, 0.2, 0.1), tone(300, 0.1, 0.9))
    quiet, loud = [], []
    for seed in range(100):
        out = Volume(-12, 6)(x, {}, generator(seed))
        quiet.append(float(out.samples[0].abs().max() / x.samples[0].abs().max()))
        loud.append(float(out.samples[1].abs().max()))
        ratio = out.samples[0] / torch.where(x.samples[0].abs() > 1e-4, x.samples[0], torch.inf)
        kept = ratio[x.samples[0].abs() > 1e-4]
        assert float(kept.max() - kept.min()) < 1e-4
    gains_db = 20 * np.log10(quiet)
    assert -12 <= gains_db.min() < -11.3
    assert 5.3 < gains_db.max() <= 6 + 1e-5
    assert float(np.mean(gains_db)) == pytest.approx(-3, abs=5 * 18 / math.sqrt(12 * 100))  # uniform: mean, its error
    assert max(loud) == pytest.approx(1.0, abs=1e-5)


def test_a_recording_beyond_one_is_never_made_louder() -> None:
    x = wave(3 * tone(200, 0.1, 1.0))
    for seed in range(20):
        assert float(Volume(-6, 20)(x, {}, generator(seed)).samples.abs().max()) <= float(x.samples.abs().max())


def features(*lengths: int, size: int = 40, seed: int = 0) -> Features:
    values = 3 + torch.randn(len(lengths), max(lengths), size, generator=generator(seed))
    inside = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return Features(values * inside[..., None], torch.tensor(lengths), 0.01)


def hidden(before: Features, after: Features, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which frames and which features of an utterance are hidden altogether."""
    length = int(before.lengths[row])
    changed = before.values[row, :length] != after.values[row, :length]
    return changed.all(dim=1), changed.all(dim=0)


def test_spec_augment_hides_bands_and_runs_and_nothing_else() -> None:
    x = features(120, 80)
    for seed in range(30):
        out = SpecAugment(1, 9, time_masks=1, time_width=15, time_share=1.0)(x, {}, generator(seed))
        for row, length in enumerate((120, 80)):
            frames, bands = hidden(x, out, row)
            assert int(frames.sum()) <= 15
            assert int(bands.sum()) <= 9
            for mask in (frames, bands):  # one block each
                assert int((mask[1:] & ~mask[:-1]).sum()) + int(mask[0]) <= 1
            changed = x.values[row, :length] != out.values[row, :length]
            assert torch.equal(changed, frames[:, None] | bands[None, :])
            mean = x.values[row, :length].mean()
            torch.testing.assert_close(out.values[row, :length][changed], mean.expand(int(changed.sum())))
        assert torch.equal(out.values[1, 80:], x.values[1, 80:])


def test_zero_fills_with_zero() -> None:
    out = SpecAugment(2, 20, fill="zero")(features(50), {}, generator(1))
    assert float(out.values[0][out.values[0] != features(50).values[0]].abs().max()) == 0


def test_widths_are_uniform_from_nothing_to_the_most() -> None:
    part = SpecAugment(0, 0, time_masks=1, time_width=10, time_share=1.0)
    x = features(*[60] * 2200)
    out = part(x, {}, generator(5))
    widths = torch.tensor([int(hidden(x, out, row)[0].sum()) for row in range(2200)])
    counts = torch.bincount(widths, minlength=11)
    assert len(counts) == 11
    assert int(counts.min()) > 200 - 5 * 14  # 200 expected, standard deviation 13.5
    assert int(counts.max()) < 200 + 5 * 14


def test_the_share_bounds_short_utterances() -> None:
    part = SpecAugment(0, 0, time_masks=1, time_width=100, time_share=0.2)
    assert [part.widest(frames) for frames in (0, 4, 10, 400, 1000)] == [0, 0, 2, 80, 100]
    x = features(10)
    for seed in range(50):
        assert int(hidden(x, part(x, {}, generator(seed)), 0)[0].sum()) <= 2


def test_adaptive_masks_follow_the_length() -> None:
    """Sizes and numbers of arXiv:1912.05533, section 2.1: floor(p_S t) and min(20, floor(p_M t))."""
    part = SpecAugment(0, 0, time_masks=20, time_width=None, time_share=0.05, adaptive_masks=0.04)
    assert [part.widest(frames) for frames in (100, 1000, 3000)] == [5, 50, 150]
    assert [part.runs(frames) for frames in (10, 100, 1000)] == [0, 4, 20]
    x = features(200)
    most = max(int(hidden(x, part(x, {}, generator(seed)), 0)[0].sum()) for seed in range(30))
    assert 20 < most <= 8 * 10


def test_the_gradient_passes_where_features_are_shown() -> None:
    values = features(50).values.requires_grad_()
    out = SpecAugment(1, 10, time_masks=1, time_width=10)(Features(values, torch.tensor([50]), 0.01), {}, generator(2))
    out.values.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad != 0, out.values == values)


def test_draws_cover_their_range() -> None:
    source = generator()
    numbers = [whole(2, 5, source) for _ in range(400)]
    assert set(numbers) == {2, 3, 4, 5}
    assert {whole(3, 3, source) for _ in range(5)} == {3}
    assert all(-1 <= uniform(-1, 2, source) < 2 for _ in range(100))
    assert {choice([7.0, 9.0], source) for _ in range(50)} == {7.0, 9.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Speed([]), "speed: no factor is given, expected factors from 0.25 to 4"),
        (lambda: Speed([1.0, 5.0]), "speed: factor 5 is given, expected factors from 0.25 to 4"),
        (lambda: Volume(3, 3), "volume: low_db is 3 and high_db 3, expected the first below the second"),
        (lambda: SpecAugment(0, time_masks=0), "spec-augment: all masks are switched off"),
        (lambda: SpecAugment(2, 0, time_share=0.0), "spec-augment: all masks are switched off"),
        (lambda: build_component("augmentation", "speed", {"factors": [9]}), "factors"),
        (lambda: build_component("augmentation", "volume", {"low_db": 7}), "low_db must be below high_db"),
        (lambda: build_component("augmentation", "spec-augment", {"frequency_masks": 0, "time_masks": 0}), "switched off"),
    ],
)  # fmt: skip
def test_settings_that_do_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_another_type_or_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match="speed consumes a Waveform, but was given Features"):
        Speed()(features(5), {}, generator())  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="spec-augment consumes Features, but was given Waveform"):
        SpecAugment()(wave(tone(200, 0.1)), {}, generator())  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="volume"):
        Volume()(Waveform(torch.zeros(3), torch.tensor([3]), RATE), {}, generator())
