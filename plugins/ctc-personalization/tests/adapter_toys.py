"""Adapters to test: over a toy base to which two letters sound alike, and over small encoders of each make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from slt_ctc_personalization.adapter import build_adapter
from slt_ctc_personalization.adapter.catalogue import Catalogue, LabelScript
from slt_ctc_personalization.adapter.config_adapter import ContextualAdapterConfig
from slt_ctc_personalization.adapter.contextual_adapter import ContextualAdapter
from slt_ctc_personalization.adapter.phrase_attention import PhraseAttention
from sltcore.interfaces import Encoder
from sltcore.pipeline import build_component
from sltcore.plugin import Ports
from sltcore.types import Encoded, Features, Port, Waveform
from sltcore.vocabulary import Vocabulary, characters

WAV2VEC2 = {
    "model_type": "wav2vec2",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 12,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [8, 8, 5],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
BASES: dict[str, dict[str, Any]] = {
    "conformer": {
        "use": "conformer",
        "d_model": 16,
        "layers": 3,
        "heads": 2,
        "ffn": 32,
        "kernel": 5,
        "chunk_frames": 4,
    },
    "hama": {"use": "hama-conformer", "weights": "random", "window_s": 2.0, "overlap_s": 0.4},
    "wav2vec2": {"use": "hf-speech", "architecture": WAV2VEC2},
}
LETTERS = "abcdefxy"
SOUNDS = len(LETTERS) - 1  # x and y are one sound
D = 2 * SOUNDS + 2


class Ears(Encoder, nn.Module):
    """Frames of the letter's sound, of all sounds of the utterance, of a blank, and of nothing at all: [b t 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.identity = nn.Linear(SOUNDS + 1, SOUNDS + 1, bias=False)
        nn.init.eye_(self.identity.weight)
        self.calls = 0
        self.rows = 0

    @property
    def consumes(self) -> Port:
        return Port("Features", {"f": SOUNDS + 1})

    @property
    def produces(self) -> Port:
        return Port("Encoded", {"d": D})

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths

    def forward(self, x: Features, context: Mapping[str, Any]) -> Encoded:
        self.calls += 1
        self.rows += len(x.lengths)
        inside = torch.arange(x.values.shape[1])[None] < x.lengths[:, None]
        heard = self.identity(x.values) * inside[..., None]
        around = heard[..., :SOUNDS].sum(1, keepdim=True).expand(-1, heard.shape[1], -1) * inside[..., None]
        values = torch.cat([heard, around, torch.zeros_like(heard[..., :1])], dim=2)
        return Encoded(values, x.lengths, 0.01)


def vocabulary() -> Vocabulary:
    return characters([LETTERS])


def head() -> nn.Linear:
    """Letters from sounds; x and y differ in the last number only, which the base leaves at zero."""
    labels = vocabulary()
    made = nn.Linear(D, len(labels)).requires_grad_(False)
    made.weight.zero_()
    made.bias.zero_()
    made.weight[labels.blank, SOUNDS] = 8.0
    for letter in LETTERS:
        made.weight[labels.id(letter), min(LETTERS.index(letter), SOUNDS - 1)] = 8.0
    made.weight[labels.id("x"), D - 1], made.weight[labels.id("y"), D - 1] = 4.0, -4.0
    return made


def word(chance: Random) -> str:
    """Four letters, among them x or y."""
    letters = [*chance.sample("abcdef", 3), chance.choice("xy")]
    chance.shuffle(letters)
    return "".join(letters)


def said(words: Sequence[str]) -> Features:
    """Words as frames: two of each letter and a blank."""
    rows = []
    for text in words:
        places = [min(LETTERS.index(letter), SOUNDS - 1) for letter in text]
        frames = [place for letter in places for place in (letter, letter, SOUNDS)]
        rows.append(torch.eye(SOUNDS + 1)[frames] if frames else torch.zeros(0, SOUNDS + 1))
    return Features(nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows]), 0.01)


def adapter(base: Encoder | None = None, *, seed: int = 0, attended: int | None = None, **options: Any) -> Any:
    """An adapter over `Ears`, or over another base that reads letters."""
    torch.manual_seed(seed)
    base = Ears() if base is None else base
    script = LabelScript(vocabulary())
    d_model = int(base.produces.attributes["d"])
    catalogue = Catalogue(script.size, 16, hidden=24)
    attention = PhraseAttention(catalogue, d_model, width=32, attended=attended)
    return ContextualAdapter(base, attention, script=script, **options)


def shaken(module: Any, *, seed: int = 5) -> Any:
    """A module none of whose trained parameters is at a special value."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=source)
    return module


def over(name: str, **fields: Any) -> ContextualAdapter:
    """An adapter over a real encoder, with nothing at a special value."""
    torch.manual_seed(0)
    block = dict(BASES[name])
    base: Encoder = build_component("encoder", block.pop("use"), block)
    config = ContextualAdapterConfig(**{"characters": "abcdef", "width": 16, "keep_base_mb": 0, **fields})
    made = build_adapter.contextual_adapter(config, Ports(slots={"encoder": base}))
    return shaken(made).eval()  # type: ignore[no-any-return]


def sound(lengths: list[int], *, junk: float = 0.0) -> Waveform:
    samples = 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(0))
    samples = samples + 0.3 * torch.sin(torch.arange(max(lengths)) / 7)
    for row, length in enumerate(lengths):
        samples[row, length:] = junk
    return Waveform(samples, torch.tensor(lengths), 16000)
