"""Decoder: text (or features, or another encoding) from an encoder's frames, and the loss that trains it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from sltcore.errors import PluginError, VocabularyError
from sltcore.interfaces.part import Part, overrides
from sltcore.types import Targets

if TYPE_CHECKING:
    from torch import Tensor

    from sltcore.types import Encoded, NBest
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

    def targets(self, texts: Sequence[str], context: Mapping[str, Any]) -> Targets:
        """The label ids that the loss is to be told for these texts: `ids` [b u] int64 padded with zeros, `lengths` [b].

        By default the vocabulary's spelling of the text as it stands, else in lower case, else in capitals. **Raises**
        `VocabularyError` where a text has no spelling, `PluginError` where there are no labels.
        """
        vocabulary = self.vocabulary
        if vocabulary is None:
            raise PluginError(f"{type(self).__name__} has no vocabulary, so texts are no targets for it")
        return padded([spelling(vocabulary, text) for text in texts])

    def frames_needed(self, targets: Targets) -> Tensor:
        """The fewest encoder frames [b] int64 that each target can be written in; 0 where any number will do."""
        return targets.lengths.new_zeros(targets.lengths.shape)

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


def spelling(vocabulary: Vocabulary, text: str) -> list[int]:
    """The ids of a text as it stands, else in lower case, else in capitals; **raises** `VocabularyError` about the first
    of them."""
    try:
        return vocabulary.encode(text)
    except VocabularyError:
        for other in (text.lower(), text.upper()):
            try:
                return vocabulary.encode(other)
            except VocabularyError:
                continue
        raise


def padded(rows: Sequence[Sequence[int]]) -> Targets:
    """Targets of lists of label ids: `ids` [b u] padded with zeros, `lengths` [b]."""
    torch = import_module("torch")  # by name: declaring a decoder must not load it
    widest = max(map(len, rows), default=0)
    ids = torch.tensor([[*row, *[0] * (widest - len(row))] for row in rows], dtype=torch.int64)
    return Targets(ids.reshape(len(rows), widest), torch.tensor([len(row) for row in rows], dtype=torch.int64))
