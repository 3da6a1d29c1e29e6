"""What was fixed before the full run: sizes, budgets, and the settings that were chosen without the private units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

EPSILONS = (1.0, 4.0, 8.0)
DELTA = 1e-5
TEACHERS = 10
"""Two units of 21 each, on average."""
CLAIMED = (1.0, 4.0)
TUNED_AT = 4.0
RATE = 0.5
"""Chance of a unit to be in a step of DP-SGD, at most `UTTERANCES` of its lines."""
UTTERANCES = 2

MODELS: Mapping[str, int] = MappingProxyType({"small": 0, "large": 256})
"""Hidden units of the two models on made-up people: 410 and 13,056 weights."""
AUDITED = 300
"""Made-up people beside whom canaries are put."""


@dataclass(frozen=True)
class Size:
    """`steps` of every model beyond the public start's, `start_steps` of that, `tested` utterances, `attacked`
    ones of members and as many of others, `shadows` of the attack."""

    seeds: tuple[int, ...]
    start_steps: int
    steps: int
    tested: int
    attacked: int
    shadows: int
    replicates: int
    populations: tuple[int, ...]


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "smoke": Size((0,), 6, 2, 12, 20, 4, 1_000, (24,)),
        "small": Size((0, 1), 400, 100, 200, 120, 8, 10_000, (100, 300, 1_000)),
        "full": Size((0, 1, 2, 3, 4), 400, 100, 200, 120, 8, 10_000, (100, 300, 1_000, 3_000)),
    }
)


@dataclass(frozen=True)
class Votes:
    """A setting of PATE: public recordings that are asked about, and the share of teachers that must agree."""

    utterances: int
    threshold: float = 0.0


@dataclass(frozen=True)
class Steps:
    """A setting of DP-SGD: what is trained, and how fast."""

    learning_rate: float
    trainable: tuple[str, ...]


HEAD = ("decoder.head.*",)
ALL = ("encoder.inner.*", "encoder.outer.*", "decoder.head.*")

TRIALS: Mapping[str, tuple[Votes | Steps, ...]] = MappingProxyType(
    {
        "transcript": (Votes(3), Votes(5), Votes(10), Votes(20)),
        "slot": (Votes(1, 0.6), Votes(1, 0.8), Votes(4, 0.6), Votes(4, 0.8)),
        "dp-sgd": (Steps(3e-3, HEAD), Steps(1e-3, HEAD), Steps(3e-4, HEAD), Steps(1e-4, ALL)),
    }
)
"""As many for each mechanism; the one with the least character error on pretended units is taken."""


def budget_name(epsilon: float) -> str:
    """Of a budget in names of units.

    >>> budget_name(4.0), budget_name(math.inf)
    ('4', 'inf')
    """
    return "inf" if math.isinf(epsilon) else f"{epsilon:g}"
