"""Promises of copied rows: label by label, blank to blank, with factors; and one clear line for what does not exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from training_data import SMALL

import sltcore
from sltcore.errors import SpecError
from sltcore.pipeline import Pipeline
from sltcore.spec.training import CopyRows
from sltcore.train.heads import copy_rows

HAMA = {"slt": 1, "kind": "pipeline", "encoder": {"use": "hama-conformer", "weights": "random"}}


def letters(characters: str = "abc't", **encoder: Any) -> Pipeline:
    return sltcore.load(
        {**HAMA, "encoder": {**HAMA["encoder"], **encoder}, "decoder": {"use": "ctc-greedy", "characters": characters}}
    )


def heads(pipeline: Pipeline) -> tuple[Any, Any, Any, Any]:
    offers = pipeline.scope.offers()
    return tuple(offers[f"{stage}.{what}"] for stage in ("encoder", "decoder") for what in ("head", "vocabulary"))


def test_rows_are_copied_label_by_label_with_factor_and_offset() -> None:
    pipeline = letters()
    old, phones, new, vocabulary = heads(pipeline)
    before = new.weight.detach().clone(), new.bias.detach().clone()
    lines = copy_rows(pipeline, [CopyRows(rows={"a": "æ", "c": {"label": "k", "scale": 0.5, "bias": -1.0}})])

    def same(label: str, source: str, scale: float = 1.0, bias: float = 0.0) -> None:
        i, j = vocabulary.id(label), phones.id(source)
        assert torch.equal(new.weight[i], scale * old.weight[j])
        assert torch.equal(new.bias[i], scale * old.bias[j] + bias)

    same("a", "æ")
    same("c", "k", 0.5, -1.0)
    same("b", "b")
    same("t", "t")
    assert torch.equal(new.weight[vocabulary.blank], old.weight[phones.blank])
    assert torch.equal(new.weight[vocabulary.boundary], old.weight[phones.boundary])
    quote = vocabulary.id("'")
    assert torch.equal(new.weight[quote], before[0][quote])
    assert torch.equal(new.bias[quote], before[1][quote])
    assert lines == ['decoder.head: 6 of 7 rows taken from encoder.head; new: "\'"']
    assert new.weight.requires_grad


def test_what_is_listed_counts_before_equal_labels() -> None:
    pipeline = letters("bt")
    old, phones, new, vocabulary = heads(pipeline)
    copy_rows(pipeline, [CopyRows(rows={"b": "t", "<blank>": "s"})])
    assert torch.equal(new.weight[vocabulary.id("b")], old.weight[phones.id("t")])
    assert torch.equal(new.weight[vocabulary.blank], old.weight[phones.id("s")])


def test_rows_come_from_the_bundle_that_a_run_begins_with() -> None:
    start, pipeline = letters("abcde"), letters("edcbz")
    lines = copy_rows(pipeline, [CopyRows(source="start.decoder.head")], start=start)
    _, _, old, known = heads(start)
    _, _, new, vocabulary = heads(pipeline)
    for label in "bcde":
        assert torch.equal(new.weight[vocabulary.id(label)], old.weight[known.id(label)])
    assert lines == ["decoder.head: 6 of 7 rows taken from start.decoder.head; new: 'z'"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"source": "encoder.heat"}, r"copy_rows\[0\].source: there is no head 'encoder.heat'; heads with labels: decoder.head, encoder.head. Did you mean 'encoder.head'\?"),
        ({"source": "start.decoder.head"}, r"copy_rows\[0\].source: 'start.decoder.head' is a head of a bundle, but the run begins with none"),
        ({"to": "decoder"}, r"copy_rows\[0\].to: there is no head 'decoder'"),
        ({"rows": {"x": "k"}}, r"copy_rows\[0\].rows: the new head has no label 'x'; it has: '<blank>' ' ' \"'\" 'a'"),
        ({"rows": {"a": "AE"}}, r"copy_rows\[0\].rows.a: the old head has no label 'AE'; it has: '<pad>' .* and 151 more"),
        ({"to": "encoder.head"}, r"copy_rows\[0\]: 'encoder.head' and 'encoder.head' are one head; give the decoder labels"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_named(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        copy_rows(letters(), [CopyRows.model_validate(entry)])
    assert "\n" not in str(caught.value)


def test_heads_of_another_width_are_refused() -> None:
    start = sltcore.load({**SMALL, "decoder": {"use": "ctc-greedy", "characters": "abc"}})
    with pytest.raises(SpecError, match="'start.decoder.head' is 8 wide and 'decoder.head' 144; rows can be copied"):
        copy_rows(letters(), [CopyRows(source="start.decoder.head")], start=start)
