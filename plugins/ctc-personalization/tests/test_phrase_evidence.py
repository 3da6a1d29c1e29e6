"""What a decoder reads of phrases: lists are made ready once, and each utterance has its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slt_ctc_personalization.evidence.phrase_evidence import EvidenceReader, PhoneSource
from slt_ctc_personalization.phrases.prepared_phrases import KEPT_LISTS
from slt_ctc_personalization.spotter.spotter import Spotter
from sltcore.types import Encoded

LABELS = ["-", "a", "b", "c"]


def spelled(made: list[tuple[str, ...]]) -> PhoneSource:
    """A source that reads phrases as written, and notes each list that it makes ready."""

    def spell(phrases: list[str]) -> list[list[list[int]]]:
        made.append(tuple(phrases))
        return [[[LABELS.index(letter) for letter in text]] for text in phrases]

    return PhoneSource(Spotter(LABELS, blank=0, context_weight=2.0, threshold=0.0), spell, own=True)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_batch_of_more_lists_than_are_kept_makes_each_once(threads: int) -> None:
    made: list[tuple[str, ...]] = []
    reader = EvidenceReader(attention=False, phones=spelled(made), threads=threads)
    count = 3 * KEPT_LISTS
    frames = np.random.default_rng(0).normal(size=(count, 30, 4)).astype(np.float32) * 4
    own = frames - np.log(np.exp(frames).sum(axis=2, keepdims=True))
    lists = [["abc"[row % 3] + "abc"[row // 3 % 3] + "abc"[row // 9]] for row in range(count)]
    encoded = Encoded(torch.zeros(count, 30, 1), torch.full((count,), 30), 0.02)
    found = reader.read(encoded, own, lists, [1] * count)
    assert sorted(made) == sorted(map(tuple, lists))
    alone = spelled([])
    for row in range(count):
        expected, heard = alone.hear(own[row], alone.table(lists[row])), found[row]
        assert heard is not None
        assert all(np.array_equal(*pair) for pair in zip(heard, expected, strict=True))
    assert sum(len(heard.phrase) > 0 for heard in found if heard is not None) > count // 2
