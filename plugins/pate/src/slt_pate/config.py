"""Configuration of `privacy: pate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo

from sltcore.spec import Config


def _beside_spec(value: Any, info: ValidationInfo) -> Any:
    """A relative path begins at the spec's folder."""
    folder = (info.context or {}).get("folder")
    if not isinstance(value, str) or folder is None or value in ("", "temporary"):
        return value
    return str(Path(folder) / Path(value).expanduser())


SpecPath = Annotated[str, BeforeValidator(_beside_spec), Field(max_length=4096)]
Column = Annotated[str, Field(pattern=r"^[A-Za-z0-9_ .-]*$", max_length=200)]
Count = Annotated[int, Field(ge=1, le=10**9)]


class PateConfig(Config):
    """Private aggregation of teacher ensembles."""

    epsilon: float | None = Field(
        8.0, gt=0, le=1e9, description="budget of the ledger, for its whole life; null: none, for plurality alone"
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="chance that the bound fails; well below 1 over the units")
    unit: Column = Field(
        "speaker", min_length=1, description="what is protected: a column of the private data, or utterance"
    )
    ledger: SpecPath = Field("", description="file that keeps the account for good; temporary: for a trial")
    released: tuple[SpecPath, ...] = Field(
        (), description="bundles released from the ledger before, whose stamps it must hold"
    )
    teachers: int = Field(10, ge=1, le=10_000, description="shards, and models trained on them")
    shard_column: Column = Field(
        "", description="column that names the shard, whatever else is in the data; empty: a hash of the unit"
    )
    salt: int = Field(0, ge=0, lt=2**63, description="of that hash")
    query: Literal["token", "slot", "transcript", "rover"] = Field(
        "transcript", description="what is voted on: each token, each CTC slot, whole transcripts, or word slots"
    )
    mechanism: Literal["gnmax", "confident-gnmax", "lnmax", "posterior", "posterior-laplace", "plurality"] = Field(
        "gnmax", description="what adds noise; plurality adds none"
    )
    sigma: float | None = Field(
        None, gt=0, le=2**20, description="noise in votes; empty: the least that the budget allows for the plan"
    )
    threshold: float = Field(0.8, ge=0, le=1, description="confident-gnmax: share of teachers that must agree")
    sigma_threshold: float | None = Field(
        None, gt=0, le=2**20, description="confident-gnmax: noise of that test in votes; empty: 1.5 sigma"
    )
    utterances: Count | None = Field(None, description="public utterances without texts to ask about; empty: all")
    queries: Count | None = Field(None, description="most queries of a run; empty: as many as the query can take")
    answers: Count | None = Field(None, description="confident-gnmax: most answers of a run; empty: as many as queries")
    candidates: tuple[str, ...] = Field((), description="transcript: the texts to choose among, for every utterance")
    public_model: SpecPath | None = Field(
        None, description="bundle that candidates and slots come from; empty: trained on the public data with texts"
    )
    n_best: int = Field(8, ge=2, le=1000, description="transcript and rover: most readings of the public model")
    max_tokens: int = Field(100, ge=1, le=100_000, description="token: most labels of a text")
    max_slots: int = Field(100, ge=1, le=100_000, description="slot and rover: most slots of an utterance")
    slots: Literal["labels", "frames"] = Field(
        "labels", description="slot: one for each label that the public model writes, or for each of its frames"
    )
    unsure: Literal["drop", "public"] = Field(
        "drop", description="where no answer comes: give the utterance up, or take the public model's word"
    )
    batch: int = Field(8, ge=1, le=4096, description="utterances that are asked about together")
    rounds: int = Field(
        0, ge=0, le=10, description="further trainings of the student on what it reads in unlabelled recordings"
    )
