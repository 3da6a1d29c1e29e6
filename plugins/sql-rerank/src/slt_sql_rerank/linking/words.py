"""Words of questions and names, brought to one form."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

MARKS = "".join(chr(c) for c in range(0x300, 0x1100) if unicodedata.category(chr(c))[0] == "M") + "\u200c\u200d"
"""Signs that belong to the letter before them: accents, vowels of Indic and Semitic scripts, joiners."""
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that put no space between words: each letter is read as a word, and phrases find the words."""
ONE = rf"[{UNSPACED}][{MARKS}]*"
LETTERS = rf"(?:(?![{UNSPACED}])[^\W\d_][{MARKS}]*)+"
QUESTION = re.compile(rf"{ONE}|{LETTERS}(?:'{LETTERS})?|\d+(?:[.,]\d+)*")
NAME = re.compile(rf"{ONE}|{LETTERS}|\d+")
IRREGULAR = {
    "people": "person",
    "persons": "person",
    "children": "child",
    "men": "man",
    "women": "woman",
    "feet": "foot",
    "teeth": "tooth",
    "mice": "mouse",
    "geese": "goose",
    "wives": "wife",
    "lives": "life",
    "leaves": "leaf",
    "halves": "half",
    "indices": "index",
    "matrices": "matrix",
    "data": "data",
    "series": "series",
    "species": "species",
    "news": "news",
    "statuses": "status",
    "buses": "bus",
    "movies": "movie",
    "cookies": "cookie",
}
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
SMALL = {word: number for number, word in enumerate([*ONES.split(), "eighteen", "nineteen"])}
TENS = {
    word: 10 * number
    for number, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
}
LARGE = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
LARGEST = 10**15
"""Numbers in words grow no further: who writes "million" a thousand times means none."""
ORDINALS = {
    word: number
    for number, word in enumerate(
        ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"], 1
    )
}
STOP = "a an the of in on at by for to from with without and or not is are was were be been do does did have has had that this"
OTHER = "these those which who whom whose what where when how many much each every all any some there their its it me my we you i"
MORE = "s list show give find return tell please than then as also both only more most less least per between"
STOP_WORDS = frozenset(f"{STOP} {OTHER} {MORE}".split())


class Word(NamedTuple):
    """A word of a question, its normal form, and where it stands in the text."""

    text: str
    normal: str
    start: int
    stop: int


def singular(word: str) -> str:
    """A lower-case word without its plural ending, by rule; the same rule stands on both sides of a comparison.

    >>> [singular(word) for word in ("countries", "boxes", "classes", "houses", "status", "people", "heroes")]
    ['country', 'box', 'class', 'house', 'status', 'person', 'hero']
    """
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes", "zzes", "oes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def split_name(name: str) -> tuple[str, ...]:
    """Words of a table's or column's name in lower case: at underscores, other signs, and capitals within.

    >>> split_name("Song_release_year"), split_name("airportCode"), split_name("HTMLPage2")
    (('song', 'release', 'year'), ('airport', 'code'), ('html', 'page', '2'))
    """
    return tuple(folded(part) for run in NAME.findall(name) for part in _at_capitals(run))


def _at_capitals(run: str) -> list[str]:
    """A run of letters cut before each capital that follows or precedes a small letter."""
    if run.islower() or run.isupper():
        return [run]
    cuts = [0]
    for place in range(1, len(run)):
        before, here, after = run[place - 1], run[place], run[place + 1 : place + 2]
        if here.isupper() and (not before.isupper() or after.islower()):
            cuts.append(place)
    return [run[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(run)], strict=True)]


def folded(word: str) -> str:
    """In small letters, signs in their usual form, digits of any script as 0 to 9.

    >>> folded("Caf\\u0065\\u0301"), folded("STRASSE") == folded("straße"), folded("１９८")
    ('café', True, '198')
    """
    if word.isascii():
        return word.lower()
    if word.isdecimal():
        return "".join(str(unicodedata.decimal(sign)) for sign in word)
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())


def unaccented(text: str) -> str:
    """A folded text without the accents of Latin, Greek and Cyrillic letters; some, as the ø, are letters of their own.

    >>> unaccented("são paulo"), unaccented("møller")
    ('sao paulo', 'møller')
    """
    if text.isascii():
        return text
    parts = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", "".join(sign for sign in parts if not "\u0300" <= sign <= "\u036f"))


def is_unspaced(word: str) -> bool:
    """Whether it is a letter of a script without spaces.

    >>> is_unspaced("\\u540d"), is_unspaced("nom")
    (True, False)
    """
    return re.match(f"[{UNSPACED}]", word) is not None


def normal(words: Sequence[str]) -> tuple[str, ...]:
    """Each in the singular, number words as digits.

    >>> normal(("first", "names"))
    ('1', 'name')
    """
    return tuple(_digits(word, singular(word)) for word in words)


def question_words(question: str) -> list[Word]:
    """The words of a question; numbers in words become digits, and several of them one.

    >>> [word.normal for word in question_words("Show twenty-one singers' third songs of 1,500")]
    ['show', '21', 'singer', '3', 'song', 'of', '1500']
    """
    found: list[Word] = []
    for match in QUESTION.finditer(question):
        text = folded(match.group())
        text = text[:-2] if text.endswith("'s") else text
        text = text.replace(",", "") if text[0].isdigit() else text
        word = Word(match.group(), singular(text), match.start(), match.end())
        joined = _joined(found[-1], word, text, question) if found else None
        if joined is not None:
            found[-1] = joined
        else:
            found.append(word._replace(normal=_digits(text, word.normal)))
    return found


@lru_cache(maxsize=8192)
def plain(text: str) -> str:
    """The words of a text in normal form; where it has none, the text.

    >>> plain("New  Zealanders,"), plain("C++"), plain("+")
    ('new zealander', 'c', '+')
    """
    return " ".join(word.normal for word in question_words(text)) or text.strip()


def _digits(text: str, otherwise: str) -> str:
    for table in (SMALL, TENS, ORDINALS):
        if text in table:
            return str(table[text])
    return otherwise


def _joined(before: Word, word: Word, text: str, question: str) -> Word | None:
    """Twenty and one as 21, two and hundred as 200."""
    if not before.normal.isdigit() or before.text[0].isdigit():
        return None
    value = int(before.normal)
    if text in SMALL and value in TENS.values() and 0 < SMALL[text] < 10:
        value += SMALL[text]
    elif text in LARGE and 0 < value < LARGEST:
        value *= LARGE[text]
    else:
        return None
    return Word(question[before.start : word.stop], str(value), before.start, word.stop)
