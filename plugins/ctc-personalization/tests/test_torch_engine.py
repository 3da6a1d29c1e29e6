"""The batched torch search gives what the compiled search gives: texts, labels, order and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from beam_cases import LETTERS, TEXTS, batch, make, path_of
from beam_references import random_log_probs

from slt_ctc_personalization.beam_search.search import BeamSearch, Phrase
from slt_ctc_personalization.evidence.evidence import Evidence
from slt_ctc_personalization.language_model.build_lm import build_lm
from slt_ctc_personalization.torch_search.torch_engine import TorchEngine
from sltcore.errors import DataError, PluginError, ShapeError, VocabularyError

PIECES = ["-", "▁", "▁a", "▁b", "▁ab", "a", "b", "ba", "c", "▁c", "ca", "▁bab"]
PLAIN = ["-", *"abcde"]
KINDS = {"letters": (LETTERS, 1), "pieces": (PIECES, None), "plain": (PLAIN, None)}
WORDS = ["abba fed", "bad face", "a bead", "bad abba fed", "cafe bad face", "ab ab", "ba c a"]


def model_of(kind: str, unit: str, rng: np.random.Generator) -> Any:
    if unit == "none":
        return None
    order = int(rng.integers(1, 4))
    if unit == "word" and kind != "plain":
        return build_lm(WORDS, order=order)
    labels = [label for label in KINDS[kind][0][1:] if label != " "]
    return build_lm([" ".join(rng.choice(labels, 8)) for _ in range(12)], order=order)


def random_search(kind: str, unit: str, rng: np.random.Generator, **settings: Any) -> BeamSearch:
    labels, boundary = KINDS[kind]
    drawn = {
        "beam": int(rng.integers(1, 21)),
        "n_best": int(rng.choice([1, 5])),
        "token_min_log_prob": float(rng.choice([-2.0, -5.0, -np.inf])),
        "beam_prune_log_prob": float(rng.choice([-6.0, -10.0, -np.inf])),
        "look_ahead": bool(rng.random() < 0.3),
        "word_bonus": float(rng.choice([1.5, 0.0, -1.0])),
        "unknown_word_log_prob": float(rng.choice([-3.0, -20.0])),
        "excluded": [len(labels) - 1] if rng.random() < 0.2 else [],
        "boosting": str(rng.choice(["fixed", "depth-scaled"])),
        "lm_unit": "token" if unit == "token" else "word",
    } | settings
    return BeamSearch(
        labels, blank=0, word_boundary=boundary, lm=model_of(kind, unit, rng), lm_unit=drawn.pop("lm_unit"), threads=1,
        **drawn,
    )  # fmt: skip


def random_phrases(search: BeamSearch, rng: np.random.Generator, count: int) -> list[Phrase]:
    settings = search.settings
    boundary = settings.word_boundary
    labels = [i for i in range(1, len(settings.labels)) if i not in settings.excluded and i != boundary]
    phrases = []
    for index in range(count):
        path = [int(label) for label in rng.choice(labels, int(rng.integers(1, 6)))]
        if boundary is not None and len(path) > 2 and rng.random() < 0.4:
            path.insert(2, boundary)
        if any(settings.characters(label) for label in path):
            each = 1.0 if rng.random() < 0.7 else None
            phrases.append(Phrase(f"phrase {index}", float(rng.uniform(0.2, 8.0)), [path], per_label=each))
    return phrases


def assert_same(found: Any, expected: Any) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert [h.tokens for h in mine] == [h.tokens for h in other]
        assert [h.text for h in mine] == [h.text for h in other]
        np.testing.assert_allclose([h.score for h in mine], [h.score for h in other], atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unit", ["none", "word", "token"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_compiled_search(kind, unit, seed):
    rng = np.random.default_rng(100 * seed + 10 * list(KINDS).index(kind) + ["none", "word", "token"].index(unit))
    search = random_search(kind, unit, rng)
    tables = [search.prepare(random_phrases(search, rng, count)) for count in (0, 5, 100)]
    order = [tables[int(i)] for i in rng.integers(0, 3, 4)] + [None]
    frames = int(rng.integers(1, 40))
    spread = float(rng.choice([1.0, 3.0, 6.0]))
    x = np.stack([random_log_probs(rng, frames, len(search.settings.labels), spread=spread) for _ in order])
    lengths = [*rng.integers(0, frames + 1, len(order) - 2).tolist(), 0, frames]
    found = TorchEngine(search).decode(torch.from_numpy(x), lengths, phrases=order)
    assert_same(found, search.decode(x, lengths, phrases=order))


@pytest.mark.parametrize("n_best", [1, 5])
def test_nested_and_overlapping_phrases_are_paid_once(n_best):
    texts = ["abba", "bad face", "face", "bad", "fed abba", "a bead", "bead a", "dead", "bad abba fed"]
    search = make(n_best=n_best, beam=15)
    table = search.prepare([Phrase(text, 2.0 + len(text), [path_of(text)]) for text in texts])
    x = batch(seed=3, size=8, frames=50)
    assert_same(TorchEngine(search).decode(torch.from_numpy(x), phrases=table), search.decode(x, phrases=table))


def test_a_phrase_that_ends_at_a_silent_edge_does_not_hide_the_next_one():
    search = BeamSearch(PIECES, blank=0, beam=9, n_best=5, threads=1)
    phrases = [Phrase("c", 5.0, [[8]]), Phrase("ba", 5.5, [[7]]), Phrase("c", 5.0, [[9]]), Phrase("ab", 1.5, [[4]])]
    rng = np.random.default_rng(29)
    x = np.stack([random_log_probs(rng, 12, len(PIECES), spread=2.0) for _ in range(6)])
    table = search.prepare(phrases)
    assert_same(TorchEngine(search).decode(torch.from_numpy(x), phrases=table), search.decode(x, phrases=table))


def test_utterance_evidence_weighs_each_utterance_alone():
    search = make(boosting="utterance", n_best=3, beam=12, evidence_floor=0.2)
    table = search.prepare([Phrase(text, 6.0, [path_of(text)]) for text in ("abba", "face", "bead", "cafe")])
    x = batch(seed=5, size=3, frames=30)
    heard = [
        Evidence(
            np.minimum(np.arange(31), 1).astype(np.int64), np.array([place], np.int32), np.array([0.9], np.float32)
        )
        for place in (0, 1, 3)
    ]
    expected = search.decode(x, phrases=table, evidence=heard)
    assert_same(TorchEngine(search).decode(torch.from_numpy(x), phrases=table, evidence=heard), expected)


def test_neighbours_and_padding_change_nothing():
    search = make(n_best=3, beam=10)
    tables = [search.prepare([Phrase(text, 5.0, [path_of(text)])]) for text in ("face", "abba", "bead", "cafe")]
    x, lengths = batch(seed=7, size=4, frames=40), [40, 12, 0, 31]
    engine = TorchEngine(search)
    padded = np.concatenate([x, np.full_like(x, np.nan)], axis=1)
    for index, length in enumerate(lengths):
        padded[index, length:] = np.nan
    together = engine.decode(torch.from_numpy(padded), lengths, phrases=tables)
    for index, length in enumerate(lengths):
        alone = engine.decode(torch.from_numpy(x[index : index + 1, :length]), phrases=tables[index])[0]
        assert_same([alone], [together[index]])
    assert [h.text for h in together[2]] == [""]


def test_few_candidates_at_first_give_the_same():
    search, x = make(n_best=5, beam=12, beam_prune_log_prob=-np.inf), batch(seed=9, size=3, frames=30)
    narrow = TorchEngine(search)
    narrow._width = 1
    assert_same(narrow.decode(torch.from_numpy(x)), search.decode(x))
    assert narrow._width > 1


def test_peaky_frames_give_the_same_times():
    search, rng = make(n_best=1, beam=20), np.random.default_rng(2)
    x = batch(seed=11, size=4, frames=60, spread=0.5)
    for row in x.reshape(-1, x.shape[2]):
        row -= 8.0
        row[rng.integers(0, len(LETTERS))] = 0.0
    expected = search.decode(x, frame_shift_s=0.02, offset_s=0.1)
    found = TorchEngine(search).decode(torch.from_numpy(x), frame_shift_s=0.02, offset_s=0.1)
    assert [n.best.times for n in found] == [n.best.times for n in expected]
    assert [n.best.extra for n in found] == [n.best.extra for n in expected]


def test_one_frame_and_empty_batches_work():
    search = BeamSearch(["-"], blank=0)
    assert TorchEngine(search).decode(torch.zeros(1, 3, 1))[0].text == ""
    two = TorchEngine(BeamSearch(["-", "a"], blank=0))
    assert two.decode(np.log([[[0.1, 0.9]]]))[0].text == "a"
    assert two.decode(torch.zeros(0, 5, 2)) == []
    assert two.decode(torch.zeros(1, 0, 2))[0].text == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_equals_the_compiled_search(kind):
    rng = np.random.default_rng(1)
    search = random_search(kind, "word", rng, beam=20, n_best=5)
    table = search.prepare(random_phrases(search, rng, 100))
    x = np.stack([random_log_probs(rng, 30, len(search.settings.labels), spread=4.0) for _ in range(6)])
    found = TorchEngine(search).decode(torch.from_numpy(x).cuda(), phrases=table)
    assert_same(found, search.decode(x, phrases=table))


def test_what_it_cannot_do_is_refused():
    with pytest.raises(PluginError, match="without a lexicon only"):
        TorchEngine(make(lexicon=True))
    with pytest.raises(PluginError, match="boosting 'windowed' is for the compiled engine only"):
        TorchEngine(make(boosting="windowed"))


def test_a_kenlm_file_is_refused(tmp_path):
    model = build_lm(TEXTS, order=2)
    model.tables.sizes[0] = 1
    search = object.__new__(BeamSearch)
    search.settings = make(lm=False).settings
    object.__setattr__(search.settings, "lm", model)
    with pytest.raises(PluginError, match="KenLM probing file, which it does not read; give the ARPA file"):
        TorchEngine(search)


@pytest.mark.parametrize(
    ("values", "lengths", "error", "text"),
    [
        (np.zeros((2, 3), np.float32), None, ShapeError, r"expected \(b, t, v\) with v = 10 labels"),
        (np.zeros((2, 3, 10), np.int64), None, ShapeError, "expected floating-point"),
        (np.zeros((2, 3, 10), np.float32), [3], ShapeError, "lengths has 1 entries"),
        (np.zeros((1, 3, 10), np.float32), [4], ShapeError, r"lengths\[0\] is 4, but log_probs has 3 frames"),
        (np.full((1, 3, 10), np.nan, np.float32), None, DataError, r"log_probs\[0\] holds nan at frame 0, label 0"),
        (np.full((1, 3, 10), -np.inf, np.float32), None, DataError, "frame 0 gives no label any probability"),
    ],
)
def test_bad_input_is_refused(values, lengths, error, text):
    with pytest.raises(error, match=text):
        TorchEngine(make(lm=False)).decode(values, lengths)


def test_lists_of_another_search_are_refused():
    search, x = make(lm=False), torch.zeros(1, 2, len(LETTERS))
    with pytest.raises(PluginError, match="prepared by another BeamSearch"):
        TorchEngine(search).decode(x, phrases=make(lm=False).prepare([]))
    with pytest.raises(PluginError, match="evidence would have no effect"):
        TorchEngine(search).decode(x, evidence=[Evidence(*(np.zeros(3, k) for k in (np.int64, np.int32, np.float32)))])
    with pytest.raises(VocabularyError, match="has no label paths"):
        search.prepare([Phrase("face", 1.0)])
