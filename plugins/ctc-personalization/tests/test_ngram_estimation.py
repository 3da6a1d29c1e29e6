"""Language models from text: Kneser-Ney by its definition, sums of one, sane on tiny texts."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from slt_ctc_personalization.language_model.build_lm import FALLBACK, build_lm, estimate
from slt_ctc_personalization.language_model.ngram import load_lm
from slt_ctc_personalization.language_model.ngram_tables import build_model
from sltcore.errors import DataError

WORDS = list("abcdefgh")


def text(seed: int, lines: int = 60) -> list[str]:
    rng = random.Random(seed)
    weights = [1 / (index + 1) for index in range(len(WORDS))]
    return [" ".join(rng.choices(WORDS, weights=weights, k=rng.randint(1, 6))) for _ in range(lines)]


def next_word_sum(model, context: list[str]) -> float:  # type: ignore[no-untyped-def]
    words = [word for word in model.words if word not in ("<s>", "</s>")]
    before = model.score(context, eos=False)
    following = [model.score([*context, word], eos=False) - before for word in words]
    return sum(map(math.exp, [*following, model.score(context) - before]))


@pytest.mark.parametrize("options", [{}, {"prune": (0, 0, 1)}, {"prune": (0, 1, 2)}, {"vocabulary": 5}])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one_after_every_context(order: int, options: dict[str, object]) -> None:
    model = build_lm(text(order), order=order, **options)  # type: ignore[arg-type]
    for length in range(3):
        for context in itertools.islice(itertools.product([*WORDS[:4], "unheard"], repeat=length), 40):
            assert next_word_sum(model, list(context)) == pytest.approx(1.0, abs=1e-4)


def kneser_ney(lines: list[str], order: int):  # type: ignore[no-untyped-def]
    """The formulas of the module, by dictionaries and recursion: p(word | context)."""
    padded = [["<s>", *line.split(), "</s>"] for line in lines]
    raw = {
        size: Counter(tuple(s[i : i + size]) for s in padded for i in range(len(s) - size + 1))
        for size in range(1, order + 1)
    }
    counts: dict[int, dict[tuple[str, ...], int]] = {order: dict(raw[order])}
    for size in range(1, order):
        left = Counter(ngram[1:] for ngram in raw[size + 1])
        counts[size] = {ngram: raw[size][ngram] if ngram[0] == "<s>" else left[ngram] for ngram in raw[size]}
    counts[1].pop(("<s>",), None)
    vocabulary = {word for s in padded for word in s} - {"<s>"} | {"<unk>"}

    def discount(size: int, count: int) -> float:
        n = [0, *(sum(1 for c in counts[size].values() if c == k) for k in (1, 2, 3, 4))]
        found = None
        if min(n[1:4]) > 0:
            y = n[1] / (n[1] + 2 * n[2])
            found = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
        if found is None or not all(0 < d <= k for k, d in enumerate(found, start=1)):
            found = list(FALLBACK)
        return found[min(count, 3) - 1]

    def p(context: tuple[str, ...], word: str) -> float:
        size = len(context) + 1
        following = {ngram[-1]: c for ngram, c in counts[size].items() if ngram[:-1] == context}
        lower = p(context[1:], word) if context else 1 / len(vocabulary)
        if not following:
            return lower
        total = sum(following.values())
        mass = sum(discount(size, c) for c in following.values())
        own = following.get(word, 0)
        return (own - discount(size, own) if own else 0) / total + mass / total * lower

    return p, vocabulary


@pytest.mark.parametrize(("order", "lines"), [(1, 60), (2, 60), (3, 60), (3, 400), (3, 3), (4, 150)])
def test_probabilities_equal_the_kneser_ney_formulas(order: int, lines: int) -> None:
    sentences = text(11, lines)
    model = build_lm(sentences, order=order)
    p, vocabulary = kneser_ney(sentences, order)
    rng = random.Random(0)
    for _ in range(60):
        context = rng.choices(WORDS, k=rng.randint(0, 3))
        history = ("<s>", *context)[max(0, len(context) + 2 - order) :] if order > 1 else ()
        word = rng.choice(sorted(vocabulary - {"</s>", "<unk>"}))
        found = model.score([*context, word], eos=False) - model.score(context, eos=False)
        assert found == pytest.approx(math.log(p(history, word)), abs=1e-4)
    assert model.score([]) == pytest.approx(math.log(p(("<s>",) if order > 1 else (), "</s>")), abs=1e-4)


def test_text_of_one_word_gives_a_usable_model() -> None:
    model = build_lm(["hello"], order=3)
    assert math.isfinite(model.score(["hello"]))
    assert math.isfinite(model.score(["other", "words"]))
    assert model.score(["hello"]) > model.score(["other"])


def test_a_word_limit_moves_the_rest_to_unk() -> None:
    model = build_lm(["a a a b b c", "a b d"], order=2, vocabulary=2)
    assert model.words == ["<unk>", "<s>", "</s>", "a", "b"]
    assert build_lm(["a b"], order=2, vocabulary=["b", "z"]).words == ["<unk>", "<s>", "</s>", "b", "z"]


def test_pruned_models_are_smaller_and_list_every_context_and_suffix() -> None:
    full, pruned = estimate(text(2, 300), order=3), estimate(text(2, 300), order=3, prune=(0, 1, 2))
    assert [len(rows) for rows in pruned.ngrams[1:]] < [len(rows) for rows in full.ngrams[1:]]
    assert len(pruned.ngrams[0]) == len(full.ngrams[0])
    for level in (1, 2):
        listed = set(map(tuple, pruned.ngrams[level - 1].tolist()))
        assert {tuple(row[:-1]) for row in pruned.ngrams[level].tolist()} <= listed
        assert {tuple(row[1:]) for row in pruned.ngrams[level].tolist()} <= listed


def test_the_written_file_is_the_model(tmp_path: Path) -> None:
    model = build_lm(text(3), order=3, out=tmp_path / "lm.arpa.gz")
    again = load_lm(tmp_path / "lm.arpa.gz")
    assert again.words == model.words
    assert np.array_equal(again.tables.slots, model.tables.slots)


def test_a_model_of_more_text_predicts_held_out_text_better() -> None:
    """On text with word order in it, three words of context beat one."""
    rng = random.Random(0)
    chain = {word: rng.sample(WORDS, 2) for word in WORDS}

    def sentence() -> str:
        words = [rng.choice(WORDS)]
        while len(words) < 8:
            words.append(rng.choice(chain[words[-1]]))
        return " ".join(words)

    train, test = [sentence() for _ in range(300)], [sentence() for _ in range(50)]
    scores = [sum(build_lm(train, order=order).score(line.split()) for line in test) for order in (1, 2)]
    assert scores[1] > scores[0] + 50 * 8 * 0.5


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ([], {}, "holds no word"),
        (["", "   "], {}, "holds no word"),
        (["a <s> b"], {}, "holds <s> as a word"),
        (["a"], {"order": 0}, "order is 0"),
        (["a"], {"order": 99}, "order is 99"),
        (["a"], {"prune": (1,)}, "must begin with 0"),
        (["a"], {"prune": (0, 2, 1)}, "never fall"),
        (["a"], {"vocabulary": 0}, "at least 1 word"),
    ],
)
def test_impossible_requests_are_refused(lines: list[str], options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_lm(lines, **options)  # type: ignore[arg-type]


def test_the_written_words_cannot_break_the_file() -> None:
    arpa = estimate(["naïve can't \\end\\ -1.5", "ngram 1=3"], order=2)
    model = build_model(arpa)
    assert all(math.isfinite(model.score([word])) for word in ("naïve", "\\end\\", "-1.5"))
