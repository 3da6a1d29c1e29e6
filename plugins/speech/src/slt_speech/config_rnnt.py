"""Configurations of the transducer and of the phrases that it may be told."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sltcore.spec import Block, Config, File, Ref, Slot


class RnntConfig(Config):
    """A transducer (RNN-T): prediction network, joint, loss and searches.

    Without `vocabulary` and `characters` the labels that the encoder offers are used.
    """

    vocabulary: File | None = Field(None, description="labels, as the JSON file that slt vocabulary train writes")
    characters: str | None = Field(None, min_length=1, description="labels given as letters; blank and space are added")
    prediction: Literal["lstm", "stateless"] = Field(
        "lstm", description="what remembers the labels so far: an LSTM, or the last few labels alone"
    )
    d_prediction: int = Field(320, ge=1, le=8192, description="width of the prediction network")
    layers: int = Field(1, ge=1, le=16, description="LSTM layers, for prediction: lstm")
    context: int = Field(2, ge=1, le=64, description="labels looked back at, for prediction: stateless")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="dropout before and between the prediction's layers")
    d_joint: int = Field(320, ge=1, le=8192, description="width of the joint's inner layer")
    search: Literal["greedy", "beam"] = Field(
        "greedy", description="the best label at a time, or the best few sequences, merged where they read the same"
    )
    beam: int = Field(4, ge=1, le=1000, description="hypotheses kept for each frame, for search: beam")
    max_symbols: int = Field(10, ge=1, le=100, description="labels that are written in one frame at most")
    n_best: int = Field(1, ge=1, le=1000, description="hypotheses in the result, for search: beam")
    boost: Annotated[Block | Ref | None, Slot("decoder")] = Field(
        None, description="a decoder with the step interface that adds to the beam search, such as phrase-boost"
    )
    boost_weight: float = Field(1.0, ge=0.0, le=100.0, description="factor of the natural-log scores of boost")
    loss: Literal["full", "pruned"] = Field(
        "full", description="over all alignments, or over windows around the likely ones, for large vocabularies"
    )
    window: int = Field(5, ge=2, le=1000, description="label positions in each frame, for loss: pruned")
    fastemit: float = Field(0.0, ge=0.0, le=1.0, description="weight of FastEmit, which makes labels come earlier")
    clamp: float | None = Field(None, gt=0.0, description="limit of the gradient of each logit; empty: none")

    @model_validator(mode="after")
    def _effective(self) -> Self:
        if self.vocabulary is not None and self.characters is not None:
            raise ValueError("vocabulary and characters both name the labels; give one of them")
        needs = {"n_best": "beam", "boost": "beam"}
        for name, search in needs.items():
            if getattr(self, name) != type(self).model_fields[name].default and self.search != search:
                raise ValueError(
                    f"{name} has no effect with search: {self.search}; choose search: {search}, or leave it out"
                )
        if self.n_best > self.beam:
            raise ValueError(f"n_best is {self.n_best}, but a beam of {self.beam} finds no more; widen beam")
        return self


class PhraseBoostConfig(Config):
    """Phrases to expect, as a decoder with the step interface, for the slot `boost` of another decoder.

    Without `vocabulary` and `characters` it takes the labels of the decoder that it helps.
    """

    vocabulary: File | None = Field(None, description="labels, as the JSON file that slt vocabulary train writes")
    characters: str | None = Field(None, min_length=1, description="labels given as letters; blank and space are added")
    bonus: float = Field(1.5, ge=0.0, le=20.0, description="natural-log score for each label of a phrase")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.vocabulary is not None and self.characters is not None:
            raise ValueError("vocabulary and characters both name the labels; give one of them")
        return self
