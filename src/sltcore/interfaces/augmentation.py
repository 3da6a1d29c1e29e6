"""Augmentation: another version of a training example."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sltcore.interfaces.part import Part

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Augmentation(Part):
    """Changes a batch the way the world might have, under a generator."""

    promises: ClassVar[Mapping[str, str]] = {
        "deterministic": "the same generator state gives the same result bit for bit",
        "random": "another generator state gives another result",
        "type": "what comes out has the type that went in, with finite values",
        "duration": "output lengths follow output_lengths, where that is stated",
        "padding": "what stands after an utterance's length never changes its result",
        "input-kept": "the input is not changed in place",
    }

    @abstractmethod
    def __call__(self, x: Any, context: Mapping[str, Any], generator: Generator) -> Any:
        """The changed batch, of the same type. All randomness comes from `generator`."""

    def output_lengths(self, lengths: Tensor) -> Tensor | None:
        """The length law [b] -> [b] where it does not depend on chance; None where it does. Unchanged by default."""
        return lengths
