"""Builders: configurations in, chips out."""

from __future__ import annotations

from slt_nna.config import NnaConfig
from slt_nna.nna import Nna
from sltcore.plugin import Ports


def nna(config: NnaConfig, ports: Ports) -> Nna:
    """The chip of the configuration."""
    return Nna(
        config.chip,
        include=config.include,
        exclude=config.exclude,
        range=config.range,
        percent=config.percent,
        table_gradient=config.table_gradient,
        start=config.start,
    )
