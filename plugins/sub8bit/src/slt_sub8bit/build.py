"""Builders: configurations in, quantizers out."""

from __future__ import annotations

from functools import partial
from typing import Any

from slt_sub8bit.config import (
    LevelRegularizerConfig,
    ParqConfig,
    PostTrainingConfig,
    ScaledConfig,
    StraightThroughConfig,
    Sub8bitConfig,
    WeightsConfig,
)
from slt_sub8bit.general import GeneralScheme
from slt_sub8bit.lloyd_max import LloydMaxScheme
from slt_sub8bit.quantizer import Sub8bit
from slt_sub8bit.regularized import RegularizedScheme
from slt_sub8bit.scheme import SchemeFactory
from slt_sub8bit.torchao_peers import Parq
from slt_sub8bit.uniform import UniformScheme
from sltcore.plugin import Ports


def sub8bit(config: Sub8bitConfig, ports: Ports) -> Sub8bit:
    """The General Quantizer."""
    scheme = partial(
        GeneralScheme,
        mu=float(config.mu),
        start=config.start,
        scale_quantile=config.scale_quantile,
        kappa_start=config.kappa_start,
        kappa_end=config.kappa_end,
        anneal=config.anneal,
        learn_levels=config.learn_levels,
        dead=config.dead,
    )
    return Sub8bit(scheme, every=config.every, rate=config.rate, **_scaled(config))


def post_training(config: PostTrainingConfig, ports: Ports) -> Sub8bit:
    """Levels from the weights as they are at the start."""
    scheme: SchemeFactory
    scheme = LloydMaxScheme if config.levels == "lloyd-max" else partial(UniformScheme, range=config.levels, refresh=0)
    return Sub8bit(scheme, **_scaled(config))


def straight_through(config: StraightThroughConfig, ports: Ports) -> Sub8bit:
    """A uniform grid in training."""
    scheme = partial(UniformScheme, range=config.range, first_step=config.first_step)
    return Sub8bit(scheme, rate=config.rate, **_scaled(config))


def level_regularizer(config: LevelRegularizerConfig, ports: Ports) -> Sub8bit:
    """A penalty towards fixed levels."""
    scheme = partial(
        RegularizedScheme,
        strength=config.strength,
        compress_every=config.compress_every,
        forward=config.forward,
        hard_from=config.hard_from,
    )
    return Sub8bit(scheme, **_scaled(config))


def parq(config: ParqConfig, ports: Ports) -> Parq:
    """torchao's optimizer with a proximal map."""
    return Parq(
        levels=config.levels,
        anneal_start=config.anneal_start,
        anneal_end=config.anneal_end,
        steepness=config.steepness,
        every=config.every,
        **_weights(config),
    )


def _scaled(config: ScaledConfig) -> dict[str, Any]:
    return {**_weights(config), "scales": config.scales}


def _weights(config: WeightsConfig) -> dict[str, Any]:
    return {
        "bits": config.bits,
        "bits_of": config.bits_of,
        "include": config.include,
        "exclude": config.exclude,
        "budget_bytes": config.budget_bytes,
        "choices": config.choices,
        "compute": config.compute,
    }
