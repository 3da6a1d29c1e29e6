"""How a word is written: what of it is said, in which script, as a word or letter by letter."""

from __future__ import annotations

import unicodedata

MOST_SPELLED = 6
_SCRIPTS = {
    "CYRILLIC": ("ru", "uk", "be", "bg", "mk", "sr", "kk", "ky", "tt", "ba", "cv", "nog"),
    "GREEK": ("el", "grc"),
}
_OTHER_SCRIPTS = {
    "am", "ar", "as", "bn", "bpy", "chr", "cmn", "fa", "gu", "he", "hi", "hy", "hyw", "ja", "ka", "kn", "ko", "kok",
    "ml", "mr", "my", "ne", "or", "pa", "sd", "shn", "si", "ta", "te", "th", "ti", "ug", "ur", "yue",
}  # fmt: skip


def bare(word: str) -> str:
    """A word without what stands around its letters, digits and their marks: many scripts end words with vowel signs."""
    said = [place for place, sign in enumerate(word) if unicodedata.category(sign)[0] in "LMN"]
    return word[said[0] : said[-1] + 1] if said else ""


def readable(plain: str) -> str:
    """Capitals that are a word rather than letters are read as one: espeak-ng spells what is short and in capitals."""
    return plain.lower() if plain.isupper() and len(plain) > MOST_SPELLED else plain


def is_short_name(plain: str) -> bool:
    """Whether capitals are likely read letter by letter: two or three, or up to `MOST_SPELLED` without a vowel."""
    letters = [character for character in plain if character.isalpha()]
    plain_letters = {unicodedata.normalize("NFD", character.lower())[0] for character in letters}
    return (
        plain.isupper()
        and 1 < len(letters) <= MOST_SPELLED
        and (len(letters) <= 3 or not plain_letters & set("aeiouy"))
    )


def may_be_spelled(plain: str) -> bool:
    """Whether a word may be read letter by letter: short, and in capitals, with digits, or a single letter."""
    letters = sum(character.isalpha() for character in plain)
    digits = sum(character.isdigit() for character in plain)
    short = letters + digits <= MOST_SPELLED
    return short and ((plain.isupper() and letters > 1) or (digits > 0 and letters > 0) or digits > 1 or letters == 1)


def foreign_script(plain: str, language: str) -> str | None:
    """The script of the first letter that a language does not read; None where that is not known."""
    if language.partition("-")[0] in _OTHER_SCRIPTS:
        return None
    for character in plain:
        script = unicodedata.name(character, "unnamed").partition(" ")[0] if character.isalpha() else "LATIN"
        own = language.partition("-")[0] in _SCRIPTS.get(script, ())
        if script not in ("LATIN", "MODIFIER", "FEMININE", "MASCULINE") and not own:
            return script
    return None
