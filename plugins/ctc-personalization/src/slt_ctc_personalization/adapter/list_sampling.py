"""Lists of phrases drawn from training transcripts: rare words of the utterance itself, and distractors from others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

MARKS = '.,!?;:"“”„«»()[]…'
LONGER = 0.3
"""How often a phrase is more than the rare word itself, where `most_words` allows it."""
TRIES = 4
"""Draws for each distractor that is wanted; those that stand in the utterance, or were drawn before, do not count."""


class Word(NamedTuple):
    """A word of a transcript: as written without punctuation, in lower case, and whether one may go on beyond it."""

    text: str
    key: str
    is_last: bool


class ListSampler:
    """Draws a list of phrases for each training utterance.

    A word is rare when at most `rare_texts` of the learnt texts hold it and it has `least_letters` characters. With
    probability `empty` the list is empty, with `no_own` it holds distractors only; else each rare word of the reference
    stands in it with probability `keep`, alone or within up to `most_words` neighbours. Then come 0 to `distractors`
    (uniform) phrases of other texts, none of which stands in the reference. The order is random.

    What is drawn depends on the text, the learnt texts and the seed only.

    **Source**: rare words of the reference and distractors, after Le et al., arXiv:2104.02194; the shares are ours.
    """

    def __init__(
        self,
        rare_texts: int = 10,
        least_letters: int = 3,
        *,
        most_words: int = 3,
        keep: float = 0.7,
        no_own: float = 0.4,
        empty: float = 0.1,
        distractors: int = 100,
    ) -> None:
        self.rare_texts = rare_texts
        self.least_letters = least_letters
        self.most_words = most_words
        self.keep = keep
        self.no_own = no_own
        self.empty = empty
        self.distractors = distractors
        self.pool: tuple[str, ...] = ()
        self._texts_with: Counter[str] = Counter()

    def learn(self, texts: Sequence[str], *, writable: Callable[[str], bool] | None = None) -> None:
        """Count the words of all training texts and gather the phrases that distractors are drawn from, each once.

        `writable` says whether a phrase can be spelled; None: all can.
        """
        read = [words_of(text) for text in texts]
        self._texts_with = Counter(key for words in read for key in {word.key for word in words})
        chance = Random(0)
        found: dict[str, None] = {}
        for words in read:
            found.update((self._phrase(words, place, chance), None) for place in self._rare(words))
        self.pool = tuple(phrase for phrase in found if writable is None or writable(phrase))

    def draw(self, text: str, seed: int, *, writable: Callable[[str], bool] | None = None) -> list[str]:
        """The list of one utterance, phrases as its transcript writes them."""
        chance = Random(seed)
        words = words_of(text)
        kind = chance.random()
        if kind < self.empty:
            return []
        own: dict[str, None] = {}
        if kind >= self.empty + self.no_own:
            places = {words[place].key: place for place in reversed(self._rare(words))}  # each word once
            for place in places.values():
                if chance.random() < self.keep:
                    phrase = self._phrase(words, place, chance)
                    if writable is None or writable(phrase):
                        own[phrase] = None
        chosen = list(own)
        chosen += self._distractors(words, chance)
        chance.shuffle(chosen)
        return chosen

    def _distractors(self, words: Sequence[Word], chance: Random) -> list[str]:
        wanted = chance.randint(0, min(self.distractors, len(self.pool)))
        said = f" {' '.join(word.key for word in words)} "
        found: dict[str, None] = {}
        for _ in range(TRIES * wanted):
            if len(found) == wanted:
                break
            phrase = self.pool[chance.randrange(len(self.pool))]
            if f" {phrase.lower()} " not in said:
                found[phrase] = None
        return list(found)

    def _rare(self, words: Sequence[Word]) -> list[int]:
        return [
            place
            for place, word in enumerate(words)
            if len(word.key) >= self.least_letters and self._texts_with[word.key] <= self.rare_texts
        ]

    def _phrase(self, words: Sequence[Word], place: int, chance: Random) -> str:
        """The word at a place, or it and neighbours that no punctuation parts from it."""
        size = 1
        if self.most_words > 1 and chance.random() < LONGER:
            size = chance.randint(2, self.most_words)
        first = max(0, place - chance.randrange(size))
        last = min(first + size, len(words)) - 1
        while any(words[i].is_last for i in range(first, place)):
            first += 1
        while any(words[i].is_last for i in range(place, last)):
            last -= 1
        return " ".join(word.text for word in words[first : last + 1])


def words_of(text: str) -> list[Word]:
    """The words of a transcript, without what is punctuation only."""
    found: list[Word] = []
    for raw in text.split():
        plain = raw.strip(MARKS)
        if not plain or (found and raw[0] in MARKS):
            found[-1:] = [word._replace(is_last=True) for word in found[-1:]]
        if plain:
            found.append(Word(plain, plain.lower(), raw[-1] in MARKS))
    return found
