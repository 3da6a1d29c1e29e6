"""What this distribution brings, as data."""

from __future__ import annotations

from slt_ctc_personalization.components import COMPONENTS
from sltcore.plugin import Command, Component, hookimpl

SLT_API = (1, 0)


@hookimpl
def slt_components() -> list[Component]:
    """Encoders, searches, an objective and a metric."""
    return list(COMPONENTS)


@hookimpl
def slt_commands() -> list[Command]:
    """`slt lm` and `slt phrases`."""
    return [
        Command("lm", "slt_ctc_personalization.commands:app", "build n-gram language models from text"),
        Command("phrases", "slt_ctc_personalization.commands:phrases_app", "check lists of phrases"),
    ]
