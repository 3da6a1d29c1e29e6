"""Builders of the plugin's decoders, vocoders and metrics: the only place that sees their configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slt_speech.classifier import Classifier
from slt_speech.ctc_greedy import CtcGreedy
from slt_speech.griffin_lim import GriffinLim
from slt_speech.mel_settings import PRESETS
from slt_speech.world import World
from sltcore import ctc
from sltcore.errors import DataError, PortError, SpecError

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


def ctc_greedy(config: CtcGreedyConfig, ports: Ports) -> CtcGreedy:
    """A head of its own where labels are given; else the shared one, or what the encoder offers.

    **Raises** `VocabularyError` when nothing names the labels, `PortError` when the head does not fit.
    """
    head = ctc.choose_head(ports, who="decoder 'ctc-greedy'", vocabulary=config.vocabulary, letters=config.characters)
    return CtcGreedy(head, freeze_head=config.freeze_head)


def classifier(config: ClassifierConfig, ports: Ports) -> Classifier:
    """A classifier as wide as the encoder."""
    return Classifier(_width(ports), config.labels, pooling=config.pooling, n_best=config.n_best)


def _width(ports: Ports) -> int:
    """The d of the stage before; **Raises** `PortError` when it says none."""
    d = ports.upstream.attributes.get("d") if ports.upstream is not None else None
    if d is None:
        before = ports.upstream if ports.upstream is not None else "nothing"
        raise PortError(
            f"decoder 'classifier' needs the width d of the encoder before it, but before it stands {before}"
        )
    return int(d)


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
