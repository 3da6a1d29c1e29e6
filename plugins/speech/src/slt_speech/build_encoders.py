"""Builders of the front end and the encoders: the only place that sees their configurations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from slt_speech.conformer import Conformer
from slt_speech.log_mel import LogMel
from slt_speech.lstm import Lstm
from sltcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from slt_speech.config_encoders import (
        ConformerConfig,
        HamaConformerConfig,
        HfSpeechConfig,
        LogMelConfig,
        LstmConfig,
    )
    from slt_speech.hama_encoder import HamaEncoder
    from slt_speech.hf_speech import HfSpeech
    from sltcore.interfaces import Encoder
    from sltcore.plugin import Ports

FEATURES, FEATURE_SHIFT_MS = 80, 10.0  # of an encoder without a front end


def log_mel(config: LogMelConfig, ports: Ports) -> LogMel:
    """The front end of the preset with the fields that are set."""
    return LogMel(config.settings())


def conformer(config: ConformerConfig, ports: Ports) -> Conformer:
    """A Conformer on its front end, or on Features."""
    convolution = config.convolution or ("chunk" if config.chunk_frames else "centered")
    return Conformer(
        _input(config, ports),
        config.d_model,
        layers=config.layers,
        heads=config.heads,
        ffn=config.ffn,
        kernel=config.kernel,
        subsampling=config.subsampling,
        subsampling_channels=config.subsampling_channels,
        frame_shift_s=(config.feature_shift_ms or FEATURE_SHIFT_MS) / 1000,
        position=config.position,
        convolution=convolution,
        norm=config.norm,
        chunk_frames=config.chunk_frames,
        left_chunks=config.left_chunks,
        dropout=config.dropout,
        return_layers=config.return_layers,
    )


def lstm(config: LstmConfig, ports: Ports) -> Lstm:
    """An LSTM on its front end, or on Features."""
    return Lstm(
        _input(config, ports),
        config.hidden,
        layers=config.layers,
        bidirectional=config.bidirectional,
        projection=config.projection,
        stack=config.stack,
        stride=config.stride,
        frame_shift_s=(config.feature_shift_ms or FEATURE_SHIFT_MS) / 1000,
        layer_norm=config.layer_norm,
        dropout=config.dropout,
        return_layers=config.return_layers,
    )


def hf_speech(config: HfSpeechConfig, ports: Ports) -> HfSpeech:
    """The bundle's architecture (its weights follow), the checkpoint, or a fresh model."""
    from slt_speech import hf_files

    options = {"return_layers": config.return_layers, "layerdrop": config.layerdrop}
    source = hf_files.Source(config.model, config.revision, config.download)
    saved = _saved(ports, hf_files.FILE)
    if saved is not None:
        return hf_files.rebuild(hf_files.Description.from_bytes(saved.read_bytes()), **options)
    if config.architecture:
        return hf_files.rebuild(hf_files.describe(config.architecture), **options)
    return hf_files.load(source, **options)


def hama_conformer(config: HamaConformerConfig, ports: Ports) -> HamaEncoder:
    """The pretrained network; from a bundle without its package, since weights and labels are there."""
    from slt_speech import hama_encoder
    from slt_speech.hama.network import HamaConformer

    saved = _saved(ports, hama_encoder.FILE)
    network = HamaConformer(
        layers=config.return_layers,
        window_s=config.window_s,
        overlap_s=config.overlap_s,
        dropout=config.dropout,
        weights=config.weights if saved is None else "random",
    )
    vocabulary = None if saved is None else Vocabulary.from_dict(json.loads(saved.read_text(encoding="utf-8")))
    return hama_encoder.HamaEncoder(network, vocabulary)


def _input(config: ConformerConfig | LstmConfig, ports: Ports) -> Encoder | int:
    features = config.num_features or FEATURES
    frontend: Encoder | None = ports.slots.get("frontend")
    return features if frontend is None else frontend


def _saved(ports: Ports, name: str) -> Path | None:
    """A file of the bundle that is being loaded; None where the component was not part of it, as after --set."""
    path = None if ports.folder is None else ports.folder / name
    return path if path is not None and path.is_file() else None
