"""What a run of `pate` is told: what is protected, and which questions are put."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from slt_pate.queries import (
    CandidateList,
    Design,
    PublicModel,
    RoverVote,
    SlotVote,
    TokenVote,
    TranscriptVote,
)

TEMPORARY = "temporary"
"""In place of a ledger's path: an account that ends with the process."""

QueryName = Literal["token", "slot", "transcript", "rover"]


@dataclass(frozen=True)
class Protection:
    """What is protected and how strongly: `unit` is a column of the private data, or 'utterance'."""

    epsilon: float = 8.0
    delta: float = 1e-5
    unit: str = "speaker"
    ledger: str = ""
    released: tuple[str, ...] = ()
    """Bundles released from the ledger before; one that knows more than the ledger shows that it was rolled back."""


@dataclass(frozen=True)
class Asked:
    """Which questions are put, and how many."""

    query: QueryName = "transcript"
    utterances: int | None = None
    queries: int | None = None
    answers: int | None = None
    candidates: tuple[str, ...] = ()
    public_model: str | None = None
    n_best: int = 8
    max_tokens: int = 100
    max_slots: int = 100
    slots: Literal["labels", "frames"] = "labels"
    unsure: Literal["drop", "public"] = "drop"
    batch: int = 8

    @property
    def needs_model(self) -> bool:
        """Whether a public model must be there before anything is asked."""
        if self.query == "token":
            return self.unsure == "public"
        return not (self.query == "transcript" and self.candidates)

    def most_queries(self, utterances: int) -> int:
        """The most queries that so many utterances take."""
        each = {"token": self.max_tokens + 1, "transcript": 1, "slot": self.max_slots, "rover": self.max_slots}
        most = utterances * each[self.query]
        return most if self.queries is None else min(most, self.queries)

    def design(self, public: PublicModel | None) -> Design:
        """The query design, on a public model where it needs one."""
        settings: dict[str, Any] = {"batch": self.batch}
        if self.query == "token":
            return TokenVote(max_tokens=self.max_tokens, unsure=self.unsure, public=public, **settings)
        if self.query == "transcript" and self.candidates:
            return TranscriptVote(CandidateList(self.candidates), **settings)
        assert public is not None
        if self.query == "transcript":
            return TranscriptVote(public, n_best=self.n_best, **settings)
        settings |= {"most_slots": self.max_slots, "unsure": self.unsure}
        if self.query == "slot":
            return SlotVote(public, slots=self.slots, **settings)
        return RoverVote(public, n_best=self.n_best, **settings)
