"""The words of the updates and who says them: eight sets of five, divided by voice and by text.

The base of the experiment has met no utterance with one of the forty words, of either split of its corpora. Here all of
them are divided: what `TEST_VOICES` say is for dev and test, what the others say teaches. No text stands on both sides.
General audio is what holds none of the words: the corpora's own training part teaches silence, their test part is the
test.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import yaml

from sltcore.audio import read_audio
from sltcore.data.examples import Example, read_examples
from sltcore.data.splits import fraction
from sltcore.experiment.discover import find_experiment
from sltcore.spec.training import DataConfig

BASE_EXPERIMENT = "speech/transducer"
CORPORA = ("asterisk-en", "flight-of-the-amazon-queen")
SET_SIZE = 5
TEST_VOICES = ("joe", "sparky", "faye", "chef", "jim")
"""Roles whose utterances with the words teach nothing; joe, the hero, has a third of the lines."""
DEV = 0.84
"""Texts whose hash is at least that are dev: settings are chosen on them."""
LEAST = 3
"""Training utterances that each word has."""
GENERAL_POOL = 900
RATE = 16000

Sets = Sequence[Sequence[str]]


class Division(NamedTuple):
    """`train`: for each set what teaches it. `dev`, `test`: utterances with words of any sets. `general_*`: with none."""

    train: list[list[Example]]
    dev: list[Example]
    test: list[Example]
    general_train: list[Example]
    general_dev: list[Example]
    general_test: list[Example]


def new_words() -> list[str]:
    """The words that the base's experiment leaves out, in its order."""
    spec = yaml.safe_load(find_experiment(BASE_EXPERIMENT).path.read_text(encoding="utf-8"))
    words: list[str] = spec["stages"]["letters"]["data"]["train"][0]["without_words"]
    return words


def in_sets(words: Sequence[str], size: int = SET_SIZE) -> list[list[str]]:
    """Neighbours together."""
    return [list(words[begin : begin + size]) for begin in range(0, len(words), size)]


def text_of(example: Example) -> str:
    """What is said."""
    return example.item.text or ""


def sets_in(text: str, sets: Sets) -> list[int]:
    """The sets of which a text holds a word."""
    said = set(text.split())
    return [number for number, words in enumerate(sets) if said & set(words)]


def read_all(words: Sequence[str], **kept: list[str]) -> list[Example]:
    """The utterances of both corpora by split and words."""
    entries = [
        {"corpus": corpus, "split": split, which: list(words)}
        for which, splits in kept.items()
        for split in splits
        for corpus in CORPORA
    ]
    return list(read_examples([DataConfig.model_validate(entry) for entry in entries]))


def divide(taught: Iterable[Example], general: Iterable[Example], held_out: Iterable[Example], sets: Sets) -> Division:
    """Utterances with the words by voice and text; `general` and `held_out` hold none of them.

    A text of dev or test teaches nothing, whoever says it. An utterance with words of two sets would let one update read
    the data of another, so it teaches nothing either; only a word that has fewer than `LEAST` utterances without it keeps
    it, for that word's set alone.
    """
    taught = list(taught)
    measured = [example for example in taught if example.item.speaker in TEST_VOICES]
    held_out = list(held_out)
    known = {text_of(example) for example in [*measured, *held_out]}
    rest = [e for e in taught if e.item.speaker not in TEST_VOICES and text_of(e) not in known]
    train: list[list[Example]] = [[] for _ in sets]
    several = []
    for example in rest:
        found = sets_in(text_of(example), sets)
        if len(found) == 1:
            train[found[0]].append(example)
        else:
            several.append((example, found))
    for number, words in enumerate(sets):
        for word in words:
            for example, found in several:
                if number in found and word in text_of(example).split() and occurrences(train[number], word) < LEAST:
                    train[number].append(example)
    return Division(
        train,
        [example for example in measured if fraction(text_of(example)) >= DEV],
        [example for example in measured if fraction(text_of(example)) < DEV],
        _pool([example for example in general if text_of(example) not in known]),
        [example for example in held_out if fraction(text_of(example)) >= DEV],
        [example for example in held_out if fraction(text_of(example)) < DEV],
    )


def _pool(general: list[Example]) -> list[Example]:
    """As many general training utterances as the updates need, by a hash of the id."""
    return sorted(general, key=lambda example: fraction(example.item.id))[:GENERAL_POOL]


def occurrences(examples: Iterable[Example], word: str) -> int:
    """How many utterances hold a word."""
    return sum(word in text_of(example).split() for example in examples)


def division() -> tuple[Division, list[list[str]]]:
    """That of the corpora, and the sets."""
    words = new_words()
    sets = in_sets(words)
    taught = read_all(words, with_words=["train", "test"])
    general = read_all(words, without_words=["train"])
    held_out = read_all(words, without_words=["test"])
    return divide(taught, general, held_out, sets), sets


def counts(found: Division, sets: Sets) -> list[dict[str, Any]]:
    """A row for each word: utterances that teach it, of dev, and of the test."""
    return [
        {
            "set": number + 1, "word": word, "train": occurrences(found.train[number], word),
            "dev": occurrences(found.dev, word), "test": occurrences(found.test, word),
        }
        for number, words in enumerate(sets)
        for word in words
    ]  # fmt: skip


def check(found: Division, sets: Sets) -> None:
    """**Raises** `SystemExit` where a promise of the division does not hold."""
    taught = [example for one in found.train for example in one]
    texts = {text_of(e) for e in [*found.dev, *found.test, *found.general_dev, *found.general_test]}
    shared = sorted({text_of(e) for e in [*taught, *found.general_train]} & texts)
    if shared:
        raise SystemExit(f"a text teaches and is measured: '{shared[0]}'")
    voices = {e.item.speaker for e in taught} & {e.item.speaker for e in [*found.dev, *found.test]}
    if voices:
        raise SystemExit(f"a voice teaches words and is measured: {', '.join(sorted(map(str, voices)))}")
    for row in counts(found, sets):
        if row["train"] < LEAST:
            raise SystemExit(f"'{row['word']}' has {row['train']} training utterances, fewer than {LEAST}")
    least = Counter[int]()
    for row in counts(found, sets):
        least[row["set"]] += row["test"]
    if min(least.values()) < 20:
        raise SystemExit(f"a set has fewer than 20 test utterances: {dict(least)}")


def write_manifest(path: Path, rows: Iterable[tuple[str, np.ndarray[Any, Any], str, str]]) -> Path:
    """Sound and texts as files that any spec can name: id, samples at 16 kHz, text and voice of each utterance."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, samples, text, voice in rows:
        soundfile.write(folder / f"{name}.wav", samples, RATE)
        lines.append([name, f"{folder.name}/{name}.wav", text, voice, f"{len(samples) / RATE:.3f}"])
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "audio", "text", "speaker", "seconds"], *lines])
    part.rename(path)
    return path


def sounds(examples: Sequence[Example], name: str) -> Iterable[tuple[str, np.ndarray[Any, Any], str, str]]:
    """Recordings as `write_manifest` takes them."""
    for number, example in enumerate(examples):
        samples = read_audio(example.item.source, RATE).samples
        yield f"{name}-{number:04d}", samples, text_of(example), example.item.speaker or ""
