"""Configurations of the schema-linking reranker and of combinations."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sltcore.spec.slots import Block, Config, Slot

Constraint = Literal[
    "missing-table", "missing-column", "missing-cell", "unlinked-column", "needless-table", "join-off-key",
    "strange-text", "other-column", "strange-number",
]  # fmt: skip
Points = Annotated[float, Field(ge=0, le=1000)]


class SchemaLinkingConfig(Config):
    """Rerank by links between the question and the database."""

    rule: Literal["hard", "soft"] = Field(
        "soft", description="hard: fewest points first; soft: first-pass score less weight * points"
    )
    weight: float = Field(1.0, ge=0, le=1000, description="nats for each point, for rule soft")
    points: dict[Constraint, Points] = Field(
        {}, description="what breaking a constraint costs, where it is not the usual"
    )
    cells: bool = Field(True, description="link to cells, too; they are read once for each database")
    most_cells: int = Field(5000, ge=1, le=10**6, description="distinct cells of a column that are read")
    memory_mb: int = Field(256, ge=16, le=2**16, description="memory of the sandbox in megabytes")
    notes: bool = Field(True, description="write the reasons into each hypothesis' extra")


class CombinationConfig(Config):
    """Several rerankers."""

    rerankers: list[Annotated[Block, Slot("reranker")]] = Field(
        default=[{"use": "schema-linking", "rule": "hard"}, {"use": "query-plan", "rule": "hard"}],
        validate_default=True,
        description="rerankers, the first one first",
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.rerankers:
            raise ValueError("rerankers is empty; expected at least one")
        return self


class InTurnConfig(CombinationConfig):
    """One reranker decides, the next one among what it finds equal."""


class WeightedConfig(CombinationConfig):
    """A weighted sum of the features of several rerankers."""

    rerankers: list[Annotated[Block, Slot("reranker")]] = Field(
        default=[{"use": "query-plan", "among": "all"}, {"use": "schema-linking"}],
        validate_default=True,
        description="rerankers whose features are added up",
    )
    weights: dict[str, Annotated[float, Field(ge=-1000, le=1000)]] = Field(
        {},
        description="by feature, as slt explain-rank names them; those not named: 0; empty: learned on Spider, 1 for other features",
    )
    notes: bool = Field(True, description="write each feature's share into each hypothesis' extra")
