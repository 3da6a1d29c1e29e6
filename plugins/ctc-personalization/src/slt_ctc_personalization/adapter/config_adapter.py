"""Configuration of the contextual adapter."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sltcore.spec import Block, Config, File, Ref, Slot


class ListSamplingConfig(Config):
    """How lists of phrases are drawn from the training transcripts."""

    rare_texts: int = Field(
        10, ge=1, le=1_000_000, description="a word is rare when at most so many training texts hold it"
    )
    least_letters: int = Field(3, ge=1, le=100, description="letters that a rare word has at least")
    most_words: int = Field(3, ge=1, le=20, description="words of a phrase, the neighbours of a rare word included")
    keep: float = Field(0.7, ge=0, le=1, description="share of an utterance's rare words that stand in its list")
    no_own: float = Field(0.4, ge=0, le=1, description="share of utterances whose list holds distractors only")
    empty: float = Field(0.1, ge=0, le=1, description="share of utterances with an empty list")
    distractors: int = Field(
        100, ge=0, le=10_000, description="phrases of other utterances in a list, at most; drawn from 0 upwards"
    )

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.no_own + self.empty > 1:
            raise ValueError(f"no_own {self.no_own:g} and empty {self.empty:g} are shares, but come to more than 1")
        return self


class ContextualAdapterConfig(Config):
    """Attention to the phrases of a call, on top of a frozen encoder."""

    encoder: Annotated[Block | Ref, Slot("encoder")] = Field(
        "hama-conformer", validate_default=True, description="the base, which is frozen; its front end stays inside it"
    )
    spelling: Literal["auto", "labels", "characters", "phones"] = Field(
        "auto",
        description="what phrases are read as: labels of the vocabulary, characters (bytes of any script), or phones; auto: "
        "labels where there are letters or sub-words, phones for a recogniser of phones, else characters",
    )
    language: str = Field("en", min_length=2, description="language that phrases read as phones are pronounced in")
    vocabulary: File | None = Field(
        None, description="labels for spelling, as the JSON file that slt vocabulary train writes; empty: the base's"
    )
    characters: str | None = Field(None, min_length=1, description="labels for spelling, given as letters")
    layers: tuple[int, ...] = Field(
        (),
        max_length=16,
        description="depths of the base that make the query; negative ones count from the end; empty: the middle and the "
        "last",
    )
    combine: Literal["concat", "sum"] = Field(
        "concat", description="layers side by side, or as a sum with learned weights"
    )
    embedding: int = Field(64, ge=1, le=4096, description="width of a symbol of a phrase")
    hidden: int = Field(64, ge=1, le=4096, description="width of the phrase reader's LSTM, in each direction")
    width: int = Field(128, ge=1, le=8192, description="width of queries, keys and values, all heads together")
    context_frames: int = Field(
        20, ge=0, le=500, description="frames to either side that a frame's query sees; they delay a stream"
    )
    context_step: int = Field(
        2, ge=1, le=500, description="of those, every so many; context_frames is a multiple of it"
    )
    heads: int = Field(
        1, ge=1, le=64, description="attention heads; the attention that decoders see is their mean, sharpest with one"
    )
    attended: int | None = Field(
        64, ge=1, le=100_000, description="phrases that a frame may look at, the best ones; empty: all of the list"
    )
    keep_base_mb: int = Field(
        1024, ge=0, le=1_000_000, description="memory for outputs of the base in training, in MB; 0: none are kept"
    )
    sample_lists: bool = Field(True, description="draw lists for training where the data give no phrases")
    lists: ListSamplingConfig = Field(default_factory=ListSamplingConfig, description="how those lists are drawn")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.vocabulary is not None and self.characters is not None:
            raise ValueError("vocabulary and characters both name the labels; give one of them")
        if self.spelling in ("characters", "phones") and (self.vocabulary is not None or self.characters is not None):
            raise ValueError(
                f"spelling: {self.spelling} reads no labels; leave out vocabulary and characters, or set spelling: labels"
            )
        if self.language != "en" and self.spelling in ("labels", "characters"):
            raise ValueError(
                f"language: {self.language} has no effect with spelling: {self.spelling}; leave it out, or set spelling: phones"
            )
        if self.context_frames % self.context_step:
            raise ValueError(
                f"context_frames {self.context_frames} is no multiple of context_step {self.context_step}; try "
                f"context_frames: {self.context_frames - self.context_frames % self.context_step} or context_step: 1"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by heads {self.heads}")
        return self
