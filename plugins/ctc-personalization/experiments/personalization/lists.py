"""The words of the experiment: listed words that nothing was trained on, distractors, and utterances by part.

Parts of a corpus' training split, by the hash of the text: 0 to 60 % for the base, 60 to 90 % for the phone head, both
for the adapter, 90 to 100 % (dev) for settings. The test split shares no text with any of them. A listed word occurs in
the part it is measured on and in no text that anything was trained on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from slt_ctc_personalization.lexicon.lexicon import cmu_dictionary
from sltcore.data.cache import cache_folder
from sltcore.data.corpora import DebianPackage
from sltcore.data.debian import fetch
from sltcore.data.examples import Example, read_examples
from sltcore.spec.training import DataConfig

CORPORA = {"en": ("asterisk-en", "flight-of-the-amazon-queen"), "cs": ("fillets-cs",)}
PHONES, DEV = (0.6, 0.9), (0.9, 1.0)
LEAST_LETTERS = 3
"""Shorter words are not listed: nobody hands over "uh", and they would misfire."""


class Task(NamedTuple):
    """Utterances and the words of theirs that are listed."""

    examples: Sequence[Example]
    words: Sequence[str]

    @property
    def texts(self) -> list[str]:
        """The references."""
        return [example.item.text or "" for example in self.examples]


def examples_of(language: str, split: str, part: tuple[float, float] = (0.0, 1.0)) -> Sequence[Example]:
    """The utterances of a split of the language's corpora."""
    entries = [DataConfig.model_validate({"corpus": name, "split": split, "part": part}) for name in CORPORA[language]]
    return read_examples(entries)


def texts_of(examples: Iterable[Example]) -> list[str]:
    """Their references."""
    return [example.item.text or "" for example in examples]


def task(language: str, part: str) -> Task:
    """`dev` or `test` with its listed words: those that no text before it holds, of three letters and more."""
    known = set(" ".join(texts_of(examples_of(language, "train", (0.0, DEV[0])))).split())
    if part == "dev":
        examples = examples_of(language, "train", DEV)
    else:
        known |= set(" ".join(texts_of(examples_of(language, "train", DEV))).split())
        examples = examples_of(language, "test")
    counts = Counter(word for text in texts_of(examples) for word in text.split())
    return Task(examples, sorted(word for word in counts if word not in known and len(word) >= LEAST_LETTERS))


LIBRISPEECH = "librispeech-mini"


def librispeech() -> tuple[Task, list[list[str]]]:
    """Read English of seven other speakers, and for each utterance its published list: its own rare words and 100 others.

    Utterances come from the folder that SLT_DATA names; both parts of the corpus, for nothing was trained on either.
    """
    entries = [DataConfig.model_validate({"corpus": LIBRISPEECH, "split": split}) for split in ("train", "test")]
    examples = read_examples(entries)
    letters = alphabet("en")
    own = [[word for word in example.item.extra["biasing_list"] if set(word) <= letters] for example in examples]
    words = sorted({word for example in examples for word in example.item.extra["rare_words"]})
    return Task(examples, words), own


def distractors(language: str, count: int, seed: int = 0) -> list[str]:
    """So many words of the language's dictionary that stand in no text of its corpora; longer lists begin with shorter
    ones."""
    said = set(" ".join(texts_of([*examples_of(language, "train"), *examples_of(language, "test")])).split())
    letters = alphabet(language)
    words = [w for w in dictionary(language) if len(w) >= LEAST_LETTERS and w not in said and set(w) <= letters]
    words.sort(key=lambda word: hashlib.sha256(f"{seed} {word}".encode()).digest())
    if len(words) < count:
        raise SystemExit(
            f"the dictionary of {language} has {len(words):,} words that can be distractors, not {count:,}"
        )
    return words[:count]


def alphabet(language: str) -> set[str]:
    """The letters of the language's base."""
    more = {"en": "'", "cs": "áčďéěíňóřšťúůýž"}
    return set("abcdefghijklmnopqrstuvwxyz" + more[language])


@cache
def dictionary(language: str) -> tuple[str, ...]:
    """Words: the CMU dictionary, or the stems of the Debian package hunspell-cs."""
    if language == "en":
        return tuple(sorted({word for word in cmu_dictionary() if word.isalpha()}))
    package = DebianPackage("hunspell-cs", {})
    (folder,) = fetch([package], cache_folder() / "debian", print)
    lines = next(folder.rglob("cs_CZ.dic")).read_text(encoding="utf-8").splitlines()[1:]
    return tuple(sorted({line.partition("/")[0].strip() for line in lines if line[:1].islower()}))
