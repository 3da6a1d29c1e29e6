"""Builders of the plugin's decoders, vocoders and metrics: the only place that sees their configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from slt_speech.classifier import Classifier
from slt_speech.ctc_greedy import CtcGreedy
from slt_speech.griffin_lim import GriffinLim
from slt_speech.mel_settings import PRESETS
from slt_speech.world import World
from sltcore.errors import DataError, PortError, SpecError, VocabularyError
from sltcore.vocabulary import Vocabulary, characters

if TYPE_CHECKING:
    from slt_speech.config_decoders import (
        ClassifierConfig,
        CtcGreedyConfig,
        GriffinLimConfig,
        KeywordF1Config,
        MelCepstralDistortionConfig,
        PhoneErrorConfig,
        WordErrorConfig,
        WorldConfig,
    )
    from slt_speech.metrics.items import Normalization
    from slt_speech.metrics.keyword_f1 import KeywordF1
    from slt_speech.metrics.mel_cepstral_distortion import MelCepstralDistortion
    from slt_speech.metrics.word_error import ErrorRate
    from sltcore.plugin import Ports

SAVED = "vocabulary.json"


def ctc_greedy(config: CtcGreedyConfig, ports: Ports) -> CtcGreedy:
    """A head of its own where labels are given; else the shared one, or what the encoder offers.

    **Raises** `VocabularyError` when nothing names the labels, `PortError` when the head does not fit.
    """
    head = ports.slots.get("head")
    if head is not None and not isinstance(head, nn.Module):
        raise PortError(f"decoder 'ctc-greedy': head refers to a {type(head).__name__}, expected a module such as a Linear")
    named = config.vocabulary is not None or config.characters is not None
    if head is None and not named:
        head = _single(ports.offers, "head")
    vocabulary = _vocabulary(config, ports, head)
    d = _width(ports, head)
    return CtcGreedy(
        nn.Linear(d, len(vocabulary)) if head is None else head, vocabulary, d=d, freeze_head=config.freeze_head
    )


def _vocabulary(config: CtcGreedyConfig, ports: Ports, head: nn.Module | None) -> Vocabulary:
    """The bundle's, else the configured, else the one that stands beside the head, else the only one on offer."""
    if ports.folder is not None and (ports.folder / SAVED).is_file():
        return read_vocabulary(ports.folder / SAVED)
    if config.vocabulary is not None:
        return read_vocabulary(config.vocabulary)
    if config.characters is not None:
        return characters([config.characters])
    beside = [f"{path.rpartition('.')[0]}.vocabulary" for path, value in ports.offers.items() if value is head]
    found = next((ports.offers[path] for path in beside if path in ports.offers), None)
    found = _single(ports.offers, "vocabulary") if found is None else found
    if not isinstance(found, Vocabulary):
        raise VocabularyError(
            "decoder 'ctc-greedy' has no labels: the encoder offers no vocabulary, and neither 'vocabulary' (a JSON "
            "file) nor 'characters' (letters) is given; give one of the two"
        )
    return found


def _single(offers: Mapping[str, Any], name: str) -> Any | None:
    """What the encoder offers under a name, else the only thing of that name on offer."""
    found = {id(value): value for path, value in offers.items() if path.endswith(f".{name}")}
    return offers.get(f"encoder.{name}", next(iter(found.values())) if len(found) == 1 else None)


def _width(ports: Ports, head: nn.Module | None = None) -> int:
    """The d of the stage before; **Raises** `PortError` when neither it nor the head says."""
    d = ports.upstream.attributes.get("d") if ports.upstream is not None else None
    d = getattr(head, "in_features", None) if d is None else d
    if d is None:
        before = ports.upstream if ports.upstream is not None else "nothing"
        raise PortError(f"a decoder needs the width d of the encoder before it, but before it stands {before}")
    return int(d)


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary in a JSON file; **Raises** `VocabularyError` when it is missing or not one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VocabularyError(f"vocabulary: there is no file {path}; make one with: slt vocabulary train") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise VocabularyError(f"vocabulary: {path} is not a JSON file: {error}") from None
    if not isinstance(data, dict):
        raise VocabularyError(f"vocabulary: {path} holds a {type(data).__name__}, expected an object with 'labels'")
    return Vocabulary.from_dict(data)


def classifier(config: ClassifierConfig, ports: Ports) -> Classifier:
    """A classifier as wide as the encoder."""
    return Classifier(_width(ports), config.labels, pooling=config.pooling, nbest=config.nbest)


def griffin_lim(config: GriffinLimConfig, ports: Ports) -> GriffinLim:
    """A vocoder for the features that the settings name."""
    sizes = {name: getattr(config, name) for name in ("win_length", "hop_length", "n_fft")}
    changes = {name: value for name, value in sizes.items() if value is not None}
    settings = PRESETS[config.preset](config.sample_rate_hz, n_mels=config.n_mels, **changes)
    return GriffinLim(
        settings,
        spectrum="mel" if config.features == "log-mel" else "linear",
        iterations=config.iterations,
        momentum=config.momentum,
    )


def world(config: WorldConfig, ports: Ports) -> World:
    """**Raises** `SpecError` when the frame shift is no whole number of samples."""
    hop = config.frame_shift_ms * config.sample_rate_hz / 1000
    if hop != round(hop):
        raise SpecError(
            f"vocoder 'world': {config.frame_shift_ms:g} ms at {config.sample_rate_hz} Hz are {hop:g} samples, expected "
            f"a whole number; use {1000 * round(hop) / config.sample_rate_hz:.10g} ms"
        )
    return World(
        config.sample_rate_hz,
        round(hop),
        tracker=config.tracker,
        f0_floor_hz=config.f0_floor_hz,
        f0_ceil_hz=config.f0_ceil_hz,
        envelope=config.envelope,
        order=config.order,
    )


def _normalization(config: WordErrorConfig | PhoneErrorConfig) -> Normalization:
    from slt_speech.metrics.items import Normalization

    return Normalization(lowercase=config.lowercase, punctuation=config.punctuation)


def wer(config: WordErrorConfig, ports: Ports) -> ErrorRate:
    """Word error rate."""
    from slt_speech.metrics.word_error import ErrorRate

    return ErrorRate("words", normalization=_normalization(config))


def cer(config: WordErrorConfig, ports: Ports) -> ErrorRate:
    """Character error rate."""
    from slt_speech.metrics.word_error import ErrorRate

    return ErrorRate("characters", normalization=_normalization(config))


def per(config: PhoneErrorConfig, ports: Ports) -> ErrorRate:
    """Phone error rate."""
    from slt_speech.metrics.word_error import ErrorRate

    return ErrorRate("phones", normalization=_normalization(config))


def keyword_f1(config: KeywordF1Config, ports: Ports) -> KeywordF1:
    """**Raises** `DataError` when the keyword file cannot be read."""
    from slt_speech.metrics.keyword_f1 import KEYWORDS_FILE, KeywordF1

    keywords, file = list(config.keywords), config.keywords_file
    if ports.folder is not None and (ports.folder / KEYWORDS_FILE).is_file():
        keywords, file = [], ports.folder / KEYWORDS_FILE
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"keywords_file: {file} cannot be read: {error}; give a UTF-8 text") from None
        keywords += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return KeywordF1(keywords, matching=config.matching, normalization=_normalization(config))


def mel_cepstral_distortion(config: MelCepstralDistortionConfig, ports: Ports) -> MelCepstralDistortion:
    """Distortion between sounds, or between mel-cepstra."""
    from slt_speech.metrics.mel_cepstral_distortion import MelCepstralDistortion

    return MelCepstralDistortion(
        config.sample_rate_hz,
        order=config.order,
        alignment=config.alignment,
        tracker=config.tracker,
        consumes=config.items,
    )
