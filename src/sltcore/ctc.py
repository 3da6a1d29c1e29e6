"""What every CTC decoder shares: its output head and labels, log-probabilities, and the loss.

Keeping them here is what makes searches interchangeable: each keeps its head under `self.head`, so one bundle's weights
fit them all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sltcore.errors import PortError, ShapeError, VocabularyError
from sltcore.interfaces.decoder import padded
from sltcore.plugin import Ports
from sltcore.types import Encoded, Hypothesis, NBest, Targets
from sltcore.vocabulary import Vocabulary, characters

VOCABULARY_FILE = "vocabulary.json"


class Head(NamedTuple):
    """An output head [.. d] -> [.. v], its labels, and its width d."""

    module: nn.Module
    vocabulary: Vocabulary
    d: int


def choose_head(ports: Ports, *, who: str, vocabulary: Path | None = None, letters: str | None = None) -> Head:
    """The head that a CTC decoder named `who` works with.

    A head given in the slot `head` is shared with its vocabulary; without one, labels given by the config make a new
    head; without those, the encoder's own head and labels are taken where it offers them. In a bundle the saved
    vocabulary counts.

    **Raises** `VocabularyError` when nothing names the labels, `PortError` when head, labels and encoder do not fit.
    """
    head = ports.slots.get("head")
    if head is not None and not isinstance(head, nn.Module):
        raise PortError(f"{who}: head refers to a {type(head).__name__}, expected a module such as a Linear")
    if head is None and vocabulary is None and letters is None:
        head = _single(ports.offers, "head")
    labels = _labels(ports, head, who=who, path=vocabulary, letters=letters)
    saved = ports.folder is not None and (ports.folder / VOCABULARY_FILE).is_file()
    if saved and ports.slots.get("head") is None and getattr(head, "out_features", len(labels)) != len(labels):
        head = None  # the bundle's decoder had a head of its own: the saved labels are not those of the offered one
    d = _width(ports, head, who)
    if head is None:
        head = nn.Linear(d, len(labels))
    _check_widths(head, d, labels, who)
    return Head(head, labels, d)


def _check_widths(head: nn.Module, d: int, labels: Vocabulary, who: str) -> None:
    for what, attribute, want in (("in", "in_features", d), ("out", "out_features", len(labels))):
        width = getattr(head, attribute, want)
        if width != want:
            meaning = "the encoder's d" if what == "in" else "the vocabulary's labels"
            raise PortError(
                f"{who}: its head has {width} features {what}, but {meaning} are {want}; share a head and a vocabulary "
                f"that belong together, or leave 'head' empty to get a new one"
            )


def _labels(ports: Ports, head: nn.Module | None, *, who: str, path: Path | None, letters: str | None) -> Vocabulary:
    if path is not None and path.is_file():
        return read_vocabulary(path)
    if letters is not None:
        return characters([letters])
    if ports.folder is not None and (ports.folder / VOCABULARY_FILE).is_file():
        return read_vocabulary(ports.folder / VOCABULARY_FILE)
    if path is not None:
        return read_vocabulary(path)
    beside = [f"{place.rpartition('.')[0]}.vocabulary" for place, value in ports.offers.items() if value is head]
    found = next((ports.offers[place] for place in beside if place in ports.offers), None)
    found = _single(ports.offers, "vocabulary") if found is None else found
    if not isinstance(found, Vocabulary):
        raise VocabularyError(
            f"{who} has no labels: the encoder offers no vocabulary, and neither 'vocabulary' (a JSON file) nor "
            f"'characters' (letters) is given; give one of the two"
        )
    return found


def _single(offers: Mapping[str, Any], name: str) -> Any | None:
    """What the encoder offers under a name, else the only thing of that name on offer."""
    found = {id(value): value for path, value in offers.items() if path.endswith(f".{name}")}
    return offers.get(f"encoder.{name}", next(iter(found.values())) if len(found) == 1 else None)


def _width(ports: Ports, head: nn.Module | None, who: str) -> int:
    d = ports.upstream.attributes.get("d") if ports.upstream is not None else None
    d = getattr(head, "in_features", None) if d is None else d
    if d is None:
        before = ports.upstream if ports.upstream is not None else "nothing"
        raise PortError(f"{who} needs the width d of the encoder before it, but before it stands {before}")
    return int(d)


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary in a JSON file; **Raises** `VocabularyError` when it is missing or not one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VocabularyError(f"vocabulary: there is no file {path}; make one with: slt vocabulary train") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise VocabularyError(f"vocabulary: {path} is not a JSON file: {error}") from None
    if not isinstance(data, dict):
        raise VocabularyError(f"vocabulary: {path} holds a {type(data).__name__}, expected an object with 'labels'")
    return Vocabulary.from_dict(data)


def vocabulary_file(vocabulary: Vocabulary) -> dict[str, bytes]:
    """What `save_files` of a CTC decoder returns for its labels."""
    return {VOCABULARY_FILE: json.dumps(vocabulary.to_dict(), ensure_ascii=False, indent=1).encode()}


def log_probs(head: Head, encoded: Encoded) -> Tensor:
    """Natural-log posteriors [b t v] float32 of frames [b t d]; what stands after a length is read as zeros.

    **Raises** `ShapeError` when the values are not [b t d].
    """
    values = encoded.values
    if values.ndim != 3 or values.shape[2] != head.d:
        raise ShapeError(f"Encoded.values has shape {tuple(values.shape)}, expected (b, t, d) with d = {head.d}")
    inside = torch.arange(values.shape[1], device=values.device) < encoded.lengths[:, None]
    logits = head.module(torch.where(inside[..., None], values, 0.0))
    result: Tensor = logits.float().log_softmax(dim=-1)
    return result


def frames_needed(ids: Tensor, lengths: Tensor) -> Tensor:
    """The fewest frames [b] that CTC can write each target in: its labels and one blank between equal neighbours."""
    places = torch.arange(ids.shape[1], device=ids.device)
    repeats = torch.zeros_like(lengths)
    if ids.shape[1] > 1:
        repeats = ((ids[:, 1:] == ids[:, :-1]) & (places[1:] < lengths[:, None])).sum(dim=1)
    return lengths + repeats


def ctc_loss(frames: Tensor, lengths: Tensor, targets: Targets, *, blank: int) -> Tensor:
    """-ln P(target | frames) of each utterance, +inf where the target does not fit into the frames: [b] float32, nats.

    **Shapes**: `frames` [b t v] natural log, `lengths` [b] in frames, `targets.ids` [b u] padded with anything.
    Utterances without frames, on which `torch.nn.functional.ctc_loss` is undefined when t = 0, give 0 for an empty
    target. The gradient of an infinite loss is zero.
    """
    fits = frames_needed(targets.ids, targets.lengths) <= lengths
    if frames.shape[1] == 0 or frames.shape[0] == 0:
        return torch.where(fits, frames.sum(dim=(1, 2)), torch.inf)
    places = torch.arange(targets.ids.shape[1], device=targets.ids.device)
    any_label = 0 if blank else 1
    ids = torch.where(places < targets.lengths[:, None], targets.ids, any_label)
    losses = functional.ctc_loss(
        frames.transpose(0, 1), ids, lengths, targets.lengths, blank=blank, reduction="none", zero_infinity=True
    )
    return torch.where(fits, losses, torch.inf)


def training_loss(head: Head, encoded: Encoded, targets: Targets) -> Tensor:
    """CTC loss of each utterance: [b] float32 in nats.

    A target that needs more frames than the utterance has (`frames_needed`) has probability zero; its loss is given as
    0 with zero gradient, so that one bad transcript never spoils a batch. **Raises** `VocabularyError` when a target id
    is no label or the blank.
    """
    check_targets(targets, head.vocabulary)
    losses = ctc_loss(log_probs(head, encoded), encoded.lengths, targets, blank=head.vocabulary.blank)
    return torch.where(losses.isinf(), 0.0, losses).clamp_min(0.0)


def check_targets(targets: Targets, vocabulary: Vocabulary) -> None:
    """**Raises** `VocabularyError` when a target id is no label or the blank."""
    places = torch.arange(targets.ids.shape[1], device=targets.ids.device)
    ids, blank, size = targets.ids, vocabulary.blank, len(vocabulary)
    wrong = ((ids < 0) | (ids >= size) | (ids == blank)) & (places < targets.lengths[:, None])
    if wrong.any():
        row, place = (int(index) for index in wrong.nonzero()[0])
        raise VocabularyError(
            f"target {row} has id {int(ids[row, place])} at position {place}, expected one of the ids 0 to {size - 1} "
            f"except the blank, {blank}"
        )


def forward_scores(head: Head, encoded: Encoded, hypotheses: Sequence[NBest]) -> Tensor:
    """ln P(text | frames), summed over all paths: [b k] float32; -inf beyond a list's end or where nothing fits.

    A hypothesis without `tokens` is spelled from its text.
    """

    def labels(hypothesis: Hypothesis) -> Sequence[int]:
        return hypothesis.tokens or head.vocabulary.encode(hypothesis.text)

    frames = log_probs(head, encoded)
    result = frames.new_full((len(hypotheses), max(map(len, hypotheses), default=0)), -torch.inf)
    for column in range(result.shape[1]):
        rows = [row for row, nbest in enumerate(hypotheses) if column < len(nbest)]
        targets = pad_labels((labels(hypotheses[row][column]) for row in rows), frames.device)
        check_targets(targets, head.vocabulary)
        losses = ctc_loss(frames[rows], encoded.lengths[rows], targets, blank=head.vocabulary.blank)
        result[rows, column] = -losses
    return result


def pad_labels(rows: Iterable[Sequence[int]], device: torch.device | str = "cpu") -> Targets:
    """Targets of lists of label ids: `ids` [b u] padded with zeros, `lengths` [b]."""
    ids, lengths = padded([list(row) for row in rows])
    return Targets(ids.to(device), lengths.to(device))
