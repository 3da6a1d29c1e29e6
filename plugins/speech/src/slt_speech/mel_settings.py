"""What makes one log-mel front end differ from another, with the settings of Kaldi and of Whisper."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from sltcore.errors import SpecError

Window = Literal["povey", "hann", "hamming", "blackman", "rectangular"]
MelScale = Literal["htk", "slaney"]
Framing = Literal["snip", "reflect", "center"]
Logarithm = Literal["ln", "log10", "none"]
Normalization = Literal["none", "utterance", "global"]

FLOAT32_EPSILON = 1.1920928955078125e-07  # Kaldi floors mel energies at numeric_limits<float>::epsilon()


@dataclass(frozen=True)
class MelSettings:
    """The arithmetic of a log-mel front end; the defaults are Kaldi's `compute-fbank-feats`.

    Framing, with `w = win_length`, `s = hop_length`, `n` samples:

    - `snip` (Kaldi `snip_edges=true`): frame i is samples [i·s, i·s + w); `1 + (n - w) // s` frames.
    - `reflect` (Kaldi `snip_edges=false`): frame i is centred at (i + 1/2)·s; `(n + s // 2) // s` frames. Beyond either
      end the signal is mirrored, the sample at the end repeated.
    - `center` (librosa, torch, Whisper): frame i is centred at i·s; `1 + n // s` frames, one less with
      `drop_last_frame`. Mirrored without repeating the end.

    Lengths are in samples, frequencies in Hz; `sample_scale` multiplies samples in [-1, 1] first (Kaldi computes on
    16-bit integers). A `high_freq_hz` of 0 or less counts down from the Nyquist frequency.

    Raises `SpecError` when settings exclude each other.
    """

    sample_rate_hz: int = 16000
    n_mels: int = 80
    win_length: int = 400
    hop_length: int = 160
    n_fft: int = 512
    window: Window = "povey"
    window_periodic: bool = False
    framing: Framing = "snip"
    drop_last_frame: bool = False
    sample_scale: float = 32768.0
    dither: float = 0.0
    remove_dc_offset: bool = True
    preemphasis: float = 0.97
    power: float = 2.0
    mel_scale: MelScale = "htk"
    mel_norm: Literal["none", "slaney"] = "none"
    triangularize_in_mel_space: bool = True
    low_freq_hz: float = 20.0
    high_freq_hz: float = 0.0
    use_energy: bool = False
    raw_energy: bool = True
    energy_floor: float = 0.0
    log: Logarithm = "ln"
    log_floor: float = FLOAT32_EPSILON
    dynamic_range: float | None = None
    log_offset: float = 0.0
    log_scale: float = 1.0
    normalize: Normalization = "none"
    normalize_variance: bool = True
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        where = "log-mel"
        if self.n_fft < self.win_length:
            raise SpecError(
                f"{where}: n_fft is {self.n_fft}, but a window has {self.win_length} samples; n_fft must hold it"
            )
        if self.hop_length < 1 or self.win_length < 2:
            raise SpecError(
                f"{where}: hop_length is {self.hop_length} and win_length {self.win_length} samples; expected at least 1 and 2"
            )
        low, high, nyquist = self.low_freq_hz, self.top_freq_hz, self.sample_rate_hz / 2
        if not 0 <= low < high <= nyquist:
            raise SpecError(
                f"{where}: mel filters from {low:g} to {high:g} Hz at {self.sample_rate_hz} Hz; "
                f"expected 0 <= low_freq_hz < high_freq_hz <= {nyquist:g}"
            )
        if self.drop_last_frame and self.framing != "center":
            raise SpecError(
                f"{where}: drop_last_frame needs centred frames; set center: true or drop_last_frame: false"
            )
        self._check_statistics(where)

    def _check_statistics(self, where: str) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values and self.normalize != "global":
                raise SpecError(f"{where}: {name} is given, but normalize is '{self.normalize}'; set normalize: global")
            if self.normalize == "global" and len(values) not in (1, self.n_features):
                raise SpecError(
                    f"{where}: normalize is 'global' and {name} has {len(values)} values; expected 1 or {self.n_features}"
                    f" (measure them with slt_speech.log_mel.measure)"
                )
        if any(value <= 0 for value in self.std):
            raise SpecError(f"{where}: std holds {min(self.std):g}; every value must be above zero")

    @property
    def n_features(self) -> int:
        """Columns of a frame: the mel bands, and the energy before them where it is used."""
        return self.n_mels + int(self.use_energy)

    @property
    def top_freq_hz(self) -> float:
        """`high_freq_hz` counted from 0 Hz."""
        return self.high_freq_hz if self.high_freq_hz > 0 else self.sample_rate_hz / 2 + self.high_freq_hz

    @property
    def frame_shift_s(self) -> float:
        """Seconds from one frame to the next."""
        return self.hop_length / self.sample_rate_hz

    @property
    def first_sample(self) -> int:
        """Where frame 0 begins; negative where it reaches before the signal."""
        if self.framing == "snip":
            return 0
        if self.framing == "reflect":
            return self.hop_length // 2 - self.win_length // 2
        return (self.n_fft - self.win_length) // 2 - self.n_fft // 2

    @property
    def offset_s(self) -> float:
        """Time of the centre of frame 0."""
        return (self.first_sample + self.win_length / 2) / self.sample_rate_hz

    @property
    def whole_utterance(self) -> bool:
        """Whether every frame depends on the whole recording, which excludes streaming."""
        return self.normalize == "utterance" or self.dynamic_range is not None

    def frames(self, samples: Any) -> Any:
        """Frames of a signal of so many samples: int -> int, or int64 tensor -> tensor. Not clamped at zero."""
        if self.framing == "snip":
            return (samples - self.win_length) // self.hop_length + 1
        if self.framing == "reflect":
            return (samples + self.hop_length // 2) // self.hop_length
        return samples // self.hop_length + (0 if self.drop_last_frame else 1)

    def whole_frames(self, samples: int) -> int:
        """Frames that end within so many samples, and so never change again."""
        return (samples - self.first_sample - self.win_length) // self.hop_length + 1

    def port(self) -> dict[str, Any]:
        """The attributes of the Features port: what a vocoder or an encoder must agree with."""
        return {
            "f": self.n_features,
            "frame_shift_s": self.frame_shift_s,
            "kind": "log-mel",
            "sample_rate_hz": self.sample_rate_hz,
            "n_fft": self.n_fft,
            "mel_scale": self.mel_scale,
            "mel_norm": self.mel_norm,
            "log": self.log,
            "normalize": self.normalize,
        }


def kaldi(sample_rate_hz: int = 16000, **changes: Any) -> MelSettings:
    """Kaldi's `compute-fbank-feats`: 25 ms every 10 ms, n_fft the next power of two.

    >>> kaldi(8000).n_fft
    256
    """
    lengths = {"win_length": sample_rate_hz * 25 // 1000, "hop_length": sample_rate_hz // 100, **changes}
    lengths.setdefault("n_fft", 1 << (max(2, lengths["win_length"]) - 1).bit_length())
    return MelSettings(sample_rate_hz=sample_rate_hz, **lengths)


WHISPER = MelSettings(
    n_fft=400,
    window="hann",
    window_periodic=True,
    framing="center",
    drop_last_frame=True,
    sample_scale=1.0,
    remove_dc_offset=False,
    preemphasis=0.0,
    mel_scale="slaney",
    mel_norm="slaney",
    triangularize_in_mel_space=False,
    low_freq_hz=0.0,
    log="log10",
    log_floor=1e-10,
    dynamic_range=8.0,  # maximum(log, max - 8)
    log_offset=4.0,  # (log + 4) / 4
    log_scale=0.25,
)


def whisper(sample_rate_hz: int = 16000, **changes: Any) -> MelSettings:
    """Whisper's front end: 400 samples every 160 at 16 kHz, scaled with the rate elsewhere.

    >>> whisper(n_mels=128).n_features
    128
    """
    lengths = {"win_length": sample_rate_hz // 40, "hop_length": sample_rate_hz // 100, **changes}
    lengths.setdefault("n_fft", lengths["win_length"])
    return replace(WHISPER, sample_rate_hz=sample_rate_hz, **lengths)


PRESETS = {"kaldi": kaldi, "whisper": whisper}
