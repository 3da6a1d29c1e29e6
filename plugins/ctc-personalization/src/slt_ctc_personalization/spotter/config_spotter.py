"""Configuration of `ctc-spotter`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sltcore.spec import Config, File, Ref, Slot


class CtcSpotterConfig(Config):
    """Greedy CTC decoding in which listed phrases that are heard replace what was written.

    Without `head`, `vocabulary` and `characters` the encoder's own head and labels are used, where it offers them.
    """

    context_weight: float | None = Field(
        None, ge=0, le=100, description="natural-log score for each label of a phrase; empty: as tuned for the labels"
    )
    threshold: float | None = Field(
        None,
        ge=-1e4,
        le=1e4,
        description="natural-log score that a phrase must reach, against the best path; empty: as tuned for the labels",
    )
    greedy_weight: float = Field(
        0.5, ge=0, le=100, description="natural-log score for each label of the words that a phrase would replace"
    )
    overlap: float = Field(
        0.1, gt=0, le=1, description="part of the shorter of two stretches that they must share to exclude each other"
    )
    beam: float | None = Field(
        None,
        ge=0,
        le=1e4,
        description="natural log by which a phrase may fall below the best path while it is heard; empty: as tuned",
    )
    blank_skip: float = Field(0.8, gt=0, le=1, description="no phrase begins where the blank is more probable")
    missed_border: float | None = Field(
        None,
        ge=0,
        le=1e4,
        description="natural log that a word border costs at most which is not heard; empty: as tuned",
    )
    settle: int = Field(10, ge=0, le=10_000, description="frames after which a phrase that was heard is final")
    confusions: Literal["auto", "none", "hama-english"] = Field(
        "auto", description="phones heard for phones meant; auto: those of the pretrained phone recogniser, for English"
    )
    language: str = Field("en", min_length=2, description="language of the phrases, where the labels are phones")
    head: Annotated[Ref | None, Slot()] = Field(
        None, description="a head to share, such as {ref: encoder.head}, with its vocabulary; empty: as offered, or new"
    )
    vocabulary: File | None = Field(None, description="labels, as the JSON file that slt vocabulary train writes")
    characters: str | None = Field(None, min_length=1, description="labels given as letters; blank and space are added")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.vocabulary is not None and self.characters is not None:
            raise ValueError("vocabulary and characters both name the labels; give one of them")
        if self.confusions == "hama-english" and not self.language.startswith("en"):
            raise ValueError(f"confusions: hama-english are those of English, but language is {self.language!r}")
        return self
