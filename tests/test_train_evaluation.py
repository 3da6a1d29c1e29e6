"""Promises of evaluation: which data count in what, and which of several evaluations is the best."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from train_toys import train_spec, write_tones

import sltcore
from sltcore.errors import SpecError
from sltcore.train import fit
from sltcore.train.evaluation import Evaluation, Measure, Standing, choose_measure, metric_names

NAN = math.nan


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tones")
    return write_tones(folder, 12), write_tones(folder, 3, 1, "dev.csv")


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("values", [[3, 2, 2, 5, 1], [NAN, 4, NAN, 3, 3.5], [1, 2, 3, 4], [NAN, NAN], [2, 2, 2]])
def test_the_best_are_those_that_sorting_finds_and_equal_ones_gain_nothing(values: list[float], lower: bool) -> None:
    measure, standing = Measure("x", lower), Standing([], 0)
    sign = 1 if lower else -1
    for step, value in enumerate(values):
        standing, kept = standing.after(step, Evaluation({"x": float(value)}, {}, 0), measure, 2)
        seen = list(range(step + 1))
        seen.sort(
            key=lambda at: math.inf if math.isnan(values[at]) else sign * values[at]
        )  # stable: earlier ones first
        assert [entry["step"] for entry in standing.best] == seen[:2]
        assert kept == (step in seen[:2])
        gains = [at for at in range(step + 1) if is_gain(values, at, sign)]
        assert standing.without_gain == step - max(gains, default=-1)


def is_gain(values: list[float], at: int, sign: int) -> bool:
    earlier = [sign * value for value in values[:at] if not math.isnan(value)]
    return not math.isnan(values[at]) and all(sign * values[at] < value for value in earlier)


def test_a_development_text_without_spelling_counts_in_the_metrics_and_not_in_the_loss(
    tones: tuple[Path, Path], tmp_path: Path
) -> None:
    said: list[str] = []
    dev = write_tones(tmp_path / "data", 3, 1, "dev.csv")
    fit(train_spec(tones[0], dev, budget={"steps": 1}), out=tmp_path / "all", quiet=True)
    rows = dev.read_text(encoding="utf-8").splitlines()
    fields = rows[2].split(",")
    rows[2] = ",".join([*fields[:2], "w" * len(fields[2]), fields[3]])
    dev.write_text("\n".join(rows) + "\n", encoding="utf-8")
    odd = fit(train_spec(tones[0], dev, budget={"steps": 1}), out=tmp_path / "odd", say=said.append)
    dev.write_text("\n".join([*rows[:2], *rows[3:]]) + "\n", encoding="utf-8")
    two = fit(train_spec(tones[0], dev, budget={"steps": 1}), out=tmp_path / "two", quiet=True)
    assert "1 development utterances are left out of the loss:" in said
    assert odd.values["loss"] == pytest.approx(two.values["loss"])
    pipeline = sltcore.load(odd.last)
    (metric,) = pipeline.metrics
    listed = [row.split(",") for row in rows[1:]]
    metric.update(pipeline([str(tmp_path / "data" / row[1]) for row in listed]), [row[2] for row in listed])
    assert metric.reduce(metric.per_item())["cer"].value == pytest.approx(odd.values["cer.cer"])
    assert len(metric.per_item()) == 3


def test_development_data_without_texts_is_judged_by_the_loss(tones: tuple[Path, Path]) -> None:
    pipeline = sltcore.load({"slt": 1, "kind": "pipeline", **train_spec(tones[0])["pipeline"]})
    assert choose_measure("auto", pipeline) == Measure("cer.cer", True)
    assert choose_measure("auto", pipeline, has_texts=False) == Measure("loss", True)
    text = "evaluate.best: no development utterance has a text for 'cer.cer'; write loss, or give texts"
    with pytest.raises(SpecError, match=text):
        choose_measure("cer.cer", pipeline, has_texts=False)


def test_a_metric_is_called_alike_however_its_block_names_it(tones: tuple[Path, Path]) -> None:
    spec = train_spec(tones[0])["pipeline"] | {"metrics": ["metric/cer", "cer", "wer"]}
    pipeline = sltcore.load({"slt": 1, "kind": "pipeline", **spec})
    assert [name for name in metric_names(pipeline) if name.endswith("er")] == ["cer.cer", "cer-2.cer", "wer.wer"]
    assert choose_measure("auto", pipeline) == Measure("cer.cer", True)
