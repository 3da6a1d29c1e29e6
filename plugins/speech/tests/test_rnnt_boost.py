"""Phrase boosting of decoder `rnnt`: the rule against enumeration, the search with it, and decoders of other kinds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slt_speech.rnnt.decoder import Rnnt
from slt_speech.rnnt.joint import Joint
from slt_speech.rnnt.phrase_boost import PhraseBoost
from slt_speech.rnnt.phrase_states import Phrase, PhraseStates
from slt_speech.rnnt.prediction import PredictionNetwork
from sltcore.errors import ContextError, PluginError, ShapeError
from sltcore.types import Encoded, Text
from sltcore.vocabulary import Vocabulary, characters, subwords

LETTERS = characters(["abc"])
PIECES = Vocabulary(["<blank>", "▁a", "b", "▁ab", "▁c", "c"], kind="subwords", blank=0)
PLAIN = Vocabulary(["<blank>", "x", "y", "z"], kind="phones", blank=0)


def toy(vocabulary: Vocabulary = LETTERS, *, boost: Any = None, seed: int = 0, **settings: Any) -> Rnnt:
    torch.manual_seed(seed)
    joint = Joint(5, 7, 8, len(vocabulary))
    with torch.no_grad():
        joint.output.weight.mul_(3)
        joint.output.bias[vocabulary.blank] += 1.5
    prediction = PredictionNetwork(len(vocabulary), 7, blank=vocabulary.blank)
    settings = {"search": "beam", "beam": 8, "n_best": 8, **settings}
    return Rnnt(prediction, joint, vocabulary, boost=boost, **settings).eval()


def encoded(*lengths: int, seed: int = 0) -> Encoded:
    values = 2 * torch.randn(len(lengths), max(lengths), 5, generator=torch.Generator().manual_seed(seed))
    return Encoded(values, torch.tensor(lengths), 0.04)


def total(states: PhraseStates, labels: tuple[int, ...], *, ends: bool = True) -> float:
    """What the automaton adds to a label sequence."""
    node, score = states.start, 0.0
    for label in labels:
        row = states.row(node)
        score += float(row.log_probs[label]) - states.neutral
        node = int(row.following[label])
    return score + (states.ending(node) if ends else 0.0)


# --- the rule


@pytest.mark.parametrize("vocabulary", [LETTERS, PIECES, PLAIN], ids=["letters", "pieces", "phones"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_text_earns_its_phrase_once_for_each_time_it_holds_it(vocabulary: Vocabulary, data: st.DataObject) -> None:
    """One phrase that does not overlap itself: the bonus times the number of places where it stands as whole words."""
    any_label = st.integers(1, len(vocabulary) - 1)
    phrase = tuple(data.draw(st.lists(any_label, min_size=1, max_size=3)))
    boundary = vocabulary.boundary
    starts = {i for i in range(len(vocabulary)) if vocabulary.labels[i].startswith("▁")}
    if boundary is not None and boundary in phrase:
        return
    if starts and phrase[0] not in starts:
        return
    if any(phrase[:n] == phrase[-n:] for n in range(1, len(phrase))):
        return
    labels = tuple(data.draw(st.lists(any_label, max_size=9)))
    places = 0
    for at in range(len(labels) - len(phrase) + 1):
        after = at + len(phrase)
        if labels[at:after] != phrase:
            continue
        begins = boundary is None or at == 0 or labels[at - 1] == boundary
        nothing = after == len(labels)
        finishes = nothing or (
            labels[after] == boundary if boundary is not None else not starts or labels[after] in starts
        )
        places += begins and finishes
    states = PhraseStates([Phrase(phrase, 2.0)], vocabulary)
    assert total(states, labels) == pytest.approx(2.0 * places, abs=1e-9)


def test_of_phrases_inside_each_other_the_best_counts_once() -> None:
    encode = LETTERS.encode
    states = PhraseStates(
        [Phrase(tuple(encode(t)), b) for t, b in (("a b", 3.0), ("b", 1.0), ("a", 1.0), ("abc", 9.0))], LETTERS
    )
    for text, bonus in (
        ("a b", 3),
        ("b", 1),
        ("a", 1),
        ("a c", 1),
        ("ab", 0),
        ("abc", 9),
        ("c a b a", 4),
        ("a bb", 1),
        ("b b", 2),
    ):
        assert total(states, tuple(encode(text))) == pytest.approx(bonus), text


def test_every_state_is_a_distribution_and_rewards_come_early() -> None:
    phrases = [Phrase(tuple(LETTERS.encode(text)), 4.0) for text in ("abca", "ab c", "c")]
    states = PhraseStates(phrases, LETTERS)
    for labels in itertools.product(range(1, 5), repeat=4):
        node = states.start
        for label in labels:
            row = states.row(node)
            assert float(torch.from_numpy(row.log_probs).exp().sum()) == pytest.approx(1.0)
            node = int(row.following[label])
    assert [total(states, tuple(LETTERS.encode("abca"))[:n], ends=False) for n in range(5)] == pytest.approx(
        [0, 1, 2, 3, 4]
    )
    assert total(states, tuple(LETTERS.encode("abc"))) == pytest.approx(0.0)


# --- as a decoder


def test_it_scores_texts_by_their_phrases() -> None:
    boost = PhraseBoost(LETTERS, bonus=2.0)
    context = {"phrases": ["ab", {"text": "c", "bonus": 7.0}, {"text": "ca", "weight": 2.0, "spellings": ["cc"]}]}
    found = boost.decode(Text(["ab c", "b", "cc a", "ca"]), context)
    assert [nbest.best.score for nbest in found] == pytest.approx([4 + 7, 0, 8, 8])
    lists = {"phrases": [["ab"], [], None, ["ca"]]}
    assert [nbest.best.score for nbest in boost.decode(Text(["ab", "ab", "ab", "ca"]), lists)] == pytest.approx(
        [4, 0, 0, 4]
    )


def test_steps_sum_to_one_with_and_without_phrases() -> None:
    boost = PhraseBoost(LETTERS)
    steps = boost.conditioned({"phrases": [["ab"], []]}, 2)
    assert steps is not None
    state: Any = steps.start(None)
    for tokens in ([[0, 0, 0]] * 2, [[2, 3, 1], [2, 2, 2]], [[3, 1, 2], [4, 4, 4]]):
        log_probs, state = steps.step(state, torch.tensor(tokens))
        assert log_probs.shape == (2, 3, 5)
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert boost.conditioned({"phrases": [[], []]}, 2) is None
    assert boost.conditioned({}, 2) is None


def test_bad_phrases_are_refused_by_name() -> None:
    boost = PhraseBoost(LETTERS)
    for phrases, says in (
        (["ab", "xé"], "phrase 'xé' cannot be spelled"),
        ("ab", "phrases: expected a list of texts, got str 'ab'"),
        ([3], r"phrases\[0\]: expected a text, or a map with a text, got int '3'"),
        ([{"text": "a", "boost": 1}], r"phrases\[0\]: no field is named 'boost'; fields: text, weight"),
        ([{"text": "a", "bonus": -1}], r"phrases\[0\]: bonus is -1, expected a number from 0 to 10,000"),
        ([{"text": "a", "bonus": 1, "weight": 1}], "has both a weight, which multiplies the decoder's bonus"),
        ([{"text": "a", "spellings": [3]}], r"spellings is \[3\], expected a list of texts"),
    ):
        with pytest.raises(ContextError, match=says):
            toy(boost=boost).prepare({"phrases": phrases})
    with pytest.raises(PluginError, match="decoder 'phrase-boost' has no labels; give it vocabulary or characters"):
        PhraseBoost(None).decode(Text(["a"]), {})


# --- in the search


def test_an_empty_list_changes_nothing_bit_for_bit() -> None:
    x = encoded(12, 7, 9)
    plain = toy().decode(x, {})
    model = toy(boost=PhraseBoost(LETTERS))
    for context in ({}, {"phrases": []}, {"phrases": None}, {"phrases": [[], [], []]}):
        assert model.decode(x, context) == plain
    some = model.decode(x, {"phrases": [[], ["abc"], []]})
    assert some[0] == plain[0]  # a list of one utterance leaves the others alone, too
    assert some[2] == plain[2]


def test_a_phrase_is_found_that_was_not_heard() -> None:
    boost = PhraseBoost(LETTERS, bonus=6.0)
    found = 0
    for seed in range(5):
        x = encoded(12, seed=seed)
        plain, boosted = toy(seed=seed).decode(x, {})[0], toy(seed=seed, boost=boost).decode(x, {"phrases": ["cab"]})[0]
        assert "cab" not in plain.text.split()
        found += "cab" in boosted.text.split()
    assert found >= 4


def test_a_boosted_score_is_the_sum_of_both() -> None:
    """With a beam that holds every sequence, each score is ln P of the transducer plus the phrase's bonus."""
    boost = PhraseBoost(PLAIN, bonus=1.0)
    settings: dict[str, Any] = {"beam": 400, "n_best": 400, "max_symbols": 2}
    x = encoded(2, 2)
    plain, boosted = toy(PLAIN, **settings), toy(PLAIN, boost=boost, boost_weight=0.5, **settings)
    lists = {"phrases": [["x y", {"text": "z", "bonus": 3.0}], ["y"]]}
    for row, (without, nbest) in enumerate(zip(plain.decode(x, {}), boosted.decode(x, lists), strict=True)):
        states = boost.states(lists["phrases"][row])
        assert states is not None
        base = {one.tokens: one.score for one in without}
        assert len(base) == sum(3**n for n in range(5))
        for one in nbest:
            assert one.score == pytest.approx(base[one.tokens] + 0.5 * total(states, one.tokens), abs=1e-3)


def test_boosting_survives_renumbering(monkeypatch: pytest.MonkeyPatch) -> None:
    from slt_speech.rnnt import beam as beam_module

    model, x = toy(boost=PhraseBoost(LETTERS)), encoded(40, 30)
    context = {"phrases": [["abc", "ca b"], ["bb"]]}
    roomy = model.decode(x, context)
    monkeypatch.setattr(beam_module, "SPARE_NODES", 10)
    monkeypatch.setattr(beam_module, "NODES_PER_HYPOTHESIS", 1)
    for a, b in zip(roomy, model.decode(x, context), strict=True):
        assert [one.tokens for one in a] == [one.tokens for one in b]
        assert [one.score for one in a] == pytest.approx([one.score for one in b], abs=1e-4)


def test_pieces_of_words_are_boosted_too() -> None:
    pieces = subwords(["the cat sat on the mat", "a cat and a bat"], 20)
    boost = PhraseBoost(pieces, bonus=8.0)
    model = toy(pieces, boost=boost)
    assert "cat" in model.decode(encoded(14), {"phrases": ["cat"]})[0].text.split()


class Bigram(PhraseBoost):
    """A language model as a decoder: it knows the last label only, and reads nothing from the context."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(PLAIN)
        self.table = table
        self.conditioned = None  # type: ignore[assignment]

    def start(self, encoded: Any) -> Any:
        return None

    def step(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        return self.table[tokens], (tokens, tokens.double())


def test_any_decoder_with_steps_is_fused() -> None:
    table = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    settings: dict[str, Any] = {"beam": 400, "n_best": 400, "max_symbols": 2}
    x = encoded(2)
    base = {one.tokens: one.score for one in toy(PLAIN, **settings).decode(x, {})[0]}
    for one in toy(PLAIN, boost=Bigram(table), boost_weight=0.7, **settings).decode(x, {})[0]:
        lm = sum(float(table[a, b]) for a, b in itertools.pairwise((0, *one.tokens)))
        assert one.score == pytest.approx(base[one.tokens] + 0.7 * lm, abs=1e-3)
    assert math.isfinite(max(base.values()))


def test_a_decoder_whose_steps_have_other_shapes_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"boost: step gave log-probabilities \(1, 1, 3\) and states"):
        toy(PLAIN, boost=Bigram(torch.zeros(4, 3))).decode(encoded(2), {})
