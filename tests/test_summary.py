"""From a folder of results to a report: what was measured is there, and so is what is missing."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_plugins import Site
from result_folder import ITEMS, SEEDS, Errors, statistics, write_results

from sltcore.errors import DataError, PluginError
from sltcore.experiment.arms import bounded
from sltcore.experiment.facts import data_text
from sltcore.experiment.records import read_records
from sltcore.experiment.statistics import Components, Estimate, seeded_difference
from sltcore.experiment.summary import summarize
from sltcore.report import Report, Table


@pytest.fixture
def metric(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(block: Mapping[str, Any], registry: Any = None) -> Errors:
        if block["use"] != "errors":
            raise PluginError(f"no metric is named '{block['use']}'")
        return Errors()

    monkeypatch.setattr("sltcore.experiment.measures.make_metric", make)


@pytest.fixture
def write(tmp_path: Path, metric: None) -> Callable[..., Path]:
    """Writes a folder of results."""
    return partial(write_results, tmp_path)


def arms_of(report: Report) -> tuple[Table, dict[str, dict[str, Any]]]:
    table = report.tables[0]
    return table, {f"{row['arm']}{' *' if '_mark' in row else ''}": row for row in table.rows}


def test_verdicts_follow_from_the_kept_statistics(write: Callable[..., Path]) -> None:
    report = summarize(write())
    stats = statistics()
    clusters = [f"s{i % 25}" for i in range(ITEMS)]
    expected = seeded_difference(
        stats["tuned"], stats["fixed"][:1], Errors().reduce, value="rate", clusters=clusters, replicates=500,
        generator=np.random.default_rng(0),
    )  # fmt: skip
    found = report.verdicts[0]
    assert found.effect == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx(expected.interval())
    assert [(entry.seed, entry.effect) for entry in found.seeds] == [
        (seed, pytest.approx(effect)) for seed, effect in zip(SEEDS, expected.seeds, strict=True)
    ]
    assert (found.verdict, found.better, found.unit) == ("supported", "lower", "%")
    assert (found.arm, found.versus, found.text) == ("tuned arm", "as it was", "Tuned makes fewer errors")
    assert found.p_adjusted == pytest.approx(2 * found.p)  # type: ignore[operator]
    assert found.note == "The arms did not learn for equally many steps: tuned arm for 800, as it was for none."


def test_a_claim_without_words_gets_some_and_undecided_says_what_would_settle_it(write: Callable[..., Path]) -> None:
    found = summarize(write()).verdicts[1]
    assert found.text == "plain is not worse than as it was in errors.rate by more than 5 %"
    assert found.relative
    assert found.verdict == "undecided"
    assert "would settle it in 80 % of runs" in found.note


def test_the_table_has_a_row_for_each_arm_with_values_differences_and_cost(write: Callable[..., Path]) -> None:
    table, rows = arms_of(summarize(write()))
    stats = statistics()
    assert [column.key for column in table.columns] == [
        "arm", "role", "errors.rate", "errors.rate - fixed", "parameters", "bytes", "memory_bytes", "run_seconds",
        "real_time_factor", "steps", "train_seconds", "epsilon", "delta", "protects", "published", "source",
    ]  # fmt: skip
    tuned, fixed = rows["tuned arm"], rows["as it was"]
    each = [Errors().reduce(rows_)["rate"].value for rows_ in stats["tuned"]]
    assert tuned["errors.rate"]["value"] == pytest.approx(np.mean(each))
    assert [entry["value"] for entry in tuned["errors.rate"]["seeds"]] == pytest.approx(each)
    assert tuned["errors.rate"]["low"] < np.mean(each) < tuned["errors.rate"]["high"]
    assert tuned["errors.rate - fixed"]["high"] < 0
    assert fixed["errors.rate - fixed"] is None
    assert "seeds" not in fixed["errors.rate"]
    assert (tuned["role"], tuned["parameters"], tuned["bytes"], tuned["run_seconds"]) == ("technique", 1000, 4000, 3.0)
    assert (tuned["steps"], tuned["train_seconds"]) == (800, 11.0)
    assert (tuned["epsilon"], tuned["delta"], tuned["protects"]) == (2.0, 1e-5, "speaker")
    assert (fixed["steps"], fixed["epsilon"]) == (None, None)
    assert table.columns[2].better == table.columns[3].better == "lower"
    assert [column.unit for column in table.columns[2:4]] == ["%", "percentage points"]
    assert "Means over 3 seeds (0, 1, 2), measured on 60 utterances in 25 clusters of equal speaker" in table.caption


def test_other_values_stand_in_a_table_of_their_own(write: Callable[..., Path]) -> None:
    rest = summarize(write()).tables[1]
    assert rest.title == "Further values"
    assert [column.key for column in rest.columns] == ["arm", "errors.wrong"]
    assert rest.rows[2]["errors.wrong"]["value"] == pytest.approx(  # type: ignore[index, call-overload]
        100 * np.count_nonzero(statistics()["fixed"][0, :, 0]) / ITEMS
    )


def test_published_figures_are_rows_apart(write: Callable[..., Path]) -> None:
    _, rows = arms_of(summarize(write()))
    ours, theirs = rows["tuned arm *"], rows["theirs *"]
    assert ours["_mark"] == theirs["_mark"] == "published, other data"
    assert ours["errors.rate"] == 12.5
    assert ours["source"] == "A, table 2; on LibriSpeech"
    assert theirs["published"] == "word F1 60 %"


def test_charts_show_arms_differences_and_training(write: Callable[..., Path]) -> None:
    charts = {chart.title: chart for chart in summarize(write()).charts}
    assert list(charts) == [
        "rate of each arm",
        "rate minus that of as it was",
        "training: loss",
        "training: loss on dev",
        "training: errors.rate on dev",
    ]
    arms = charts["rate of each arm"]
    assert [point.x for point in arms.series[0].points] == ["tuned arm", "plain", "as it was"]
    assert len(arms.series[1].points) == 6  # every seed of the two arms that have some
    assert "as it was: " in arms.alt
    differences = charts["rate minus that of as it was"]
    assert differences.reference == 0.0
    assert (arms.y_label, differences.y_label) == ("rate (%)", "difference (percentage points)")
    assert [point.x for point in differences.series[0].points] == ["tuned arm", "plain"]
    stats = statistics()
    expected = [
        Errors().reduce(a)["rate"].value - Errors().reduce(b)["rate"].value
        for arm in ("tuned", "plain")
        for a, b in zip(stats[arm], stats["fixed"], strict=True)
    ]
    assert [point.y for point in differences.series[1].points] == pytest.approx(expected)
    loss = charts["training: loss"]
    assert [series.name for series in loss.series] == ["seed 0", "seed 1", "seed 2"]
    assert 100 < len(loss.series[0].points) <= 240
    assert loss.series[0].points[-1].x == 800
    assert charts["training: errors.rate on dev"].series[0].points[0].y == 11.0


def test_differences_that_stand_at_a_verdict_are_not_drawn_twice(write: Callable[..., Path]) -> None:
    claims = [
        {"measure": "scores", "value": "errors.rate", "arm": arm, "versus": "fixed"} for arm in ("tuned", "plain")
    ]
    titles = [chart.title for chart in summarize(write(claims=claims)).charts]
    assert "rate of each arm" in titles
    assert "rate minus that of as it was" not in titles


def test_an_error_rate_may_lie_beyond_a_hundred_and_no_interval_stays_none() -> None:
    def estimate(*values: float, distances: tuple[float, ...] = (-2.0, 0.0, 2.0)) -> Estimate:
        return Estimate(
            value=float(np.mean(values)), unit="%", seeds=values, items=9, clusters=9,
            components=Components(90.0, 40.0, 0.0), distances=np.array(distances),
        )  # fmt: skip

    high, low = estimate(99.0, 98.0), estimate(1.0, 2.0)
    assert bounded(high, "lower") == high.interval()
    assert high.interval()[1] > 100
    assert bounded(high, "higher") == (high.interval()[0], 100.0)
    assert low.interval()[0] < 0
    assert bounded(low, "lower") == (0.0, low.interval()[1])
    assert bounded(estimate(101.0, 99.0), "higher")[1] > 100
    assert all(math.isnan(bound) for bound in bounded(estimate(50.0, 51.0, distances=()), "higher"))


def test_facts_name_all_that_rows_stand_on(write: Callable[..., Path]) -> None:
    report = summarize(write())
    assert report.facts == {
        "utterances of scores": "60, 25 different values of speaker",
        "test data": "asterisk-en, split test, at most 60 utterances",
        "training data": "train.csv, weight 2",
        "split rule": "asterisk-en: by text: 15 % of the distinct texts, drawn once, are the test part",
        "model size": "1,000 parameters",
        "training steps": "training: 800",
        "utterances learned from": "training: 4,321",
        "utterances not learned from": "training: 1",
        "seeds": "0, 1, 2",
        "size": "small",
        "engine": "local",
        "bootstrap": "500 replicates",
        "correction for several claims": "holm",
    }
    assert report.command == "slt reproduce toy --size small"
    assert report.machine == {"host": "here", "processors": "2"}
    assert report.versions["sltcore-lib"] == "0.2.0"
    assert (report.title, report.kind, report.limits) == ("Tuning helps", "experiment", "A toy.")
    assert report.created == "2026-01-02T03:04:05+00:00"


def test_recordings_carry_what_each_arm_heard(write: Callable[..., Path]) -> None:
    [row] = summarize(write()).audio
    assert (row.title, row.label) == ("u0", "recording")
    assert row.text == "said | tuned arm: heard by tuned | as it was: heard by fixed"
    assert base64.b64decode(row.src.removeprefix("data:audio/wav;base64,")) == b"RIFF...."


def test_a_failed_seed_is_left_out_and_said(write: Callable[..., Path]) -> None:
    report = summarize(write(failed=[("scores", 1)]))
    assert [entry.seed for entry in report.verdicts[0].seeds] == [0, 2]
    assert report.verdicts[0].note.startswith(
        "Seed 1 of 3 left no values: this is the verdict of the others alone. The arms did not learn"
    )
    assert "scores, seed 1 failed: it broke" in report.problems
    assert "scores: no values for seed 1; means are over the other 2" in report.problems
    assert [unit.state for unit in report.units].count("failed") == 1


def test_arms_of_equal_budgets_need_no_word_about_them(write: Callable[..., Path]) -> None:
    claim = {"measure": "scores", "value": "errors.rate", "arm": "tuned", "versus": "plain"}
    [found] = summarize(write(claims=[claim])).verdicts
    assert (found.verdict, found.note) == ("supported", "")


def test_utterances_without_result_are_problems(write: Callable[..., Path]) -> None:
    assert summarize(write()).problems == ["plain, seed 1: 1 utterances failed, such as u7: no sound"]


def test_utterances_that_a_seed_lacks_count_for_none(write: Callable[..., Path]) -> None:
    fewer = [f"u{i}" for i in reversed(range(50))]
    report = summarize(write(ids={1: fewer}))
    assert "scores: 10 utterances are not there for all seeds, and count for none" in report.problems
    stats = statistics()
    expected = [Errors().reduce(rows[:50])["rate"].value for rows in stats["tuned"]]
    _, rows = arms_of(report)
    assert [entry["value"] for entry in rows["tuned arm"]["errors.rate"]["seeds"]] == pytest.approx(expected)


def test_without_measurements_claims_are_undecided_and_say_why(write: Callable[..., Path]) -> None:
    report = summarize(write(failed=[("scores", seed) for seed in SEEDS]))
    assert [verdict.verdict for verdict in report.verdicts] == ["undecided", "undecided"]
    assert report.verdicts[0].note == "No figure: 'scores' is not finished: it broke."
    assert report.verdicts[0].effect is None
    assert report.tables == []


def test_an_unfinished_run_says_how_far_it_came(write: Callable[..., Path]) -> None:
    report = summarize(write(unreached=[("scores", 1), ("scores", 2)]))
    assert "2 units have not run yet, such as scores seed 1; the same command goes on where it was" in report.problems
    assert report.verdicts[0].note.startswith(
        "Seeds 1, 2 of 3 left no values: this is the verdict of the others alone. "
    )
    assert "One seed: the interval says what other utterances would give" in report.verdicts[0].note


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"value": "errors.f1"}, "the metric 'errors' gives no value 'f1'; it gives: rate, wrong"),
        ({"value": "wer.wer"}, "'scores' has no metric 'wer'; it has: errors"),
        ({"arm": "other"}, "'scores' does not measure 'other'"),
        ({"clusters": "speeker"}, r"the data have no column 'speeker' for clusters; there are: speaker. Did you mean"),
        ({"measure": "other"}, "'other' is not finished"),
    ],
)
def test_a_claim_that_nothing_answers_is_undecided(
    write: Callable[..., Path], change: dict[str, str], why: str
) -> None:
    claim = {"measure": "scores", "value": "errors.rate", "arm": "tuned", "versus": "fixed", **change}
    [found] = summarize(write(claims=[claim])).verdicts
    assert found.verdict == "undecided"
    assert found.note.startswith(f"No figure: {why}")


def test_the_same_folder_gives_the_same_report_and_it_can_be_written(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    from sltcore.report.page import write as write_page

    folder = write()
    report = summarize(folder)
    assert summarize(folder) == report
    data, page = write_page(report, tmp_path / "report")
    assert Report.from_dict(json.loads(data.read_text(encoding="utf-8"))) == report
    assert page.stat().st_size < 2_000_000


def test_a_metric_that_is_not_installed_is_a_problem(write: Callable[..., Path]) -> None:
    folder = write()
    for path in folder.glob("units/scores--*/values.json"):
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "metrics": {"gone": {"use": "gone"}}}))
    report = summarize(folder)
    assert (
        "scores: the metric gone cannot be built, so its values are not shown: no metric is named 'gone'"
        in report.problems
    )
    assert report.verdicts[0].verdict == "undecided"


def test_grids_become_arms_named_by_what_they_set(write: Callable[..., Path]) -> None:
    from sltcore.experiment.arms import arm_labels

    folder = write()
    results = json.loads((folder / "results.json").read_text())
    results["grids"] = {"tuned": ["tuned/1", "tuned/2"]}
    for number in (1, 2):
        results["stages"][f"tuned/{number}"] = {**results["stages"]["tuned"], "settings": {"decoder.beam": 4 * number}}
    (folder / "results.json").write_text(json.dumps(results))
    labels = arm_labels(read_records(folder))
    assert labels["tuned/1"] == "tuned arm (decoder.beam 4)"
    assert labels["tuned/2"] == "tuned arm (decoder.beam 8)"
    assert (
        summarize(folder).verdicts[0].note
        == "No figure: 'tuned' is a grid; a claim names one of its stages: tuned/1, tuned/2."
    )


def test_data_are_told_in_words() -> None:
    assert data_text({"corpus": "c", "split": "train", "part": [0, 0.95], "where": {"speaker": ["a", "b"]}, "max_seconds": 6}) == (
        "c, split train, 0 to 95 % by the hash of the text, speaker a or b, at most 6 s each"
    )  # fmt: skip
    assert data_text({"dataset": "/data/set", "revision": "v1"}) == "set, revision v1"
    assert data_text({"corpus": "c", "without_words": ["fish", "gods"]}) == "c, without the words fish gods"
    assert data_text({"stage": "labels"}) == "outputs of labels"


def test_a_folder_without_results_is_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(
        DataError, match=r"results\.json cannot be read: .*; name a folder that slt reproduce has written"
    ):
        summarize(tmp_path / "nothing")
    folder = write()
    (folder / "results.json").write_text("{")
    with pytest.raises(DataError, match=r"results\.json is no JSON"):
        summarize(folder)
    (folder / "results.json").write_text('{"schema": 99}')
    with pytest.raises(DataError, match="another schema than 1"):
        summarize(folder)


@pytest.mark.parametrize("cut", [2, 0])
def test_statistics_that_are_cut_off_are_refused(write: Callable[..., Path], cut: int) -> None:
    folder = write()
    path = folder / "units" / "scores--0" / "stats.npz"
    path.write_bytes(path.read_bytes()[: cut or -100])
    with pytest.raises(
        DataError, match=r"stats\.npz cannot be read: .*; delete its folder and run the experiment again"
    ):
        summarize(folder)


@pytest.mark.parametrize("name", ["scores--0/values.json", "tuned--0/audio/000-in.wav"])
def test_a_file_that_is_gone_is_named_in_one_line(write: Callable[..., Path], name: str) -> None:
    folder = write()
    (folder / "units" / name).unlink()
    with pytest.raises(DataError, match=rf"{name} cannot be read: .*; delete its folder and run the experiment again"):
        summarize(folder)


@pytest.mark.slow
def test_what_a_run_leaves_is_what_a_report_reads(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the toy experiment, from its spec to the report: 6 utterances, 2 seeds, one arm without any."""
    import soundfile
    import toy_experiment

    import sltcore.train
    from sltcore.experiment import run_experiment

    monkeypatch.setattr(sltcore.train, "fit", toy_experiment.fit, raising=False)
    monkeypatch.syspath_prepend(str(site.folder))
    registry = toy_experiment.toy_registry(site)
    lines = ["audio,text,speaker"]
    for number in range(6):
        samples = np.full(800 + number, 0.01 * (number + 1), dtype=np.float32)
        soundfile.write(tmp_path / f"{number}.wav", samples, 16000, subtype="FLOAT")
        lines.append(f"{number}.wav,{samples.sum():.3f},s{number % 3}")
    (tmp_path / "all.csv").write_text("\n".join(lines), encoding="utf-8")
    data = [{"manifest": str(tmp_path / "all.csv")}]
    pipeline = {"encoder": "gain", "decoder": "writer"}
    claim = {"measure": "scores", "value": "distance.mean", "arm": "moved", "versus": "plain", "clusters": "speaker"}
    source = {
        "slt": 1, "kind": "experiment", "name": "toy", "claims": [claim], "seeds": [0, 1], "replicates": 400,
        "stages": {
            "moves": {"do": "train", "pipeline": pipeline, "data": {"train": data}, "budget": {"steps": 3}},
            "plain": {"do": "decode", "pipeline": pipeline, "data": data},
            "moved": {"do": "decode", "from": "moves", "data": data, "audio": 1},
            "scores": {"do": "measure", "of": ["plain", "moved"], "metrics": ["distance"]},
        },
        "arms": {"moved": {"role": "technique"}, "plain": {"role": "baseline"}},
    }  # fmt: skip
    results = run_experiment(source, out=tmp_path / "out", registry=registry)
    assert not results.failed
    report = summarize(tmp_path / "out", registry=registry)
    [verdict] = report.verdicts
    each = []
    for seed in (0, 1):
        place = results.folder("scores", seed)
        assert place is not None
        with np.load(place / "stats.npz", allow_pickle=False) as kept:
            each.append(float(kept["stats:moved:distance"].mean() - kept["stats:plain:distance"].mean()))
    assert [entry.effect for entry in verdict.seeds] == pytest.approx(each)
    assert verdict.effect == pytest.approx(np.mean(each))
    assert "moved for 3, plain for none. Only 3 values of speaker" in verdict.note
    _, rows = arms_of(report)
    assert (rows["moved"]["parameters"], rows["moved"]["steps"]) == (1, 3)
    assert report.facts["seeds"] == "0, 1"
    assert len(report.audio) == 1
    assert len(report.units) == 7
    assert not report.problems
