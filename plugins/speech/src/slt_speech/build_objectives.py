"""Builder of the plugin's objectives: the only place that sees their configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from slt_speech.distillation import Distillation, offered_head
from sltcore import ctc
from sltcore.errors import PortError

if TYPE_CHECKING:
    from slt_speech.config_objectives import DistillationConfig
    from sltcore.plugin import Ports

WHO = "objective 'distillation'"


def distillation(config: DistillationConfig, ports: Ports) -> Distillation:
    """The objective that a spec describes.

    **Raises** `PortError` when nothing says how wide the encoder is, and what `Distillation` raises.
    """
    teacher = ports.slots["teacher"]
    if ports.slots.get("head") is not None:
        found = ctc.choose_head(ports, who=WHO)
        return Distillation(teacher, found.module, labels=found.vocabulary, delay_s=config.delay_s, shared=True)
    d = None if ports.upstream is None else ports.upstream.attributes.get("d")
    if d is None:
        before = ports.upstream if ports.upstream is not None else "nothing"
        raise PortError(f"{WHO} needs the width d of the encoder, but before it stands {before}")
    labels = offered_head(teacher)[1]
    return Distillation(teacher, nn.Linear(int(d), len(labels)), labels=labels, delay_s=config.delay_s)
