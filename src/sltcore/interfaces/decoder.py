"""Decoder: text (or features, or another encoding) from an encoder's frames, and the loss that trains it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sltcore.errors import PluginError
from sltcore.interfaces.part import Part, overrides

if TYPE_CHECKING:
    from torch import Tensor

    from sltcore.types import Encoded, NBest, Targets
    from sltcore.vocabulary import Vocabulary


class Decoder(Part):
    """Reads an encoding and writes what its port declares: n-best lists, Features or Encoded.

    CTC searches keep their output head under `self.head`, RNN-T decoders their prediction network and joint, so that
    searches are interchangeable on one bundle. N-gram models, phrase automata and grammars are decoders with the step
    interface that other decoders take in a slot.
    """

    promises: ClassVar[Mapping[str, str]] = {
        "one-each": "decode returns one result for each utterance, in order, also for utterances of length zero",
        "sorted": "an n-best list is best first, and its hypotheses differ",
        "padding": "what stands after an utterance's length never changes its result",
        "deterministic": "the same input and generator seed give the same result twice",
        "context-identity": "an empty context and a missing one give the same result bit for bit",
        "loss-shape": "loss gives one finite, non-negative number for each utterance and reduces nothing, where it exists",
        "gradient": "every trainable parameter receives a gradient from the loss, where it exists",
        "score": "score of the returned hypotheses is [b k] and orders them as the n-best list does, where it exists",
        "step": "log_probs of step are [b k v] and sum to one over v, where the step interface exists",
        "spelling": "the vocabulary encodes what it decodes, and refuses characters it has no label for",
        "streaming": "what a session's finish returns is the result of the offline call, where the decoder streams",
    }

    @abstractmethod
    def decode(self, encoded: Any, context: Mapping[str, Any]) -> list[NBest] | Any:
        """Decode a batch: a list with one `NBest` for each utterance, or what the port declares.

        **Raises** `ContextError` for a phrase that cannot be spelled or a value of the wrong type.
        """

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The labels it writes with, or None where it writes no labels."""
        return None

    def loss(self, encoded: Encoded, targets: Targets, context: Mapping[str, Any]) -> Tensor:
        """Loss of each utterance: [b] float32 in nats, not reduced. **Raises** `PluginError` where there is none."""
        raise PluginError(f"{type(self).__name__} has no loss and cannot be trained")

    def score(self, encoded: Encoded, hypotheses: Sequence[NBest]) -> Tensor:
        """Scores of given hypotheses: [b k] float32, natural log, -inf beyond a list's end."""
        raise PluginError(f"{type(self).__name__} does not score given hypotheses")

    def start(self, encoded: Encoded | None) -> Any:
        """The state before the first token, for all utterances (None: no acoustics, as for a language model)."""
        raise PluginError(f"{type(self).__name__} has no step interface")

    def step(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        """Advance by `tokens` [b k] int64: log-probabilities of the next token [b k v] (nats) and the new state."""
        raise PluginError(f"{type(self).__name__} has no step interface")

    def tables(self) -> Mapping[str, Any]:
        """The step interface as flat arrays, for searches that are compiled. Empty where there is no such form."""
        return {}

    @property
    def has_loss(self) -> bool:
        """Whether it can be trained."""
        return overrides(self, "loss", Decoder)

    @property
    def has_steps(self) -> bool:
        """Whether it has the step interface."""
        return overrides(self, "step", Decoder) and overrides(self, "start", Decoder)

    @property
    def can_stream(self) -> bool:
        """Whether `open` gives a session."""
        return overrides(self, "open", Part)
