"""The values that travel between stages: always batched, lengths always beside the padded tensor.

Axis letters: `b` batch, `n` samples, `t` frames, `f` features, `d` model, `u` labels, `v` vocabulary, `k` hypotheses,
`h` heads. NamedTuples, because `torch.export` refuses plain dataclasses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Waveform(NamedTuple):
    """Sound pressure in [-1, 1]: `samples` [b n] float32, `lengths` [b] int64 in samples."""

    samples: Tensor
    lengths: Tensor
    sample_rate_hz: int


class Features(NamedTuple):
    """Frames of numbers: `values` [b t f] float32, `lengths` [b] int64 in frames."""

    values: Tensor
    lengths: Tensor
    frame_shift_s: float


class Text(NamedTuple):
    """A batch of texts, one string each."""

    texts: list[str]


class Encoded(NamedTuple):
    """An encoder's output: `values` [b t d] float32, `lengths` [b] int64 in frames.

    Frame i covers the time around `offset_s + i * frame_shift_s`. `layers` holds the outputs [b t d] of inner layers
    that a consumer asked for, by depth. `extra` holds named tensors (an adapter's attention, a second head).
    """

    values: Tensor
    lengths: Tensor
    frame_shift_s: float
    offset_s: float = 0.0
    layers: Mapping[int, Tensor] = {}
    extra: Mapping[str, Tensor] = {}


class Targets(NamedTuple):
    """Label ids to train on: `ids` [b u] int64, padded with anything, `lengths` [b] int64 in labels."""

    ids: Tensor
    lengths: Tensor


class Hypothesis(NamedTuple):
    """One reading of one utterance.

    `score` is a natural-log score, higher is better, comparable within one n-best list only. `tokens` are label ids.
    `times` are (start_s, end_s) pairs, one for each unit in `extra["words"]` where words exist, else for each token.
    """

    text: str
    score: float = 0.0
    tokens: tuple[int, ...] = ()
    times: tuple[tuple[float, float], ...] = ()
    extra: Mapping[str, Any] = {}


class NBest(tuple[Hypothesis, ...]):
    """The hypotheses of one utterance, best first; never empty.

    >>> NBest([Hypothesis("hello", -1.0), Hypothesis("hollow", -3.0)]).text
    'hello'
    """

    __slots__ = ()

    @property
    def best(self) -> Hypothesis:
        """The first hypothesis."""
        return self[0]

    @property
    def text(self) -> str:
        """The text of the first hypothesis."""
        return self[0].text


class Item(NamedTuple):
    """One input of a run: `source` is what `sltcore.audio` reads, or a text; `extra` holds a manifest's other columns."""

    id: str
    source: Any
    text: str | None = None
    speaker: str | None = None
    channel: int | str | None = None
    extra: Mapping[str, Any] = {}


class ContextKey(NamedTuple):
    """One piece of side information that a component reads from a call's context.

    `type` is one of the names in `CONTEXT_TYPES`; two components that read one name with different types do not fit
    into one pipeline. `per_utterance` values have one entry for each input of the call, or one that all inputs share.
    """

    name: str
    type: str
    meaning: str
    per_utterance: bool = True


CONTEXT_TYPES: Mapping[str, str] = {
    "text": "a string",
    "texts": "a list of strings",
    "number": "a number",
    "numbers": "a list of numbers",
    "waveform": "a recording: a path, an array of samples, or a Waveform",
    "tensor": "a tensor",
    "mapping": "a mapping with string keys",
    "generator": "a torch.Generator",
    "any": "anything",
}


class Port(NamedTuple):
    """What a component consumes or produces: the name of a value type, and the attributes that must agree.

    Two ports fit when their types are equal and every attribute that both name has the same value. `Hypotheses` is a
    list with one `NBest` for each utterance.
    """

    type: str
    attributes: Mapping[str, Any] = {}

    def __str__(self) -> str:
        if not self.attributes:
            return self.type
        inner = ", ".join(f"{key}={value}" for key, value in sorted(self.attributes.items()))
        return f"{self.type}({inner})"


PORT_TYPES = ("Waveform", "Features", "Text", "Encoded", "Hypotheses", "Scores")


class PrivacyCost(NamedTuple):
    """What a mechanism has spent: (epsilon, delta) for the protected `unit` ("utterance", "speaker")."""

    epsilon: float
    delta: float
    unit: str
    data_dependent: bool


class TableWeight(NamedTuple):
    """A codebook weight that a quantizer hands to an accelerator: `table[indices] * scale`.

    `indices` has the weight's shape, uint8; `table` [levels] float32; `scale` broadcasts against the weight.
    """

    indices: Tensor
    table: Tensor
    scale: Tensor
