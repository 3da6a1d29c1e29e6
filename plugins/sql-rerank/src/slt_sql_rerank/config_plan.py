"""Configurations of the plan models and of the rerankers that use them or none."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sltcore.spec.slots import Block, Config, File, Slot

Rule = Literal["hard", "soft"]
Among = Literal["keywords", "all"]
Seconds = Annotated[float, Field(gt=0, le=600)]


class PlanLabelsConfig(Config):
    """A plan model that says of each clause how likely it is."""

    weights: Literal["spider", "random"] = Field(
        "spider", description="spider: trained on the train databases of Spider (CC BY-SA 4.0); random: untrained"
    )
    buckets: int = Field(16384, ge=64, le=2**22, description="hashed features; with weights spider it must be 16384")
    width: int = Field(64, ge=2, le=1024, description="hidden units; with weights spider it must be 64")
    dropout: float = Field(0.3, ge=0, lt=1, description="in training, of hidden units")
    drop_features: float = Field(0.3, ge=0, lt=1, description="in training, share of features left out")
    beam: int = Field(5, ge=1, le=100, description="plans that it gives for a question")

    @model_validator(mode="after")
    def _of_the_weights(self) -> Self:
        for name in ("buckets", "width", "hidden"):
            field = type(self).model_fields.get(name)
            if field is not None and self.weights == "spider" and getattr(self, name) != field.default:
                raise ValueError(
                    f"{name} of weights 'spider' is {field.default}; set weights: random to train another size"
                )
        return self


class PlanSequenceConfig(PlanLabelsConfig):
    """A plan model that writes the clauses one after another."""

    hidden: int = Field(64, ge=2, le=1024, description="state of the recurrent cell; with weights spider it must be 64")


class QueryPlanConfig(Config):
    """Rerank by the clauses that a plan model expects."""

    plan: Annotated[Block, Slot("decoder")] = Field(
        default={"use": "plan-sequence"},
        validate_default=True,
        description="the plan model: plan-labels or plan-sequence",
    )
    rule: Rule = Field(
        "soft", description="hard: the first candidate with the predicted clauses goes first; soft: s + weight * log p"
    )
    weight: float = Field(1.0, ge=0, le=1000, description="of the plan against the first-pass score, for rule soft")
    among: Among = Field(
        "keywords",
        description="clauses that count: keywords, or all, aggregates by name, DISTINCT and BETWEEN among them",
    )
    notes: bool = Field(True, description="write the reasons into each hypothesis' extra")


class ShuffledPlanConfig(QueryPlanConfig):
    """The negative control: the plan of another question."""

    donors: File | None = Field(
        None, description="JSONL with question and, where known, database; empty: 16 questions of the plugin's own"
    )


class GoldPlanConfig(Config):
    """The upper bound: the clauses of the gold query."""

    rule: Rule = Field("hard", description="hard, or soft: first-pass score less weight for each clause that differs")
    weight: float = Field(10.0, ge=0, le=1000, description="nats for each clause that differs, for rule soft")
    among: Among = Field("keywords", description="clauses that count")


class LikelihoodConfig(Config):
    """The first-pass score alone."""

    per: Literal["query", "token", "character"] = Field(
        "query", description="query: the score as it is; token, character: divided by the candidate's length in them"
    )


class FirstExecutableConfig(Config):
    """The first candidate that runs."""

    check: Literal["run", "plan"] = Field("run", description="run: execute until one works; plan: EXPLAIN alone")
    empty: bool = Field(True, description="whether an empty result counts as one that works")
    seconds: Seconds = Field(2.0, description="deadline of each candidate, in seconds")
    memory_mb: int = Field(256, ge=64, le=65536, description="memory of the process that runs candidates, in MiB")
    rows: int = Field(10_000, ge=1, le=10_000_000, description="a candidate with more rows does not count as run")


class MajorityVoteConfig(Config):
    """Candidates with the same rows vote for each other."""

    votes: Literal["probability", "count"] = Field("probability", description="what a candidate's vote weighs")
    empty: Literal["vote", "alone", "last"] = Field(
        "vote", description="an empty result votes with others, stands alone, or goes behind all that give rows"
    )
    ordered: bool = Field(False, description="whether the order of the rows counts")
    seconds: Seconds = Field(2.0, description="deadline of each candidate, in seconds")
    memory_mb: int = Field(256, ge=64, le=65536, description="memory of the process that runs candidates, in MiB")
    rows: int = Field(10_000, ge=1, le=10_000_000, description="a candidate with more rows has no vote")


class LlmJudgeConfig(Config):
    """A local causal language model as judge."""

    model: str = Field(
        "", max_length=4096, description="folder that save_pretrained wrote, or name on the Hugging Face hub"
    )
    revision: str | None = Field(None, min_length=1, max_length=200, description="branch, tag or commit on the hub")
    download: bool = Field(False, description="fetch the model from the hub when it is not in the local cache")
    architecture: dict[str, Any] = Field(
        default_factory=dict,
        description="instead of model: fields of a transformers config, for random weights over bytes",
    )
    ask: Literal["yes-no", "question"] = Field(
        "yes-no", description="yes-no: log-odds of the reply; question: likelihood of the question given the SQL"
    )
    prompt: str = Field(
        "", max_length=20_000, description="with {schema}, {question} and {sql}; empty: the built-in one"
    )
    weight: float = Field(0.0, ge=0, le=1000, description="of the first-pass score, added to the judgement")
    tokens: int = Field(1024, ge=16, le=1_000_000, description="longest prompt with its answer; its beginning is cut")
    batch: int = Field(16, ge=1, le=4096, description="prompts in one call of the model")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.model) == bool(self.architecture):
            raise ValueError(
                "give either model (a folder or hub name) or architecture (fields of a transformers config)"
            )
        return self
