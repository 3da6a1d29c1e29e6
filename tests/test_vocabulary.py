"""Text to labels and back: inverses, every character without a label is named, the fewest pieces are found."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sltcore.errors import VocabularyError
from sltcore.vocabulary import WORD_MARK, Vocabulary, characters, subwords

LETTERS = Vocabulary(["<blank>", " ", "a", "b", "ab"], kind="characters", blank=0, boundary=1)
PIECES = Vocabulary(["<blank>", "▁", "▁a", "a", "b", "▁ab", "ba", "▁aba"], kind="subwords", blank=0)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text(alphabet="ab ", max_size=20))
def test_what_is_encoded_decodes_to_the_same_words(text: str) -> None:
    words = " ".join(text.split())
    for vocabulary in (LETTERS, PIECES, characters(["ab"])):
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == words
        assert vocabulary.blank not in ids


@pytest.mark.parametrize("word", ["a", "ab", "aba", "abab", "bbaab", "ababababab"])
def test_the_fewest_pieces_are_taken(word: str) -> None:
    """Against brute force over every way to cut the word."""
    text = WORD_MARK + word
    labels = set(PIECES.labels)
    fewest = min(
        len(cuts) + 1
        for count in range(len(text))
        for cuts in itertools.combinations(range(1, len(text)), count)
        if all(text[i:j] in labels for i, j in itertools.pairwise((0, *cuts, len(text))))
    )
    assert len(PIECES.encode(word)) == fewest


def test_blank_special_and_repeats_are_handled_by_decode() -> None:
    vocabulary = Vocabulary(["_", "a", "<unk>", "b"], blank=0, special=[2])
    assert vocabulary.decode([0, 1, 1, 2, 3, 0]) == "aab"


@pytest.mark.parametrize("kind", ["phones", "words"])
def test_phones_and_words_are_separated_by_spaces(kind: str) -> None:
    vocabulary = Vocabulary(["_", "AA", "B"], kind=kind)
    assert vocabulary.encode("AA B  AA") == [1, 2, 1]
    assert vocabulary.decode([1, 2, 1]) == "AA B AA"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Vocabulary(["a"], kind="letters"), "vocabulary kind 'letters' is unknown; kinds: characters, subwords, phones, words"),
        (lambda: Vocabulary(["a", "b", "a"]), "vocabulary: labels repeat: 'a'; each may stand once"),
        (lambda: Vocabulary(["a"], blank=1), "vocabulary: blank is id 1, but the ids run from 0 to 0"),
        (lambda: Vocabulary(["a"], boundary=-1), "vocabulary: boundary is id -1, but the ids run from 0 to 0"),
        (lambda: Vocabulary([]), "vocabulary: there are no labels; give at least the blank"),
        (lambda: Vocabulary(["a", "b"], special=[2]), "vocabulary: special is id 2, but the ids run from 0 to 1"),
        (lambda: LETTERS.encode("abc dab"), "the vocabulary has no label for 'c' in 'abc'"),
        (lambda: LETTERS.id("z"), "the vocabulary has no label 'z'; its 5 labels begin <blank>   a b ab"),
        (lambda: LETTERS.spell("  "), "phrase '  ' is empty; give at least one word"),
        (lambda: LETTERS.spell("Ac"), "phrase 'Ac' cannot be spelled: the vocabulary has no label for 'A', 'C' in 'AC'"),
        (lambda: LETTERS.decode([9]), "label id 9 is outside the vocabulary, whose ids run from 0 to 4"),
        (lambda: LETTERS.decode([-1]), "label id -1 is outside the vocabulary, whose ids run from 0 to 4"),
        (lambda: Vocabulary.from_dict({"labels": ["a"], "kind": "words"}), "a saved vocabulary lacks the field 'blank'"),
        (lambda: characters(["  "]), "the texts hold no characters to make a vocabulary of"),
        (lambda: subwords(["abc"], 3), "3 sub-words cannot cover 3 characters; use at least 5, or characters"),
    ],
)  # fmt: skip
def test_a_wrong_vocabulary_or_text_is_one_line(call: Any, message: str) -> None:
    with pytest.raises(VocabularyError) as caught:
        call()
    assert str(caught.value) == message


def test_a_phrase_is_spelled_in_the_case_that_has_labels() -> None:
    assert LETTERS.spell("Ab A") == [LETTERS.encode("ab a")]
    assert Vocabulary(["_", "A"]).spell("a") == [[1]]


def test_a_saved_vocabulary_comes_back_equal() -> None:
    import json

    for vocabulary in (LETTERS, PIECES, Vocabulary(["_", "x"], kind="phones", special=[1])):
        again = Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict())))
        assert again == vocabulary
        assert hash(again) == hash(vocabulary)
        assert again != Vocabulary(["_", "y"])


def test_characters_are_collected_from_texts() -> None:
    vocabulary = characters(["hé  lo", "o\tl"])
    assert vocabulary.labels == ("<blank>", " ", "h", "l", "o", "é")
    assert vocabulary.decode(vocabulary.encode("hé lo")) == "hé lo"


def test_trained_subwords_cover_their_texts() -> None:
    lines = ["the amazon queen", "the queen flies", "a flight of the amazon"]
    said: list[str] = []
    vocabulary = subwords(lines, 40, report=said.append)
    assert len(vocabulary) <= 40
    for line in lines:
        assert vocabulary.decode(vocabulary.encode(line)) == line
    assert said == [f"{len(vocabulary)} labels from 3 lines"]
    assert len(vocabulary.encode(lines[0])) < len(lines[0])
