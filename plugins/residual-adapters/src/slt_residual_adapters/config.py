"""Configurations of the adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from sltcore.spec import Config


def _near_spec(value: Any, info: ValidationInfo) -> Any:
    """A relative path is looked for beside the spec; one that is not there is told when the adapter attaches."""
    folder = (info.context or {}).get("folder")
    if not isinstance(value, str) or folder is None or not value:
        return value
    beside = Path(folder) / Path(value).expanduser()
    return str(beside) if beside.exists() else value


UpdatePath = Annotated[str, BeforeValidator(_near_spec), Field(min_length=1, max_length=4096)]
Pattern = Annotated[str, Field(min_length=1, max_length=500)]


class UpdatesConfig(Config):
    """One update that is trained, or several that work together."""

    name: str = Field(
        "", pattern=r"^([a-z0-9][a-z0-9_-]{0,63})?$", description="of the new update that is trained; empty: none is"
    )
    words: tuple[str, ...] = Field((), description="words or phrases that the new update teaches")
    card: dict[str, Any] = Field({}, description="facts of its training data, kept in its file")
    place: tuple[Pattern, ...] = Field(
        (),
        description="patterns of the modules it stands at, such as 'encoder.blocks.*'; ** also crosses dots, ! takes away; "
        "empty: recurrent layers and blocks",
    )
    rank: int = Field(32, ge=1, le=4096, description="width of the new update's bottleneck")
    updates: tuple[UpdatePath, ...] = Field(
        (), description="files of finished updates, or bundles that training one left, to work together"
    )
    weights: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field(
        {}, description="weight by name of the update; 1 for those not named"
    )

    @model_validator(mode="after")
    def _trained_alone(self) -> Self:
        if self.name and self.updates:
            raise ValueError("an update is trained alone; leave updates empty, or name to use them as they are")
        if self.weights and not self.updates:
            raise ValueError("weights are those of updates, which are empty")
        return self


class ResidualConfig(UpdatesConfig):
    """Residual adapters."""

    d: int | None = Field(None, ge=1, description="width of the modules' output; empty: as they say themselves")
    activation: Literal["silu", "relu", "gelu", "tanh"] = Field("silu", description="of the new update's bottleneck")
    fusion: Literal["sum", "average", "attention", "stack", "gate"] = Field(
        "sum",
        description="how updates work together: parallel sum, its average, attention over them, one after the other, or the "
        "sum gated by a classifier; attention and gate are learned",
    )
    attention_width: int = Field(32, ge=1, le=4096, description="width of the queries and keys of fusion: attention")
    silence: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="weight of the penalty on the squared change of general audio: utterances whose context 'transcript' "
        "holds none of the words; of all audio where the data give no transcript",
    )


class LoraConfig(UpdatesConfig):
    """Low-rank updates of linear layers."""

    alpha: float | None = Field(
        None, gt=0, le=1e6, description="the update is scaled by alpha / rank; empty: not scaled"
    )
