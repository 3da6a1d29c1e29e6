"""Promises of what the beam search is trained on: words by their first pronunciation, in the recogniser's labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slt_ctc_personalization.lexicon.lexicon import PHONES, cmu_dictionary
from slt_ctc_personalization.phrases.spelling import TargetSpeller
from sltcore import ctc
from sltcore.errors import VocabularyError
from sltcore.interfaces import Decoder
from sltcore.pipeline import build_component
from sltcore.types import Port
from sltcore.vocabulary import Vocabulary

LABELS = ["<pad>", *PHONES, "ə", "<wb>", "<blank>"]
VOCABULARY = Vocabulary(LABELS, kind="phones", blank=len(LABELS) - 1, boundary=len(LABELS) - 2, special=[0])


def decoder(**config: object) -> Decoder:
    offers = {"encoder.head": torch.nn.Linear(6, len(LABELS)), "encoder.vocabulary": VOCABULARY}
    made = build_component("decoder", "ctc-beam", config, upstream=Port("Encoded", {"d": 6}), offers=offers)
    assert isinstance(made, Decoder)
    return made


def written(part: Decoder, text: str) -> str:
    targets = part.targets([text], {})
    assert targets.ids.shape == (1, int(targets.lengths[0]))
    return " ".join(LABELS[label] for label in targets.ids[0].tolist())


def test_words_are_written_by_their_first_pronunciation_and_a_boundary_after_each() -> None:
    speller = TargetSpeller(cmu_dictionary(), VOCABULARY)
    ids = speller("press the password")
    assert " ".join(LABELS[label] for label in ids) == "p ɹ ɛ s <wb> ð ʌ <wb> p æ s w ɝ d <wb>"
    assert cmu_dictionary()["the"][0] == ["ð", "ʌ"]
    assert speller("Press, THE password!") == ids
    assert speller("") == []
    initial = [LABELS[label] for label in speller("b")]  # the dictionary writes it with a dot
    assert initial == ["b", "i", "<wb>"]


def test_a_word_without_a_pronunciation_is_named() -> None:
    with pytest.raises(VocabularyError, match="the word 'xyzzyx' is not in the dictionary, so it has no pronunciation"):
        TargetSpeller(cmu_dictionary(), VOCABULARY)("press xyzzyx now")
    few = Vocabulary(["p", "<blank>"], kind="phones", blank=1)
    with pytest.raises(VocabularyError, match="has no label 'ɹ'"):
        TargetSpeller(cmu_dictionary(), few)("press")


def test_a_dictionary_of_ones_own_spells_targets(tmp_path: Path) -> None:
    path = tmp_path / "mine.dict"
    path.write_text("floda F L OW D AH\nfloda(2) F L AA D AH\n")
    part = decoder(lexicon_file=str(path), confusions="none")
    assert written(part, "floda floda") == "f l oʊ d ʌ <wb> f l oʊ d ʌ <wb>"
    with pytest.raises(VocabularyError, match="the word 'press' is not in the dictionary"):
        part.targets(["floda", "press"], {})


@pytest.mark.slow  # reads the English dictionary and word list
def test_the_english_lexicon_spells_words_that_the_search_leaves_out() -> None:
    part = decoder(lexicon="english", lexicon_words=10, lm="none", confusions="none")
    assert written(part, "telephone") == "t ɛ l ʌ f oʊ n <wb>"


def test_without_a_lexicon_labels_are_the_text() -> None:
    part = decoder(confusions="none")
    assert written(part, "p ɹ ɛ <wb> s") == "p ɹ ɛ <wb> s"
    with pytest.raises(VocabularyError, match="has no label 'press'"):
        part.targets(["press"], {})


def test_letters_are_spelled_by_the_vocabulary() -> None:
    part = build_component("decoder", "ctc-beam", {"characters": "abc"}, upstream=Port("Encoded", {"d": 6}))
    targets = part.targets(["ab c", "c"], {})
    assert targets.ids.tolist() == [[2, 3, 1, 4], [4, 0, 0, 0]]
    assert targets.lengths.tolist() == [4, 1]


def test_frames_needed_are_labels_and_blanks_between_equal_ones() -> None:
    part = build_component("decoder", "ctc-beam", {"characters": "abc"}, upstream=Port("Encoded", {"d": 6}))
    targets = part.targets(["aab", "abc", "ccc"], {})
    assert part.frames_needed(targets).tolist() == [4, 3, 5]
    assert part.frames_needed(ctc.pad_labels([])).tolist() == []
