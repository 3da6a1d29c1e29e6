"""IPA signs, where and how they are made, and the nearest label of another set of phones.

A sign is a letter with its marks (`r̝̊`, `iː`), or letters joined by a tie (`t͡ʃ`). Stress, syllable breaks and tones are
left out. A group of signs becomes labels in this order: the longest run of signs that is a label as it stands, without
length, or with a tie; parts of what is joined; the label that `lexicon.NEAREST` or `SOUNDS_LIKE` names; the label that
is made most alike.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from slt_ctc_personalization.lexicon.lexicon import ARPABET, NEAREST
from sltcore.errors import VocabularyError

TIE, LONG, HALF_LONG, RHOTIC = "\u0361", "ː", "ˑ", "˞"
_LEFT_OUT = frozenset("ˈˌ.‿|‖ˀ˥˦˧˨˩↓↑↗↘¹²³⁴⁵⁻")
_TONE_MARKS = frozenset("\u0300\u0301\u0302\u0304\u030c\u030b\u030f\u1dc4\u1dc5\u1dc8")
_LIGATURES = str.maketrans(
    {"g": "ɡ", "ʦ": "t͡s", "ʣ": "d͡z", "ʧ": "t͡ʃ", "ʤ": "d͡ʒ", "ʨ": "t͡ɕ", "ʥ": "d͡ʑ"}  # and the other form of a letter
)
FARTHEST = 3.0
"""No label further than this stands for a sign."""

SOUNDS_LIKE = {
    "r̝": ("ʒ", "r", "ɹ"), "r̝̊": ("r̝", "ʃ", "r", "ɹ"), "ʁ": ("ɣ", "ʀ", "r", "ɹ"), "ɾ": ("r", "ɹ"), "ʀ": ("ʁ", "r", "ɹ"),
    "r": ("ɾ", "ɹ"), "ɹ": ("r", "ɾ"), "ɻ": ("ɹ", "r"), "x": ("χ", "k", "h"), "χ": ("x", "k", "h"),
    "ç": ("ʃ", "x", "h"), "ɥ": ("w",), "ɬ": ("l",), "ᵻ": ("ɪ", "ɨ"), "ɕ": ("ʃ",), "ʑ": ("ʒ",), "ʂ": ("ʃ",),
    "ʐ": ("ʒ",), "ʍ": ("w",), "ɱ": ("m",), "ɜ": ("ɝ", "ə"), "ɝ": ("ɚ", "ɜ"), "ɚ": ("ə", "ɝ"), "ɐ": ("ə", "ʌ", "a"),
    "ɟ": ("d͡ʒ", "ɡ", "d"), "c": ("t͡ʃ", "k", "t"), "l̩": ("l",), "n̩": ("n",), "ħ": ("h",), "ʕ": ("ʔ",),
    "n̺": ("n",), "β": ("v", "b"), "ɦ": ("h",), "ʋ": ("v", "w"), "ø": ("œ", "ɝ", "ə"), "œ": ("ø", "ɝ", "ə"),
    "əʊ": ("oʊ",), "eə": ("ɛ",), "oɪ": ("ɔɪ",), "ɑʊ": ("aʊ",), "ɑɪ": ("aɪ",),
}  # fmt: skip
"""What a listener takes a sound for, where its articulation misleads: the first one that is a label. Ours."""

_PLACES = {
    "bilabial": 0.0, "labiodental": 0.5, "dental": 1.5, "alveolar": 2.0, "postalveolar": 3.0, "alveolo-palatal": 3.3,
    "retroflex": 3.5, "palatal": 4.5, "velar": 6.0, "labiovelar": 6.0, "uvular": 7.0, "pharyngeal": 8.5, "glottal": 9.5,
}  # fmt: skip
_CONSONANTS = {  # voiceless, voiced; "-" where there is none
    ("plosive", "bilabial"): "pb", ("plosive", "alveolar"): "td", ("plosive", "retroflex"): "ʈɖ",
    ("plosive", "palatal"): "cɟ", ("plosive", "velar"): "kɡ", ("plosive", "uvular"): "qɢ", ("plosive", "glottal"): "ʔ-",
    ("nasal", "bilabial"): "-m", ("nasal", "labiodental"): "-ɱ", ("nasal", "alveolar"): "-n",
    ("nasal", "retroflex"): "-ɳ", ("nasal", "palatal"): "-ɲ", ("nasal", "velar"): "-ŋ", ("nasal", "uvular"): "-ɴ",
    ("trill", "bilabial"): "-ʙ", ("trill", "alveolar"): "-r", ("trill", "uvular"): "-ʀ",
    ("tap", "labiodental"): "-ⱱ", ("tap", "alveolar"): "-ɾ", ("tap", "retroflex"): "-ɽ",
    ("fricative", "bilabial"): "ɸβ", ("fricative", "labiodental"): "fv", ("fricative", "dental"): "θð",
    ("fricative", "alveolar"): "sz", ("fricative", "postalveolar"): "ʃʒ", ("fricative", "alveolo-palatal"): "ɕʑ",
    ("fricative", "retroflex"): "ʂʐ", ("fricative", "palatal"): "çʝ", ("fricative", "velar"): "xɣ",
    ("fricative", "uvular"): "χʁ", ("fricative", "pharyngeal"): "ħʕ", ("fricative", "glottal"): "hɦ",
    ("lateral fricative", "alveolar"): "ɬɮ", ("approximant", "labiodental"): "-ʋ",
    ("approximant", "alveolar"): "-ɹ", ("approximant", "retroflex"): "-ɻ", ("approximant", "palatal"): "-j",
    ("approximant", "velar"): "-ɰ", ("approximant", "labiovelar"): "ʍw", ("lateral", "alveolar"): "-l",
    ("lateral", "retroflex"): "-ɭ", ("lateral", "palatal"): "-ʎ", ("lateral", "velar"): "-ʟ",
    ("implosive", "bilabial"): "-ɓ", ("implosive", "alveolar"): "-ɗ", ("implosive", "palatal"): "-ʄ",
    ("implosive", "velar"): "-ɠ",
}  # fmt: skip
_MANNERS = {
    "plosive": 0.0, "implosive": 0.5, "affricate": 1.0, "fricative": 2.0, "lateral fricative": 2.7, "tap": 3.4,
    "trill": 3.6, "approximant": 4.0, "lateral": 4.4, "nasal": 6.0,
}  # fmt: skip
_VOWELS = {  # (height 0 close to 6 open, backness 0 front to 2 back): unrounded, rounded
    (0.0, 0.0): "iy", (0.0, 1.0): "ɨʉ", (0.0, 2.0): "ɯu", (1.0, 0.4): "ɪʏ", (1.0, 1.6): "-ʊ", (1.0, 1.0): "ᵻᵿ",
    (2.0, 0.0): "eø", (2.0, 1.0): "ɘɵ", (2.0, 2.0): "ɤo", (3.0, 1.0): "ə-", (4.0, 0.0): "ɛœ", (4.0, 1.0): "ɜɞ",
    (4.0, 2.0): "ʌɔ", (5.0, 0.0): "æ-", (5.0, 1.0): "ɐ-", (6.0, 0.4): "aɶ", (6.0, 2.0): "ɑɒ",
}  # fmt: skip
_RHOTIC = {"ɚ": (3.0, 1.0), "ɝ": (4.0, 1.0)}
_AFFRICATES = ("ts", "dz", "tʃ", "dʒ", "tɕ", "dʑ", "tʂ", "dʐ", "pf", "tɬ", "kx", "cç", "ɟʝ", "tθ", "dð")


class Sound(NamedTuple):
    """How a sign is made. Consonants have a manner and a place, vowels a height and a backness."""

    vowel: bool
    first: float
    second: float
    voiced: bool = True
    rounded: bool = False
    rhotic: bool = False


def _sounds() -> dict[str, Sound]:
    found: dict[str, Sound] = {}
    for (manner, place), pair in _CONSONANTS.items():
        for sign, voiced in zip(pair, (False, True), strict=True):
            if sign != "-":
                rounded = place == "labiovelar"
                found[sign] = Sound(False, _MANNERS[manner], _PLACES[place], voiced=voiced, rounded=rounded)
    for (height, backness), pair in _VOWELS.items():
        for sign, is_rounded in zip(pair, (False, True), strict=True):
            if sign != "-":
                found[sign] = Sound(True, height, backness, rounded=is_rounded)
    for sign, (height, backness) in _RHOTIC.items():
        found[sign] = Sound(True, height, backness, rhotic=True)
    for pair in _AFFRICATES:
        end = found[pair[1]]
        found[f"{pair[0]}{TIE}{pair[1]}"] = end._replace(first=_MANNERS["affricate"])
    return found


SOUNDS = _sounds()
"""Every sign whose articulation is known, without marks."""

IPA = tuple(
    sorted(
        sign.replace("ɡ", "g")
        for sign in {*SOUNDS, "ɑ̃", "ɛ̃", "ɔ̃", "œ̃", "r̝"}
        - set("ᵻᵿⱱɶɓɗʄɠɞɱ")
        - {f"{a}{TIE}{b}" for a, b in ("kx", "tθ", "dð")}
    )
)
"""A set of phones for any language: diphthongs are two of them, and length, stress and tone are none."""


def signs_of(text: str) -> list[str]:
    """The signs of a text in IPA: letters with their marks, joined ones together; stress, breaks and tones left out.

    A raised letter is a mark of the letter before it, and a letter where there is none (`ᵐb` is `m b`).
    """
    signs: list[str] = []
    joins = False
    letters = unicodedata.normalize("NFD", text).replace("c\u0327", "ç").translate(_LIGATURES)
    for character in letters:
        if character in _LEFT_OUT or character in _TONE_MARKS or character.isspace():
            continue
        raised = unicodedata.category(character) == "Lm"
        mark = raised or unicodedata.combining(character) > 0 or character == RHOTIC
        if signs and (mark or joins):
            signs[-1] += character
        else:
            signs.append(unicodedata.normalize("NFKD", character) if raised else character)
        joins = character == TIE
    return signs


def difference(one: Sound, other: Sound) -> float:
    """How differently two sounds are made: 0 for the same, up to about 10; vowels and glides may stand for another."""
    if one.vowel != other.vowel:
        vowel, consonant = (one, other) if one.vowel else (other, one)
        glide = consonant.first == _MANNERS["approximant"] and vowel.first <= 1.0 and consonant.second >= 4.5
        near = glide and consonant.rounded == vowel.rounded and (vowel.second <= 1.0) == (consonant.second < 6.0)
        return 1.5 if near else 10.0
    unlike = 0.8 * (one.rounded != other.rounded) + 1.2 * (one.rhotic != other.rhotic)
    if one.vowel:
        return 0.6 * abs(one.first - other.first) + 0.8 * abs(one.second - other.second) + unlike
    return (
        0.6 * abs(one.first - other.first) + 0.55 * abs(one.second - other.second) + 0.7 * (one.voiced != other.voiced)
    ) + 0.3 * unlike


class Written(NamedTuple):
    """A label and how what it stands for is made, where that is known."""

    label: str
    sound: Sound | None


class PhoneMap:
    """From IPA to a set of labels, which are IPA themselves or ARPAbet without stress.

    **Raises** `VocabularyError` when no label is a phone.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self._labels: dict[str, Written] = {}
        for label in labels:
            signs = signs_of(ARPABET.get(label, label))
            if signs and all(_plain(sign) for sign in signs):
                whole = "".join(signs)
                self._labels.setdefault(whole, Written(label, SOUNDS.get(whole)))
        if not self._labels:
            raise VocabularyError("none of the labels is a phone in IPA or ARPAbet; take a vocabulary of kind phones")
        self._nearest = [written for written in self._labels.values() if written.sound is not None]
        self._group = lru_cache(maxsize=65536)(self._mapped)

    def labels_of(self, groups: Iterable[str]) -> list[str]:
        """The labels for groups of signs, such as espeak-ng's phonemes.

        **Raises** `VocabularyError` naming a sign for which no label is near enough.
        """
        return [label for group in groups for label in self._group(group)]

    def _mapped(self, group: str) -> tuple[str, ...]:
        signs = signs_of(group)
        found: list[str] = []
        place = 0
        while place < len(signs):
            for end in range(len(signs), place, -1):
                run = signs[place:end]
                label = self._exact(run) or (self._named("".join(run)) if len(run) > 1 else None)
                if label is not None:
                    found.append(label)
                    place = end
                    break
            else:
                found.extend(self._closest(signs[place]))
                place += 1
        return tuple(found)

    def _exact(self, signs: Sequence[str]) -> str | None:
        whole = "".join(signs)
        forms = [whole, whole.replace(LONG, "").replace(HALF_LONG, "")]
        if len(signs) == 2 and "".join(sign[0] for sign in signs) in _AFFRICATES:
            forms += [form[0] + TIE + form[1:] for form in forms]
        forms += [form.replace(TIE, "") for form in forms if TIE in form]
        for form in forms:
            if form in self._labels:
                return self._labels[form].label
        return None

    def _closest(self, sign: str) -> tuple[str, ...]:
        """Labels for one sign that is none itself."""
        if TIE in sign:
            parts = [part for part in sign.split(TIE) if part]
            exact = [self._exact([part]) for part in parts]
            whole = self._named(sign)
            if whole is None or None not in exact:
                return self._mapped(parts[0]) + self._mapped(parts[1])
            return (whole,)
        named = self._named(sign)
        if named is not None:
            return (named,)
        plain = _plain(sign)
        if plain != sign and plain:
            return self._mapped(plain)
        sound = SOUNDS.get(sign)
        if sound is not None and self._nearest:
            best = min(self._nearest, key=lambda written: difference(sound, written.sound or sound))
            if difference(sound, best.sound or sound) <= FARTHEST:
                return (best.label,)
        raise VocabularyError(
            f"no label is near the sound {sign!r} (labels begin {' '.join(list(self._labels)[:12])}); give the word "
            f"another spelling, or its phones in a dictionary"
        )

    def _named(self, sign: str) -> str | None:
        choices = [*SOUNDS_LIKE.get(sign, ()), *((NEAREST[sign],) if sign in NEAREST else ())]
        for choice in choices:
            label = self._exact(signs_of(choice))
            if label is not None:
                return label
        return None


def _plain(sign: str) -> str:
    """A sign without its marks; empty when nothing of it is a known letter."""
    bare = "".join(character for character in sign if character in SOUNDS or character == TIE)
    return bare.strip(TIE)
