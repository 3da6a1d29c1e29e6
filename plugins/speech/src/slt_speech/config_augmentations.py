"""Configurations of the augmentations."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sltcore.spec import Config

Factor = Annotated[float, Field(ge=0.25, le=4)]


class SpeedConfig(Config):
    """Speed perturbation."""

    factors: tuple[Factor, ...] = Field(
        (0.9, 1.0, 1.1), min_length=1, max_length=100, description="how many times as fast; each is drawn equally often"
    )


class VolumeConfig(Config):
    """Volume perturbation."""

    low_db: float = Field(-12.0, ge=-100, le=100, description="least gain in dB")
    high_db: float = Field(6.0, ge=-100, le=100, description="largest gain in dB; the loudest sample stays within 1")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low_db < self.high_db:
            raise ValueError("low_db must be below high_db")
        return self


class SpecAugmentConfig(Config):
    """Masks over features."""

    frequency_masks: int = Field(2, ge=0, le=100, description="bands that are hidden")
    frequency_width: int = Field(27, ge=0, le=4096, description="most features of a band")
    time_masks: int = Field(2, ge=0, le=1000, description="runs of frames that are hidden; with adaptive_masks at most")
    time_width: int | None = Field(
        100, ge=1, le=100_000, description="most frames of a run; empty: time_share of the utterance alone"
    )
    time_share: float = Field(0.2, ge=0, le=1, description="most frames of a run, as a share of the utterance's")
    adaptive_masks: float | None = Field(
        None, gt=0, le=1, description="runs for each frame of the utterance; empty: time_masks always"
    )
    fill: Literal["mean", "zero"] = Field(
        "mean", description="what stands in hidden places: the utterance's mean, or 0"
    )
