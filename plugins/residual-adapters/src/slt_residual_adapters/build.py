"""Builders: configurations in, adapters out."""

from __future__ import annotations

from slt_residual_adapters.config import LoraConfig, ResidualConfig
from slt_residual_adapters.residual_adapters import ResidualAdapters
from sltcore.plugin import Ports


def residual(config: ResidualConfig, ports: Ports) -> ResidualAdapters:
    """Bottlenecks over the outputs of modules."""
    return ResidualAdapters(
        config.name,
        config.updates,
        words=config.words,
        card=config.card,
        place=config.place,
        rank=config.rank,
        d=config.d,
        activation=config.activation,
        fusion=config.fusion,
        attention_width=config.attention_width,
        weights=config.weights,
        silence=config.silence,
    )


def lora(config: LoraConfig, ports: Ports) -> ResidualAdapters:
    """Low-rank products beside linear layers, summed exactly."""
    return ResidualAdapters(
        config.name,
        config.updates,
        words=config.words,
        card=config.card,
        place=config.place,
        rank=config.rank,
        method="lora",
        alpha=config.alpha,
        weights=config.weights,
    )
