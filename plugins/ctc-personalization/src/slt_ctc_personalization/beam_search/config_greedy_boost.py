"""Configuration of `ctc-greedy-boost`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sltcore.spec import Config, File, Ref, Slot


class CtcGreedyBoostConfig(Config):
    """Greedy CTC decoding with a list of phrases.

    Without `head`, `vocabulary` and `characters` the encoder's own head and labels are used, where it offers them.
    """

    boosting: Literal["fixed", "depth-scaled"] = Field(
        "depth-scaled", description="how a phrase's bonus grows: evenly with its labels, or more for later ones"
    )
    phrase_bonus: float = Field(1.0, ge=0, le=100, description="natural-log score for each label of a phrase")
    depth_scaling: float = Field(
        2.0, ge=0, le=100, description="factor for the labels after the first, for depth-scaled"
    )
    language: str = Field("en", min_length=2, description="language of the phrases, where the labels are phones")
    segmentations: int = Field(4, ge=1, le=16, description="ways in which a phrase is parted into sub-words")
    threads: int | None = Field(None, ge=1, le=1024, description="utterances at a time; empty: one for each processor")
    head: Annotated[Ref | None, Slot()] = Field(
        None, description="a head to share, such as {ref: encoder.head}, with its vocabulary; empty: as offered, or new"
    )
    vocabulary: File | None = Field(None, description="labels, as the JSON file that slt vocabulary train writes")
    characters: str | None = Field(None, min_length=1, description="labels given as letters; blank and space are added")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.vocabulary is not None and self.characters is not None:
            raise ValueError("vocabulary and characters both name the labels; give one of them")
        if self.boosting == "fixed" and self.depth_scaling != type(self).model_fields["depth_scaling"].default:
            raise ValueError("depth_scaling has no effect with boosting: fixed; leave it out, or boost depth-scaled")
        return self
