"""Configurations of the plugin's decoders, vocoders and metrics."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sltcore.spec import Config, File, Ref, Slot


class CtcGreedyConfig(Config):
    """Greedy CTC decoding.

    Without `head`, `vocabulary` and `characters` the encoder's own head and labels are used, where it offers them.
    """

    head: Annotated[Ref | None, Slot()] = Field(
        None, description="a head to share, such as {ref: encoder.head}, with its vocabulary; empty: as offered, or new"
    )
    vocabulary: File | None = Field(None, description="labels, as the JSON file that slt vocabulary train writes")
    characters: str | None = Field(None, min_length=1, description="labels given as letters; blank and space are added")
    freeze_head: bool = Field(False, description="keep the head as it is in training")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.vocabulary is not None and self.characters is not None:
            raise ValueError("vocabulary and characters both name the labels; give one of them")
        return self


class ClassifierConfig(Config):
    """One class for a whole utterance."""

    labels: tuple[str, ...] = Field(("no", "yes"), min_length=2, description="class names, without spaces")
    pooling: Literal["mean", "attention", "max", "last"] = Field("mean", description="how frames become one vector")
    n_best: int = Field(5, ge=1, le=1000, description="most classes in an n-best list")


class GriffinLimConfig(Config):
    """Phase reconstruction from log-mel or log-linear spectra; the mel settings are those of the log-mel front end."""

    features: Literal["log-mel", "log-linear"] = Field("log-mel", description="what a frame holds")
    preset: Literal["kaldi", "whisper"] = Field("kaldi", description="whose log-mel arithmetic")
    sample_rate_hz: int = Field(16000, ge=2000, le=192000, description="sample rate in Hz")
    n_mels: int = Field(80, ge=4, le=512, description="mel bands, for log-mel")
    win_length: int | None = Field(None, ge=4, le=65536, description="window in samples; empty: 25 ms")
    hop_length: int | None = Field(None, ge=1, le=65536, description="frame shift in samples; empty: 10 ms")
    n_fft: int | None = Field(None, ge=4, le=65536, description="FFT size in samples; empty: as the preset")
    iterations: int = Field(60, ge=1, le=10000, description="rounds of phase reconstruction")
    momentum: float = Field(0.99, ge=0.0, le=1.2, description="acceleration; 0 is the original algorithm")


class WorldConfig(Config):
    """The WORLD vocoder."""

    sample_rate_hz: int = Field(16000, ge=4000, le=96000, description="sample rate in Hz")
    frame_shift_ms: float = Field(5.0, ge=1.0, le=50.0, description="frame shift in ms, a whole number of samples")
    tracker: Literal["harvest", "dio"] = Field("harvest", description="pitch tracker; dio is faster, harvest steadier")
    f0_floor_hz: float = Field(71.0, ge=40.0, le=200.0, description="lowest pitch in Hz")
    f0_ceil_hz: float = Field(800.0, ge=250.0, le=1500.0, description="highest pitch in Hz")
    envelope: Literal["mel-cepstrum", "log-spectrum"] = Field("mel-cepstrum", description="coding of the envelope")
    order: int = Field(39, ge=4, le=80, description="highest mel-cepstral coefficient, for mel-cepstrum")


class WordErrorConfig(Config):
    """Word error rate; texts are normalized as stated here before they are compared."""

    lowercase: bool = Field(True, description="compare in lower case")
    punctuation: Literal["keep", "remove"] = Field("remove", description="punctuation and symbols, but not don't")


class CharacterErrorConfig(WordErrorConfig):
    """Character error rate; the single spaces between words count."""


class PhoneErrorConfig(Config):
    """Phone error rate over labels separated by spaces."""

    lowercase: bool = Field(False, description="compare in lower case")
    punctuation: Literal["keep", "remove"] = Field("keep", description="punctuation and symbols in the labels")


class KeywordF1Config(WordErrorConfig):
    """Precision, recall and F1 of listed words and phrases."""

    keywords: tuple[str, ...] = Field((), description="words and phrases to look for; this or keywords_file is needed")
    keywords_file: File | None = Field(None, description="further keywords, one a line; lines beginning with # are not")
    matching: Literal["aligned", "counts"] = Field("aligned", description="hits by word alignment, or by number alone")


class MelCepstralDistortionConfig(Config):
    """Mel-cepstral distortion in dB."""

    sample_rate_hz: int = Field(16000, ge=4000, le=96000, description="sample rate of the recordings in Hz")
    order: int = Field(24, ge=4, le=80, description="highest coefficient compared")
    alignment: Literal["dtw", "none"] = Field("dtw", description="time warping, or frame by frame")
    tracker: Literal["harvest", "dio"] = Field("harvest", description="pitch tracker of the envelope")
    items: Literal["waveform", "features"] = Field("waveform", description="sound, or mel-cepstra with c0 first")
