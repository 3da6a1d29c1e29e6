"""Configuration of `privacy: dp-sgd`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slt_pate.config import Column, Count, SpecPath
from sltcore.spec import Config


class DpSgdConfig(Config):
    """Training steps whose gradients are clipped for each unit and noised."""

    epsilon: float | None = Field(8.0, gt=0, le=1e9, description="budget; null: none, noise may then be empty too")
    delta: float = Field(1e-5, gt=0, lt=1, description="chance that the bound fails; well below 1 over the units")
    unit: Column = Field(
        "speaker", min_length=1, description="what is protected: a column of the private data, or utterance"
    )
    steps: Count = Field(1000, description="steps of the run; the spec's own budget may end it sooner")
    rate: float = Field(0.1, gt=0, le=1, description="chance of each unit to be in a step")
    units: Count | None = Field(
        None, description="number of units as the public knows it; empty: counted, and thereby told"
    )
    utterances: Count | None = Field(None, description="most utterances of a unit in a step; empty: all it has")
    clip: float = Field(1.0, gt=0, le=1e6, description="largest norm of a unit's gradient")
    layers: Literal["flat", "uniform", "dimension"] = Field(
        "flat", description="one clip for all, or each layer its own: equal shares, or by number of weights"
    )
    noise: float | None = Field(
        None, gt=0, le=4000, description="noise over clip; empty: the least that the budget allows for the steps"
    )
    normalization: Literal["none", "layer", "trust"] = Field(
        "none", description="of the noised gradient by layer: to equal size, or to the size of the layer's weights"
    )
    engine: Literal["grouped", "micro-batches", "opacus"] = Field(
        "grouped", description="how units' gradients are found: together where lengths agree, one by one, or by Opacus"
    )
    ledger: SpecPath = Field(
        "", description="file that keeps the account over runs; empty: this run alone; temporary: for a trial"
    )
