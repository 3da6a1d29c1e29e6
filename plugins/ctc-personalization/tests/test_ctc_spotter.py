"""Decoder `ctc-spotter`: phrases over greedy decoding, in text, tokens, times and streams."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from slt_ctc_personalization.phrases.spelling import PhoneSpeller
from slt_ctc_personalization.spotter.build_spotter import ctc_spotter
from slt_ctc_personalization.spotter.config_spotter import CtcSpotterConfig
from slt_ctc_personalization.spotter.ctc_spotter import CtcSpotter, Replacement, Unit
from slt_ctc_personalization.spotter.spotter import Hit, Spotter
from slt_speech.ctc_greedy import CtcGreedy
from sltcore import ctc
from sltcore.errors import ContextError, PluginError, StreamError
from sltcore.plugin import Ports
from sltcore.types import Encoded, Hypothesis, Port
from sltcore.vocabulary import Vocabulary

LETTERS = Vocabulary(["-", "_", *"abcdefgh"], kind="characters", blank=0, boundary=1)
PIECES = Vocabulary(["-", "▁bad", "▁b", "a", "d", "ge", "▁cafe"], kind="subwords", blank=0)
PHONES = Vocabulary(["-", "n", "u", "j", "t"], kind="phones", blank=0)
SHIFT = 0.04


def decoder(vocabulary: Vocabulary = LETTERS, **settings: Any) -> CtcSpotter:
    """The decoder as built from a spec, over a head that changes nothing."""
    head = nn.Linear(len(vocabulary), len(vocabulary), bias=False)
    nn.init.eye_(head.weight)
    ports = Ports(
        upstream=Port("Encoded", {"d": len(vocabulary)}),
        slots={"head": head},
        offers={"encoder.head": head, "encoder.vocabulary": vocabulary},
    )
    return ctc_spotter(CtcSpotterConfig(**settings), ports)


def greedy(made: CtcSpotter) -> CtcGreedy:
    return CtcGreedy(ctc.Head(made.head, made.vocabulary, made.d))


def said(*labels: str, vocabulary: Vocabulary = LETTERS, certain: float = 0.97, **others: float) -> torch.Tensor:
    """One frame for each label; `others` have more probability than the rest everywhere."""
    rest = (1 - certain) / (len(vocabulary) - 1)
    rows = torch.full((len(labels), len(vocabulary)), math.log(rest))
    for name, probability in others.items():
        rows[:, vocabulary.id(name)] = math.log(probability)
    rows[torch.arange(len(labels)), [vocabulary.id(label) for label in labels]] = math.log(certain)
    return rows


def encoded(*utterances: torch.Tensor) -> Encoded:
    lengths = torch.tensor([len(rows) for rows in utterances])
    return Encoded(nn.utils.rnn.pad_sequence(list(utterances), batch_first=True), lengths, SHIFT)


def best(made: CtcSpotter, frames: torch.Tensor, phrases: Any) -> Hypothesis:
    (nbest,) = made.decode(encoded(frames), {"phrases": phrases})
    assert len(nbest) == 1
    return nbest.best


@pytest.mark.parametrize("vocabulary", [LETTERS, PIECES, PHONES])
@pytest.mark.parametrize("phrases", [None, []])
def test_without_phrases_the_result_is_that_of_ctc_greedy(vocabulary: Vocabulary, phrases: Any):
    made = decoder(vocabulary)
    frames = encoded(*(torch.randn(n, len(vocabulary), generator=torch.Generator().manual_seed(n)) for n in (40, 0, 7)))
    context = {} if phrases is None else {"phrases": phrases}
    for got, want in zip(made.decode(frames, context), greedy(made).decode(frames, {}), strict=True):
        assert got.best._replace(score=0.0) == want.best._replace(score=0.0)
        assert got.best.score == pytest.approx(want.best.score)


def test_words_that_no_phrase_resembles_stay_as_greedy_wrote_them():
    made = decoder()
    frames = said(*"bad_cafe-_face")
    assert best(made, frames, ["hedge", "gag"]) == greedy(made).decode(encoded(frames), {})[0].best


def test_a_phrase_replaces_the_word_it_was_mistaken_for():
    made = decoder()
    frames = said(*"-a_bbag-e_face")
    heard = best(made, frames, ["badge", "dead"])
    assert heard.text == "a badge face"
    assert heard.extra["words"] == ("a", "badge", "face")
    assert made.vocabulary.decode(heard.tokens) == "a badge face"
    (hit,) = heard.extra["hits"]
    assert hit["phrase"] == "badge"
    assert hit["value"] > 0.5


def test_times_are_those_of_the_words_and_of_the_phrase():
    made = decoder()
    frames = said(*"-a_bbag-e_face")
    heard = best(made, frames, ["badge"])
    plain = greedy(made).decode(encoded(frames), {})[0].best
    assert plain.extra["words"] == ("a", "bage", "face")
    assert heard.times == plain.times
    (hit,) = heard.extra["hits"]
    assert (hit["begin_s"], hit["end_s"]) == heard.times[1]


def test_a_phrase_is_written_as_the_list_has_it():
    assert best(decoder(), said(*"a_bad__cab"), ["Bad  CAB"]).text == "a Bad CAB"


def test_the_score_is_that_of_the_written_path():
    made = decoder()
    frames = said(*"bag_face")
    heard, plain = best(made, frames, ["bad"]), best(made, frames, [])
    assert heard.text == "bad face"
    path = [LETTERS.id(letter) for letter in "bad_face"]
    by_hand = float(frames.log_softmax(dim=-1)[torch.arange(len(path)), path].double().sum())
    assert heard.score == pytest.approx(by_hand, abs=1e-4)
    assert heard.score < plain.score


def test_the_better_of_two_phrases_over_one_word_is_written():
    frames = said(*"_bag_", d=0.02)
    assert best(decoder(), frames, ["bac", "bad", "bah"]).text == "bad"
    assert best(decoder(), said(*"bad_cab"), ["bad", "bad cab", "cab"]).extra["words"] == ("bad cab",)


def test_one_phrase_may_replace_two_words_and_two_phrases_one():
    assert best(decoder(), said(*"a_ba_d_cafe"), ["bad"]).text == "a bad cafe"
    lenient = decoder(missed_border=0.5)
    assert best(lenient, said(*"a_cafebad_a"), ["cafe", "bad"]).text == "a cafe bad a"


def test_a_weight_or_bonus_of_a_phrase_counts():
    frames = said(*"_bag_", certain=0.9999)
    assert best(decoder(context_weight=2.0), frames, ["bad"]).text == "bag"
    assert best(decoder(context_weight=2.0), frames, [{"text": "bad", "weight": 4}]).text == "bad"
    assert best(decoder(context_weight=2.0), frames, [{"text": "bad", "bonus": 24}]).text == "bad"
    assert best(decoder(context_weight=20.0), frames, [{"text": "bad", "bonus": 0}]).text == "bag"


def test_a_greedy_weight_protects_what_greedy_wrote():
    frames = said(*"_bag_face_")
    assert best(decoder(), frames, ["bad"]).text == "bad face"
    assert best(decoder(greedy_weight=3.0), frames, ["bad"]).text == "bag face"


def test_subwords_begin_and_end_at_marked_pieces():
    frames = said("▁cafe", "-", "▁b", "-", "ge", "-", vocabulary=PIECES, certain=0.9)
    assert best(decoder(PIECES), frames, ["badge"]).text == "cafe badge"
    inside = said("▁bad", "-", "ge", "▁cafe", vocabulary=PIECES)
    assert best(decoder(PIECES, missed_border=1000.0, threshold=1.0), inside, ["bad"]).text == "badge cafe"


def test_phones_without_words_are_replaced_one_by_one():
    def sounds(word: str) -> list[list[int]]:
        return {"new": [[1, 3, 2], [1, 2]]}[word]

    head = ctc.Head(nn.Linear(5, 5, bias=False), PHONES, 5)
    nn.init.eye_(head.module.weight)
    spotter = Spotter(PHONES.labels, blank=0, context_weight=2.0, threshold=0.0)
    made = CtcSpotter(
        head,
        spotter,
        speller=PhoneSpeller(sounds, None, 2.0),
        replacement=Replacement(greedy_weight=0.5, overlap=0.1),
    )
    frames = said("t", "n", "-", "u", "t", vocabulary=PHONES)
    heard = best(made, frames, ["new"])
    assert heard.text == "t new t"
    assert heard.extra["words"] == ("t", "new", "t")
    assert len(heard.times) == 3
    assert heard.tokens == (4, 1, 2, 4)


def test_lists_may_differ_by_utterance():
    frames = said(*"_bag_")
    results = decoder().decode(encoded(frames, frames, frames[:0]), {"phrases": [["bad"], ["bah"], ["bad"]]})
    assert [nbest.text for nbest in results] == ["bad", "bah", ""]


def test_a_prepared_list_gives_the_same_and_is_built_once():
    made = decoder()
    context = made.prepare({"phrases": ["bad", {"text": "cafe", "weight": 2}]})
    frames = said(*"_bag_cafe")
    assert made.decode(encoded(frames), context) == made.decode(encoded(frames), {"phrases": list(context["phrases"])})
    assert made.listed(context["phrases"]) is made.listed(context["phrases"])
    assert list(context["phrases"]) == ["bad", {"text": "cafe", "weight": 2}]


@pytest.mark.parametrize("size", [1, 2, 5, 16, 64])
def test_a_stream_ends_with_the_offline_result(size: int):
    made = decoder(settle=3)
    phrases = ["bad", "cafe had", "face", "gag", "a bead", "dead"]
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        frames = encoded(3 * torch.randn(90, len(LETTERS), generator=generator))
        session = made.open({"phrases": phrases})
        for begin in range(0, 90, size):
            piece = frames.values[:, begin : begin + size]
            session.push(Encoded(piece, torch.tensor([piece.shape[1]]), SHIFT))
        final, (want,) = session.finish(), made.decode(frames, {"phrases": phrases})
        assert "hits" in want.best.extra
        assert final.best._replace(score=0.0) == want.best._replace(score=0.0)
        assert final.best.score == pytest.approx(want.best.score)


def test_a_stream_says_a_phrase_once_it_has_settled():
    made = decoder(settle=2)
    session = made.open({"phrases": ["bad"]})
    texts = []
    for row in said(*"_bag_-----"):
        heard = session.push(Encoded(row[None, None], torch.tensor([1]), SHIFT))
        texts.append(texts[-1] if heard is None and texts else "" if heard is None else heard.text)
    assert texts.index("bad") == 6
    assert texts[4:6] == ["bag", "bag"] or texts[5] == "bag"
    assert session.finish().text == "bad"
    with pytest.raises(StreamError, match="finished already; open another one"):
        session.finish()


def test_phrases_that_cannot_be_spelled_are_named():
    with pytest.raises(ContextError, match=r"1 cannot be spelled, so they would have no effect: .*'zebra'"):
        best(decoder(), said(*"bad"), ["bad", "zebra"])


def test_hits_and_words_overlap_by_part_of_the_shorter():
    rule = Replacement(greedy_weight=0.5, overlap=0.5)
    words = [Unit(0, 10, "ab", (2, 3)), Unit(10, 14, "c", (4,)), Unit(20, 24, "d", (5,))]
    assert rule.chosen(words, [Hit(0, 4, 12, 5.0, 0.9, 0)])[1] == {0, 1}
    assert rule.chosen(words, [Hit(0, 8, 13, 5.0, 0.9, 0)])[1] == {1}
    assert rule.chosen(words, [Hit(0, 15, 19, 0.1, 0.9, 0)]) == ([Hit(0, 15, 19, 0.1, 0.9, 0)], set())
    assert rule.chosen(words, [Hit(0, 0, 14, 1.5, 0.9, 0)]) == ([], set())
    assert rule.chosen(words, [Hit(0, 0, 14, 1.6, 0.9, 0)])[1] == {0, 1}


@pytest.mark.parametrize("settings", [{"greedy_weight": -1.0, "overlap": 0.1}, {"greedy_weight": 0.5, "overlap": 0.0}])
def test_a_replacement_out_of_range_is_refused(settings: dict[str, float]):
    with pytest.raises(PluginError, match="give a weight from 0, and a part above 0, up to 1"):
        Replacement(**settings)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="vocabulary and characters both name the labels"):
        CtcSpotterConfig(vocabulary="labels.json", characters="ab")
    with pytest.raises(ValueError, match="confusions: hama-english are those of English, but language is 'cs'"):
        CtcSpotterConfig(confusions="hama-english", language="cs")
