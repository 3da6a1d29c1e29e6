"""Phrases are written as the labels have it: in their case and signs, in several segmentations, or refused with advice."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from slt_ctc_personalization.phrases.segmentation import Segmenter
from slt_ctc_personalization.phrases.spelling import Entry, LabelSpeller, LexiconSpeller, PhoneSpeller, entries
from sltcore.errors import ContextError, VocabularyError
from sltcore.vocabulary import Vocabulary, subwords

LOWER = Vocabulary(["<blank>", " ", *"abcdefghijklmnopqrstuvwxyz'"], boundary=1)
UPPER = Vocabulary(["<blank>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'", "<unk>"], boundary=1, special=(29,))
CASED = Vocabulary(["<blank>", " ", *"abcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], boundary=1)
NORSE = Vocabulary(["<blank>", " ", *"abcdefghijklmnopqrstuvwxyzæøåé"], boundary=1)
PIECES = Vocabulary(["<blank>", "▁", "▁ke", "k", "e", "v", "i", "n", "vi", "vin", "in", "▁k"], kind="subwords")


def written(vocabulary, text, **fields):
    speller = LabelSpeller(vocabulary, 1.0, segmentations=fields.pop("segmentations", 1))
    found = speller.phrase(Entry(text, **fields))
    return ["".join(vocabulary.labels[label] for label in path) for path in found.paths]


@pytest.mark.parametrize(
    ("vocabulary", "text", "expected"),
    [
        (LOWER, "Kevin O’Brien", ["kevin o'brien"]),
        (UPPER, "Kevin O'Brien", ["KEVIN|O'BRIEN"]),
        (LOWER, " two   words\u00a0here ", ["two words here"]),
        (NORSE, unicodedata.normalize("NFD", "Zoé Åse"), ["zoé åse"]),
        (CASED, "kevin smith", ["kevin smith", "Kevin Smith"]),
        (CASED, "KEVIN", ["KEVIN", "Kevin", "kevin"]),
        (CASED, "iPhone McDonald", ["iPhone McDonald"]),
        (PIECES, "Kevin", ["▁kevin"]),
    ],
)
def test_text_is_written_in_the_case_and_signs_of_the_labels(vocabulary, text, expected):
    assert written(vocabulary, text) == expected


@pytest.mark.parametrize(
    ("vocabulary", "text", "message"),
    [
        (LOWER, "René", "phrase 'René' cannot be spelled: the vocabulary has no label for 'é'; write 'rene', or give that under spellings"),
        (LOWER, "Ærø", "no label for 'Æ', 'ø'; write 'aero', or"),
        (LOWER, "X-Ray/MRI (new)", r"no label for '-', '/', '\(', '\)'; write 'x ray mri new', or"),
        (LOWER, "Route 66", "no label for '6'; write numbers in words, or"),
        (LOWER, "AT&T", "no label for '&'; write the sign as it is said, or"),
        (LOWER, "Москва", "no label for 'М', 'о', 'с', 'к', 'в', 'а'; give how it is written in the letters of the vocabulary"),
        (UPPER, "a|b", r"no label for '\|'; write the sign as it is said"),
        (PIECES, "Kevin Max", "no label for 'M', 'a', 'x'; give how it is written in the letters of the vocabulary"),
    ],
)  # fmt: skip
def test_what_cannot_be_spelled_is_named_with_what_to_write_instead(vocabulary, text, message):
    with pytest.raises(VocabularyError, match=message) as error:
        LabelSpeller(vocabulary, 1.0).phrase(Entry(text))
    assert len(str(error.value).splitlines()) == 1


def test_pieces_that_do_not_join_are_named():
    pieces = Vocabulary(["<blank>", "▁ba", "ab"], kind="subwords")
    with pytest.raises(
        VocabularyError, match=r"phrase 'ba aab' cannot be spelled: no labels of the vocabulary join to 'aab'"
    ):
        LabelSpeller(pieces, 1.0).phrase(Entry("ba aab"))


def all_segmentations(text, labels):
    if not text:
        return [()]
    return [(i, *rest) for i, x in enumerate(labels) if i and text.startswith(x) for rest in all_segmentations(text[len(x) :], labels)]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_segmentations_are_the_shortest_of_all_and_the_first_is_the_vocabularys_own(seed):
    rng = np.random.default_rng(seed)
    pieces = {"".join(rng.choice(list("ab"), rng.integers(1, 4))) for _ in range(6)} | {"a", "b"}
    labels = ["<blank>", "▁", *sorted(pieces), *sorted({"▁" + piece for piece in pieces if rng.random() < 0.5})]
    vocabulary = Vocabulary(labels, kind="subwords")
    segmenter = Segmenter(vocabulary)
    for _ in range(10):
        text = "".join(rng.choice(list("ab"), rng.integers(1, 7)))
        every = all_segmentations("▁" + text, labels)
        for count in (1, 3, 5, 1000):
            found = segmenter.paths(text, count=count)
            assert list(found[0]) == vocabulary.encode(text)
            assert [len(path) for path in found] == sorted(map(len, every))[:count]
            assert len(set(found)) == len(found)
            assert set(found) <= set(every)


def test_words_of_a_phrase_are_parted_together_and_the_fewest_labels_come_first():
    found = written(PIECES, "kevin vin", segmentations=5)
    assert found == ["▁kevin▁vin"] * 5
    paths = LabelSpeller(PIECES, 1.0, segmentations=5).paths("kevin vin")
    assert list(paths[0]) == PIECES.encode("kevin vin")
    assert [len(path) for path in paths] == sorted(len(path) for path in paths)
    assert len(set(paths)) == 5


def test_trained_subwords_are_spelled_as_the_vocabulary_encodes_them():
    vocabulary = subwords(
        ["the quick brown fox jumps over the lazy dog"] * 3 + ["pack my box with five dozen jugs"], 60
    )
    speller = LabelSpeller(vocabulary, 1.0, segmentations=4)
    for text in ("quick", "lazy box", "quartz", "Fox"):
        paths = speller.paths(text)
        assert list(paths[0]) == vocabulary.encode(text.lower())
        assert {vocabulary.decode(path) for path in paths} == {text.lower()}


def test_weights_multiply_and_bonuses_replace_the_decoders_bonus():
    speller = LabelSpeller(LOWER, 0.5)
    plain, heavy, told = speller.phrases(["anna", {"text": "bert", "weight": 3}, {"text": "carl", "bonus": 7}])
    assert (plain.bonus, plain.per_label) == (2.0, 0.5)
    assert (heavy.bonus, heavy.per_label) == (6.0, 1.5)
    assert (told.bonus, told.per_label) == (7.0, None)


def test_a_text_that_labels_cannot_write_may_have_spellings_that_they_can():
    assert written(LOWER, "7-Eleven", spellings=("seven eleven",)) == ["seven eleven"]
    sounds = {"win": [[1, 2]], "seven": [[3]]}

    def pronounce(word):
        if word not in sounds:
            raise VocabularyError(f"{word!r} has no pronunciation")
        return sounds[word]

    assert PhoneSpeller(pronounce, None, 1.0).phrase(Entry("★", spellings=("win",))).paths == ((1, 2),)
    assert LexiconSpeller(pronounce, 1.0).phrase(Entry("★", spellings=("win",))).pronunciations == {"★": ((1, 2),)}
    for speller in (PhoneSpeller(pronounce, None, 1.0), LexiconSpeller(pronounce, 1.0)):
        with pytest.raises(VocabularyError, match="'★' has no pronunciation"):
            speller.phrase(Entry("★"))
    with pytest.raises(VocabularyError, match="no label for '7'"):
        written(LOWER, "seven", spellings=("7",))
    with pytest.raises(VocabularyError, match="a spelling of 'seven' is empty"):
        written(LOWER, "seven", spellings=(" ",))


def test_entries_of_one_text_are_one_phrase_with_the_spellings_of_both():
    found = entries(["Anna", {"text": "Nguyen", "spellings": ["win"]}, {"text": " Anna", "weight": 2}, {"text": "Nguyen", "spellings": ["win", "new yen"]}])  # fmt: skip
    assert found == [Entry("Anna", weight=2), Entry("Nguyen", spellings=("win", "new yen"))]
    assert entries([]) == []
    assert entries([{"text": "a", "weight": None, "bonus": None, "spellings": None}]) == [Entry("a")]


@pytest.mark.parametrize(
    ("known", "text", "expected"),
    [
        (["ANNA", "CAFÉ", "DON'T"], "Anna", "ANNA"),
        (["ANNA", "CAFÉ", "DON'T"], "“anna” nguyen", "ANNA NGUYEN"),
        (["ANNA", "CAFÉ", "DON'T"], "cafe\u0301 don’t", "CAFÉ DON'T"),
        (["anna", "don't", "US"], "Anna DON’T us. US", "anna don't US US"),
        (["Anna", "us", "US"], "ANNA Us US Nguyen", "Anna us US nguyen"),
        ([], "Anna, (don’t)", "anna don't"),
    ],
)
def test_words_of_a_phrase_are_written_as_the_lexicon_writes_them(known, text, expected):
    found = LexiconSpeller(lambda word: [[1]], 1.0, known=known).phrase(Entry(text))
    assert found.text == expected
    assert set(found.pronunciations) == set(expected.split())


@pytest.mark.parametrize("number", [np.int64(2), np.float32(2), np.float64(2)])
def test_numbers_of_a_table_are_numbers(number):
    (found,) = entries([{"text": "a", "weight": number}])
    assert (found.weight, type(found.weight)) == (2.0, float)
    assert type(entries([{"text": "a", "bonus": number}])[0].bonus) is float


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        (
            [{"text": "a", "weight": 2}, "b", {"text": "a", "weight": 3}],
            r"phrases\[2\]: 'a' has weight 3, but 2 at phrases\[0\]; keep one of them",
        ),
        (
            [{"text": "a", "weight": 2}, {"text": "a", "bonus": 3}],
            r"phrases\[0\] and phrases\[1\]: 'a' has both a weight, .* and a bonus, which replaces it; give one of them",
        ),
        ([{"text": "a", "weight": 2, "bonus": 3}], r"phrases\[0\]: 'a' has both a weight"),
        (
            [{"text": "a", "weight": -1}],
            r"phrases\[0\]: weight is -1, expected a number from 0 and below 1,000,000, for 'a'",
        ),
        (
            ["b", {"text": "a", "bonus": 1e7}],
            r"phrases\[1\]: bonus is 10000000.0, expected a number from 0 and below 1,000,000",
        ),
        ([{"text": "a", "weight": float("nan")}], r"phrases\[0\]: weight is nan, expected a number from 0"),
        ([{"text": "a", "weight": np.bool_(True)}], r"phrases\[0\]: weight is .*True.*, expected a number from 0"),
        ([{"text": "a", "bonus": True}], r"phrases\[0\]: bonus is True, expected a number from 0"),
        ([{"text": "a", "weigth": 1}], r"phrases\[0\]: no field is named 'weigth'; .* Did you mean 'weight'\?"),
        ([{"text": "a", "spellings": "b"}], r"phrases\[0\]: spellings is 'b', expected a list of texts"),
        ([3], r"phrases\[0\]: expected a text, or a map with a text, got int '3'"),
        ({"text": "a"}, r"phrases: expected a list of texts, got dict"),
        ("anna", r"phrases: expected a list of texts, got str 'anna'"),
    ],
)
def test_fields_that_cannot_be_meant_are_named_with_their_place(phrases, message):
    with pytest.raises(ContextError, match=message):
        entries(phrases)
