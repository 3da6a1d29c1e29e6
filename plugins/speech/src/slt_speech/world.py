"""The WORLD vocoder: pitch, spectral envelope and aperiodicity, also where WORLD itself has no aperiodicity (8 kHz)."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import math
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_speech.mel_cepstrum import mel_alpha, mel_cepstrum, power_spectrum
from sltcore.errors import PluginError, ShapeError
from sltcore.interfaces import Vocoder
from sltcore.types import Features, Port, Waveform

Array = npt.NDArray[np.float64]
Tracker = Literal["harvest", "dio"]
Envelope = Literal["mel-cepstrum", "log-spectrum"]

BAND_HZ = 3000  # D4C measures at multiples of 3 kHz and needs 3 kHz on either side
TOP_HZ = 15000
SHORTEST_S = 0.25  # the trackers filter and decimate: shorter input is padded with silence
LOG_POWER = (-80.0, 20.0)  # nepers; what a log power may be before exp
APERIODICITY_DB = (-60.0, 0.0)


@cache
def load_pyworld() -> Any:
    """The compiled module of `pyworld`, without its `__init__`: that needs pkg_resources, which setuptools 81 dropped.

    **Raises** `PluginError` when pyworld is not installed.
    """
    package = importlib.util.find_spec("pyworld")
    folders = list(package.submodule_search_locations or ()) if package else []
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        for folder in folders:
            path = Path(folder) / f"pyworld{suffix}"
            if path.is_file():
                name = "pyworld.pyworld"
                if name in sys.modules:
                    return sys.modules[name]
                loader = importlib.machinery.ExtensionFileLoader(name, str(path))
                spec = importlib.util.spec_from_file_location(name, path, loader=loader)
                assert spec is not None
                module = importlib.util.module_from_spec(spec)
                loader.exec_module(module)
                return module
    raise PluginError("vocoder 'world' needs pyworld, which is not installed; run: pip install 'pyworld>=0.3.4'")


def aperiodicity_bands(sample_rate_hz: int) -> int:
    """How many bands D4C measures: `floor(min(15000, rate / 2 - 3000) / 3000)`, none below 12 kHz."""
    return max(0, int(min(TOP_HZ, sample_rate_hz / 2 - BAND_HZ) // BAND_HZ))


def aperiodicity_rate(sample_rate_hz: int) -> int:
    """The rate at which aperiodicity is measured: the smallest power-of-two multiple that has a band."""
    rate = sample_rate_hz
    while not aperiodicity_bands(rate):
        rate *= 2
    return rate


class Analysis(NamedTuple):
    """`f0` [t] in Hz, 0 where unvoiced; `power` [t bins] spectral envelope; `bands` [t bands] aperiodicity in dB."""

    f0: Array
    power: Array
    bands: Array


class World(Vocoder):
    """Speech as pitch, spectral envelope and band aperiodicity, and back.

    **Features** [b t f], in this order: f0 in Hz (0 where unvoiced); the envelope, `order + 1` mel-cepstral
    coefficients of its magnitude from c_0 on (or, as `log-spectrum`, the natural log of its power, fft_size / 2 + 1
    bins); the aperiodicity of each 3 kHz band in dB (-60 periodic, 0 noise). Frame i is centred at i * frame shift; n
    samples have ceil(n / hop) frames and t frames give t * hop samples.

    **Below 12 kHz** plain WORLD finds no aperiodicity band, takes every frame for noise, and whispers
    (github.com/mmorise/World/issues/49). Here D4C runs on the signal resampled to a multiple of its rate with an
    equally larger FFT, so that its bins coincide, and the bins up to the Nyquist frequency are kept.

    **Source**: Morise, Yokomori, Ozawa, "WORLD", IEICE Trans. E99-D, 2016, doi:10.1587/transinf.2015EDP7457; Harvest:
    Interspeech 2017, doi:10.21437/Interspeech.2017-68; D4C: doi:10.1016/j.specom.2016.09.001. Deviation: the envelope
    is coded as an all-pass mel-cepstrum instead of by WORLD's own codec, which loses more
    (github.com/mmorise/World/issues/33).
    """

    def __init__(
        self,
        sample_rate_hz: int = 16000,
        hop_length: int = 80,
        *,
        tracker: Tracker = "harvest",
        f0_floor_hz: float = 71.0,
        f0_ceil_hz: float = 800.0,
        envelope: Envelope = "mel-cepstrum",
        order: int = 39,
    ) -> None:
        self._rate = sample_rate_hz
        self.hop_length = hop_length
        self.tracker = tracker
        self.f0_floor_hz, self.f0_ceil_hz = f0_floor_hz, f0_ceil_hz
        self.envelope = envelope
        self.order = order
        self.alpha = mel_alpha(sample_rate_hz)
        # CheapTrick's own size: three periods of the lowest pitch, rounded up to a power of two.
        self.fft_size = 2 ** (1 + int(math.log2(3 * sample_rate_hz / f0_floor_hz + 1)))
        self.bins = self.fft_size // 2 + 1
        self.aperiodicity_rate_hz = aperiodicity_rate(sample_rate_hz)
        self.n_bands = aperiodicity_bands(self.aperiodicity_rate_hz)
        self.n_envelope = order + 1 if envelope == "mel-cepstrum" else self.bins
        if order >= self.bins:
            raise ShapeError(f"vocoder 'world': order {order} exceeds the envelope's {self.bins} bins; use at most 60")

    @property
    def sample_rate_hz(self) -> int:
        """Of the waveforms it analyzes and makes."""
        return self._rate

    @property
    def n_features(self) -> int:
        """Width of a frame: pitch, envelope, aperiodicity."""
        return 1 + self.n_envelope + self.n_bands

    @property
    def consumes(self) -> Port:
        """World features; the attributes say how they are coded."""
        attributes: dict[str, Any] = {
            "f": self.n_features,
            "frame_shift_s": self.hop_length / self._rate,
            "kind": "world",
            "envelope": self.envelope,
            "sample_rate_hz": self._rate,
        }
        if self.envelope == "mel-cepstrum":
            attributes["alpha"] = self.alpha
        return Port("Features", attributes)

    @property
    def produces(self) -> Port:
        """Waveforms at its rate."""
        return Port("Waveform", {"sample_rate_hz": self._rate})

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """hop samples for each frame."""
        return lengths * self.hop_length

    def analyze(self, waveform: Waveform) -> Features:
        """Features of each utterance. **Raises** `ShapeError` for another sample rate."""
        if waveform.sample_rate_hz != self._rate:
            raise ShapeError(
                f"vocoder 'world' analyzes {self._rate} Hz, the waveform has {waveform.sample_rate_hz} Hz; "
                f"resample it, or set sample_rate_hz"
            )
        rows = [
            self._code(self.measure(row[:count].double().cpu().numpy()))
            for row, count in zip(waveform.samples, waveform.lengths.tolist(), strict=True)
        ]
        device = waveform.samples.device
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64, device=device)
        values = torch.zeros(len(rows), max(map(len, rows), default=0), self.n_features, device=device)
        for place, row in zip(values, rows, strict=True):
            place[: len(row)] = torch.from_numpy(row)
        return Features(values, lengths, self.hop_length / self._rate)

    def synthesize(self, features: Features) -> Waveform:
        """Samples of each utterance. **Raises** `ShapeError` for another number of features."""
        values = features.values
        if values.ndim != 3 or values.shape[2] != self.n_features:
            raise ShapeError(
                f"Features.values has shape {tuple(values.shape)}, expected (b, t, f) with f = {self.n_features}: f0, "
                f"{self.n_envelope} of the envelope, {self.n_bands} of aperiodicity"
            )
        lengths = self.output_lengths(features.lengths)
        longest = int(lengths.max()) if len(lengths) else 0
        samples = torch.zeros(len(lengths), longest, device=values.device)
        for place, row, frames in zip(samples, values, features.lengths.tolist(), strict=True):
            made = self.render(self._decode(row[:frames].double().cpu().numpy()))
            place[: len(made)] = torch.from_numpy(made)
        return Waveform(samples, lengths, self._rate)

    def measure(self, samples: Array) -> Analysis:
        """WORLD's parameters of one utterance [n]; ceil(n / hop) frames."""
        frames = -(-len(samples) // self.hop_length)
        if not frames:
            return Analysis(np.zeros(0), np.zeros((0, self.bins)), np.zeros((0, self.n_bands)))
        padded, f0, times = self._pitch(samples)
        power = self._envelope(padded, f0, times)
        bands = self._aperiodicity(padded, f0, times)
        return Analysis(f0[:frames], power[:frames], bands[:frames])

    def envelope_of(self, samples: Array) -> Array:
        """The spectral envelope [t bins] of `measure` alone, as power."""
        frames = -(-len(samples) // self.hop_length)
        if not frames:
            return np.zeros((0, self.bins))
        return self._envelope(*self._pitch(samples))[:frames]

    def render(self, analysis: Analysis) -> Array:
        """The samples [t * hop] of WORLD's parameters [t]."""
        frames = len(analysis.f0)
        if not frames:
            return np.zeros(0)
        world = load_pyworld()
        # One more frame at the end, so that the last hop is interpolated and a single frame is enough.
        f0, power, bands = (np.concatenate([part, part[-1:]]) for part in analysis)
        factor = self.aperiodicity_rate_hz // self._rate
        aperiodicity = world.decode_aperiodicity(bands, self.aperiodicity_rate_hz, self.fft_size * factor)
        aperiodicity = np.ascontiguousarray(aperiodicity[:, : self.bins])
        aperiodicity[f0 == 0] = 1.0
        made = world.synthesize(f0, power, aperiodicity, self._rate, 1000 * self.hop_length / self._rate)
        count = frames * self.hop_length
        result = np.zeros(count)
        result[: min(count, len(made))] = made[:count]
        return result

    def _pitch(self, samples: Array) -> tuple[Array, Array, Array]:
        """The samples padded to what the trackers need, pitch in Hz, and the frames' times in seconds."""
        world = load_pyworld()
        padded = np.zeros(max(len(samples), int(SHORTEST_S * self._rate)))
        padded[: len(samples)] = samples
        options = {
            "f0_floor": self.f0_floor_hz,
            "f0_ceil": self.f0_ceil_hz,
            "frame_period": 1000 * self.hop_length / self._rate,
        }
        track = world.harvest if self.tracker == "harvest" else world.dio
        f0, times = track(padded, self._rate, **options)
        return padded, world.stonemask(padded, f0, times, self._rate), times

    def _envelope(self, samples: Array, f0: Array, times: Array) -> Array:
        found: Array = load_pyworld().cheaptrick(
            samples, f0, times, self._rate, f0_floor=self.f0_floor_hz, fft_size=self.fft_size
        )
        return found

    def _aperiodicity(self, samples: Array, f0: Array, times: Array) -> Array:
        """Band aperiodicity [t bands] in dB, from the signal resampled to where D4C has a band."""
        world, rate = load_pyworld(), self.aperiodicity_rate_hz
        if rate != self._rate:
            import soxr

            samples = np.ascontiguousarray(soxr.resample(samples, self._rate, rate, quality="VHQ"))
        factor = rate // self._rate
        aperiodicity = world.d4c(samples, f0, times, rate, fft_size=self.fft_size * factor)
        coded: Array = world.code_aperiodicity(aperiodicity, rate)
        return coded

    def _code(self, analysis: Analysis) -> npt.NDArray[np.float32]:
        if self.envelope == "mel-cepstrum":
            envelope = mel_cepstrum(analysis.power, order=self.order, alpha=self.alpha)
        else:
            envelope = np.log(np.maximum(analysis.power, 1e-16))
        return np.concatenate([analysis.f0[:, None], envelope, analysis.bands], axis=1).astype(np.float32)

    def _decode(self, values: Array) -> Analysis:
        """WORLD's parameters of any finite features: out of range values are brought back into it."""
        f0 = np.where(values[:, 0] < self.f0_floor_hz / 2, 0.0, np.minimum(values[:, 0], self._rate / 4))
        envelope = values[:, 1 : 1 + self.n_envelope]
        if self.envelope == "mel-cepstrum":
            power = power_spectrum(envelope, bins=self.bins, alpha=self.alpha)
        else:
            power = np.exp(np.clip(envelope, *LOG_POWER))
        bands = np.clip(values[:, 1 + self.n_envelope :], *APERIODICITY_DB)
        return Analysis(f0, np.ascontiguousarray(power), np.ascontiguousarray(bands))
