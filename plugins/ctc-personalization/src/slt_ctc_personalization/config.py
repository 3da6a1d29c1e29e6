"""Configuration of the plugin's components."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sltcore.spec import Config, File, Ref, Slot


class CtcBeamConfig(Config):
    """CTC prefix beam search.

    Without `head`, `vocabulary` and `characters` the encoder's own head and labels are used, where it offers them.
    """

    beam: int | None = Field(
        None, ge=1, le=10_000, description="hypotheses kept for each frame; empty: 60 for English words, else 100"
    )
    lexicon: Literal["none", "english", "spelling"] = Field(
        "none",
        description="words to write: english (CMU dictionary, for a recogniser of phones), spelling (the words of the "
        "language model as letters), or none (any label sequence)",
    )
    lexicon_file: File | None = Field(None, description="a dictionary of your own, lines of: word phones…")
    lexicon_words: int = Field(20_000, ge=10, le=1_000_000, description="most frequent words of lexicon: english")
    lm: Literal["auto", "none", "english"] = Field(
        "auto", description="n-gram language model; auto: english beside lexicon: english, else none"
    )
    lm_file: File | None = Field(None, description="a model of your own: ARPA, gzipped ARPA, or KenLM probing")
    lm_unit: Literal["word", "token"] = Field("word", description="what the language model counts: words or labels")
    lm_weight: float | None = Field(None, ge=0, le=100, description="weight of ln P(words); empty: as tuned")
    word_bonus: float | None = Field(
        None, ge=-100, le=100, description="natural-log score of each word; empty: as tuned"
    )
    unknown_word_log_prob: float | None = Field(
        None, ge=-1000, le=0, description="added for a word that the language model lacks; empty: as tuned"
    )
    confusions: Literal["auto", "none", "hama-english"] = Field(
        "auto", description="phones heard for phones meant; auto: those of the pretrained phone recogniser"
    )
    phrase_bonus: float | None = Field(
        None, ge=0, le=100, description="natural-log score for each label of a phrase of the list; empty: as tuned"
    )
    token_min_log_prob: float | None = Field(
        None, ge=-1e4, le=0, description="labels below it in a frame are not tried; empty: as tuned"
    )
    beam_prune_log_prob: float | None = Field(
        None, ge=-1e4, le=0, description="hypotheses further than this below the best are dropped; empty: as tuned"
    )
    n_best: int = Field(1, ge=1, le=1000, description="hypotheses in the result")
    threads: int | None = Field(None, ge=1, le=1024, description="utterances at a time; empty: one for each processor")
    head: Annotated[Ref | None, Slot()] = Field(
        None, description="a head to share, such as {ref: encoder.head}, with its vocabulary; empty: as offered, or new"
    )
    vocabulary: File | None = Field(None, description="labels, as the JSON file that slt vocabulary train writes")
    characters: str | None = Field(None, min_length=1, description="labels given as letters; blank and space are added")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        pairs = (
            ("vocabulary", "characters", self.vocabulary is not None and self.characters is not None),
            ("lexicon", "lexicon_file", self.lexicon != "none" and self.lexicon_file is not None),
            ("lm", "lm_file", self.lm == "english" and self.lm_file is not None),
        )
        for first, second, both in pairs:
            if both:
                raise ValueError(f"{first} and {second} both name the same thing; give one of them")
        return self
