"""Speech encoders of `transformers`, run so that neither padding nor batching changes a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from slt_speech.frames import blank_padding, frame_mask
from slt_speech.log_mel import LogMel
from slt_speech.mel_settings import kaldi, whisper
from sltcore.errors import SpecError
from sltcore.types import Waveform

if TYPE_CHECKING:
    from torch import Tensor

MASKED_TYPES = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
ALONE_TYPES = ("data2vec-audio", "sew", "sew-d", "wav2vec2-conformer")
SUPPORTED_TYPES = (*MASKED_TYPES, *ALONE_TYPES, "whisper", "wav2vec2-bert")
VARIANCE_FLOOR = 1e-7  # Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm, SeamlessM4TFeatureExtractor
WINDOWS_AT_ONCE = 16  # of Whisper: 30 s each, which bounds memory on long recordings

Run = tuple["Tensor", "Tensor", dict[int, "Tensor"]]
"""Values [b t d], lengths [b], and inner layers [b t d] by depth."""


class WaveformModel(nn.Module):
    """A model over raw samples: wav2vec 2.0 and its family.

    Masks keep padding out of attention and positional convolution, and the first layer's group norm, a statistic over
    time, counts each utterance's own frames only. Where the architecture lets padding through all the same
    (`ALONE_TYPES`, an adapter, a batch norm before positions), utterances of different lengths run one after another.
    """

    def __init__(self, base: nn.Module, *, sample_rate_hz: int = 16000, do_normalize: bool = True) -> None:
        super().__init__()
        self.base = base
        self.sample_rate_hz = sample_rate_hz
        self.do_normalize = do_normalize
        config: Any = base.config
        self.group_norm: MaskedGroupNorm | None = None
        self.runs_masked = (
            config.model_type in MASKED_TYPES
            and not getattr(config, "add_adapter", False)
            and not getattr(config, "conv_pos_batch_norm", False)
        )
        layers: Any = base.feature_extractor
        if self.runs_masked and isinstance(layers.conv_layers[0].layer_norm, nn.GroupNorm):
            self.group_norm = layers.conv_layers[0].layer_norm = MaskedGroupNorm(layers.conv_layers[0].layer_norm)
        adapted = getattr(config, "add_adapter", False)
        self.d_model = int(config.output_hidden_size if adapted else config.hidden_size)
        squeeze = int(getattr(config, "squeeze_factor", 1))  # SEW averages so many frames before its layers
        # inner layers of SEW, and those before an adapter, have another frame rate than the output
        self.depths = 0 if squeeze > 1 or adapted else int(config.num_hidden_layers)
        self.first_kernel, self.first_stride = int(config.conv_kernel[0]), int(config.conv_stride[0])
        self.receptive_samples = _receptive_samples(config.conv_kernel, config.conv_stride)
        self.least_samples = self.receptive_samples + (squeeze - 1) * math.prod(config.conv_stride)

    @property
    def offset_s(self) -> float:
        """Time of the middle of frame 0's receptive field."""
        return self.receptive_samples / 2 / self.sample_rate_hz

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames [b] of so many samples [b], by the model's own convolution arithmetic; none below a first window."""
        counts: Tensor = self.base._get_feat_extract_output_lengths(lengths)  # type: ignore[operator]
        return torch.where(lengths >= self.receptive_samples, counts.long(), 0).clamp(min=0)

    def forward(self, samples: Tensor, lengths: Tensor, depths: Sequence[int]) -> Run:
        """Frames of samples [b n] of `lengths` [b]."""
        counts = self.output_lengths(lengths)
        samples = samples.float().masked_fill(~frame_mask(lengths, samples.shape[1]), 0.0)
        if self.do_normalize:
            samples = normalize_samples(samples, lengths)
        missing = self.least_samples - samples.shape[1]
        if missing > 0:  # too short for the network, which runs all the same; what is too much is cut away
            samples = nn.functional.pad(samples, (0, missing))
        lengths = lengths.clamp(min=self.least_samples)
        room = int(counts.max())
        if self.runs_masked:
            outputs = self._run(samples[:, : int(lengths.max())], lengths, depths, masked=True)
            return self._cut(outputs, counts, depths, room)
        return self._one_length_at_a_time(samples, lengths, counts, depths, room)

    def _one_length_at_a_time(
        self, samples: Tensor, lengths: Tensor, counts: Tensor, depths: Sequence[int], room: int
    ) -> Run:
        outputs = [samples.new_zeros(len(counts), room, self.d_model) for _ in (None, *depths)]
        for length in torch.unique(lengths[counts > 0]).tolist():
            chosen = ((lengths == length) & (counts > 0)).nonzero().flatten()
            found = self._run(samples[chosen, :length], lengths[chosen], depths, masked=False)
            outputs = [
                whole.index_put((chosen,), _resized(part, room)) for whole, part in zip(outputs, found, strict=True)
            ]
        return self._cut(outputs, counts, depths, room)

    def _run(self, samples: Tensor, lengths: Tensor, depths: Sequence[int], *, masked: bool) -> list[Tensor]:
        mask = frame_mask(lengths, samples.shape[1]).long() if masked else None
        if self.group_norm is not None:
            self.group_norm.lengths = (lengths - self.first_kernel) // self.first_stride + 1
        output = self.base(samples, attention_mask=mask, output_hidden_states=bool(depths))
        return [output.last_hidden_state, *(output.hidden_states[depth] for depth in depths)]

    def _cut(self, outputs: list[Tensor], counts: Tensor, depths: Sequence[int], room: int) -> Run:
        kept = [blank_padding(_resized(values, room), counts) for values in outputs]
        return kept[0], counts, dict(zip(depths, kept[1:], strict=True))


class WhisperModel(nn.Module):
    """Whisper's encoder, which reads windows of exactly 30 s padded with silence.

    Longer recordings are encoded window by window, so a frame sees its own window only. **Source**: Radford et al.,
    arXiv:2212.04356.
    """

    def __init__(
        self, base: nn.Module, *, sample_rate_hz: int = 16000, n_fft: int = 400, hop_length: int = 160
    ) -> None:
        super().__init__()
        self.base = base
        self.sample_rate_hz = sample_rate_hz
        config: Any = base.config
        settings = whisper(
            sample_rate_hz, n_mels=config.num_mel_bins, win_length=n_fft, n_fft=n_fft, hop_length=hop_length
        )
        self.front = LogMel(settings)
        self.samples_per_frame = 2 * hop_length  # the second convolution has stride 2
        self.window_frames = int(config.max_source_positions)
        self.window_samples = self.window_frames * self.samples_per_frame
        self.d_model = int(config.d_model)
        self.depths = int(config.encoder_layers)
        self.offset_s = 0.0

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames [b] that samples [b] reach into."""
        return (lengths + self.samples_per_frame - 1) // self.samples_per_frame

    def forward(self, samples: Tensor, lengths: Tensor, depths: Sequence[int]) -> Run:
        """Frames of samples [b n] of `lengths` [b]."""
        counts = self.output_lengths(lengths)
        room, count = int(counts.max()), -(-int(lengths.max()) // self.window_samples)
        if not room:
            empty = samples.new_zeros(len(lengths), 0, self.d_model)
            return empty, counts, dict.fromkeys(depths, empty)
        samples = samples.float().masked_fill(~frame_mask(lengths, samples.shape[1]), 0.0)
        windows = _resized(samples[:, :, None], count * self.window_samples)[:, :, 0].reshape(
            len(lengths), count, self.window_samples
        )
        used = torch.arange(count, device=lengths.device)[None] * self.window_samples < lengths[:, None]
        parts = [self._encode(group, depths) for group in torch.split(windows[used], WINDOWS_AT_ONCE)]
        kept = []
        for values in map(torch.cat, zip(*parts, strict=True)):
            whole = values.new_zeros(len(lengths), count, self.window_frames, self.d_model)
            whole[used] = values
            kept.append(blank_padding(whole.flatten(1, 2)[:, :room], counts))
        return kept[0], counts, dict(zip(depths, kept[1:], strict=True))

    def _encode(self, windows: Tensor, depths: Sequence[int]) -> list[Tensor]:
        full = torch.full((len(windows),), self.window_samples, device=windows.device)
        features = self.front(Waveform(windows, full, self.sample_rate_hz), {})
        output = self.base(features.values.transpose(1, 2), output_hidden_states=bool(depths))
        return [output.last_hidden_state, *(output.hidden_states[depth] for depth in depths)]


class BertModel(nn.Module):
    """Wav2Vec2-BERT, which reads pairs of Kaldi frames, each band of zero mean and unit variance over the utterance.

    **Source**: Barrault et al., arXiv:2312.05187, section 3.2.
    """

    def __init__(self, base: nn.Module, *, sample_rate_hz: int = 16000) -> None:
        super().__init__()
        self.base = base
        self.sample_rate_hz = sample_rate_hz
        config: Any = base.config
        if getattr(config, "add_adapter", False):
            raise SpecError(
                "hf-speech: this wav2vec2-bert has an adapter, which leaks padding; use one without add_adapter"
            )
        bands = config.feature_projection_input_dim // 2
        self.front = LogMel(kaldi(sample_rate_hz, n_mels=bands))
        self.d_model = int(config.hidden_size)
        self.depths = int(config.num_hidden_layers)
        self.offset_s = (self.front.settings.win_length + self.front.settings.hop_length) / 2 / sample_rate_hz

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Whole pairs [b] of the frames of samples [b]."""
        return self.front.output_lengths(lengths) // 2

    def forward(self, samples: Tensor, lengths: Tensor, depths: Sequence[int]) -> Run:
        """Frames of samples [b n] of `lengths` [b]."""
        counts = self.output_lengths(lengths)
        features = self.front(Waveform(samples, lengths, self.sample_rate_hz), {})
        mask = frame_mask(features.lengths, features.values.shape[1])[:, :, None]
        total = features.lengths.clamp(min=2)[:, None, None]
        values = (features.values - features.values.sum(1, keepdim=True) / total).masked_fill(~mask, 0.0)
        values = values / (values.square().sum(1, keepdim=True) / (total - 1) + VARIANCE_FLOOR).sqrt()
        room = int(counts.max())
        width = max(room, 1)
        pairs = _resized(values, 2 * width).reshape(len(values), width, -1)
        seen = frame_mask(counts.clamp(min=1), width)
        output = self.base(pairs, attention_mask=seen.long(), output_hidden_states=bool(depths))
        kept = [
            blank_padding(_resized(found, room), counts)
            for found in (output.last_hidden_state, *(output.hidden_states[depth] for depth in depths))
        ]
        return kept[0], counts, dict(zip(depths, kept[1:], strict=True))


class MaskedGroupNorm(nn.Module):
    """A group norm over time whose statistics stop at each utterance's length; parameters and names stay the same."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        if norm.num_groups != norm.num_channels:
            raise SpecError(
                f"hf-speech: group norm over {norm.num_groups} groups of {norm.num_channels} channels; expected one group each"
            )
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.lengths: Tensor | None = None  # [b], set before each call by the model that holds it

    def forward(self, x: Tensor) -> Tensor:
        """[b d t], normalised over t."""
        if self.lengths is None:
            return nn.functional.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        mask = frame_mask(self.lengths, x.shape[2])[:, None, :]
        count = self.lengths.clamp(min=1)[:, None, None]
        centered = x - x.masked_fill(~mask, 0.0).sum(2, keepdim=True) / count
        variance = centered.masked_fill(~mask, 0.0).square().sum(2, keepdim=True) / count
        return centered * (variance + self.eps).rsqrt() * self.weight[:, None] + self.bias[:, None]


def normalize_samples(samples: Tensor, lengths: Tensor) -> Tensor:
    """[b n] with zero mean and unit variance over each utterance's own samples, zeros in the padding."""
    mask = frame_mask(lengths, samples.shape[1])
    count = lengths.clamp(min=1)[:, None]
    centered = (samples - samples.masked_fill(~mask, 0.0).sum(1, keepdim=True) / count).masked_fill(~mask, 0.0)
    return centered / (centered.square().sum(1, keepdim=True) / count + VARIANCE_FLOOR).sqrt()


def _resized(values: Tensor, count: int) -> Tensor:
    """[b count d] of [b t d]: cut, or continued with zeros."""
    missing = count - values.shape[1]
    return values[:, :count] if missing <= 0 else nn.functional.pad(values, (0, 0, 0, missing))


def _receptive_samples(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that one output of stacked convolutions reads."""
    reach, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        reach += (kernel - 1) * step
        step *= stride
    return reach


def samples_per_frame(model: WaveformModel | WhisperModel | BertModel) -> int:
    """Samples from one frame to the next, read off the model's own law of lengths."""
    far = 10**8
    return round(far / math.floor(int(model.output_lengths(torch.tensor([far])))))
