"""Configurations of the plugin's objectives."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sltcore.spec import Block, Config, Ref, Slot


class DistillationConfig(Config):
    """An encoder learns what another recogniser hears."""

    teacher: Annotated[Block, Slot("encoder")] = Field(
        "hama-conformer", validate_default=True, description="a recogniser that offers a head over labels; frozen"
    )
    head: Annotated[Ref | None, Slot()] = Field(
        None,
        description="a head to train with the encoder, such as {ref: decoder.head}, over its own labels; empty: a new one "
        "over the teacher's, left behind after training",
    )
    delay_s: float = Field(
        0.0, ge=0, le=10, description="how much later the student may hear a label than the teacher, in seconds"
    )
