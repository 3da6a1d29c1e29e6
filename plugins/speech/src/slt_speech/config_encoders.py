"""Configurations of the front end and the encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from slt_speech.mel_settings import PRESETS, Framing, MelScale, MelSettings, Window
from sltcore.errors import SpecError
from sltcore.spec import Block, Config, Slot

PER_FEATURE = "; one number, or one for each feature"


class LogMelConfig(Config):
    """A log-mel front end; a field that is left out is as the preset has it.

    Lengths may be given as Kaldi does, in milliseconds, or as Whisper does, in samples.
    """

    preset: Literal["kaldi", "whisper"] = Field("kaldi", description="whose arithmetic stands in for fields left out")
    sample_rate_hz: int = Field(16000, ge=1000, le=192000, description="rate of the recordings, in Hz")
    n_mels: int | None = Field(None, ge=1, le=512, description="mel bands (80)")
    num_mel_bins: int | None = Field(None, ge=1, le=512, description="Kaldi's name of n_mels")
    win_length: int | None = Field(None, ge=2, le=65536, description="window, in samples (25 ms)")
    frame_length_ms: float | None = Field(None, gt=0, le=1000, description="window, in milliseconds (25)")
    hop_length: int | None = Field(None, ge=1, le=65536, description="from frame to frame, in samples (10 ms)")
    frame_shift_ms: float | None = Field(None, gt=0, le=1000, description="from frame to frame, in milliseconds (10)")
    n_fft: int | None = Field(
        None,
        ge=2,
        le=65536,
        description="points of the Fourier transform (kaldi: the next power of two; whisper: win_length)",
    )
    window: Window | None = Field(None, description="analysis window (kaldi: povey, whisper: hann)")
    window_periodic: bool | None = Field(None, description="periodic instead of symmetric window (whisper: true)")
    snip_edges: bool | None = Field(
        None, description="Kaldi's framing: only whole windows (true), or one every shift with mirrored edges (false)"
    )
    center: bool | None = Field(
        None, description="frames centred at multiples of the shift, edges mirrored (whisper: true)"
    )
    drop_last_frame: bool | None = Field(None, description="leave out the last centred frame (whisper: true)")
    sample_scale: float | None = Field(
        None, gt=0, le=1e6, description="factor on samples in [-1, 1] (kaldi: 32768, 16-bit integers; whisper: 1)"
    )
    dither: float = Field(
        0.0, ge=0, le=100, description="noise added to scaled samples in training, standard deviation"
    )
    remove_dc_offset: bool | None = Field(None, description="subtract each frame's mean (kaldi: true)")
    preemphasis: float | None = Field(None, ge=0, le=1, description="coefficient of the pre-emphasis (kaldi: 0.97)")
    power: float = Field(2.0, gt=0, le=4, description="exponent of the magnitude: 2 for power, 1 for magnitude")
    mel_scale: MelScale | None = Field(None, description="mel formula (kaldi: htk, whisper: slaney)")
    mel_norm: Literal["none", "slaney"] | None = Field(
        None, description="divide filters by their width (whisper: slaney)"
    )
    triangularize_in_mel_space: bool | None = Field(
        None, description="triangles straight in mel, not in Hz (kaldi: true)"
    )
    low_freq_hz: float | None = Field(None, ge=0, le=96000, description="lower end of the bands, in Hz (kaldi: 20)")
    high_freq_hz: float = Field(0.0, ge=-96000, le=96000, description="upper end, in Hz; 0 or less counts from Nyquist")
    use_energy: bool = Field(False, description="put the frame's log energy before the bands")
    raw_energy: bool = Field(True, description="energy before pre-emphasis and window")
    energy_floor: float = Field(0.0, ge=0, le=1e12, description="least energy, on scaled samples")
    log: Literal["ln", "log10", "none"] | None = Field(None, description="logarithm (kaldi: ln, whisper: log10)")
    log_floor: float | None = Field(None, gt=0, le=1, description="least mel energy before the logarithm")
    dynamic_range: float | None = Field(
        None,
        ge=0,
        le=100,
        description="clamp below the recording's maximum minus this; 0: off (whisper: 8, excludes streaming)",
    )
    log_offset: float | None = Field(None, ge=-100, le=100, description="added after the logarithm (whisper: 4)")
    log_scale: float | None = Field(None, gt=0, le=100, description="factor after log_offset (whisper: 0.25)")
    normalize: Literal["none", "utterance", "global"] = Field(
        "none", description="subtract a mean: of the recording (excludes streaming), or the given one"
    )
    normalize_variance: bool = Field(True, description="also divide by the standard deviation")
    mean: float | tuple[float, ...] = Field((), description=f"for normalize: global{PER_FEATURE}")
    std: float | tuple[float, ...] = Field((), description=f"for normalize: global{PER_FEATURE}")

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        try:
            self.settings()
        except SpecError as error:
            raise ValueError(str(error).removeprefix("log-mel: ")) from error
        return self

    def settings(self) -> MelSettings:
        """What the fields say, over the preset. **Raises** `SpecError` when they exclude each other."""
        shared = MelSettings.__dataclass_fields__.keys() & type(self).model_fields.keys()
        changes = {name: value for name in sorted(shared) if (value := getattr(self, name)) is not None}
        changes["n_mels"] = self._one("n_mels", "num_mel_bins", 1.0) or 80
        changes["win_length"] = self._one("win_length", "frame_length_ms", self.sample_rate_hz / 1000)
        changes["hop_length"] = self._one("hop_length", "frame_shift_ms", self.sample_rate_hz / 1000)
        for name in ("mean", "std"):
            value = getattr(self, name)
            changes[name] = value if isinstance(value, tuple) else (value,)
        framing = self._framing()
        if framing is not None:
            changes["framing"] = framing
            if framing != "center":
                changes.setdefault("drop_last_frame", False)
        if self.dynamic_range == 0:
            changes["dynamic_range"] = None
        kept = {name: value for name, value in changes.items() if value is not None or name == "dynamic_range"}
        return PRESETS[self.preset](**kept)

    def _one(self, samples: str, other: str, factor: float) -> int | None:
        """The value of two names of one quantity."""
        first: int | None = getattr(self, samples)
        second: float | None = getattr(self, other)
        if first is not None and second is not None:
            raise SpecError(f"{samples} is {first:g} and {other} {second:g}; they name one quantity, give one of them")
        return first if second is None else round(second * factor)

    def _framing(self) -> Framing | None:
        if self.center and self.snip_edges is not None:
            raise SpecError(
                "center and snip_edges are both given; center: true is a framing of its own, give one of them"
            )
        if self.center:
            return "center"
        if self.snip_edges is not None:
            return "snip" if self.snip_edges else "reflect"
        return "snip" if self.center is False else None


class ConformerConfig(Config):
    """A Conformer encoder. The defaults are Conformer (S) of arXiv:2005.08100, table 1, with layer norm."""

    frontend: Annotated[Block | None, Slot("encoder")] = Field(
        "log-mel", validate_default=True, description="from a recording to features; null to consume Features"
    )
    num_features: int | None = Field(None, ge=1, le=4096, description="features of a frame, without a front end (80)")
    feature_shift_ms: float | None = Field(
        None, gt=0, le=1000, description="frame shift without a front end, in ms (10)"
    )
    d_model: int = Field(144, ge=2, le=4096, multiple_of=2, description="width of the model")
    layers: int = Field(16, ge=1, le=128, description="blocks")
    heads: int = Field(4, ge=1, le=64, description="attention heads; d_model divides by it")
    ffn: int = Field(576, ge=1, le=32768, description="inner width of the feed-forward modules")
    kernel: int = Field(31, ge=1, le=255, description="frames that the convolution spans; odd unless causal")
    subsampling: Literal[1, 2, 4, 8] = Field(4, description="input frames for an output frame")
    subsampling_channels: int | None = Field(None, ge=1, le=4096, description="channels of the subsampling (d_model)")
    position: Literal["relative", "rotary"] = Field("relative", description="how attention knows distances")
    convolution: Literal["centered", "causal", "chunk"] | None = Field(
        None, description="what the convolution sees (chunk where there are chunks, else centered)"
    )
    norm: Literal["layer", "batch"] = Field("layer", description="norm within the convolution module")
    chunk_frames: int | None = Field(
        None, ge=1, le=4096, description="output frames of a chunk, for streaming; empty: a frame sees everything"
    )
    left_chunks: int = Field(4, ge=0, le=256, description="chunks before its own that a frame sees")
    dropout: float = Field(0.1, ge=0, lt=1, description="in training, after every module")
    return_layers: tuple[int, ...] = Field((), description="depths whose outputs are kept; 0 is the subsampled input")

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        check_input(self)
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} does not divide by heads {self.heads}")
        if self.position == "rotary" and self.d_model // self.heads % 2:
            raise ValueError(
                f"rotary needs an even number of coordinates a head, d_model / heads is {self.d_model // self.heads}"
            )
        if self.convolution == "chunk" and self.chunk_frames is None:
            raise ValueError("convolution is 'chunk', but there are no chunks; set chunk_frames")
        if self.convolution == "centered" and self.chunk_frames is not None:
            raise ValueError(
                "a centered convolution looks beyond a chunk in every layer; set convolution: causal or chunk"
            )
        if self.convolution != "causal" and self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even; only a causal convolution has no middle")
        check_depths(self.return_layers, 0, self.layers)
        return self


class LstmConfig(Config):
    """An LSTM encoder over stacked frames."""

    frontend: Annotated[Block | None, Slot("encoder")] = Field(
        "log-mel", validate_default=True, description="from a recording to features; null to consume Features"
    )
    num_features: int | None = Field(None, ge=1, le=4096, description="features of a frame, without a front end (80)")
    feature_shift_ms: float | None = Field(
        None, gt=0, le=1000, description="frame shift without a front end, in ms (10)"
    )
    hidden: int = Field(320, ge=1, le=8192, description="cells of a layer and direction")
    layers: int = Field(4, ge=1, le=64, description="layers")
    bidirectional: bool = Field(False, description="also from the end to the start, which excludes streaming")
    projection: int | None = Field(
        None, ge=1, le=8192, description="width of the projected recurrent output, below hidden"
    )
    stack: int = Field(3, ge=1, le=64, description="frames joined into one, those of the stride and before it")
    stride: int = Field(3, ge=1, le=64, description="input frames for an output frame")
    layer_norm: bool = Field(True, description="normalise the output of each layer")
    dropout: float = Field(0.1, ge=0, lt=1, description="in training, between layers")
    return_layers: tuple[int, ...] = Field((), description="depths whose outputs are kept, from 1")

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        check_input(self)
        if self.stack < self.stride:
            raise ValueError(
                f"stack {self.stack} with stride {self.stride} drops frames unread; set stack to {self.stride}"
            )
        if self.projection is not None and self.projection >= self.hidden:
            raise ValueError(f"projection {self.projection} is not below hidden {self.hidden}")
        check_depths(self.return_layers, 1, self.layers)
        return self


def _near_spec(value: Any, info: ValidationInfo) -> Any:
    """A relative folder is looked for beside the spec; a hub name is left as it is."""
    folder = (info.context or {}).get("folder")
    if not isinstance(value, str) or folder is None or not value:
        return value
    beside = Path(folder) / Path(value).expanduser()
    return str(beside) if beside.is_dir() or value.startswith(".") else value


class HfSpeechConfig(Config):
    """A speech encoder of `transformers`: pretrained, or an architecture with fresh weights."""

    model: Annotated[str, BeforeValidator(_near_spec)] = Field(
        "", max_length=4096, description="folder that save_pretrained wrote, or name on the Hugging Face hub"
    )
    revision: str | None = Field(None, min_length=1, max_length=200, description="branch, tag or commit on the hub")
    download: bool = Field(False, description="fetch the model from the hub when it is not in the local cache")
    architecture: dict[str, Any] = Field(
        default_factory=dict, description="instead of model: fields of a transformers config, model_type among them"
    )
    layerdrop: float = Field(0.0, ge=0, lt=1, description="chance to skip a layer in training")
    return_layers: tuple[int, ...] = Field(
        (), description="hidden states that are kept; 0 is the input of the first layer"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.model) == bool(self.architecture):
            raise ValueError(
                "give either model (a folder or hub name) or architecture (fields of a transformers config)"
            )
        if self.architecture and (self.revision is not None or self.download):
            raise ValueError(
                "revision and download are about a model on the hub, but architecture is given; remove them"
            )
        check_depths(self.return_layers, 0, 1000)
        return self


class HamaConformerConfig(Config):
    """The pretrained phone recogniser of the package hama 1.7.0."""

    weights: Literal["hama-1.7.0", "english", "random"] = Field(
        "hama-1.7.0",
        description="hama-1.7.0: those of the package; english: the same after it went on learning on English prompts and "
        "dialogues; random: untrained",
    )
    window_s: float = Field(30.0, ge=2, le=120, description="longest stretch that is encoded at once, in seconds")
    overlap_s: float = Field(4.0, ge=0.4, le=30, description="what neighbouring windows share, in seconds")
    dropout: float = Field(0.0, ge=0, lt=1, description="in training, on the output of each half block")
    return_layers: tuple[int, ...] = Field((), description="depths whose outputs are kept; 0 is the subsampled input")

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if 2 * self.overlap_s > self.window_s:
            raise ValueError(f"overlap_s {self.overlap_s:g} is more than half of window_s {self.window_s:g}")
        check_depths(self.return_layers, 0, 4)
        return self


def check_input(config: ConformerConfig | LstmConfig) -> None:
    """**Raises** `ValueError` when features are described although a front end makes them."""
    for name in ("num_features", "feature_shift_ms"):
        if config.frontend is not None and getattr(config, name) is not None:
            raise ValueError(f"{name} is given, but the front end says it; remove it, or set frontend: null")


def check_depths(depths: tuple[int, ...], first: int, last: int) -> None:
    """**Raises** `ValueError` for a depth outside of first … last."""
    wrong = [depth for depth in depths if not first <= depth <= last]
    if wrong:
        raise ValueError(f"return_layers names {wrong[0]}; depths run from {first} to {last}")
