"""Builder: a configuration in, the mechanism out."""

from __future__ import annotations

import math

from slt_pate.config_dp_sgd import DpSgdConfig
from slt_pate.dp_sgd_component import DpSgd, Sampling
from slt_pate.settings import Protection
from sltcore.plugin import Ports


def dp_sgd(config: DpSgdConfig, ports: Ports) -> DpSgd:
    """Clipped and noised gradients of units."""
    epsilon = math.inf if config.epsilon is None else config.epsilon
    return DpSgd(
        Protection(epsilon, config.delta, config.unit, config.ledger),
        Sampling(config.steps, config.rate, config.units, config.utterances),
        clip=config.clip,
        noise=config.noise,
        layers=config.layers,
        normalization=config.normalization,
        engine=config.engine,
    )
