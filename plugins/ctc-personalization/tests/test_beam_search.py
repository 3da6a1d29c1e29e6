"""What the beam search promises beside exactness: identity of the empty list, pruning, threads, times, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from beam_cases import LETTERS, TEXTS, batch, make, path_of, peaky
from beam_references import collapse, random_log_probs

from slt_ctc_personalization.beam_search.search import BeamSearch, Phrase
from slt_ctc_personalization.language_model.build_lm import build_lm
from slt_ctc_personalization.lexicon.lexicon_trie import LexiconTrie, map_labels
from sltcore.errors import DataError, PluginError, ShapeError, VocabularyError
from sltcore.types import NBest


@pytest.mark.parametrize("lexicon", [False, True])
def test_empty_list_equals_plain_search_bit_for_bit(lexicon):
    search, x = make(lexicon=lexicon, n_best=4, beam=20), batch()
    plain = search.decode(x)
    assert search.decode(x, phrases=search.prepare([])) == plain
    assert search.decode(x, phrases=[None] * len(x)) == plain


@pytest.mark.parametrize("lexicon", [False, True])
def test_threads_and_batches_change_nothing(lexicon):
    x = batch(size=9)
    one, two = make(lexicon=lexicon, threads=1, beam=30), make(lexicon=lexicon, threads=2, beam=30)
    expected = one.decode(x)
    assert two.decode(x) == expected
    assert [one.decode(x[i : i + 1])[0] for i in range(len(x))] == expected


def test_padding_never_leaks():
    search, x = make(), batch()
    padded = np.concatenate([x, np.full_like(x, np.nan)], axis=1)
    assert search.decode(padded, [60] * 6) == search.decode(x)


def test_tensors_and_arrays_give_the_same():
    search, x = make(), batch()
    assert search.decode(torch.from_numpy(x), torch.tensor([60] * 6)) == search.decode(x, [60] * 6)
    assert search.decode(x.astype(np.float64)) == search.decode(x)


@pytest.mark.parametrize("lexicon", [False, True])
def test_begun_phrase_is_never_lost_to_token_pruning(lexicon):
    search = make(lexicon=lexicon, lm=False, token_min_log_prob=-5.0, beam_prune_log_prob=-30.0)
    x = peaky("a cafe", missing=(4,))
    assert search.decode(x)[0].text != "a cafe"
    table = search.prepare([Phrase("cafe", 24.0, [path_of("cafe")])])
    assert search.decode(x, phrases=table)[0].text == "a cafe"


def test_first_label_of_a_phrase_obeys_the_threshold():
    search = make(lm=False, token_min_log_prob=-5.0, beam_prune_log_prob=-30.0)
    table = search.prepare([Phrase("cafe", 60.0, [path_of("cafe")])])
    assert "cafe" not in search.decode(peaky("a cafe", missing=(2,)), phrases=table)[0].text.split()


def test_each_utterance_has_its_own_list():
    search = make(lm=False, beam_prune_log_prob=-30.0)
    x = np.concatenate([peaky("a cafe", missing=(4,))] * 2)
    table = search.prepare([Phrase("cafe", 24.0, [path_of("cafe")])])
    plain, biased = search.decode(x, phrases=[None, table])
    assert (biased.text, plain) == ("a cafe", search.decode(x[:1])[0])


def test_any_of_several_spellings_earns_the_bonus():
    search = make(lm=False, n_best=3)
    table = search.prepare([Phrase("face", 2.0, [path_of("face"), path_of("fase"[:2] + "ce")])])
    other = search.prepare([Phrase("face", 2.0, [path_of("fade"), path_of("face")])])
    x = peaky("a face")
    plain = search.decode(x)[0].best.score
    assert search.decode(x, phrases=table)[0].best.score == pytest.approx(plain + 2.0, abs=1e-4)
    assert search.decode(x, phrases=other)[0].best.score == pytest.approx(plain + 2.0, abs=1e-4)


def test_full_width_without_extras_agrees_with_greedy_on_certain_frames():
    x = peaky("bad face")
    assert make(lm=False).decode(x)[0].best.tokens == collapse(x[0].argmax(axis=1), 0)


@pytest.mark.parametrize("lexicon", [False, True])
def test_times_name_the_frames_that_said_the_words(lexicon):
    found = make(lexicon=lexicon, lm=False).decode(peaky("a bead"), frame_shift_s=0.02, offset_s=0.1)[0].best
    assert found.extra["words"] == ["a", "bead"]
    (a_start, a_end), (b_start, b_end) = found.times
    assert (a_start, a_end) == pytest.approx((0.1, 0.1 + 0.04))
    assert (b_start, b_end) == pytest.approx((0.1 + 6 * 0.02, 0.1 + 17 * 0.02))


def test_silence_and_no_frames_give_the_empty_text():
    search = make(lm=False)
    blank = np.full((1, 50, len(LETTERS)), -20.0, np.float32)
    blank[:, :, 0] = -1e-6
    assert search.decode(blank)[0].text == ""
    for lexicon in (False, True):
        (nothing,) = make(lexicon=lexicon).decode(np.zeros((1, 0, len(LETTERS)), np.float32))
        assert isinstance(nothing, NBest)
        assert (nothing.text, nothing.best.tokens, nothing.best.times) == ("", (), ())
    assert search.decode(np.zeros((0, 5, len(LETTERS)), np.float32)) == []


def test_one_label_and_one_frame_work():
    assert BeamSearch(["-"], blank=0).decode(np.zeros((1, 3, 1), np.float32))[0].text == ""
    assert BeamSearch(["-", "a"], blank=0).decode(np.log([[[0.1, 0.9]]]))[0].text == "a"


def test_word_that_is_not_complete_is_left_out_of_a_lexicon_search():
    search = make(lexicon=True, lm=False, token_min_log_prob=-3.0, beam_prune_log_prob=-6.0)
    assert search.decode(peaky("a caf"))[0].text == "a"


@pytest.mark.parametrize(("word", "paid"), [("dabbed", 1.0), ("dabbedd", 7 / 6), ("dabbedabbeda", 2.0)])
@pytest.mark.parametrize("lexicon", [False, True])
def test_long_unknown_words_pay_by_their_length(lexicon, word, paid):
    trie = LexiconTrie({word: [list(word)]}, LETTERS) if lexicon else None
    model = build_lm(TEXTS, order=2)
    scores = []
    for unknown in (0.0, -6.0):
        search = BeamSearch(
            LETTERS, blank=0, word_boundary=1, lm=model, lexicon=trie, unknown_word_log_prob=unknown, lm_weight=0.5
        )
        result = search.decode(peaky(word))[0]
        assert result.text == word
        scores.append(result.best.score)
    assert scores[1] - scores[0] == pytest.approx(-0.5 * 6.0 * paid, abs=1e-3)


def test_excluded_labels_are_never_written():
    x = batch(seed=8)
    found = make(lm=False, excluded=[3, 4]).decode(x)
    assert not any(token in (3, 4) for result in found for token in result.best.tokens)


def test_subword_labels_make_words_at_their_marks():
    labels = ["-", "▁new", "▁y", "ork", "▁"]
    x = np.full((1, 4, 5), -12.0, np.float32)
    for frame, label in enumerate([1, 2, 3, 0]):
        x[0, frame, label] = -0.001
    found = BeamSearch(labels, blank=0).decode(x, frame_shift_s=0.04)[0].best
    assert (found.text, found.extra["words"], found.tokens) == ("new york", ["new", "york"], (1, 2, 3))
    assert np.allclose(found.times, [(0.0, 0.04), (0.04, 0.12)])


@pytest.mark.parametrize(
    ("values", "lengths", "error", "text"),
    [
        (np.zeros((2, 3)), None, ShapeError, r"shape \(2, 3\), expected \(b, t, v\) with v = 10"),
        (np.zeros((2, 3, 4)), None, ShapeError, r"shape \(2, 3, 4\), expected \(b, t, v\) with v = 10"),
        (np.zeros((2, 3, 10), np.int64), None, ShapeError, "type int64, expected floating-point"),
        (np.zeros((2, 3, 10)), [3], ShapeError, "lengths has 1 entries, but log_probs holds 2"),
        (np.zeros((1, 3, 10)), [4], ShapeError, r"lengths\[0\] is 4, but log_probs has 3 frames"),
        (np.zeros((1, 3, 10)), [-1], ShapeError, r"lengths\[0\] is -1"),
        (np.full((1, 3, 10), np.nan), None, DataError, r"log_probs\[0\] holds nan at frame 0, label 0"),
        (np.full((1, 3, 10), np.inf), None, DataError, r"log_probs\[0\] holds inf at frame 0, label 0"),
        (np.full((1, 3, 10), -np.inf), None, DataError, "frame 0 gives no label any probability"),
    ],
)
def test_bad_input_is_refused_in_one_line(values, lengths, error, text):
    with pytest.raises(error, match=text) as caught:
        make(lm=False).decode(values, lengths)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"labels": []}, VocabularyError, "labels are empty"),
        ({"blank": 12}, VocabularyError, "blank is id 12, but the label ids run from 0 to 9"),
        ({"word_boundary": 0}, VocabularyError, "blank and word_boundary are both id 0"),
        ({"excluded": [99]}, VocabularyError, "excluded is id 99"),
        ({"beam": 0}, PluginError, "beam is 0"),
        ({"n_best": 0}, PluginError, "n_best is 0"),
        ({"threads": 0}, PluginError, "threads is 0"),
        ({"token_min_log_prob": 1.0}, PluginError, "token_min_log_prob is 1.0"),
        ({"beam_prune_log_prob": float("nan")}, PluginError, "beam_prune_log_prob is nan"),
        ({"lm_weight": -1.0}, PluginError, "lm_weight is -1.0"),
        ({"unknown_word_log_prob": 2.0}, PluginError, "unknown_word_log_prob is 2.0"),
        ({"lm_unit": "letter"}, PluginError, "lm_unit is 'letter'"),
    ],
)
def test_bad_settings_are_refused(settings, error, text):
    arguments = {"labels": LETTERS, "blank": 0, "word_boundary": 1} | settings
    with pytest.raises(error, match=text):
        BeamSearch(arguments.pop("labels"), **arguments)


def test_language_model_of_another_case_is_refused():
    with pytest.raises(VocabularyError, match="is the case different"):
        BeamSearch(LETTERS, blank=0, word_boundary=1, lm=build_lm(["BAD FACE"], order=2))


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        (Phrase("bad", -1.0, [[3, 2, 5]]), "bonus is -1.0"),
        (Phrase("bad", float("inf"), [[3, 2, 5]]), "bonus is inf"),
        (Phrase("bad", 1.0, []), "has no label paths"),
        (Phrase("bad", 1.0, [[]]), "an empty path"),
        (Phrase("bad", 1.0, [[1]]), "an empty path"),
        (Phrase("bad", 1.0, [[3, 0]]), r"label '-' \(id 0\) is never written"),
        (Phrase("bad", 1.0, [[3, 77]]), "label id 77 does not exist"),
    ],
)
def test_phrases_that_can_never_count_are_refused(phrase, text):
    with pytest.raises(VocabularyError, match=text):
        make(lm=False).prepare([phrase])


def test_phrase_word_without_pronunciation_is_refused():
    with pytest.raises(VocabularyError, match="phrase word 'hag' is not in the lexicon"):
        make(lexicon=True).prepare([Phrase("bad hag", 1.0)])


def test_phrase_word_that_the_lexicon_lacks_is_heard_on_the_fly():
    search = make(lexicon=True, unknown_word_log_prob=-20.0)
    table = search.prepare([Phrase("hag", 10.0, pronunciations={"hag": [path_of("hag")]})])
    assert search.decode(peaky("a hag"), phrases=table)[0].text == "a hag"
    assert search.decode(peaky("a hag"))[0].text != "a hag"


def test_table_of_another_search_is_refused():
    table = make().prepare([])
    with pytest.raises(PluginError, match="prepared by another BeamSearch"):
        make().decode(batch(), phrases=table)
    with pytest.raises(PluginError, match="found str; call prepare first"):
        make().decode(batch(size=1), phrases=["bad face"])
    with pytest.raises(ShapeError, match="phrases has 1 tables, but log_probs holds 6"):
        make().decode(batch(), phrases=[None])


def test_label_map_equals_the_written_sum():
    rng = np.random.default_rng(0)
    x, m = random_log_probs(rng, 5, 4), np.log(rng.dirichlet(np.ones(3), 4)).astype(np.float32)
    expected = np.log(np.einsum("tv,vw->tw", np.exp(x.astype(np.float64)), np.exp(m.astype(np.float64))))
    np.testing.assert_allclose(map_labels(x, m), expected, atol=1e-5)
    assert np.isneginf(map_labels(np.full((2, 4), -np.inf), m)).all()
    with pytest.raises(VocabularyError, match="4 rows, but the log-probabilities have 3 labels"):
        map_labels(x[:, :3], m)


def test_adding_phrase_words_to_a_large_lexicon_is_quick():
    import time

    rng = np.random.default_rng(1)
    words = {"".join(rng.choice(list("abcdefgh"), rng.integers(4, 12))) for _ in range(24_000)}
    search = BeamSearch(LETTERS, blank=0, word_boundary=1, lexicon=LexiconTrie({w: [list(w)] for w in words}, LETTERS))
    phrases = [Phrase("hag" * n, 1.0, pronunciations={"hag" * n: [path_of("hag" * n)]}) for n in range(1, 20)]
    times = []
    for _ in range(5):
        begin = time.process_time()
        search.prepare(phrases)
        times.append(time.process_time() - begin)
    assert min(times) < 0.25  # 25 ms on a free core
