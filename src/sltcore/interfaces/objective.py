"""Objective: a pre-training or auxiliary loss over an encoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sltcore.interfaces.part import Part
from sltcore.types import Port

if TYPE_CHECKING:
    from torch import Tensor

    from sltcore.interfaces.encoder import Encoder


class Objective(Part):
    """A loss that needs no transcript; it may own modules."""

    promises: ClassVar[Mapping[str, str]] = {
        "loss-shape": "loss gives one finite number for each utterance and reduces nothing",
        "gradient": "the encoder and every parameter of the objective receive a gradient",
        "padding": "what stands after an utterance's length never changes its loss",
        "deterministic": "the same batch and generator seed give the same loss twice",
        "refusal": "an encoder that it cannot train is refused by name and reason",
        "learns": "a few steps of gradient descent on one batch lower the loss",
    }

    @property
    def produces(self) -> Port:
        """One number for each utterance."""
        return Port("Scores")

    @abstractmethod
    def check(self, encoder: Encoder) -> None:
        """**Raises** `PortError` when the encoder lacks what the objective needs (causal, maskable, a frame shift)."""

    @abstractmethod
    def loss(self, encoder: Encoder, batch: Any, context: Mapping[str, Any]) -> Tensor:
        """Loss of each utterance [b] float32. Randomness comes from `context["generator"]` only."""
