"""Where attention should look, against alignments found by trying every path, and the loss against its formula."""

from __future__ import annotations

import math
from itertools import groupby, product

import pytest
import torch

from slt_ctc_personalization.adapter.attention_supervision import (
    NO_TARGET,
    AttentionSupervision,
    attention_loss,
    frame_targets,
    occurrences,
)
from sltcore import ctc
from sltcore.errors import ShapeError
from sltcore.vocabulary import Vocabulary

LETTERS = Vocabulary(["-", " ", "a", "b"], kind="characters", blank=0, boundary=1)
PIECES = Vocabulary(["-", "▁an", "▁a", "n", "na", "▁b", "."], kind="subwords", blank=0)
BARE = Vocabulary(["-", "▁", "x", "y", "▁a"], kind="subwords", blank=0)
HINDI = Vocabulary(["-", " ", "क", "ा", "ं"], kind="characters", blank=0, boundary=1)
LETTERS_AND_SIGNS = Vocabulary(["-", " ", "c", "+"], kind="characters", blank=0, boundary=1)
PHONES = Vocabulary(["æ", "m", "|", "-"], kind="phones", blank=3, boundary=2)


def by_trying(log_probs: torch.Tensor, labels: list[int], blank: int) -> list[int]:
    """The best path that collapses to the labels; for each frame the place of its label, or -1 for a blank."""
    best: tuple[float, tuple[int, ...]] = (-math.inf, ())
    for path in product(range(log_probs.shape[1]), repeat=log_probs.shape[0]):
        if [label for label, _ in groupby(path) if label != blank] == labels:
            best = max(best, (sum(float(log_probs[t, label]) for t, label in enumerate(path)), path))
    places, place, before = [], -1, blank
    for label in best[1]:
        place += label not in (blank, before)
        before = label
        places.append(-1 if label == blank else place)
    return places


@pytest.mark.parametrize("seed", range(8))
def test_frames_of_a_phrase_are_those_of_the_best_path(seed: int) -> None:
    log_probs = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    labels = [2, 1, 3]  # "a b", of which "b" is phrase 1
    targets = ctc.pad_labels([labels])
    places = by_trying(log_probs[0], labels, 0)
    own = [t for t, place in enumerate(places) if place == 2]
    expected = [2 if own[0] <= t <= own[-1] else 0 for t in range(6)]
    found = frame_targets(log_probs, torch.tensor([6]), targets, [[[(3, 3)], [(3,)]]], vocabulary=LETTERS)
    assert found.tolist() == [expected]


def test_blanks_inside_a_phrase_belong_to_it_and_those_around_do_not() -> None:
    path = [0, 2, 0, 0, 3, 3, 0, 1, 2]  # "ab a": phrase 0 is "ab"
    log_probs = torch.full((1, 11, 4), -9.0)
    log_probs[0, range(9), path] = 0.0
    found = frame_targets(
        log_probs, torch.tensor([9]), ctc.pad_labels([[2, 3, 1, 2]]), [[[(2, 3)]]], vocabulary=LETTERS
    )
    assert found.tolist() == [[0, 1, 1, 1, 1, 1, 0, 0, 0, NO_TARGET, NO_TARGET]]


@pytest.mark.parametrize(
    ("vocabulary", "labels", "paths", "expected"),
    [
        (LETTERS, [2, 3, 1, 2], [[(2,)], [(3,)]], [(3, 4, 0)]),  # "ab a": not the a and b inside a word
        (LETTERS, [2, 1, 3, 1, 2], [[(2,)], [(2, 1, 3)]], [(0, 3, 1), (4, 5, 0)]),  # the longest first
        (LETTERS, [2, 1, 2], [[(2,)], [(2,)]], [(0, 1, 0), (2, 3, 0)]),  # of equal ones the first
        (LETTERS, [2, 1, 2], [[], [(3,), (2,)]], [(0, 1, 1), (2, 3, 1)]),  # any of its spellings
        (PIECES, [2, 3, 4], [[(2, 3)], [(2, 3, 4)]], [(0, 3, 1)]),  # a piece goes on
        (PIECES, [1, 6, 5], [[(1,)]], [(0, 1, 0)]),  # but punctuation ends it
        (BARE, [4, 1, 2, 3], [[(1, 2, 3)]], [(1, 4, 0)]),  # a mark of its own begins the word
        (
            HINDI,
            [2, 3, 1, 2, 3, 4],
            [[(2,)], [(2, 3)], [(2, 3, 4)]],
            [(0, 2, 1), (3, 6, 2)],
        ),  # vowel signs belong to it
        (LETTERS_AND_SIGNS, [2, 3, 3, 1, 2, 3], [[(2,)], [(2, 3, 3)]], [(0, 3, 1), (4, 5, 0)]),  # "c++" is not "c"
        (PHONES, [0, 1, 2, 1, 2], [[(0, 1)], [(1,)]], [(0, 2, 0), (3, 4, 1)]),
        (Vocabulary(["-", "x", "y"], kind="words"), [1, 2, 1], [[(2, 1)]], [(1, 3, 0)]),
        (Vocabulary(["-", "x", "y"]), [1, 2, 1], [[(2,)]], [(1, 2, 0)]),  # no words: anywhere
        (LETTERS, [], [[(2,)]], []),
        (LETTERS, [2], [], []),
    ],
)
def test_phrases_stand_where_their_labels_do_as_whole_words(
    vocabulary: Vocabulary, labels: list[int], paths: list[list[tuple[int, ...]]], expected: list[tuple[int, int, int]]
) -> None:
    assert occurrences(labels, paths, vocabulary) == expected


def test_loss_is_the_summed_surprise_of_the_frames() -> None:
    attention = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.0, 0.0, 0.0]]])
    log_probs = torch.full((1, 4, 4), -9.0)
    log_probs[0, range(3), [0, 2, 0]] = 0.0
    attention.requires_grad_()
    log_probs.requires_grad_()
    loss = attention_loss(
        attention, log_probs, torch.tensor([3]), ctc.pad_labels([[2]]), [[[(2,)], [(3,)]]], vocabulary=LETTERS
    )
    assert loss.tolist() == pytest.approx([-(math.log(0.7) + math.log(0.6) + math.log(0.5))], rel=1e-6)
    loss.sum().backward()
    assert log_probs.grad is None
    assert attention.grad is not None
    assert attention.grad[0].tolist() == [
        pytest.approx(row, rel=1e-5) for row in ([-1 / 0.7, 0, 0], [0, -1 / 0.6, 0], [-1 / 0.5, 0, 0], [0, 0, 0])
    ]


def test_what_cannot_be_aligned_teaches_nothing() -> None:
    attention = torch.full((3, 2, 2), 0.5)
    targets = ctc.pad_labels([[2, 2, 2], [2], []])  # too long; fits; an utterance without frames and without a list
    log_probs = torch.zeros(3, 2, 4).log_softmax(-1)
    loss = attention_loss(
        attention, log_probs, torch.tensor([2, 2, 0]), targets, [[[(2,)]], [[(2,)]], []], vocabulary=LETTERS
    )
    assert loss.tolist() == pytest.approx([0.0, 2 * math.log(2), 0.0])


def test_attention_that_is_exactly_zero_gives_a_finite_loss() -> None:
    attention = torch.tensor([[[0.0, 1.0]]]).requires_grad_()
    loss = attention_loss(
        attention, torch.zeros(1, 1, 4), torch.tensor([1]), ctc.pad_labels([[3]]), [[[(2,)]]], vocabulary=LETTERS
    )
    loss.sum().backward()
    assert loss.isfinite().all()
    assert attention.grad is not None
    assert attention.grad.isfinite().all()


def test_another_list_than_the_encoders_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected \(b, t, k \+ 1\) with k = 2 phrases"):
        attention_loss(
            torch.ones(1, 3, 2),
            torch.zeros(1, 3, 4),
            torch.tensor([3]),
            ctc.pad_labels([[2]]),
            [[[(2,)], [(3,)]]],
            vocabulary=LETTERS,
        )


def test_lists_are_spelled_in_the_heads_labels() -> None:
    letters = AttentionSupervision(LETTERS)
    assert letters.paths(["b a", {"text": "zz", "spellings": ["ab"]}, "zz top"]) == [((3, 1, 2),), ((2, 3),), ()]
    assert letters.paths(None) == []
    assert letters.paths([{"text": "a", "spellings": [" "]}]) == [((2,),)]
    said = {"am": [["æ", "m"], ["m"]], "ma": [["m", "æ"]], "odd": [["ʘ"]]}
    phones = AttentionSupervision(PHONES, pronounce=lambda word: said[word])
    assert phones.paths(["am ma", "odd"]) == [((0, 1, 2, 1, 0), (1, 2, 1, 0)), ()]


def test_lists_and_paths_give_one_loss() -> None:
    log_probs = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    attention = torch.rand(2, 7, 3, generator=torch.Generator().manual_seed(1))
    targets, lengths = ctc.pad_labels([[2, 1, 3], [3]]), torch.tensor([7, 5])
    found = AttentionSupervision(LETTERS).loss(attention, log_probs, lengths, targets, [["b", "a"], None])
    paths = [[[(3,)], [(2,)]], []]
    assert torch.equal(found, attention_loss(attention, log_probs, lengths, targets, paths, vocabulary=LETTERS))
