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
    boosting: Literal["fixed", "depth-scaled", "utterance", "windowed"] = Field(
        "fixed",
        description="what a phrase earns: its bonus; more for later labels; or its bonus by what is heard of it in the whole "
        "utterance or around it",
    )
    depth_scaling: float = Field(
        2.0, ge=0, le=100, description="depth-scaled: factor for the labels after a phrase's first"
    )
    evidence: Literal["auto", "none", "attention", "phones", "both"] = Field(
        "auto",
        description="utterance, windowed: what hears phrases: an adapter's attention, a spotter on phones, both (the larger "
        "counts), or whatever there is",
    )
    evidence_floor: float = Field(
        0.0, ge=0, le=1, description="utterance, windowed: the part of its bonus that a phrase earns unheard"
    )
    window_before_s: float = Field(
        4.0, ge=0, le=60, description="windowed: a phrase is heard so long before its last label, in seconds"
    )
    window_after_s: float = Field(
        0.4, ge=0, le=10, description="windowed: or so long behind it, in seconds; a stream waits for it"
    )
    spotter_context_weight: float = Field(
        3.0, ge=0, le=100, description="evidence of phones: natural-log score for each phone of a phrase"
    )
    spotter_threshold: float = Field(
        -5.0, ge=-1000, le=1000, description="evidence of phones: hits below this natural-log score are not heard"
    )
    attention_supervision: float = Field(
        0.0, ge=0, le=100, description="training: weight of the loss that teaches an adapter where to look"
    )
    language: str = Field(
        "en", min_length=2, description="language that phrases are pronounced in; an encoder's phones bring their own"
    )
    segmentations: int = Field(4, ge=1, le=16, description="ways in which a phrase is parted into sub-words")
    token_min_log_prob: float | None = Field(
        None, ge=-1e4, le=0, description="labels below it in a frame are not tried; empty: as tuned"
    )
    beam_prune_log_prob: float | None = Field(
        None, ge=-1e4, le=0, description="hypotheses further than this below the best are dropped; empty: as tuned"
    )
    engine: Literal["auto", "compiled", "torch"] = Field(
        "auto",
        description="what searches: compiled (on the CPU), torch (batches on a GPU; no lexicon, confusions, windowed boosting "
        "or KenLM probing files), or auto: torch where the frames lie on a GPU and it can",
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

    @model_validator(mode="after")
    def _effective(self) -> Self:
        adaptive = self.boosting in ("utterance", "windowed")
        effects = {
            "depth_scaling": (self.boosting == "depth-scaled", "depth-scaled"),
            "evidence_floor": (adaptive, "windowed"),
            "spotter_context_weight": (adaptive, "windowed"),
            "spotter_threshold": (adaptive, "windowed"),
            "window_before_s": (self.boosting == "windowed", "windowed"),
            "window_after_s": (self.boosting == "windowed", "windowed"),
        }
        for name, (counts, instead) in effects.items():
            if getattr(self, name) != type(self).model_fields[name].default and not counts:
                raise ValueError(
                    f"{name} has no effect with boosting: {self.boosting}; leave it out, or choose boosting: {instead}"
                )
        if adaptive and self.evidence == "none":
            raise ValueError(
                f"boosting: {self.boosting} pays a phrase by what is heard of it; choose evidence: auto, or boosting: fixed"
            )
        if not adaptive and self.evidence not in ("auto", "none"):
            raise ValueError(
                f"evidence: {self.evidence} has no effect with boosting: {self.boosting}; choose boosting: windowed or "
                f"utterance, or leave evidence out"
            )
        if self.boosting == "windowed" and (self.lexicon != "none" or self.lexicon_file is not None):
            raise ValueError(
                "boosting: windowed works without a lexicon; choose boosting: utterance, or leave the lexicon out"
            )
        return self
