"""A synthetic language, its 3-gram model, and peaky CTC log-probabilities for `ctc_beam.py`; everything is seeded."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from ctc_beam_subwords import LETTERS, Alphabet, characters

LABELS = ["", " ", *LETTERS]
BLANK, SPACE = 0, 1
FRAMES_PER_S = 50
LETTERS_PER_S = 13.75
DISCOUNT = 0.75
PHRASE_LETTERS = 6  # shorter words of a list fire everywhere, with any decoder
WANTED = 50
NAMES = 12_000
LIST_SIZES = (0, 100, 5_000, 20_000)


class Corpus(NamedTuple):
    """Reference texts, log-probabilities [b t v] float32, for each utterance the words and their frames, phrases by the
    size of the list, and the language model's file."""

    references: list[str]
    log_probs: npt.NDArray[np.float32]
    spans: list[list[tuple[str, int, int]]]
    phrases: dict[int, list[str]]
    arpa: Path


class Language:
    """20,000 words with Zipf frequencies; a word prefers 20 successors, so that histories carry information.

    `names` are words that no sentence holds. `wanted`: what the users of the list want to be heard, words of the tail and
    names. `long_words` and names in an order of their own fill the lists.
    """

    def __init__(self, words: int, rng: np.random.Generator) -> None:
        self.rng = rng
        letters = np.array(LETTERS)
        weights = 1.0 / np.arange(1, len(letters) + 1) ** 0.7
        weights /= weights.sum()
        found: dict[str, None] = {}
        while len(found) < words + NAMES:
            size = 2 + rng.binomial(10, min(0.25 + 0.2 * min(len(found) / words, 1.0), 0.6))
            if len(found) >= words:
                size = max(size, PHRASE_LETTERS)
            found["".join(rng.choice(letters, size, p=weights))] = None
        self.words, self.names = list(found)[:words], list(found)[words:]
        frequency = 1.0 / (np.arange(words) + 3.0) ** 0.95
        self.cumulative = np.cumsum(frequency / frequency.sum())
        self.successors = np.searchsorted(self.cumulative, rng.random((words, 20)))
        tail = [word for word in self.words[words // 2 :] if len(word) >= PHRASE_LETTERS]
        self.wanted = [*rng.choice(tail, WANTED // 2, replace=False).tolist(), *self.names[: WANTED // 2]]
        long_words = [word for word in self.words[words // 20 :] if len(word) >= PHRASE_LETTERS]
        others = rng.permutation([*long_words, *self.names[WANTED // 2 :]]).tolist()
        self.list = list(dict.fromkeys([*self.wanted, *others]))

    def sentence(self, size: int, rng: np.random.Generator | None = None) -> list[int]:
        """Word ids; 55 % of the words are among the favourites of the word before."""
        rng = self.rng if rng is None else rng
        ids: list[int] = []
        for _ in range(size):
            if ids and rng.random() < 0.55:
                ids.append(int(self.successors[ids[-1], min(int(rng.exponential(5.0)), 19)]))
            else:
                ids.append(int(min(np.searchsorted(self.cumulative, rng.random()), len(self.words) - 1)))
        return ids

    def counts(self) -> dict[str, int]:
        """How often each word stands in a text of 400,000 words, rounded up: what sub-words are trained on."""
        shares = np.diff(self.cumulative, prepend=0.0)
        return {word: int(np.ceil(400_000 * share)) for word, share in zip(self.words, shares, strict=True)}


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


def speak(
    words: Sequence[Sequence[int]], frames: int, rng: np.random.Generator, alphabet: Alphabet
) -> tuple[npt.NDArray[np.float32], list[tuple[int, int]]]:
    """Log-probabilities [t v] of a peaky model, and the frames of each word.

    One or two frames a label, blank between; now and then a label is heard as another one, swallowed, or doubled by one.
    """
    size = len(alphabet.labels)
    logits = rng.normal(-11.0, 1.5, (frames, size))
    logits[:, BLANK] = 0.0
    ids = [label for word in words for label in word]
    places = np.sort(rng.choice(frames // 2, len(ids), replace=False)) * 2
    for place, label in zip(places, ids, strict=True):
        logits[place, BLANK] = rng.normal(-4.5, 1.0)
        logits[place, label] = 0.0
        if rng.random() < 0.15:
            logits[place, rng.integers(1, size)] = rng.normal(-3.5, 1.0)
        if rng.random() < alphabet.error:
            other = alphabet.confusions[label, int(rng.integers(0, 4))]
            kind = rng.random()
            if kind < 0.7:  # heard as another label
                logits[place, other] = rng.uniform(0.2, 2.0)
            elif kind < 0.9:  # swallowed
                logits[place, BLANK] = rng.uniform(0.2, 2.0)
            elif place + 1 < frames:  # something extra behind
                logits[place + 1, other] = rng.uniform(0.2, 1.5)
        if rng.random() < 0.3 and place + 1 < frames and logits[place + 1, BLANK] == 0.0:
            logits[place + 1, label] = rng.normal(0.5, 0.5)
    top = logits.max(axis=1, keepdims=True)
    ends = np.cumsum([len(word) for word in words])
    spans = [(int(places[end - len(word)]), int(places[end - 1]) + 1) for word, end in zip(words, ends, strict=True)]
    return (logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))).astype(np.float32), spans


def utter(language: Language, arpa: Path, alphabet: Alphabet, *, seed: int, utterances: int, seconds: float) -> Corpus:
    """`utterances` of `seconds` each, in every one two words of the list of 100.

    Half of the wanted words are from the tail of the language, half are names that no sentence of the language model
    holds. All lists hold the 50 wanted words; the rest are words of the language and names that were not said on purpose.
    """
    rng = np.random.default_rng(seed)
    letters = int(seconds * LETTERS_PER_S)
    references, log_probs, spans = [], [], []
    for _ in range(utterances):
        words = [language.words[i] for i in language.sentence(60, rng)]
        words[2], words[6] = rng.choice(language.wanted, 2, replace=False).tolist()
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        words = words[: int(np.searchsorted(ends, letters, side="right"))]
        values, places = speak(
            alphabet.written(" ".join(words), rng), int(seconds * alphabet.frames_per_s), rng, alphabet
        )
        references.append(" ".join(words))
        log_probs.append(values)
        spans.append([(word, *place) for word, place in zip(words, places, strict=True)])
    phrases = {count: language.list[:count] for count in LIST_SIZES}
    return Corpus(references, np.stack(log_probs), spans, phrases, arpa)


def make(
    folder: Path, *, seed: int, utterances: int, words: int, seconds: float, sentences: int, error: float
) -> Corpus:
    """A language, its model in `folder`, and its utterances in characters; `error`: how often a letter is misheard."""
    language = Language(words, np.random.default_rng(seed))
    arpa = folder / f"lm{seed}.arpa"
    write_arpa(language, arpa, sentences=sentences)
    alphabet = replace(characters(), error=error)
    return utter(language, arpa, alphabet, seed=seed, utterances=utterances, seconds=seconds)


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Word errors (Levenshtein) and words of the reference."""
    left, right = reference.split(), hypothesis.split()
    row = list(range(len(right) + 1))
    for i, word in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1], len(left)


def greedy(log_probs: npt.NDArray[np.float32], alphabet: Alphabet) -> str:
    """The text of the likeliest label of each frame."""
    ids = log_probs.argmax(axis=1)
    kept = ids[np.r_[True, ids[1:] != ids[:-1]]]
    return alphabet.text(kept[kept != BLANK])
