"""Ways to ask teachers about sequences; each states its unit, its sensitivity and how many queries it takes."""

from slt_pate.queries.design import Ask, Design, Question, Statement, Utterance, utterances_of
from slt_pate.queries.rover_vote import RoverVote
from slt_pate.queries.slot_vote import SlotVote
from slt_pate.queries.sources import CandidateList, PublicModel, mark_private
from slt_pate.queries.token_vote import TokenVote
from slt_pate.queries.transcript_vote import TranscriptVote

__all__ = [
    "Ask",
    "CandidateList",
    "Design",
    "PublicModel",
    "Question",
    "RoverVote",
    "SlotVote",
    "Statement",
    "TokenVote",
    "TranscriptVote",
    "Utterance",
    "mark_private",
    "utterances_of",
]
