"""Encoder: frames of meaning from a waveform, features, text, or another encoder's output."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sltcore.errors import PortError
from sltcore.interfaces.part import Part

if TYPE_CHECKING:
    from torch import Tensor

    from sltcore.types import Encoded, Features


class Encoder(Part):
    """Turns what it consumes into `Encoded` (or `Features`, for a front end).

    Encoders nest: a front end is an encoder from Waveform that another encoder takes in a slot.
    """

    promises: ClassVar[Mapping[str, str]] = {
        "lengths": "output_lengths gives exactly the lengths that forward returns, and values has room for the longest",
        "padding": "what stands after an utterance's length never changes its frames, up to padding_tolerance",
        "batch": "an utterance gives the same frames alone and in a batch, up to padding_tolerance",
        "gradient": "every trainable parameter receives a gradient over the union of the small contexts, modules on offer apart",
        "deterministic": "the same input gives the same output twice in evaluation",
        "lookahead": "frame i does not depend on input more than lookahead_frames frames later, where that is stated",
        "context-identity": "an empty context and a missing one give the same output bit for bit",
        "shape": "values is [b t d] float32 with the d of the port, finite, and on the device of the input",
        "streaming": "a session gives the frames of the offline call, where the encoder streams",
    }

    padding_tolerance: float = 1e-4
    """Largest absolute difference that padding or batching may make to a frame."""

    @abstractmethod
    def forward(self, x: Any, context: Mapping[str, Any]) -> Encoded | Features:
        """Encode a batch.

        **Shapes**: as the ports say: Waveform [b n], Features [b t f] or Encoded [b t d] in; `Encoded` [b t d] out.
        **Raises** `ShapeError` when the input's axes do not match the port; `ContextError` for a context value that it
        cannot use.
        """

    @abstractmethod
    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames out for units in: `lengths` [b] int64 in samples, frames or labels -> [b] int64 in frames."""

    @property
    def lookahead_frames(self) -> int | None:
        """How many output frames of the future a frame depends on; None when it is the whole utterance."""
        return None

    @property
    def depths(self) -> int | None:
        """The number of its inner layers, the last included; None when it gives none out."""
        return None

    def keep_layers(self, depths: Sequence[int]) -> None:
        """Have `Encoded.layers` hold these inner layers from now on, beside those asked for before.

        Depths run from 0 (what enters the first layer) to `depths`. A wrapper calls it on its base.
        **Raises** `PortError` for an encoder without inner layers, or a depth that it does not have.
        """
        if depths:
            raise PortError(f"{type(self).__name__} gives out no inner layers; ask for its output only")
