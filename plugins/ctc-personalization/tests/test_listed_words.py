"""The metric `listed-words`: counts on texts that can be checked by hand, and against jiwer's own word error rate."""

from __future__ import annotations

import math
import random
from pathlib import Path

import jiwer
import numpy as np
import pytest

from slt_ctc_personalization.metrics.listed_words import ListedWords
from sltcore.errors import DataError, ShapeError, SltError
from sltcore.pipeline import build_component
from sltcore.types import Hypothesis, NBest

LIST = ["anna", "amazon queen", "amazon"]


def counts(reference: str, hypothesis: str, phrases=LIST) -> tuple[int, ...]:
    return ListedWords(phrases).count(reference, hypothesis)


def test_a_phrase_is_one_unit_and_right_only_as_a_whole() -> None:
    # true positives, false positives, false negatives, listed errors, listed words, other errors, other words
    assert counts("play amazon queen now", "play amazon queen now") == (1, 0, 0, 0, 2, 0, 2)
    assert counts("play amazon queen now", "play amazon green now") == (0, 1, 1, 1, 2, 0, 2)  # "amazon" is listed too
    assert counts("call anna", "call hannah") == (0, 0, 1, 1, 1, 0, 1)


def test_a_listed_word_where_the_reference_has_none_is_a_false_accept() -> None:
    assert counts("call hannah", "call anna") == (0, 1, 0, 0, 0, 1, 2)
    assert counts("call", "call anna") == (0, 1, 0, 1, 0, 0, 1)  # inserted and listed: an error on listed words
    assert counts("call", "call me") == (0, 0, 0, 0, 0, 1, 1)
    assert counts("", "anna") == (0, 1, 0, 1, 0, 0, 0)
    assert counts("anna", "") == (0, 0, 1, 1, 1, 0, 0)
    assert counts("anna met anna", "anna met") == (1, 0, 1, 1, 2, 0, 1)


def test_a_hit_must_stand_where_it_was_said() -> None:
    assert counts("anna is here", "here is anna")[:3] == (0, 1, 1)
    assert counts("amazon queen", "amazon the queen") == (0, 1, 1, 0, 2, 1, 0)


def test_the_rates_are_those_of_the_counts() -> None:
    metric = ListedWords(LIST)
    metric.update(["call hannah", "play amazon queen", "anna stop"], ["call anna", "play the amazon queen", "stop"])
    values = {name: value.value for name, value in metric.reduce(metric.per_item()).items()}
    assert values == pytest.approx(
        {"listed-precision": 50.0, "listed-recall": 50.0, "listed-f1": 50.0, "b-wer": 200 / 3, "u-wer": 25.0}
    )
    assert set(values) == set(metric.directions)
    one = metric.reduce(metric.per_item()[2:])
    assert math.isnan(one["listed-recall"].value)
    assert math.isnan(one["b-wer"].value)
    assert one["u-wer"].value == 0.0


def test_both_error_rates_together_are_the_word_error_rate() -> None:
    draw = random.Random(3)
    words = ["anna", "amazon", "queen", "call", "the", "now"]
    texts = [[" ".join(draw.choices(words, k=draw.randrange(1, 9))) for _ in range(200)] for _ in range(2)]
    metric = ListedWords(LIST)
    metric.update(*texts)
    rows = metric.per_item().sum(axis=0)
    assert (rows[3] + rows[5]) / (rows[4] + rows[6]) == pytest.approx(jiwer.wer(texts[1], texts[0]))
    assert rows[4] + rows[6] == sum(len(text.split()) for text in texts[1])
    found = [sum(len(metric.occurrences(text.split())) for text in side) for side in texts]
    assert [rows[0] + rows[1], rows[0] + rows[2]] == found


def test_case_and_punctuation_are_read_over_unless_told_otherwise() -> None:
    assert counts("Call Anna!", "call anna") == (1, 0, 0, 0, 1, 0, 1)
    assert counts("call o’neil.", "call O'Neil", ["O'Neil"])[:3] == (1, 0, 0)
    strict = ListedWords(["Anna"], lowercase=False, punctuation=True)
    assert strict.count("call Anna", "call anna")[:3] == (0, 0, 1)
    assert strict.count("call Anna.", "call Anna.")[:3] == (0, 0, 0)


def test_items_are_kept_in_order_with_ids_and_groups() -> None:
    metric = ListedWords(LIST)
    metric.update([NBest([Hypothesis("anna")]), Hypothesis("x")], ["anna", "anna"], ids=["a", "b"], groups=["s", "s"])
    metric.update(["y"], ["anna"])
    assert (metric.ids, metric.groups) == (("a", "b", "2"), ("s", "s", "2"))
    assert metric.per_item().shape == (3, 7)
    assert metric.per_item().dtype == np.float64
    metric.reset()
    assert metric.per_item().shape == (0, 7)


def test_lists_come_from_the_spec_and_from_files(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# names\nAnna\n\nAmazon  Queen\n", encoding="utf-8")
    config = {"phrases": ["Nguyen"], "words_file": str(path)}
    metric = build_component("metric", "listed-words", config)
    assert isinstance(metric, ListedWords)
    (tmp_path / "bundle").mkdir()
    for name, data in metric.save_files().items():
        (tmp_path / "bundle" / name).write_bytes(data)
    path.unlink()
    again = build_component("metric", "listed-words", config, folder=tmp_path / "bundle")
    for found in (metric, again):
        assert isinstance(found, ListedWords)
        assert found.count("nguyen and anna", "nguyen and hannah")[:3] == (1, 0, 1)
    table = tmp_path / "names.csv"
    table.write_text("text,weight\nAnna,2\nAmazon Queen,\n", encoding="utf-8")
    weighted = build_component("metric", "listed-words", {"words_file": str(table)})
    assert isinstance(weighted, ListedWords)
    assert weighted.count("amazon queen", "amazon queen")[:3] == (1, 0, 0)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="metric 'listed-words' has no list; give 'phrases' or 'words_file'"):
        ListedWords([])
    with pytest.raises(DataError, match="phrase '!' holds no word to compare"):
        ListedWords(["!"])
    metric = ListedWords(LIST)
    with pytest.raises(ShapeError, match="2 outputs were given with 1 references"):
        metric.update(["a", "b"], ["a"])
    with pytest.raises(DataError, match="compares strings, hypotheses or n-best lists, got int: 3"):
        metric.update([3], ["a"])
    with pytest.raises(ShapeError, match=r"stats has shape \(1, 3\), expected \(m, 7\): true positives"):
        metric.reduce(np.zeros((1, 3)))
    with pytest.raises(SltError, match="cannot be read"):
        build_component("metric", "listed-words", {"words_file": str(tmp_path / "none.txt")})
