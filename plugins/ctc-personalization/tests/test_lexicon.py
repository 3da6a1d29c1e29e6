"""Dictionaries, letters, and pronunciations for any word; what a recogniser hears for what was said."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest

from slt_ctc_personalization.lexicon import lexicon
from slt_ctc_personalization.lexicon.confusions import BLANK, BOUNDARY, load_confusions
from slt_ctc_personalization.lexicon.lexicon import (
    LETTER_NAMES,
    NEAREST,
    PHONES,
    Pronouncer,
    cmu_dictionary,
    letters_spoken,
    nearest_phones,
    read_dictionary,
    spell,
    spelling_lexicon,
)
from slt_ctc_personalization.lexicon.lexicon_trie import LexiconTrie, map_labels
from sltcore.errors import DataError, VocabularyError


def hama_labels() -> list[str]:
    """The recogniser's labels, read from its package, independently of the code under test."""
    from importlib.resources import files

    vocabulary = json.loads((files("hama") / "assets" / "g2p_vocab.json").read_text(encoding="utf-8"))
    return [*vocabulary["decoder"], BOUNDARY, BLANK]


def test_every_phone_is_a_label_of_the_recogniser() -> None:
    labels = set(hama_labels())
    assert len(PHONES) == 39
    assert set(PHONES) <= labels
    assert set(NEAREST.values()) <= set(PHONES)
    assert {phone for names in LETTER_NAMES.values() for phone in names.split()} <= set(PHONES)


def test_the_cmu_dictionary_is_read_whole() -> None:
    dictionary = cmu_dictionary()
    assert len(dictionary) == 126_052
    assert dictionary["password"] == [["p", "æ", "s", "w", "ɝ", "d"]]
    assert ["ð", "ʌ"] in dictionary["the"]
    assert ["ð", "i"] in dictionary["the"]
    assert not any(word.endswith(")") for word in dictionary)
    assert {phone for variants in dictionary.values() for phones in variants for phone in phones} == set(PHONES)


def test_a_users_dictionary_may_be_tabbed_spaced_arpabet_or_ipa(tmp_path: Path) -> None:
    path = tmp_path / "mine.dict"
    path.write_text(
        "# names\n;;; old comment\nfloda\tF L OW1 D AH0\nfloda(2) f l ɑ d ʌ # second\nNew York\tN UW Y AO R K\n\n"
        "floda f l ɑ d ʌ\n",
        encoding="utf-8",
    )
    assert read_dictionary(path) == {
        "floda": [["f", "l", "oʊ", "d", "ʌ"], ["f", "l", "ɑ", "d", "ʌ"]],
        "New York": [["n", "u", "j", "ɔ", "ɹ", "k"]],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a EY\nfloda\n", r"mine\.dict:2: 'floda' has no pronunciation"),
        (b"a EY\nb B QX\n", r"mine\.dict:2: 'b' is spoken with 'QX', which is no phone"),
        (b"# nothing\n", "lists no word"),
        (b"caf\xe9 K AE\n", "is not UTF-8 text .byte 3"),
    ],
)
def test_a_broken_dictionary_is_refused_with_file_and_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.dict").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_dictionary(tmp_path / "mine.dict")
    with pytest.raises(DataError, match="cannot be read as a dictionary"):
        read_dictionary(tmp_path / "missing.dict")


def test_words_are_spelled_with_the_longest_labels() -> None:
    assert spell("chat", ["c", "h", "ch", "a", "t"]) == ["ch", "a", "t"]
    assert spell("naïve", "naive") is None
    assert spell("", "abc") is None
    assert spelling_lexicon(["cab", "dad"], "abc") == {"cab": [["c", "a", "b"]]}


def test_any_word_has_a_pronunciation_in_the_dictionarys_phones() -> None:
    pronouncer = Pronouncer()
    assert pronouncer.pronounce("password") == cmu_dictionary()["password"]
    assert pronouncer.pronounce("Password") == cmu_dictionary()["password"]
    for word in ("digium", "Schröder", "naïve", "kubernetes", "o'brien", "voice-mail", "unmute"):
        (phones, *_) = pronouncer.pronounce(word)
        assert len(phones) >= 3, word
        assert set(phones) <= set(PHONES), word
    assert pronouncer.pronounce("pbx") == [letters_spoken("pbx")] == [["p", "i", "b", "i", "ɛ", "k", "s"]]
    assert pronouncer.pronounce("xqz-7") == [letters_spoken("xqz7")]
    assert pronouncer.pronounce("voice-mail") == [[*cmu_dictionary()["voice"][0], *cmu_dictionary()["mail"][0]]]
    assert pronouncer.pronounce("!?") == []
    assert pronouncer.pronounce("") == []
    assert set(pronouncer.pronounce_words(["unmute", "!?"])) == {"unmute"}


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexicon, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip install 'pocketsphinx"):
        lexicon.pocketsphinx_file("cmudict-en-us.dict")
    monkeypatch.setitem(__import__("sys").modules, "hama", None)
    with pytest.raises(DataError, match="pip install 'hama"):
        Pronouncer({}).pronounce("blorp")


def test_signs_of_other_languages_become_the_nearest_phone_or_nothing() -> None:
    assert nearest_phones(["n", " ", "a", "i̯", "β", "̞", "e", "ə"]) == ["n", "ɑ", "i", "b", "ɛ", "ʌ"]


@pytest.mark.slow
def test_the_english_lexicon_lists_the_models_likeliest_words() -> None:
    from slt_ctc_personalization.language_model.english import DEFAULT_WORDS, english_lexicon, english_lm

    english_lm()
    start = time.process_time()
    english_lm.cache_clear()
    cmu_dictionary.cache_clear()
    words = english_lexicon()
    model = english_lm()
    trie = LexiconTrie(words, list(PHONES))
    assert time.process_time() - start < 6.0
    assert len(words) == DEFAULT_WORDS == len(trie)
    unigrams = model.unigram_log_probs()
    ranks = [unigrams[model.word_id(word)] for word in words]
    assert ranks == sorted(ranks, reverse=True)
    assert all(model.in_vocabulary(word) for word in words)
    assert {"the", "password", "don't", "b"} <= set(words)
    assert not {"<s>", "</s>"} & set(words)


def test_confusions_are_a_channel_from_phones_to_labels() -> None:
    labels = hama_labels()
    found = load_confusions(labels)
    assert found.labels == (*PHONES, BOUNDARY, BLANK)
    assert found.labels[found.boundary] == BOUNDARY
    assert found.labels[found.blank] == BLANK
    assert found.log_map.shape == (191, 41)
    assert found.log_map.dtype == np.float32
    assert np.exp(found.log_map.astype(np.float64)).sum(axis=0) == pytest.approx(1.0, abs=2e-3)
    heard = np.exp(found.log_map)
    assert heard[labels.index("oʊ"), found.labels.index("u")] > 0.3  # "to" is heard as "toe"
    for phone in set(PHONES) - {"u", "ʌ"}:
        assert np.argmax(heard[:, found.labels.index(phone)]) == labels.index(phone)


def test_confusion_rates_are_as_asked_and_do_what_they_say() -> None:
    labels = hama_labels()
    sure = np.full((1, 191), 1e-12, np.float32)
    sure[0, labels.index(BLANK)] = 1.0
    asked = load_confusions(labels, deletion=0.2, insertion=0.3, missed_boundary=0.4)
    found = np.exp(map_labels(np.log(sure), asked.log_map))[0]
    assert found[asked.labels.index("k")] == pytest.approx(0.2, rel=1e-3)
    assert found[asked.boundary] == pytest.approx(0.4, rel=1e-3)
    assert found[asked.blank] == pytest.approx(0.7, rel=1e-3)
    strict = load_confusions(labels, deletion=0.0, insertion=0.0, missed_boundary=0.0)
    heard = np.log(np.full((1, 191), 1e-12, np.float32))
    heard[0, labels.index("k")] = 0.0
    found = map_labels(heard, strict.log_map)[0]
    assert np.argmax(found) == strict.labels.index("k")
    assert found[strict.labels.index("k")] > math.log(0.9)


def test_confusions_of_another_recogniser_are_refused() -> None:
    with pytest.raises(VocabularyError, match="counted for a recogniser that writes"):
        load_confusions(["<blank>", "a", "b"])
    with pytest.raises(DataError, match="no confusions are named 'martian'; installed: hama-english"):
        load_confusions(hama_labels(), name="martian")
