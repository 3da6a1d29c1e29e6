"""Script to words: one rule for all corpora, so that figures compare.

Lower case; integers below 100 spelled out where the language's numbers are known, texts with other digits given up;
stage directions in brackets dropped; everything but letters, apostrophes and spaces becomes a space; apostrophes at
the edge of a word stripped.
"""

from __future__ import annotations

import re
import unicodedata

_ONES = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete "
    "dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete "
    "veintiocho veintinueve",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept "
    "dix-huit dix-neuf",
    "it": "zero uno due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici sedici "
    "diciassette diciotto diciannove",
    "ru": "ноль один два три четыре пять шесть семь восемь девять десять одиннадцать двенадцать тринадцать четырнадцать "
    "пятнадцать шестнадцать семнадцать восемнадцать девятнадцать",
}
_TENS = {
    "en": "twenty thirty forty fifty sixty seventy eighty ninety",
    "es": "veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa",
    "fr": "vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt",
    "it": "venti trenta quaranta cinquanta sessanta settanta ottanta novanta",
    "ru": "двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто",
}
_DIRECTION = re.compile(r"\[[^\]]*\]|<[^>]*>|^\s*\([^)]*\)\s*$")


def is_direction(text: str) -> bool:
    """Whether the whole text is a stage direction, such as "[this is a simple beep tone]"."""
    return text.lstrip()[:1] in ("[", "<", "(") and not _letters(_DIRECTION.sub(" ", text)).strip()


def normalized(text: str, language: str) -> str | None:
    """The words of a text, or None where a number cannot be spelled out.

    >>> normalized("Press 42 & say: 'Hello, I'm Joe'!", "en")
    "press forty two and say hello i'm joe"
    """
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    if language == "en":
        text = text.replace("&", " and ")
    else:
        text = _DIRECTION.sub(" ", text)
    spelled = []
    for piece in re.split(r"(\d+)", text):
        if piece.isdigit():
            words = number_words(int(piece), language)
            if words is None:
                return None
            spelled.append(f" {words} ")
        else:
            spelled.append(piece)
    letters = _letters("".join(spelled), "abcdefghijklmnopqrstuvwxyz" if language == "en" else None)
    return " ".join(word for word in (part.strip("'") for part in letters.split()) if word)


def number_words(number: int, language: str) -> str | None:
    """An integer below 100 in words (en, es, fr, it, ru), or None.

    >>> number_words(71, "fr"), number_words(28, "it"), number_words(100, "en")
    ('soixante et onze', 'ventotto', None)
    """
    if language not in _ONES or not 0 <= number < 100:
        return None
    ones = _ONES[language].split()
    if number < len(ones):
        return ones[number]
    ten, one = divmod(number, 10)
    tens = _TENS[language].split()[ten - 2]
    if language == "fr":
        return _french(tens, ten, one, ones)
    if one == 0:
        return tens
    if language == "it":  # venti + uno = ventuno, venti + otto = ventotto, venti + tre = ventitré
        stem = tens[:-1] if one in (1, 8) else tens
        return stem + ("tré" if one == 3 else ones[one])
    return f"{tens}{' y ' if language == 'es' else ' '}{ones[one]}"


def _french(tens: str, ten: int, one: int, ones: list[str]) -> str:
    rest = one + (10 if ten in (7, 9) else 0)
    if rest == 0:
        return tens + ("s" if ten == 8 else "")
    if rest in (1, 11) and ten < 8:
        return f"{tens} et {ones[rest]}"
    return f"{tens} {ones[rest]}"


def _letters(text: str, alphabet: str | None = None) -> str:
    """The text with everything but letters (or those of `alphabet`), their marks and apostrophes as spaces."""
    if alphabet is not None:
        return "".join(char if char in alphabet or char == "'" else " " for char in text)
    return "".join(char if unicodedata.category(char)[0] in "LM" or char == "'" else " " for char in text)
