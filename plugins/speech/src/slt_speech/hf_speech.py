"""The `hf-speech` encoder: a speech encoder of `transformers`, with its CTC head where it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from slt_speech.frames import check_waveform, with_layers
from slt_speech.hf_models import SUPPORTED_TYPES, BertModel, WaveformModel, WhisperModel, samples_per_frame
from sltcore.errors import PortError, SpecError
from sltcore.interfaces import Encoder
from sltcore.types import Encoded, Port, Waveform

if TYPE_CHECKING:
    from torch import Tensor

    from sltcore.vocabulary import Vocabulary


class HfSpeech(Encoder, nn.Module):
    """Hidden states of a pretrained speech model: wav2vec 2.0, HuBERT, WavLM, UniSpeech, data2vec, SEW, Whisper, ….

    `base` is the `transformers` model without its head (for Whisper, the encoder); `processor` is what
    preprocessor_config.json says (`sampling_rate`, `do_normalize`, `n_fft`, `hop_length`); `head` [d -> v] and
    `vocabulary` of a CTC model are offered to decoders; `files` are kept for bundles. Padding changes a frame by less
    than `padding_tolerance`, see `WaveformModel`. SpecAugment and layer drop are the business of training, so the
    model's own are off: `masked_spec_embed` is frozen.

    **Source**: Baevski et al., wav2vec 2.0, arXiv:2006.11477; Hsu et al., HuBERT, arXiv:2106.07447; Chen et al., WavLM,
    arXiv:2110.13900; Radford et al., Whisper, arXiv:2212.04356; code and weights by `transformers`.

    **Raises** `SpecError` for a model type that is not supported, or a depth that it has not.
    """

    def __init__(
        self,
        base: nn.Module,
        processor: Mapping[str, Any] | None = None,
        *,
        head: nn.Module | None = None,
        vocabulary: Vocabulary | None = None,
        return_layers: Sequence[int] = (),
        layerdrop: float = 0.0,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__()
        self.model = running(base, processor or {})
        wrong = [depth for depth in return_layers if not 0 <= depth <= self.model.depths]
        if wrong and not self.model.depths:
            raise SpecError("hf-speech: the inner layers of this model have another frame rate; set return_layers: []")
        if wrong:
            raise SpecError(f"hf-speech: return_layers names {wrong[0]}; depths run from 0 to {self.model.depths}")
        self.return_layers = tuple(sorted(set(return_layers)))
        self.head = head
        self.vocabulary = vocabulary
        self._files = dict(files or {})
        switch_off_chance(base, layerdrop)
        self._frame_shift_s = samples_per_frame(self.model) / self.model.sample_rate_hz

    @property
    def consumes(self) -> Port:
        """Samples at the rate the model was trained on."""
        return Port("Waveform", {"sample_rate_hz": self.model.sample_rate_hz})

    @property
    def produces(self) -> Port:
        """`Encoded` [b t d]."""
        return Port("Encoded", {"d": self.model.d_model, "frame_shift_s": self._frame_shift_s})

    @property
    def depths(self) -> int | None:
        """The model's layers, depth 0 being what enters the first; None where they have another frame rate."""
        return self.model.depths or None

    def keep_layers(self, depths: Sequence[int]) -> None:
        """Have `Encoded.layers` hold these depths too. **Raises** `PortError` for another one, or where there are none."""
        if depths and not self.model.depths:
            raise PortError(
                "hf-speech: the inner layers of this model have another frame rate; ask for its output only"
            )
        self.return_layers = with_layers(self.return_layers, depths, 0, self.model.depths, "hf-speech")

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames [b] of samples [b], by the model's own arithmetic."""
        return self.model.output_lengths(lengths)

    def offers(self) -> Mapping[str, Any]:
        """`head` and `vocabulary` of a CTC model."""
        found = {"head": self.head, "vocabulary": self.vocabulary}
        return {name: value for name, value in found.items() if value is not None}

    def save_files(self) -> Mapping[str, bytes]:
        """Architecture, processor settings and labels, so that a bundle loads without the hub."""
        return self._files

    def forward(self, x: Waveform, context: Mapping[str, Any]) -> Encoded:
        """`Encoded` [b t d] float32, zero after each length. **Raises** `ShapeError` for another shape or rate."""
        x = check_waveform(x, self.model.sample_rate_hz, "hf-speech")
        values, lengths, layers = self.model(x.samples, x.lengths, self.return_layers)
        return Encoded(values, lengths, self._frame_shift_s, self.model.offset_s, layers)


def switch_off_chance(base: Any, layerdrop: float) -> None:
    """Turn the model's own SpecAugment off, set its layer drop, and freeze what no forward pass then reads."""
    base.config.apply_spec_augment = False
    base.config.layerdrop = base.config.encoder_layerdrop = layerdrop
    for module in base.modules():
        if isinstance(getattr(module, "layerdrop", None), float):
            module.layerdrop = layerdrop
    unread = ["masked_spec_embed"]
    if base.config.model_type == "wav2vec2-conformer":  # built by transformers, read by none of its position types
        unread.append("pos_conv_embed")
    for name, parameter in base.named_parameters():
        if any(part in name for part in unread):
            parameter.requires_grad_(False)


def running(base: nn.Module, processor: Mapping[str, Any]) -> WaveformModel | WhisperModel | BertModel:
    """The module that runs a model of its type on samples. **Raises** `SpecError` for a type that is not supported."""
    kind = base.config.model_type  # type: ignore[union-attr]
    rate_hz = int(processor.get("sampling_rate", 16000))
    if kind == "whisper":
        sizes = {name: int(processor[name]) for name in ("n_fft", "hop_length") if name in processor}
        return WhisperModel(base, sample_rate_hz=rate_hz, **sizes)
    if kind == "wav2vec2-bert":
        return BertModel(base, sample_rate_hz=rate_hz)
    if kind not in SUPPORTED_TYPES:
        raise SpecError(f"hf-speech: model type '{kind}' is not supported; supported: {', '.join(SUPPORTED_TYPES)}")
    return WaveformModel(base, sample_rate_hz=rate_hz, do_normalize=bool(processor.get("do_normalize", True)))
