"""What may be wrong with a phrase that can be spelled."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Any, NamedTuple

from slt_ctc_personalization.phrases.everyday import EverydayIndex, Key
from slt_ctc_personalization.phrases.phrases import Phrase
from slt_ctc_personalization.phrases.spelling import MOST_SPELLINGS, Entry, LexiconSpeller, Speller
from sltcore.vocabulary import WORD_MARK, Vocabulary

SHORT_LETTERS = 2
SHORT_PHONES = 3
LONG_WORDS = 8
NO_EFFECT, WARNING, GOOD = "no effect", "warning", "good"

Path = tuple[int, ...]


def _plain(text: str) -> str:
    """A text without its case, its spaces and the way its accents are encoded."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


class Finding(NamedTuple):
    """One remark on a phrase. `level` is "no effect" or "warning"; `kind` one of unspellable, refused, no-bonus,
    never-written, duplicate, short, misfire, long."""

    level: str
    kind: str
    remark: str


def paths_of(phrase: Phrase) -> list[Path]:
    """The label paths of a phrase; with a lexicon those of its words, joined."""
    if phrase.paths:
        return [tuple(path) for path in phrase.paths]
    choices = [phrase.pronunciations[word] for word in phrase.text.split()]
    joined = islice(product(*choices), MOST_SPELLINGS)
    return list(dict.fromkeys(tuple(label for word in words for label in word) for words in joined))


def settings_of(part: Any) -> Any:
    """What a decoder's search or spotter says of its labels; None where there is neither."""
    return getattr(getattr(part, "search", None), "settings", None) or getattr(part, "spotter", None)


class LabelNames:
    """The labels of a search: how they are called, which of them it never writes, and whether they know words."""

    def __init__(self, part: Any, speller: Speller) -> None:
        vocabulary: Vocabulary = part.vocabulary
        search = settings_of(part)
        self.kind = vocabulary.kind
        self.labels: Sequence[str] = vocabulary.labels if search is None else search.labels
        self.boundary: int | None = vocabulary.boundary if search is None else search.word_boundary
        self.never = {vocabulary.blank, *vocabulary.special}
        if search is not None:
            self.never = {search.blank, *getattr(search, "excluded", ())}
        self.has_lexicon = isinstance(speller, LexiconSpeller)
        self.know_words = self.has_lexicon or self.boundary is not None or self.kind in ("subwords", "words")

    def shown(self, path: Path) -> str:
        """A path as its labels, parted by spaces; a boundary that is a space as `|`."""
        return " ".join(self.labels[label].strip() or "|" for label in path)

    def key(self, path: Path) -> Key:
        """What is compared with other words: phones, or letters, whatever their segmentation."""
        kept = [label for label in path if label != self.boundary]
        if self.kind == "subwords":
            return tuple("".join(self.labels[label] for label in kept).replace(WORD_MARK, ""))
        return tuple(kept)

    @property
    def are_english(self) -> bool:
        """Whether nothing but plain letters, or the phones of the English dictionary, stands in the labels."""
        if self.kind == "phones":
            from slt_ctc_personalization.lexicon.lexicon import PHONES

            return set(PHONES) <= set(self.labels)
        letters = {c for i, label in enumerate(self.labels) if i not in self.never for c in label if c.isalpha()}
        return self.kind in ("characters", "subwords") and bool(letters) and all(c.isascii() for c in letters)


class PhraseJudge:
    """Tells what is wrong with one phrase after another; it remembers the paths of those before."""

    def __init__(self, names: LabelNames, index: EverydayIndex | None, *, adapted: bool) -> None:
        """`adapted`: another component reads the list too, so a phrase without a bonus has an effect."""
        self._names, self._index, self._adapted = names, index, adapted
        self._taken: dict[Path, str] = {}

    def findings(self, entry: Entry, phrase: Phrase, copies: int) -> Iterator[Finding]:
        """Everything that is wrong with a phrase that can be spelled."""
        paths = paths_of(phrase)
        yield from self._effect(phrase, paths)
        if copies > 1:
            yield Finding(WARNING, "duplicate", f"stands {copies} times in the list; one is enough")
        yield from self._duplicates(entry, paths)
        yield from self._misfire(entry, paths)
        yield from self._length(entry, paths)

    def _effect(self, phrase: Phrase, paths: Sequence[Path]) -> Iterator[Finding]:
        if phrase.bonus == 0:
            if self._adapted:
                yield Finding(
                    WARNING, "no-bonus", "its bonus is 0: the search does not look for it, the encoder still does"
                )
            else:
                yield Finding(
                    NO_EFFECT, "no-bonus", "its bonus is 0; raise its weight or bonus, or the decoder's phrase_bonus"
                )
        never = [next((label for label in path if label in self._names.never), None) for path in paths]
        if all(label is not None for label in never):
            label = self._names.labels[next(label for label in never if label is not None)]
            yield Finding(
                NO_EFFECT, "never-written", f"the search never writes its label {label!r}; give another spelling"
            )

    def _duplicates(self, entry: Entry, paths: Sequence[Path]) -> Iterator[Finding]:
        other = next((self._taken[path] for path in paths if path in self._taken), None)
        for path in paths:
            self._taken.setdefault(path, entry.text)
        if other is not None and other != entry.text:
            if _plain(other) == _plain(entry.text):
                same = f"is {other!r} of the list in another case or encoding; keep one"
            elif self._names.kind == "phones":
                same = f"is said like {other!r} of the list: a recogniser of phones cannot tell them apart"
            else:
                same = f"is written in the same labels as {other!r} of the list; keep one"
            yield Finding(WARNING, "duplicate", same)

    def _length(self, entry: Entry, paths: Sequence[Path]) -> Iterator[Finding]:
        kind = self._names.kind
        sizes = [len(self._names.key(path)) for path in paths]
        most, unit = (SHORT_PHONES, "phones") if kind == "phones" else (SHORT_LETTERS, "letters")
        if kind != "words" and min(sizes) <= most:
            what = "has" if sizes[0] <= most else "has a spelling of"
            yield Finding(
                WARNING,
                "short",
                f"{what} {min(sizes)} {unit if min(sizes) > 1 else unit[:-1]}: so short a phrase fires everywhere; give a longer form, or a low weight",
            )
        words = len(entry.text.split())
        if words > LONG_WORDS:
            yield Finding(
                WARNING, "long", f"has {words} words: it counts only where all of them are said; list its names alone"
            )

    def _misfire(self, entry: Entry, paths: Sequence[Path]) -> Iterator[Finding]:
        if self._index is None or (self._names.know_words and len(entry.text.split()) > 1):
            return
        keys = list(dict.fromkeys(self._names.key(path) for path in paths))
        verb = "said" if self._names.kind == "phones" else "written"
        word = self._index.equal(keys)
        if word is not None and word.lower() == entry.text.lower():
            yield Finding(
                WARNING, "misfire", "is an everyday word: it will be written where another is said; lower its weight"
            )
        elif word is not None:
            yield Finding(WARNING, "misfire", f"is {verb} like the everyday word {word!r}; lower its weight")
        elif (word := self._index.holding(keys)) is not None:
            yield Finding(WARNING, "misfire", f"is a part of the everyday word {word!r}, and the labels know no words")
        elif (word := self._index.near(keys)) is not None:
            yield Finding(
                WARNING, "misfire", f"is one label from the everyday word {word!r}; lower its weight if it misfires"
            )
