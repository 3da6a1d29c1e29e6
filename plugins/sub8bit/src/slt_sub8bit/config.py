"""Configurations of the quantizers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sltcore.spec import Config


def _width(bits: int) -> int:
    if bits not in (*range(1, 9), 32):
        raise ValueError("expected 1 to 8 bits, or 32 to leave weights as they are")
    return bits


def _not_empty(widths: tuple[int, ...]) -> tuple[int, ...]:
    if not widths:
        raise ValueError("expected one width at least")
    return widths


Width = Annotated[int, Field(ge=1, le=32), AfterValidator(_width)]
ALL_WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8)


class WeightsConfig(Config):
    """Which weights get how many bits."""

    bits: Width = Field(4, description="bits for each weight, 1 to 8; 32 leaves weights as they are")
    bits_of: dict[str, Width] = Field(
        {}, description="bits by pattern of weights, such as 'encoder.*'; the last match counts"
    )
    include: tuple[str, ...] = Field((), description="patterns of the weights to quantize; empty: all that are known")
    exclude: tuple[str, ...] = Field((), description="patterns of the weights to leave alone")
    budget_bytes: int | None = Field(
        None,
        ge=1,
        description="bytes of all quantized weights; the bits of those that bits_of does not name are then chosen by measured "
        "sensitivity instead of `bits`",
    )
    choices: Annotated[tuple[Width, ...], AfterValidator(_not_empty)] = Field(
        ALL_WIDTHS, description="bits to choose from under budget_bytes"
    )
    compute: Literal["float", "int8"] = Field(
        "float", description="arithmetic of linear layers: float, or 8-bit integers with activations rounded row by row"
    )

    @model_validator(mode="after")
    def _chosen_under_a_budget(self) -> Self:
        if self.budget_bytes is None and self.choices != ALL_WIDTHS:
            raise ValueError("choices are read under budget_bytes alone; give it, or set bits and bits_of")
        return self


class ScaledConfig(WeightsConfig):
    """Levels times a scale."""

    scales: Literal["kernel", "gate", "row"] = Field(
        "kernel", description="what has a scale of its own: the kernel, each gate of a recurrent kernel, or each row"
    )


class Sub8bitConfig(ScaledConfig):
    """The General Quantizer: learned levels, annealed."""

    mu: Literal[0, 15, 63, 255] = Field(0, description="companding of the space in which levels live; 0: linear")
    start: Literal["quantile", "lloyd-max"] = Field("lloyd-max", description="where levels start")
    scale_quantile: float = Field(
        1.0, gt=0.5, le=1.0, description="share of |w| within the scale; 1: the largest weight"
    )
    kappa_start: float = Field(
        8.0,
        gt=0,
        le=100,
        description="sharpness of the assignment at the start; chosen with anneal on development data",
    )
    kappa_end: float = Field(50.0, gt=0, le=1000, description="sharpness at the end of annealing")
    anneal: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of training in which the assignment is soft; a softer or longer start was worse",
    )
    learn_levels: bool = Field(True, description="whether levels train; frozen ones are for comparison")
    dead: float = Field(0.001, ge=0, lt=0.5, description="share of weights below which a level is put elsewhere")
    every: int = Field(1, ge=1, le=1000, description="quantize in one training step of so many, until hard")
    rate: float = Field(1.0, gt=0, le=100, description="learning rate of the levels, times that of the weights")

    @model_validator(mode="after")
    def _sharper(self) -> Self:
        if self.kappa_start > self.kappa_end:
            raise ValueError(f"kappa_start is {self.kappa_start}, expected at most kappa_end ({self.kappa_end})")
        return self


class PostTrainingConfig(ScaledConfig):
    """Levels from the trained weights, which stay as they are."""

    levels: Literal["max", "mse", "lloyd-max"] = Field(
        "lloyd-max",
        description="uniform to the largest weight, uniform with the least error, or the best levels of all",
    )


class StraightThroughConfig(ScaledConfig):
    """A uniform grid in training, gradients straight through."""

    range: Literal["max", "mse", "learned"] = Field(
        "learned", description="where the grid ends: how its step is chosen"
    )
    first_step: Literal["mean", "mse"] = Field(
        "mean", description="where a learned step starts: 2 mean|w| / sqrt(Q), or MSE"
    )
    rate: float = Field(1.0, gt=0, le=100, description="learning rate of learned steps, times that of the weights")


class LevelRegularizerConfig(ScaledConfig):
    """Float training under a penalty that draws weights to fixed Lloyd-Max levels."""

    strength: float = Field(0.1, ge=0, le=1000, description="weight of the penalty, which is 0 to 1 for each kernel")
    compress_every: int = Field(
        10, ge=1, le=100_000, description="training steps from one hard compression to the next"
    )
    forward: Literal["plain", "straight-through"] = Field(
        "plain", description="what training sees between compressions"
    )
    hard_from: float = Field(
        0.9, ge=0, le=1, description="share of training after which it sees the stored values alone"
    )


class ParqConfig(WeightsConfig):
    """torchao's PARQ."""

    levels: Literal["auto", "uniform", "least-squares"] = Field("auto", description="torchao's levels; auto by bits")
    anneal_start: float = Field(
        0.1, ge=0, le=1, description="share of training at which the proximal map begins to steepen"
    )
    anneal_end: float = Field(0.8, ge=0, le=1, description="share of training at which weights lie on their levels")
    steepness: float = Field(10.0, gt=0, le=1000, description="steepness of the annealing's sigmoid")
    every: int = Field(10, ge=1, le=100_000, description="training steps from one choice of levels to the next")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.anneal_start >= self.anneal_end:
            raise ValueError(f"anneal_start is {self.anneal_start}, expected less than anneal_end ({self.anneal_end})")
        return self
