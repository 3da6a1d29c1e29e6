"""`distillation`: what a frozen recogniser hears, on the frames of another encoder."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slt_speech.distillation import Distillation, joined_frames, matched
from slt_speech.lstm import Lstm
from sltcore.errors import PortError, VocabularyError
from sltcore.interfaces import Encoder
from sltcore.testing.toys import ToyEncoder
from sltcore.types import Encoded, Port, Waveform
from sltcore.vocabulary import Vocabulary

PHONES = Vocabulary(["<pad>", "a", "b", "c", "_", "#"], kind="phones", blank=5, boundary=4, special=[0])
LETTERS = Vocabulary(["-", "b", "a", " ", "z"], kind="characters", blank=0, boundary=3)
SOUND = Port("Waveform", {"sample_rate_hz": 16000})


class Recogniser(ToyEncoder):
    """A toy with a head over phones."""

    def __init__(self) -> None:
        super().__init__(SOUND)
        self.head = nn.Linear(self.d, len(PHONES))

    def offers(self) -> dict[str, Any]:
        return {"head": self.head, "vocabulary": PHONES}


def frames(values: Tensor, lengths: list[int], *, shift_s: float, offset_s: float = 0.0) -> Encoded:
    return Encoded(values, torch.tensor(lengths), shift_s, offset_s, {})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sound(lengths: list[int]) -> Waveform:
    samples = noise(len(lengths), max(lengths)) * 0.1
    for row, length in enumerate(lengths):
        samples[row, length:] = 0.0
    return Waveform(samples, torch.tensor(lengths), 16000)


def joined_by_loop(teacher: Encoded, student: Encoded, *, blank: int, delay_s: float) -> Tensor:
    """The docstring of `joined_frames`, frame by frame."""
    batch, count, labels = student.values.shape[0], student.values.shape[1], teacher.values.shape[2]
    found = torch.zeros(batch, count, labels)
    for row in range(batch):
        heard = teacher.values[row, : int(teacher.lengths[row])].exp()
        times = [teacher.offset_s + i * teacher.frame_shift_s + delay_s for i in range(len(heard))]
        last = int(student.lengths[row]) - 1
        nearest = [min(max(round((t - student.offset_s) / student.frame_shift_s), 0), last) for t in times]
        for place in range(last + 1):
            members = [heard[i] for i, where in enumerate(nearest) if where == place]
            if not members:
                at_s = student.offset_s + place * student.frame_shift_s
                members = [heard[min(range(len(heard)), key=lambda i, at_s=at_s: abs(times[i] - at_s))]]
            silence = math.prod(float(one[blank]) for one in members)
            others = torch.stack(members).sum(0)
            others[blank] = 0.0
            found[row, place] = others / others.sum() * (1 - silence)
            found[row, place, blank] = silence
    return found


@pytest.mark.parametrize(
    ("shift_s", "offset_s", "delay_s"), [(0.03, 0.011, 0.0), (0.04, 0.0, 0.1), (0.0071, 0.002, 0.0)]
)
def test_frames_are_joined_as_a_loop_joins_them(shift_s: float, offset_s: float, delay_s: float) -> None:
    teacher = frames(noise(2, 40, 6).mul(3).log_softmax(-1), [40, 23], shift_s=0.02, offset_s=0.001)
    lengths = [round(40 * 0.02 / shift_s), round(23 * 0.02 / shift_s)]
    student = frames(noise(2, lengths[0], 3), lengths, shift_s=shift_s, offset_s=offset_s)
    found = joined_frames(teacher, student, blank=5, delay_s=delay_s)
    expected = joined_by_loop(teacher, student, blank=5, delay_s=delay_s)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row, :length], expected[row, :length], rtol=1e-5, atol=1e-6)


def test_equal_frames_are_left_as_they_are() -> None:
    teacher = frames(noise(2, 9, 4).log_softmax(-1), [9, 5], shift_s=0.02)
    found = joined_frames(teacher, teacher, blank=0, delay_s=0.0)
    torch.testing.assert_close(found[0], teacher.values[0].exp())
    torch.testing.assert_close(found[1, :5], teacher.values[1, :5].exp())


def test_a_label_heard_in_one_of_two_frames_is_heard_in_the_joined_one() -> None:
    probs = torch.tensor([[[0.999, 0.0005, 0.0005], [0.01, 0.98, 0.01]]])
    found = joined_frames(
        frames(probs.log(), [2], shift_s=0.02),
        frames(torch.zeros(1, 1, 2), [1], shift_s=0.04, offset_s=0.01),
        blank=0,
        delay_s=0.0,
    )
    assert found[0, 0, 1] > 0.96
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 1))


def test_labels_meet_by_name_and_blank_and_boundary_by_what_they_are() -> None:
    assert matched(LETTERS, PHONES) == [5, 2, 1, 4, 6]


def test_the_loss_is_the_divergence_of_the_shared_labels() -> None:
    torch.manual_seed(0)
    teacher, student = Recogniser(), ToyEncoder(SOUND)
    part = Distillation(teacher, nn.Linear(student.d, len(LETTERS)), labels=LETTERS)
    x = sound([8000, 4000])
    with torch.no_grad():
        found = part.loss(student, x, {})
        for row, length in enumerate([50, 25]):
            heard = teacher.head(teacher(x, {}).values[row, :length]).softmax(-1)[:, [5, 2, 1, 4]]
            target = torch.cat([heard / heard.sum(-1, keepdim=True), torch.zeros(length, 1)], -1)
            scores = part.head(student(x, {}).values[row, :length]).log_softmax(-1)
            expected = nn.functional.kl_div(scores, target, reduction="batchmean")
            torch.testing.assert_close(found[row], expected)


def test_the_teacher_never_changes() -> None:
    part = Distillation(Recogniser(), nn.Linear(16, len(LETTERS)), labels=LETTERS)
    part.train()
    assert not any(module.training for module in part.teacher.modules())
    part.loss(ToyEncoder(SOUND), sound([4000]), {}).sum().backward()
    assert all(parameter.grad is None for parameter in part.teacher.parameters())
    assert part.own_head.weight.grad is not None


def test_a_shared_head_is_trained_and_stays_where_it_is() -> None:
    head = nn.Linear(16, len(LETTERS))
    part = Distillation(Recogniser(), head, labels=LETTERS, shared=True)
    part.loss(ToyEncoder(SOUND), sound([4000]), {}).sum().backward()
    assert head.weight.grad is not None
    assert all(parameter is not head.weight for parameter in part.parameters())


def test_an_encoder_in_one_direction_learns_what_it_is_told_later() -> None:
    teacher = frames(torch.eye(4)[[0, 1, 2, 3, 0, 0]][None].clamp(min=1e-9).log(), [6], shift_s=0.02)
    found = joined_frames(teacher, teacher, blank=0, delay_s=0.04)
    assert found[0].argmax(-1).tolist() == [0, 0, 0, 1, 2, 3]


def test_an_utterance_without_frames_costs_nothing() -> None:
    part = Distillation(Recogniser(), nn.Linear(16, len(LETTERS)), labels=LETTERS)
    losses = part.loss(ToyEncoder(SOUND), sound([4000, 100]), {})
    assert losses[1] == 0.0
    assert losses.isfinite().all()


def test_a_teacher_without_a_head_is_refused() -> None:
    with pytest.raises(
        PortError, match="teacher ToyEncoder offers no head over labels.*take a recogniser such as hama"
    ):
        Distillation(ToyEncoder(SOUND), nn.Linear(16, len(LETTERS)), labels=LETTERS)


def test_foreign_labels_are_refused() -> None:
    words = Vocabulary(["<blank>", "yes", "no"], kind="words")
    with pytest.raises(VocabularyError, match="share no label; the teacher has 6 phones .* the student 3 words"):
        Distillation(Recogniser(), nn.Linear(16, 3), labels=words)


def test_an_encoder_that_hears_something_else_is_refused() -> None:
    part = Distillation(Recogniser(), nn.Linear(16, len(LETTERS)), labels=LETTERS)
    with pytest.raises(PortError, match="cannot train ToyEncoder, which consumes Features.*both must hear the same"):
        part.check(ToyEncoder(Port("Features", {"f": 80})))
    student: Encoder = Lstm(80, 16, layers=1)
    with pytest.raises(PortError, match="cannot train Lstm"):
        part.check(student)
    with pytest.raises(PortError, match="its head reads frames of width 16"):
        part.check(ToyEncoder(SOUND, d=12))
