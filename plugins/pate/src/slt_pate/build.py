"""Builders: configurations in, mechanisms out."""

from __future__ import annotations

import math

from slt_pate.budget import Noise
from slt_pate.config import PateConfig
from slt_pate.pate import Pate
from slt_pate.settings import Asked, Protection
from sltcore.plugin import Ports


def pate(config: PateConfig, ports: Ports) -> Pate:
    """Teachers, noisy votes and a student."""
    epsilon = math.inf if config.epsilon is None else config.epsilon
    return Pate(
        Protection(epsilon, config.delta, config.unit, config.ledger, config.released),
        Noise(config.mechanism, config.sigma, config.threshold, config.sigma_threshold),
        Asked(
            query=config.query,
            utterances=config.utterances,
            queries=config.queries,
            answers=config.answers,
            candidates=config.candidates,
            public_model=config.public_model,
            n_best=config.n_best,
            max_tokens=config.max_tokens,
            max_slots=config.max_slots,
            slots=config.slots,
            unsure=config.unsure,
            batch=config.batch,
        ),
        teachers=config.teachers,
        shard_column=config.shard_column,
        salt=config.salt,
        rounds=config.rounds,
    )
