"""Configuration of `phone-head` and `phone-ctc`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sltcore.spec import Block, Config, File, Ref, Slot


class PronunciationConfig(Config):
    """How words are turned into phones."""

    lexicon_file: File | None = Field(
        None, description="pronunciations of your own, lines of: word phones…, in the phones' labels or ARPAbet"
    )
    voices: tuple[str, ...] | None = Field(
        None,
        max_length=16,
        description="voices of espeak-ng (en-us, en-gb, es-419), the likeliest first; empty: the language's; []: none",
    )
    guess: Literal["auto", "espeak", "hama"] = Field(
        "auto", description="what says an English word that the CMU dictionary lacks; auto: espeak where installed"
    )
    alternatives: int = Field(4, ge=1, le=64, description="pronunciations of a word, at most")


class PhoneHeadConfig(Config):
    """Phones beside the output of an encoder."""

    encoder: Annotated[Block | Ref, Slot("encoder")] = Field(
        "hama-conformer", validate_default=True, description="the base, whose output is passed on as it is"
    )
    phones: Literal["auto", "offered", "cmu", "ipa"] = Field(
        "auto",
        description="offered: the base's own head and labels; cmu: the 39 English phones (without training where it is "
        "known how the base's labels sound); ipa: 106 sounds for any language; auto: what is offered (for another language "
        "than English cmu over the pretrained phone recogniser), else cmu for English, else ipa",
    )
    phones_file: File | None = Field(None, description="labels of your own, a vocabulary as JSON of kind phones")
    language: str = Field(
        "en", min_length=2, max_length=32, description="language of the words, as espeak-ng names it (en, cs, pt-br)"
    )
    layers: tuple[int, ...] = Field(
        (-1,),
        min_length=1,
        max_length=32,
        description="depths of the base that a new head reads, mixed with learned weights; -1 is the output",
    )
    frozen: bool = Field(True, description="leave the base as it is")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.phones_file is not None and self.phones != "auto":
            raise ValueError("phones and phones_file both name the labels; give one of them")
        return self


class PhoneCtcConfig(Config):
    """CTC over phones against the pronunciation of the transcript."""

    phones: Literal["encoder", "cmu", "ipa"] = Field(
        "encoder", description="encoder: the phones that phone-head gives; cmu, ipa: a new head on the encoder's output"
    )
    language: str | None = Field(
        None, min_length=2, max_length=32, description="language of the transcripts; empty: the phone head's, else en"
    )
    pronunciation: PronunciationConfig = Field(
        default_factory=PronunciationConfig, description="how words are turned into phones"
    )
