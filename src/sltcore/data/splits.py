"""Train and test, by rule: never one utterance at a time, always by its words, and by speaker where there are many.

The rules, by name:

- `seeded-text`: the distinct normalised texts, sorted, shuffled by `random.Random(7)`, the first 15 % are the test
  part. Exact only while the corpus is: a text more or less moves others.
- `text`: a text is in the test part when the SHA-256 of its normalised words, read as a fraction, is below 0.15. A text
  stays where it is whatever else the corpus holds.
- `speaker-and-text`: speakers are taken in the order of the SHA-256 of their names into the test part while it holds
  less than 15 % of the utterances; a speaker with more than 10 % stays in training. An utterance of a training speaker
  whose words occur in the test part is in neither: it is the part "overlap".

- `files`: as the corpus's own files say.

Before any rule, an utterance without words, with a number that cannot be spelled, or outside 0.3 to 20 s is "unused";
under `files` the length does not count, for the corpus has chosen.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from sltcore.data.rows import Row

TEST_SHARE = 0.15
LARGEST_TEST_SPEAKER = 0.10
SHORTEST_S, LONGEST_S = 0.3, 20.0
_SEED = 7


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the first 64 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def assign(rows: Sequence[Row], rule: str) -> list[Row]:
    """The rows with their `split` set by the named rule; those that no rule may use are "unused"."""
    marked = [_usable(row, any_length=rule == "files") for row in rows]
    decide = RULES[rule]([row for row in marked if row.split != "unused"])
    return [row if row.split == "unused" else replace(row, split=decide(row)) for row in marked]


def _usable(row: Row, *, any_length: bool) -> Row:
    if row.split == "unused":
        return row
    if not row.text:
        return replace(row, split="unused", note=row.note or "no words")
    if not any_length and not SHORTEST_S <= row.seconds <= LONGEST_S:
        return replace(row, split="unused", note=f"outside {SHORTEST_S} to {LONGEST_S:.0f} s")
    return row


def _seeded_text(rows: Sequence[Row]) -> Callable[[Row], str]:
    texts = sorted({row.text for row in rows})
    random.Random(_SEED).shuffle(texts)
    test = set(texts[: round(TEST_SHARE * len(texts))])
    return lambda row: "test" if row.text in test else "train"


def _text(rows: Sequence[Row]) -> Callable[[Row], str]:
    return lambda row: "test" if fraction(row.text) < TEST_SHARE else "train"


def _speaker_and_text(rows: Sequence[Row]) -> Callable[[Row], str]:
    counts = Counter(row.speaker for row in rows)
    test: set[str] = set()
    held = 0
    for speaker in sorted(counts, key=fraction):
        if counts[speaker] <= LARGEST_TEST_SPEAKER * len(rows) and held < TEST_SHARE * len(rows):
            test.add(speaker)
            held += counts[speaker]
    texts = {row.text for row in rows if row.speaker in test}

    def decide(row: Row) -> str:
        if row.speaker in test:
            return "test"
        return "overlap" if row.text in texts else "train"

    return decide


def _files(rows: Sequence[Row]) -> Callable[[Row], str]:
    return lambda row: row.split


RULES: dict[str, Callable[[Sequence[Row]], Callable[[Row], str]]] = {
    "seeded-text": _seeded_text,
    "text": _text,
    "speaker-and-text": _speaker_and_text,
    "files": _files,
}
