"""Promises of the corpus table, the normalisation and the split rules."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from sltcore.data import CORPORA, Row, corpus, normalized
from sltcore.data.normalization import is_direction, number_words
from sltcore.data.splits import RULES, assign, fraction
from sltcore.errors import DataError


def test_importing_the_data_package_stays_light() -> None:
    heavy = ("torch", "datasets", "numpy", "pandas", "soundfile", "av", "pyarrow")
    code = f"import sys, sltcore.data; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", list(CORPORA))
def test_every_descriptor_is_complete(name: str) -> None:
    entry = CORPORA[name]
    assert entry.name == name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert entry.license
    assert entry.citation
    assert entry.title
    assert entry.homepage.startswith("https://")
    assert entry.split_rule in RULES
    assert entry.utterances > 0
    assert entry.minutes > 0
    assert entry.packages or entry.markers  # a corpus without packages is known by its files
    for package in entry.packages:
        assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in package.sha256.values())
    with pytest.raises(FrozenInstanceError):
        entry.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        entry.options["x"] = 1  # type: ignore[index]


def test_the_named_corpora_exist() -> None:
    wanted = {f"asterisk-{language}" for language in ("en", "es", "fr", "it", "ru")}
    wanted |= {"fillets-cs", "fillets-nl", "fillets-en", "tuxpaint", "tuxpaint-ro", "flight-of-the-amazon-queen"}
    assert wanted <= set(CORPORA)
    assert corpus("fotaq") is CORPORA["flight-of-the-amazon-queen"]


def test_an_unknown_corpus_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"no corpus is named 'asterisk-eng'; known: .* Did you mean 'asterisk-en'\?"):
        corpus("asterisk-eng")


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        ("Press 1, now!", "en", "press one now"),
        ("28.8 kilobit", "en", "twenty eight eight kilobit"),
        ("Dial 500", "en", None),
        ("Q & A", "en", "q and a"),
        ("non-administrator", "en", "non administrator"),
        ("'tis the party's ' name'", "en", "tis the party's name"),
        ("It’s", "en", "it's"),
        ("café", "en", "caf"),
        ("Café, s'il vous plaît", "fr", "café s'il vous plaît"),
        ("cafe\u0301", "fr", "café"),
        ("[!] punto", "it", "punto"),
        ("Нажмите 2!", "ru", "нажмите два"),
        ("Stiskni 2", "cs", None),
        ("...", "en", ""),
    ],
)
def test_normalisation_follows_the_stated_rule(text: str, language: str, words: str | None) -> None:
    assert normalized(text, language) == words


@pytest.mark.parametrize("text", ["[tone]", "<beep ascending>", "(10 seconds of silence)", " [ tono de error ]"])
def test_stage_directions_are_known(text: str) -> None:
    assert is_direction(text)


@pytest.mark.parametrize("text", ["[!] punto", "(softly) hello", "hello", "say (yes)"])
def test_speech_is_no_stage_direction(text: str) -> None:
    assert not is_direction(text)


@pytest.mark.parametrize(
    ("language", "known"),
    [  # from dictionaries of the languages
        ("en", {0: "zero", 13: "thirteen", 20: "twenty", 99: "ninety nine"}),
        ("es", {16: "dieciséis", 21: "veintiuno", 30: "treinta", 31: "treinta y uno", 99: "noventa y nueve"}),
        ("fr", {17: "dix-sept", 21: "vingt et un", 70: "soixante-dix", 71: "soixante et onze", 80: "quatre-vingts"}),
        ("fr", {81: "quatre-vingt-un", 91: "quatre-vingt-onze", 99: "quatre-vingt-dix-neuf", 61: "soixante et un"}),
        ("it", {21: "ventuno", 23: "ventitré", 28: "ventotto", 33: "trentatré", 90: "novanta", 99: "novantanove"}),
        ("ru", {0: "ноль", 11: "одиннадцать", 40: "сорок", 42: "сорок два", 99: "девяносто девять"}),
    ],
)
def test_numbers_are_spelled_as_the_language_does(language: str, known: dict[int, str]) -> None:
    for number, words in known.items():
        assert str(number_words(number, language)).replace("-", " ") == words.replace("-", " ")


@pytest.mark.parametrize("language", ["en", "es", "fr", "it", "ru"])
def test_no_two_numbers_are_spelled_alike(language: str) -> None:
    assert len({number_words(number, language) for number in range(100)}) == 100
    assert number_words(100, language) is None
    assert number_words(-1, language) is None


def rows(count: int, speakers: int = 1, seed: int = 0) -> list[Row]:
    draw = random.Random(seed)
    return [
        Row(
            id=str(index),
            path=f"{index}.wav",
            raw_text=(text := f"text {draw.randrange(count)}"),
            text=text,
            speaker=f"speaker {min(draw.randrange(speakers), draw.randrange(speakers))}",
            language="en",
            seconds=1.0,
        )
        for index in range(count)
    ]


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("speakers", [1, 3, 40])
def test_no_text_is_in_both_parts(rule: str, speakers: int) -> None:
    found = assign(rows(1000, speakers), rule)
    texts = {part: {row.text for row in found if row.split == part} for part in ("train", "test")}
    assert not texts["train"] & texts["test"]
    assert {row.split for row in found} <= {"train", "test", "overlap"}


@pytest.mark.parametrize("speakers", [10, 40])
def test_no_speaker_is_in_both_parts_where_there_are_many(speakers: int) -> None:
    found = assign(rows(1000, speakers), "speaker-and-text")
    voices = {part: {row.speaker for row in found if row.split == part} for part in ("train", "test")}
    assert not voices["train"] & voices["test"]
    assert 0.15 <= sum(row.split == "test" for row in found) / 1000 < 0.25


@pytest.mark.parametrize("rule", ["text", "seeded-text"])
def test_the_test_part_is_near_its_share(rule: str) -> None:
    # binomial: 0.15 +- 4 standard deviations over the distinct texts
    found = assign(rows(4000), rule)
    texts = {row.text: row.split for row in found}
    share = sum(part == "test" for part in texts.values()) / len(texts)
    assert share == pytest.approx(0.15, abs=4 * (0.15 * 0.85 / len(texts)) ** 0.5)


def test_the_hash_rule_does_not_move_texts_when_others_come() -> None:
    few, many = assign(rows(300), "text"), assign([*rows(300), *rows(500, seed=5)], "text")
    assert [row.split for row in few] == [row.split for row in many[:300]]


def test_the_fraction_is_the_start_of_sha256() -> None:
    # independent: the first 16 hexadecimal digits
    assert fraction("hello") == int(hashlib.sha256(b"hello").hexdigest()[:16], 16) / 16**16


def test_the_seeded_rule_is_the_published_one() -> None:
    found = assign(rows(500), "seeded-text")
    texts = sorted({row.text for row in found})
    random.seed(7)
    random.shuffle(texts)
    assert {row.text for row in found if row.split == "test"} == set(texts[: round(0.15 * len(texts))])


@pytest.mark.parametrize(
    ("text", "seconds", "note"),
    [("", 1.0, "no words"), ("a", 0.29, "outside 0.3 to 20 s"), ("a", 20.01, "outside 0.3 to 20 s")],
)
def test_what_no_rule_may_use_is_unused_with_a_reason(text: str, seconds: float, note: str) -> None:
    row = Row(id="a", path="a.wav", raw_text=text, text=text, speaker="s", language="en", seconds=seconds)
    (found,) = assign([row], "text")
    assert (found.split, found.note) == ("unused", note)
