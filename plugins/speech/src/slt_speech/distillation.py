"""Objective `distillation`: an encoder learns what another recogniser hears in each frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.errors import PortError, VocabularyError
from sltcore.interfaces import Encoder, Objective
from sltcore.types import Encoded, Port
from sltcore.vocabulary import Vocabulary

WHO = "distillation"
RATE = "sample_rate_hz"


class Distillation(Objective, nn.Module):
    """KL(teacher ‖ student) of the labels, averaged over the student's frames: [b] float32, nats.

    The teacher is frozen and hears the sound without augmentations of features. The student is the encoder that is
    trained, with `head` [d] -> [v] over `labels`. A label that the teacher lacks counts as never heard, one that only it
    has is left out, and the rest of a frame is scaled to one; blank and word boundary are matched by what they are, other
    labels by name. Frame rates may differ, see `joined_frames`; with `delay_s` the student may hear so much more before
    it has to answer, which an encoder without lookahead needs. A head that is `shared` belongs to another component.

    **Source**: Hinton et al., arXiv:1503.02531, at temperature 1. Joined frames are our own.

    **Raises** `PortError` for a teacher that offers no head over labels, `VocabularyError` when no sound is shared.
    """

    def __init__(
        self, teacher: Encoder, head: nn.Module, *, labels: Vocabulary, delay_s: float = 0.0, shared: bool = False
    ) -> None:
        super().__init__()
        self.teacher_head, known = offered_head(teacher)
        self.teacher: Any = teacher  # called as a module, with its hooks
        modules: tuple[Any, ...] = (teacher, self.teacher_head)
        for module in modules:
            module.requires_grad_(False).eval()
        self._head = (head,)  # a head that another component owns is no module of this one
        if not shared:
            self.own_head = head
        self.labels = labels
        self.delay_s = delay_s
        self.register_buffer("ids", torch.tensor(matched(labels, known)), persistent=False)
        self.ids: Tensor

    @property
    def head(self) -> nn.Module:
        """The student's frames [d] to label scores [v]."""
        return self._head[0]

    @property
    def consumes(self) -> Port:
        """What the teacher consumes."""
        port: Port = self.teacher.consumes
        return port

    def train(self, mode: bool = True) -> Distillation:
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        self.teacher_head.eval()
        return self

    def check(self, encoder: Encoder) -> None:
        """**Raises** `PortError` when teacher and encoder hear different things, or the head does not fit."""
        who, here, there = type(encoder).__name__, encoder.consumes, self.consumes
        rates = {port.attributes[RATE] for port in (here, there) if RATE in port.attributes}
        if here.type != there.type or len(rates) > 1:
            raise PortError(
                f"{WHO} cannot train {who}, which consumes {here}; the teacher {type(self.teacher).__name__} consumes "
                f"{there}, and both must hear the same"
            )
        port, width = encoder.produces, getattr(self.head, "in_features", None)
        if port.type != "Encoded" or (width is not None and port.attributes.get("d", width) != width):
            raise PortError(f"{WHO} cannot train {who}, which produces {port}; its head reads frames of width {width}")

    def loss(self, encoder: Encoder, batch: Any, context: Mapping[str, Any]) -> Tensor:
        """Losses [b]; 0 for an utterance without frames."""
        run: Any = encoder  # as a module, with its hooks
        student: Encoded = run(batch, context)
        inside = torch.arange(student.values.shape[1], device=student.values.device) < student.lengths[:, None]
        scores = self.head(torch.where(inside[..., None], student.values, 0.0)).float().log_softmax(-1)
        target = self.heard(batch, student)
        losses = torch.special.xlogy(target, target).sum(-1) - (target * scores).sum(-1)
        return torch.where(inside, losses, 0.0).sum(1) / student.lengths.clamp(min=1)

    @torch.no_grad()
    def heard(self, batch: Any, student: Encoded) -> Tensor:
        """What the teacher hears in the student's frames: probabilities [b t v] over `labels`."""
        out: Encoded = self.teacher(batch, {})
        log_probs = self.teacher_head(out.values).float().log_softmax(-1)
        log_probs = nn.functional.pad(log_probs, (0, 1), value=-torch.inf)[..., self.ids].log_softmax(-1)
        return joined_frames(out._replace(values=log_probs), student, blank=self.labels.blank, delay_s=self.delay_s)


def joined_frames(teacher: Encoded, student: Encoded, *, blank: int, delay_s: float) -> Tensor:
    """Probabilities [b t v] on the student's frames, of log-probabilities [b s v] (nats) on the teacher's.

    A frame of the teacher belongs to the frame of the student that is nearest in time, `delay_s` later. Of several in one
    frame, blank has the product of their probabilities, and a label its share of what the others add up to: what is heard
    in one of them is heard in the frame. A frame in which there is none has what the nearest one hears.
    """
    values, frames = teacher.values, student.values.shape[1]
    later_s = teacher.offset_s + delay_s - student.offset_s
    own = torch.arange(values.shape[1], device=values.device)
    there = torch.arange(frames, device=values.device)
    places = _nearest(own, teacher.frame_shift_s, later_s, student.frame_shift_s, student.lengths)
    nearest = _nearest(there, student.frame_shift_s, -later_s, teacher.frame_shift_s, teacher.lengths)
    inside = (own < teacher.lengths[:, None]).to(values.dtype)
    probs, log_blank = values.exp(), values[..., blank].clamp(min=-100.0)
    sums = _summed(probs * inside[..., None], places, frames)
    counts = _summed(inside[..., None], places, frames)
    silence = _summed((log_blank * inside)[..., None], places, frames).exp()
    sums[..., blank] = 0.0
    joined = sums * (1.0 - silence) / sums.sum(-1, keepdim=True).clamp(min=1e-30)
    joined[..., blank] = silence[..., 0]
    return torch.where(counts > 0, joined, probs.take_along_dim(nearest[..., None], 1))


def _nearest(places: Tensor, shift_s: float, offset_s: float, other_s: float, lengths: Tensor) -> Tensor:
    """The frames [b n] of another rate that are nearest to frames [n] of this one, within each length."""
    found = ((places * shift_s + offset_s) / other_s).round().long()
    return torch.minimum(found.clamp(min=0), (lengths[:, None] - 1).clamp(min=0))


def _summed(values: Tensor, places: Tensor, frames: int) -> Tensor:
    """[b frames v] of [b s v], each added at its place [b s]."""
    sums = values.new_zeros(values.shape[0], frames, values.shape[2])
    return sums.scatter_add_(1, places[..., None].expand_as(values), values)


def offered_head(encoder: Encoder) -> tuple[nn.Module, Vocabulary]:
    """The head and labels that a recogniser offers. **Raises** `PortError` when it offers none."""
    offers = encoder.offers()
    head, labels = offers.get("head"), offers.get("vocabulary")
    if not isinstance(encoder, nn.Module) or not isinstance(head, nn.Module) or not isinstance(labels, Vocabulary):
        raise PortError(
            f"{WHO}: teacher {type(encoder).__name__} offers no head over labels, so it hears nothing that could be "
            f"taught; take a recogniser such as hama-conformer"
        )
    return head, labels


def matched(labels: Vocabulary, known: Vocabulary) -> list[int]:
    """The id in `known` of each label, `len(known)` where there is none. **Raises** `VocabularyError` where none but
    blank and boundary is found."""
    ids = {label: place for place, label in enumerate(known.labels) if place not in known.special}
    found = [ids.get(label, len(known)) for label in labels.labels]
    sounds = [place for place in range(len(labels)) if place not in (labels.blank, labels.boundary)]
    if all(found[place] == len(known) for place in sounds):
        raise VocabularyError(
            f"{WHO}: teacher and student share no label; the teacher has {_few(known)}, the student {_few(labels)}"
        )
    found[labels.blank] = known.blank
    if labels.boundary is not None:
        found[labels.boundary] = len(known) if known.boundary is None else known.boundary
    return found


def _few(labels: Vocabulary) -> str:
    return f"{len(labels)} {labels.kind} such as {', '.join(map(repr, labels.labels[4:8]))}"
