"""A synthetic language and peaky CTC log-probabilities for `ctc_beam.py`; needs numpy alone, everything is seeded."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LABELS = ["", " ", *"abcdefghijklmnopqrstuvwxyz'-", "é", "ü"]
BLANK, SPACE = 0, 1
FRAMES_PER_S = 50
DISCOUNT = 0.75
PHRASE_LETTERS = 6  # shorter words of a list fire everywhere, with any decoder


class Corpus(NamedTuple):
    """Reference texts, log-probabilities [b t v] float32, phrases of 0, 100 and 5,000 words, and the model's file."""

    references: list[str]
    log_probs: npt.NDArray[np.float32]
    rare: list[str]
    phrases: dict[int, list[str]]
    arpa: Path


class Language:
    """20,000 words with Zipf frequencies; a word prefers 20 successors, so that histories carry information."""

    def __init__(self, words: int, rng: np.random.Generator) -> None:
        self.rng = rng
        letters = np.array(list(LABELS[2:]))
        weights = 1.0 / np.arange(1, len(letters) + 1) ** 0.7
        weights /= weights.sum()
        found: dict[str, None] = {}
        while len(found) < words:
            size = 2 + rng.binomial(10, min(0.25 + 0.2 * len(found) / words, 0.6))
            found["".join(rng.choice(letters, size, p=weights))] = None
        self.words = list(found)
        frequency = 1.0 / (np.arange(words) + 3.0) ** 0.95
        self.cumulative = np.cumsum(frequency / frequency.sum())
        tail = range(words // 2, words)
        self.rare = [word for word in tail if len(self.words[word]) >= PHRASE_LETTERS]
        self.successors = np.searchsorted(self.cumulative, rng.random((words, 20)))

    def sentence(self, size: int) -> list[int]:
        """Word ids; 55 % of the words are among the favourites of the word before."""
        ids: list[int] = []
        for _ in range(size):
            if ids and self.rng.random() < 0.55:
                ids.append(int(self.successors[ids[-1], min(int(self.rng.exponential(5.0)), 19)]))
            else:
                ids.append(int(min(np.searchsorted(self.cumulative, self.rng.random()), len(self.words) - 1)))
        return ids


def write_arpa(language: Language, path: Path, *, sentences: int) -> None:
    """A 3-gram model with absolute discounting, interpolated, written as back-off probabilities."""
    counts: list[Counter[tuple[int, ...]]] = [Counter(), Counter(), Counter()]
    begin, end = -1, -2
    for _ in range(sentences):
        ids = [begin, *language.sentence(12), end]
        for order in (1, 2, 3):
            counts[order - 1].update(zip(*(ids[i:] for i in range(order)), strict=False))
    counts[0][(begin,)] = 0
    counts[2] = Counter({gram: count for gram, count in counts[2].items() if count > 1})
    names = {begin: "<s>", end: "</s>"} | dict(enumerate(language.words))
    total = sum(counts[0].values())
    kinds = len(language.words) + 2
    held = DISCOUNT * sum(1 for count in counts[0].values() if count) / total
    unigram = {(w,): max(counts[0][(w,)] - DISCOUNT, 0.0) / total + held / kinds for w in [*range(kinds - 2), end]}
    probabilities: list[dict[tuple[int, ...], float]] = [unigram, {}, {}]
    backoffs: list[dict[tuple[int, ...], float]] = [{}, {}]
    for order in (2, 3):
        histories: defaultdict[tuple[int, ...], list[int]] = defaultdict(lambda: [0, 0])
        for gram, count in counts[order - 1].items():
            histories[gram[:-1]][0] += count
            histories[gram[:-1]][1] += 1
        for history, (mass, types) in histories.items():
            backoffs[order - 2][history] = DISCOUNT * types / mass
        lower = probabilities[order - 2]
        for gram, count in counts[order - 1].items():
            share = (count - DISCOUNT) / histories[gram[:-1]][0]
            probabilities[order - 1][gram] = share + backoffs[order - 2][gram[:-1]] * lower[gram[1:]]
    with path.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        sizes = [kinds + 1, len(probabilities[1]), len(probabilities[2])]
        file.writelines(f"ngram {order}={size}\n" for order, size in enumerate(sizes, 1))
        file.write(f"\n\\1-grams:\n{math.log10(held / kinds):.6f}\t<unk>\n")
        file.write(f"-99\t<s>\t{math.log10(backoffs[0].get((begin,), 1.0)):.6f}\n")
        for order in (1, 2, 3):
            if order > 1:
                file.write(f"\n\\{order}-grams:\n")
            for gram, value in probabilities[order - 1].items():
                words = " ".join(names[w] for w in gram)
                tail = ""
                if order < 3 and gram[-1] != end:
                    tail = f"\t{math.log10(backoffs[order - 1].get(gram, 1.0)):.6f}"
                file.write(f"{math.log10(value):.6f}\t{words}{tail}\n")
        file.write("\n\\end\\\n")


def speak(text: str, frames: int, rng: np.random.Generator, error: float) -> npt.NDArray[np.float32]:
    """Log-probabilities [t v] of a peaky model: one or two frames a letter, blank between, confusions now and then."""
    size = len(LABELS)
    logits = rng.normal(-11.0, 1.5, (frames, size))
    logits[:, BLANK] = 0.0
    ids = [LABELS.index(letter) for letter in text]
    places = np.sort(rng.choice(frames // 2, len(ids), replace=False)) * 2
    for place, label in zip(places, ids, strict=True):
        logits[place, BLANK] = rng.normal(-4.5, 1.0)
        logits[place, label] = 0.0
        if rng.random() < 0.15:
            logits[place, rng.integers(1, size)] = rng.normal(-3.5, 1.0)
        if rng.random() < error:
            other = SPACE + 1 + (label * 7 + int(rng.integers(0, 4))) % (size - 2)
            kind = rng.random()
            if kind < 0.7:  # heard as another letter
                logits[place, other] = rng.uniform(0.2, 2.0)
            elif kind < 0.9:  # swallowed
                logits[place, BLANK] = rng.uniform(0.2, 2.0)
            elif place + 1 < frames:  # something extra behind
                logits[place + 1, other] = rng.uniform(0.2, 1.5)
        if rng.random() < 0.3 and place + 1 < frames and logits[place + 1, BLANK] == 0.0:
            logits[place + 1, label] = rng.normal(0.5, 0.5)
    top = logits.max(axis=1, keepdims=True)
    return (logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))).astype(np.float32)


def make(
    folder: Path, *, seed: int, utterances: int, words: int, seconds: float, sentences: int, error: float
) -> Corpus:
    """The language, its model in `folder`, and `utterances` of `seconds` each with a rare word in every second one."""
    rng = np.random.default_rng(seed)
    language = Language(words, rng)
    arpa = folder / f"lm{seed}.arpa"
    write_arpa(language, arpa, sentences=sentences)
    frames = int(seconds * FRAMES_PER_S)
    references, log_probs, rare = [], [], []
    for index in range(utterances):
        ids = language.sentence(60)
        if index % 2 == 0:
            ids[3] = int(rng.choice(language.rare))
        text = ""
        for position, word in enumerate(ids):
            longer = f"{text} {language.words[word]}".strip()
            if len(longer) > frames // 2 * 0.55:
                break
            text = longer
            if position == 3 and index % 2 == 0:
                rare.append(language.words[word])
        references.append(text)
        log_probs.append(speak(text, frames, rng, error))
    half = list(dict.fromkeys(rare))[:50]
    long_words = [word for word in language.words[words // 20 :] if len(word) >= PHRASE_LETTERS]
    others = [word for word in rng.permutation(long_words).tolist() if word not in set(rare)]
    phrases = {
        0: [],
        100: half + others[: 100 - len(half)],
        5000: list(dict.fromkeys(rare)) + others[: 5000 - len(set(rare))],
    }
    return Corpus(references, np.stack(log_probs), rare, phrases, arpa)


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Word errors (Levenshtein) and words of the reference."""
    left, right = reference.split(), hypothesis.split()
    row = list(range(len(right) + 1))
    for i, word in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1], len(left)


def greedy(log_probs: npt.NDArray[np.float32]) -> str:
    """The text of the likeliest label of each frame."""
    ids = log_probs.argmax(axis=1)
    kept = ids[np.r_[True, ids[1:] != ids[:-1]]]
    return " ".join("".join(LABELS[i] for i in kept if i != BLANK).split())
