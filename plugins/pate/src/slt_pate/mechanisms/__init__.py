"""Mechanisms that release what teachers say with noise, and state what each release costs."""

from slt_pate.mechanisms.answers import Answer, Answers, Mechanism, count_votes
from slt_pate.mechanisms.noisy_max import ConfidentGNMax, GNMax, LNMax
from slt_pate.mechanisms.noisy_posterior import NoisyPosterior, project_to_simplex

__all__ = [
    "Answer",
    "Answers",
    "ConfidentGNMax",
    "GNMax",
    "LNMax",
    "Mechanism",
    "NoisyPosterior",
    "count_votes",
    "project_to_simplex",
]
