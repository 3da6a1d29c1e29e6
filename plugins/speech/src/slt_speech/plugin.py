"""The components of the plugin `speech`, as data."""

from __future__ import annotations

from collections.abc import Sequence

from slt_speech.augmentation_components import COMPONENTS as AUGMENTATIONS
from slt_speech.decoder_components import COMPONENTS as DECODERS
from slt_speech.objective_components import COMPONENTS as OBJECTIVES
from sltcore.plugin import Component, hookimpl

SLT_API = (1, 0)

BUILD = "slt_speech.build_encoders"
CONFIG = "slt_speech.config_encoders"
SMALL_FRONT_END = {"use": "log-mel", "n_mels": 20}
SMALL_WAV2VEC2 = {
    "model_type": "wav2vec2",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [8, 8, 5],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}

ENCODERS: tuple[Component, ...] = (
    Component(
        "encoder",
        "log-mel",
        impl=f"{BUILD}:log_mel",
        config=f"{CONFIG}:LogMelConfig",
        summary="log energies of mel bands, as Kaldi or as Whisper computes them; streams",
        source="Kaldi feature-fbank.cc; arXiv:2212.04356",
        small={"config": {"preset": "kaldi", "n_mels": 40}},
    ),
    Component(
        "encoder",
        "conformer",
        impl=f"{BUILD}:conformer",
        config=f"{CONFIG}:ConformerConfig",
        summary="convolution-augmented transformer, over the whole recording or streaming by chunks",
        source="arXiv:2005.08100",
        small={
            "config": {
                "frontend": SMALL_FRONT_END,
                "d_model": 16,
                "layers": 2,
                "heads": 2,
                "ffn": 32,
                "kernel": 7,
                "chunk_frames": 4,
                "left_chunks": 2,
            }
        },
    ),
    Component(
        "encoder",
        "lstm",
        impl=f"{BUILD}:lstm",
        config=f"{CONFIG}:LstmConfig",
        summary="long short-term memory over stacked frames, in one direction (streams) or two",
        source="doi:10.1162/neco.1997.9.8.1735; arXiv:1402.1128",
        small={"config": {"frontend": SMALL_FRONT_END, "hidden": 16, "layers": 2, "projection": 12}},
    ),
    Component(
        "encoder",
        "hf-speech",
        impl=f"{BUILD}:hf_speech",
        config=f"{CONFIG}:HfSpeechConfig",
        summary="wav2vec 2.0, HuBERT, WavLM, Whisper and others of transformers, by folder or hub name",
        source="arXiv:2006.11477; arXiv:2106.07447; arXiv:2212.04356",
        small={"config": {"architecture": SMALL_WAV2VEC2}},
    ),
    Component(
        "encoder",
        "hama-conformer",
        impl=f"{BUILD}:hama_conformer",
        config=f"{CONFIG}:HamaConformerConfig",
        summary="pretrained Conformer-CTC of 2.0 M parameters over 191 phones; streams in windows",
        source="package hama 1.7.0; arXiv:2005.08100",
        small={"config": {}},
    ),
)


@hookimpl
def slt_components() -> Sequence[Component]:
    """Front end, encoders, decoders, vocoders, metrics, augmentations and objectives."""
    return [*ENCODERS, *DECODERS, *AUGMENTATIONS, *OBJECTIVES]
