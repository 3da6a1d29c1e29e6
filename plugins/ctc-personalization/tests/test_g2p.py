"""Pronunciations: against IPA written by hand, in several languages, into several sets of phones."""

from __future__ import annotations

import itertools
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from slt_ctc_personalization.lexicon.lexicon import PHONES, cmu_dictionary, read_dictionary
from slt_ctc_personalization.phones import g2p
from slt_ctc_personalization.phones.articulation import IPA, SOUNDS, PhoneMap, difference, signs_of
from slt_ctc_personalization.phones.espeak import load_espeak
from slt_ctc_personalization.phones.g2p import Phonemes
from slt_ctc_personalization.phrases.spelling import Entry
from sltcore.errors import DataError, VocabularyError
from sltcore.vocabulary import Vocabulary

needs_espeak = pytest.mark.skipif(find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed")

# By hand, from dictionaries of each language; without stress and length.
BY_HAND = {
    "en": {"cheese": "t͡ʃ i z", "thought": "θ ɔ t", "judge": "d͡ʒ ʌ d͡ʒ", "boy": "b ɔɪ", "window": "w ɪ n d oʊ"},
    "cs": {"řeka": "r̝ e k a", "děti": "ɟ e c i", "čaj": "t͡ʃ a j", "Dvořák": "d v o r̝ a k", "chléb": "x l e p"},
    "de": {"Schule": "ʃ u l ə", "Zug": "t͡s u k", "Mädchen": "m ɛ t ç ə n", "Äpfel": "ɛ p f ə l", "Kind": "k ɪ n t"},
    "fr": {"bonjour": "b ɔ̃ ʒ u ʁ", "vin": "v ɛ̃", "chat": "ʃ a", "montagne": "m ɔ̃ t a ɲ"},
    "es": {"perro": "p e r o", "chico": "t͡ʃ i k o", "guerra": "g e r a", "España": "e s p a ɲ a", "cielo": "θ j e l o"},
}


@needs_espeak
@pytest.mark.parametrize("language", sorted(BY_HAND))
def test_words_are_said_as_a_dictionary_of_the_language_writes_them(language: str) -> None:
    labels = PHONES if language == "en" else IPA
    phonemes = Phonemes(language, labels)
    wrong = {
        word: (" ".join(phonemes.pronounce(word)[0]), said)
        for word, said in BY_HAND[language].items()
        if said.split() not in phonemes.pronounce(word)
    }
    assert set(wrong) == ({"Mädchen"} if language == "de" else set()), wrong  # espeak-ng says its d voiced


@needs_espeak
@pytest.mark.parametrize(
    ("language", "word", "said"),
    [
        ("hi", "राजा", "ɾ a ɟ a"),  # a word may end with a vowel sign
        ("bn", "বাংলা", "b a ŋ l a"),
        ("ta", "தமிழ்", "t ʌ m i ɻ"),  # or with the sign that there is no vowel
        ("hi", "«राजा!»", "ɾ a ɟ a"),
        ("cmn", "北京", "p e i t͡ɕ i ŋ"),  # espeak-ng writes tones as numbers
        ("vi", "Nội", "n o j"),
        ("ja", "スズキ", "s ɯ z ɯ k i"),  # ɯᵝ
        ("si", "කොළඹ", "k o ɭ ə m b ə"),  # ᵐb
    ],
)
def test_words_of_other_scripts_and_tones_are_said_whole(language: str, word: str, said: str) -> None:
    assert said.split() in Phonemes(language, IPA).pronounce(word)


@needs_espeak
def test_another_languages_words_become_the_nearest_english_phones() -> None:
    heard = {
        "cs": {"řeka": "ʒ ɛ k ɑ", "děti": "d͡ʒ ɛ t͡ʃ i", "Praha": "p ɹ ɑ h ɑ"},
        "de": {"Zug": "t s u k", "Kirche": "k ɪ ɹ ʃ ʌ", "Pferd": "p f ɛ ɹ t"},
        "es": {"perro": "p ɛ ɹ oʊ"},
        "fr": {"bonjour": "b ɔ ʒ u ɹ"},
    }
    for language, words in heard.items():
        phonemes = Phonemes(language, PHONES)
        assert {word: " ".join(phonemes.pronounce(word)[0]) for word in words} == words


@needs_espeak
def test_espeak_agrees_with_the_dictionary_on_common_words() -> None:
    words = [word for word in itertools.islice(cmu_dictionary(), 2000, 100_000, 500) if word.isalpha()]
    phonemes = Phonemes("en", PHONES, voices=["en-us"])
    spoken = load_espeak().say(words, "en-us")
    errors = total = 0
    for word, said in zip(words, spoken, strict=True):
        phones = [phone for groups in said for phone in PhoneMap(PHONES).labels_of(groups)]
        errors += min(_distance(phones, known) for known in cmu_dictionary()[word])
        total += len(cmu_dictionary()[word][0])
    assert errors / total < 0.15  # a tenth of the phones, most of them unstressed vowels
    assert phonemes.pronounce("cheese")[0] == ["t͡ʃ", "i", "z"]


def _distance(one: list[str], other: list[str]) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@needs_espeak
def test_acronyms_are_said_as_a_word_and_letter_by_letter() -> None:
    phonemes = Phonemes("en", PHONES)
    assert phonemes.pronounce("GPU")[0] == ["d͡ʒ", "i", "p", "i", "j", "u"]
    nvidia = [" ".join(said) for said in phonemes.pronounce("NVIDIA")]
    assert nvidia == ["ɛ n v ɪ d i ʌ", "ɛ n v i aɪ d i aɪ eɪ"]
    assert ["j", "u", "ɛ", "s"] in phonemes.pronounce("US")
    assert phonemes.pronounce("ELEPHANTS")[0] == phonemes.pronounce("elephants")[0]


@needs_espeak
def test_numbers_are_several_spoken_words_in_the_language() -> None:
    labels = ["<blank>", "<wb>", *PHONES]
    phonemes = Phonemes("en", labels, boundary=1, excluded=[0])
    assert " ".join(phonemes.pronounce("42")[0]) == "f ɔ ɹ t i <wb> t u"
    assert ["s", "i", "θ", "ɹ", "i", "p", "i", "oʊ"] in [
        [phone for phone in said if phone != "<wb>"] for said in phonemes.pronounce("C3PO")
    ]
    assert Phonemes("cs", IPA).pronounce("7")[0] == ["s", "e", "d", "u", "m"]


@needs_espeak
def test_accents_are_further_pronunciations_up_to_the_limit() -> None:
    both = Phonemes("es", IPA).pronounce("cielo")
    assert [" ".join(said) for said in both] == ["θ j e l o", "s j e l o"]
    assert len(Phonemes("es", IPA, alternatives=1).pronounce("cielo")) == 1
    assert Phonemes("es", IPA, voices=["es-419"]).pronounce("cielo") == [["s", "j", "e", "l", "o"]]


def test_english_needs_no_espeak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(g2p, "has_espeak", lambda: False)
    monkeypatch.setattr(g2p, "load_espeak", lambda: pytest.fail("espeak was asked"))
    phonemes = Phonemes("en", PHONES)
    assert phonemes.guess == "hama"
    assert phonemes.pronounce("window")[0] == ["w", "ɪ", "n", "d", "oʊ"]
    assert phonemes.pronounce("zorglub")[0][0] == "z"


def test_a_missing_package_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    load_espeak.cache_clear()
    try:
        with pytest.raises(DataError, match="espeakng-loader.*is not installed; pip install 'espeakng-loader"):
            Phonemes("cs", IPA)
    finally:
        load_espeak.cache_clear()


@needs_espeak
def test_what_cannot_be_said_is_named() -> None:
    phonemes = Phonemes("en", PHONES)
    with pytest.raises(VocabularyError, match="'東京' is written in Cjk letters, which 'en' does not read"):
        phonemes.pronounce("東京")
    with pytest.raises(VocabularyError, match="'!!' has no letter or digit"):
        phonemes.pronounce("!!")
    said, problems = phonemes.pronounce_words(["window", "Москва", "--"])
    assert set(said) == {"window"}
    assert set(problems) == {"Москва", "--"}
    assert "Cyrillic" in problems["Москва"]
    assert Phonemes("ru", IPA).pronounce("щука")[0] == ["ɕ", "u", "k", "a"]


@needs_espeak
def test_unknown_languages_and_voices_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="no voice for language 'qq'.*It speaks 1"):
        Phonemes("qq", IPA)
    with pytest.raises(DataError, match="guess: hama knows English only, and the language is 'cs'"):
        Phonemes("cs", IPA, guess="hama")
    assert Phonemes("pt_BR", IPA).voices == ("pt-br",)
    assert Phonemes("fr", IPA).voices == ("fr-fr",)


def test_a_sound_without_a_near_label_is_named_and_never_dropped() -> None:
    phones = PhoneMap(["a", "t", "s"])
    assert phones.labels_of(["t͡s", "aː"]) == ["t", "s", "a"]
    with pytest.raises(VocabularyError, match="no label is near the sound 'm'"):
        phones.labels_of(["m"])
    with pytest.raises(VocabularyError, match="no label is near the sound 'ǃ'"):
        phones.labels_of(["ǃ"])
    with pytest.raises(VocabularyError, match="none of the labels is a phone"):
        PhoneMap(["<blank>", "<wb>", "1"])


def test_labels_are_matched_longest_first_with_and_without_marks() -> None:
    long = PhoneMap(["a", "aː", "aɪ", "ɪ", "tʃ", "t", "ʃ", "g", "ɛ̃"])
    assert long.labels_of(["aː", "a", "aɪ", "t͡ʃ", "tʃ", "ɡ", "ɛ̃", "ˈaˌ"]) == [
        *("aː", "a", "aɪ", "tʃ", "tʃ", "g", "ɛ̃", "a")
    ]
    arpabet = PhoneMap(["AA", "CH", "OW", "T"])
    assert arpabet.labels_of(["tʃ", "oʊ", "t"]) == ["CH", "OW", "T"]


def test_raised_letters_are_marks_and_ligatures_are_two_letters() -> None:
    assert signs_of("tʰaᵝkʼ") == ["tʰ", "aᵝ", "kʼ"]
    assert signs_of("ᵐbⁿdʦʧ") == ["m", "bⁿ", "d", "t͡s", "t͡ʃ"]
    assert PhoneMap([*SOUNDS]).labels_of(["ɯᵝ", "ᵐ", "ⁿ"]) == ["ɯ", "m", "n"]


def test_every_sound_is_its_own_nearest_and_distance_is_symmetric() -> None:
    for one, other in itertools.product(SOUNDS.values(), repeat=2):
        assert difference(one, other) == difference(other, one)
    for sign in SOUNDS:
        assert PhoneMap([*SOUNDS]).labels_of([sign]) == [sign]
        assert signs_of(sign) == [sign]
    assert difference(SOUNDS["p"], SOUNDS["b"]) < difference(SOUNDS["p"], SOUNDS["ɡ"])
    assert difference(SOUNDS["e"], SOUNDS["ɛ"]) < difference(SOUNDS["e"], SOUNDS["u"])


def test_the_users_lexicon_counts_alone_and_respellings_are_said(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("Siobhan\tSH IH0 V AO1 N\nSiobhan(2)\tʃ ə v ɔ n\n".replace("ə", "ʌ"), encoding="utf-8")
    phonemes = Phonemes(
        "en", PHONES, dictionary=read_dictionary(path), respelled={"Nguyen": ["win", "new yen"]}, voices=()
    )
    assert [" ".join(said) for said in phonemes.pronounce("Siobhan")] == ["ʃ ɪ v ɔ n", "ʃ ʌ v ɔ n"]
    assert phonemes.pronounce("Nguyen") == [
        *phonemes.pronounce("win"),
        ["n", "u", "j", "ɛ", "n"],
        ["n", "j", "u", "j", "ɛ", "n"],
    ]


def test_where_schwa_is_a_label_it_is_tried_first_in_longer_words() -> None:
    phonemes = Phonemes("en", [*PHONES, "ə"], voices=())
    assert [" ".join(said) for said in phonemes.pronounce("sofa")] == ["s oʊ f ə", "s oʊ f ʌ"]
    assert phonemes.pronounce("cup") == [["k", "ʌ", "p"]]


def test_phrases_are_said_with_and_without_the_boundary() -> None:
    vocabulary = Vocabulary(["<blank>", "<wb>", *PHONES], kind="phones", blank=0, boundary=1)
    phonemes = Phonemes.of("en", vocabulary, voices=())
    paths = phonemes.phone_paths(Entry("a cup", spellings=("cup",)))
    said = [" ".join(vocabulary.labels[label] for label in path) for path in paths]
    assert said == ["ʌ <wb> k ʌ p", "eɪ <wb> k ʌ p", "k ʌ p", "ʌ k ʌ p", "eɪ k ʌ p"]
    assert [vocabulary.labels[label] for label in phonemes.target("a - cup!")] == ["ʌ", "<wb>", "k", "ʌ", "p", "<wb>"]
    with pytest.raises(VocabularyError, match="empty text or spelling"):
        phonemes.phone_paths(Entry("  "))
    with pytest.raises(VocabularyError, match="empty text or spelling"):
        phonemes.phone_paths(Entry("a", spellings=("",)))


def test_a_text_that_cannot_be_said_may_have_spellings_that_can() -> None:
    phonemes = Phonemes("en", PHONES, voices=())
    assert phonemes.phone_paths(Entry("東京", spellings=("cup",))) == [list(phonemes.paths("cup")[0])]
    for entry in (Entry("東京"), Entry("cup", spellings=("東京",))):
        with pytest.raises(VocabularyError, match="'東京' is written in Cjk letters"):
            phonemes.phone_paths(entry)


def test_a_dictionary_in_other_phones_is_refused() -> None:
    vocabulary = Vocabulary(["<blank>", "<wb>", *PHONES], kind="phones", blank=0, boundary=1)
    assert Phonemes.of("en", vocabulary, dictionary={"x": [["z", "<wb>", "z"]]}, voices=()).paths("x")
    for label in ("zz", "<blank>"):
        with pytest.raises(VocabularyError, match=f"dictionary: 'x' is said with '{label}', which is no phone"):
            Phonemes.of("en", vocabulary, dictionary={"x": [["z", label]]}, voices=())


def test_the_number_of_paths_is_bounded_and_the_likeliest_come_first() -> None:
    phonemes = Phonemes("en", PHONES, voices=())
    phrase = Entry("a either the tomato " * 6)
    paths = phonemes.phone_paths(phrase)
    assert len(paths) == g2p.MOST_PATHS
    assert paths[0] == [label for word in phrase.text.split() for label in phonemes.paths(word)[0]]


@needs_espeak
def test_threads_with_different_languages_do_not_mix_voices() -> None:
    words = {"en": ["zorglub", "cheese"] * 30, "cs": ["řeka", "chléb"] * 30, "es": ["perro", "chico"] * 30}
    expected = {
        language: [Phonemes(language, IPA).pronounce(word) for word in words[language][:2]] for language in words
    }
    wrong: list[str] = []

    def work(language: str) -> None:
        for _ in range(20):
            phonemes = Phonemes(language, IPA)
            if [phonemes.pronounce(word) for word in words[language][:2]] != expected[language]:
                wrong.append(language)

    threads = [threading.Thread(target=work, args=(language,)) for language in [*words] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_espeak
@pytest.mark.slow
def test_ten_thousand_words_take_seconds() -> None:
    parts = list(itertools.islice(cmu_dictionary(), 500, 100_000, 995))
    words = [one + other for one, other in itertools.product(parts, repeat=2)][:10_000]
    start = time.process_time()
    said, problems = Phonemes("en", PHONES).pronounce_words(words)
    assert time.process_time() - start < 10
    assert len(said) + len(problems) == len(set(words))
    assert len(said) > 9_990
