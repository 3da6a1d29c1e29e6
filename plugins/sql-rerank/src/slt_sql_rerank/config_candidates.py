"""Configurations of the decoders that give candidates."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sltcore.spec.slots import Config, File


class CandidatesConfig(Config):
    """Candidates that the call or a file gives."""

    file: File | None = Field(
        None, description="JSONL with question and candidates on each line, for calls that give none"
    )


class SqlGenerateConfig(Config):
    """Candidates that a language model on this machine writes."""

    model: str = Field(
        "", max_length=4096, description="folder that save_pretrained wrote, or name on the Hugging Face hub"
    )
    revision: str | None = Field(None, min_length=1, max_length=200, description="branch, tag or commit on the hub")
    download: bool = Field(False, description="fetch the model from the hub when it is not in the local cache")
    architecture: dict[str, Any] = Field(
        default_factory=dict,
        description="instead of model: fields of a transformers config, for random weights over bytes",
    )
    n: int = Field(10, ge=1, le=1000, description="candidates that are asked for, before spellings of one are merged")
    search: Literal["beam", "sample"] = Field("beam", description="beam: the n best of n beams; sample: n samples")
    temperature: float = Field(1.0, gt=0, le=100, description="of sampling; scores are those of temperature 1")
    per: Literal["query", "token"] = Field(
        "query", description="the score is the log-probability of the query, or that divided by its tokens"
    )
    prompt: str = Field("", max_length=20_000, description="with {schema} and {question}; empty: the built-in one")
    new_tokens: int = Field(128, ge=1, le=100_000, description="longest candidate, in tokens")
    tokens: int = Field(1024, ge=16, le=1_000_000, description="longest prompt; its beginning is cut")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.model) == bool(self.architecture):
            raise ValueError(
                "give either model (a folder or hub name) or architecture (fields of a transformers config)"
            )
        return self


class SqlConstrainedConfig(SqlGenerateConfig):
    """Candidates that a language model on this machine writes, all of them queries over the schema."""


class SqlEndpointConfig(Config):
    """Candidates that an OpenAI-compatible service writes."""

    base_url: str = Field(
        "http://127.0.0.1:8000/v1", max_length=2000, description="of the service; /chat/completions is added"
    )
    model: str = Field("default", min_length=1, max_length=400, description="the model's name at the service")
    key_variable: str = Field(
        "", max_length=200, description="environment variable that holds the key; empty: no key is sent"
    )
    allow_network: bool = Field(False, description="questions and schemas may be sent to base_url")
    n: int = Field(10, ge=1, le=1000, description="choices that are asked for, before spellings of one are merged")
    temperature: float = Field(1.0, ge=0, le=100, description="of sampling")
    seconds: float = Field(60.0, gt=0, le=3600, description="after which a request is given up")
    prompt: str = Field("", max_length=20_000, description="with {schema} and {question}; empty: the built-in one")
