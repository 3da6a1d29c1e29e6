"""The kinds, as abstract base classes with their promises, and the closed table of them.

Put an interface **before** `nn.Module` in the bases. A class is abstract or final; shared code goes into functions or
held objects.
"""

from __future__ import annotations

from collections.abc import Mapping

from sltcore.interfaces.augmentation import Augmentation
from sltcore.interfaces.decoder import Decoder
from sltcore.interfaces.encoder import Encoder
from sltcore.interfaces.metric import Metric, Value
from sltcore.interfaces.objective import Objective
from sltcore.interfaces.part import Part, Session, overrides
from sltcore.interfaces.privacy import PrivacyMechanism
from sltcore.interfaces.reranker import Reranker
from sltcore.interfaces.transform import AcceleratorBackend, Adapter, Cost, Quantizer, Size, Transform
from sltcore.interfaces.vocoder import Vocoder

INTERFACES: Mapping[str, type] = {
    "encoder": Encoder,
    "decoder": Decoder,
    "quantizer": Quantizer,
    "accelerator": AcceleratorBackend,
    "adapter": Adapter,
    "privacy": PrivacyMechanism,
    "reranker": Reranker,
    "vocoder": Vocoder,
    "objective": Objective,
    "augmentation": Augmentation,
    "metric": Metric,
}
"""The interface of each kind in `sltcore.plugin.KINDS`."""

TRANSFORM_KINDS = ("quantizer", "accelerator", "adapter")

__all__ = [
    "INTERFACES",
    "TRANSFORM_KINDS",
    "AcceleratorBackend",
    "Adapter",
    "Augmentation",
    "Cost",
    "Decoder",
    "Encoder",
    "Metric",
    "Objective",
    "Part",
    "PrivacyMechanism",
    "Quantizer",
    "Reranker",
    "Session",
    "Size",
    "Transform",
    "Value",
    "Vocoder",
    "overrides",
]
