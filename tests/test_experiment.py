"""Experiments: stages run once, in order, and are measured and told of."""
# ruff: noqa: F811

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import toy_experiment
import yaml
from safetensors.torch import load_file
from toy_runs import PIPELINE, Spec, registry, run, spec, states, values  # noqa: F401

import sltcore
import sltcore.train
from sltcore.errors import DataError, SltError, SpecError
from sltcore.experiment import make_plan
from sltcore.experiment.bootstrap import interval
from sltcore.experiment.run import Results
from sltcore.experiment.units import Schedule, Unit, UnitResult, find_unit, read_unit, run_unit
from sltcore.registry import Registry
from sltcore.spec.load import load_spec


def test_seeds_multiply_only_what_depends_on_one(spec: Spec, run: Callable[..., Results]) -> None:
    results = run(spec)
    assert Counter(unit.stage for unit, _ in results.units) == {
        "base": 2, "tuned": 2, "plain": 1, "short": 2, "long": 2, "scores": 2,
    }  # fmt: skip
    assert set(states(results).values()) == {"done"}


def test_values_follow_from_the_weights_that_were_trained(spec: Spec, run: Callable[..., Results]) -> None:
    results = run(spec)
    folder = results.folder("short", 1)
    assert folder is not None
    rows = [json.loads(line) for line in (folder / "outputs.jsonl").read_text().splitlines()]
    draws = [torch.Generator().manual_seed(1000 + step) for step in (0, 1, 2, 0, 1)]
    weight = 1.0 + 0.01 * sum(float(torch.rand((), generator=draw)) for draw in draws)
    expected = [weight * float(np.full(800 + n, 0.01 * (n + 1), np.float32).sum()) for n in range(6)]
    assert [float(row["text"]) for row in rows] == pytest.approx(expected, abs=2e-3)
    away = [abs(float(row["text"]) - float(row["reference"])) for row in rows]
    found = values(results, 1)["arms"]
    assert found["short"]["distance.mean"]["value"] == pytest.approx(np.mean(away))
    assert found["plain"]["distance.mean"]["value"] == pytest.approx(0, abs=2e-3)
    assert found["short"]["distance.mean"]["better"] == "lower"


def test_outputs_hold_what_the_data_say_and_the_best_list(spec: Spec, run: Callable[..., Results]) -> None:
    folder = run(spec).folder("plain")
    assert folder is not None
    row = json.loads((folder / "outputs.jsonl").read_text().splitlines()[1])
    assert (row["id"], row["speaker"], row["place"], row["seconds"]) == ("1.wav", "s1", "here", 0.0501)
    assert [entry["score"] for entry in row["nbest"]] == [0.0, -1.0, -2.0]
    assert Path(row["audio"]).name == "1.wav"
    facts = read_unit(folder)
    assert facts is not None
    assert facts["utterances"] == 6
    assert facts["parameters"] == 1
    assert facts["audio_seconds"] == pytest.approx(sum(800 + n for n in range(6)) / 16000, abs=1e-3)
    assert facts["run_seconds"] > 0
    assert facts["max_rss_bytes"] > 10_000_000


def test_statistics_are_kept_without_pickle_and_give_the_interval(spec: Spec, run: Callable[..., Results]) -> None:
    folder = run(spec).folder("scores", 0)
    assert folder is not None
    with np.load(folder / "stats.npz", allow_pickle=False) as kept:
        assert kept["ids"].tolist() == [f"{n}.wav" for n in range(6)]
        assert kept["column:speaker"].tolist() == ["s0", "s1"] * 3
        stats, clusters = kept["stats:short:distance"], kept["column:speaker"].tolist()
    metric = toy_experiment.Distance(1.0)
    again = interval(stats, metric.reduce, clusters=clusters, replicates=200, generator=np.random.default_rng(0))[
        "mean"
    ]
    told = json.loads((folder / "values.json").read_text())
    assert told["clusters"] == {"column": "speaker", "count": 2}
    told = told["arms"]["short"]["distance.mean"]
    assert (told["value"], told["low"], told["high"]) == (again.value, again.low, again.high)


def test_a_failing_unit_is_a_row_and_the_rest_goes_on(spec: Spec, run: Callable[..., Results]) -> None:
    spec["stages"]["tuned"]["optimizer"] = {"learning_rate": 99.0}
    spec["stages"]["others"] = {"do": "measure", "of": ["plain", "long"], "metrics": ["distance"]}
    results = run(spec)
    found = {unit.stage: result for unit, result in results.units if unit.seed in (0, None)}
    assert found["tuned"].state == "failed"
    assert found["tuned"].error == "RuntimeError: diverged at once"
    assert (found["short"].state, found["short"].error) == ("skipped", "needs 'tuned seed 0', which failed")
    assert (found["scores"].state, found["scores"].error) == ("skipped", "needs 'tuned seed 0', which failed")
    assert {found[name].state for name in ("base", "plain", "long", "others")} == {"done"}
    rows = json.loads((results.out / "results.json").read_text())["units"]
    assert {row["stage"]: row["error"] for row in rows if row["seed"] == 1}["tuned"] == "RuntimeError: diverged at once"
    traces = list((results.out / "units").glob("tuned*error.txt"))
    assert len(traces) == 2
    assert "Traceback" in traces[0].read_text()
    spec["stages"]["tuned"]["optimizer"] = {"learning_rate": 9.0}
    assert not run(spec).failed


def test_data_that_cannot_be_read_fail_only_what_needs_them(spec: Spec, run: Callable[..., Results]) -> None:
    spec["stages"]["long"]["data"] = [{"manifest": "/no/such.csv"}]
    found = {unit.stage: result for unit, result in run(spec).units if unit.seed in (0, None)}
    assert (found["long"].state, found["long"].error) == ("failed", "no manifest /no/such.csv; check the name")
    assert found["scores"].state == "skipped"
    assert found["short"].state == "done"


def test_an_utterance_that_fails_in_one_arm_counts_as_empty_and_is_named(
    spec: Spec, run: Callable[..., Results]
) -> None:
    sound = Path(spec["stages"]["plain"]["data"][0]["manifest"]).parent
    soundfile.write(sound / "0.wav", np.full(2000, 0.9, dtype=np.float32), 16000, subtype="FLOAT")
    results = run(spec)
    folder = results.folder("plain")
    assert folder is not None
    facts = read_unit(folder)
    assert facts is not None
    assert facts["failed"] == {"0.wav": "input '0.wav': RuntimeError in stage 'encoder': too loud"}
    told = values(results)
    assert set(told["failed"]) == {"plain", "short", "long"}
    with np.load(results.folder("scores", 0) / "stats.npz") as kept:  # type: ignore[operator]
        assert kept["stats:plain:distance"][0, 0] == 100


def test_arms_with_other_utterances_are_refused(spec: Spec, run: Callable[..., Results]) -> None:
    spec["stages"]["plain"]["data"] = [{**spec["stages"]["plain"]["data"][0], "where": {"place": ["there"]}}]
    found = {unit.stage: result.error for unit, result in run(spec).units if unit.seed in (0, None)}
    assert found["scores"] == (
        "'plain' and 'short' were decoded on other utterances: 4 are in one of them only, such as "
        "0.wav, 1.wav, 2.wav, 3.wav; give both the same data"
    )


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("where", {"place": ["there"]}, None),
        ("where", {"plase": ["there"]}, "the outputs of 'plain' have no column 'plase'.*Did you mean 'place'"),
        ("where", {"place": ["nowhere"]}, "no utterance of 'plain' is left to be measured"),
        ("reference", "meaning", "6 of 6 utterances have nothing in column 'meaning'"),
    ],
)
def test_measures_choose_rows_and_say_what_is_missing(
    spec: Spec, run: Callable[..., Results], field: str, value: Any, error: str | None
) -> None:
    spec["stages"]["scores"][field] = value
    results = run(spec)
    if error is None:
        assert values(results)["utterances"] == 2
        return
    (told, *_) = [result.error for unit, result in results.units if unit.stage == "scores"]
    import re

    assert re.search(error, told)


def test_a_claim_about_clusters_that_no_column_gives_is_a_failed_measure(
    spec: Spec, run: Callable[..., Results]
) -> None:
    spec["claims"][0]["clusters"] = "speakers"
    told = [result.error for unit, result in run(spec).units if unit.stage == "scores"]
    assert told[0].startswith("clusters: the data have no column 'speakers'; there are: place, ")


def test_grids_become_stages_and_those_that_follow_become_as_many(spec: Spec, run: Callable[..., Results]) -> None:
    spec["stages"]["tuned"]["grid"] = {"budget.steps": [1, 2], 'set["encoder.start"]': [1.0]}
    spec["arms"] = {"plain": {"role": "baseline"}, "short/1": {"role": "technique"}, "short/2": {"role": "technique"}}
    spec["claims"][0]["arm"] = "short/2"
    spec["seeds"] = [0]
    results = run(spec)
    assert not results.failed
    assert [unit.stage for unit, _ in results.units] == [
        "base", "tuned/1", "tuned/2", "plain", "short/1", "short/2", "long", "scores",
    ]  # fmt: skip
    assert set(values(results)["arms"]) == {"plain", "short/1", "short/2", "long"}
    kept = json.loads((results.out / "results.json").read_text())
    assert kept["grids"] == {"tuned": ["tuned/1", "tuned/2"], "short": ["short/1", "short/2"]}
    assert kept["stages"]["short/2"]["settings"]["budget.steps"] == 2
    assert (results.out / "units" / results.units[1][0].folder / "unit.json").exists()


def test_transforms_measure_and_are_finished_once_for_each_seed_of_what_they_change(
    spec: Spec, run: Callable[..., Results], registry: Registry
) -> None:
    stages = spec["stages"]
    data = stages["plain"]["data"]
    stages["rounded"] = {"do": "transform", "from": "base", "set": {"transforms": ["halved"]}, "calibration": data}
    stages["coarse"] = {"do": "decode", "from": "rounded", "data": data}
    stages["scores"]["of"].append("coarse")
    spec["arms"]["coarse"] = {"role": "technique"}
    results = run(spec)
    assert not results.failed
    folder = results.folder("rounded", 1)
    assert folder is not None
    pipeline = sltcore.load(folder / "bundle", registry=registry)
    assert pipeline.model.get_parameter("encoder.gain").item() == 1.0
    assert float(pipeline.transforms[0].heard) == 6
    assert values(results)["arms"]["coarse"] == values(results)["arms"]["plain"]


def test_outputs_of_one_stage_are_data_of_another(spec: Spec, run: Callable[..., Results]) -> None:
    spec["stages"]["taught"] = {
        "do": "train", "pipeline": PIPELINE, "data": {"train": [{"stage": "long"}]}, "budget": {"steps": 1},
    }  # fmt: skip
    spec["stages"]["echo"] = {"do": "decode", "from": "taught", "data": [{"stage": "long"}]}
    results = run(spec)
    assert not results.failed
    folder, before = results.folder("echo", 1), results.folder("long", 1)
    assert folder is not None
    assert before is not None
    said = [json.loads(line)["text"] for line in (before / "outputs.jsonl").read_text().splitlines()]
    meant = [json.loads(line)["reference"] for line in (folder / "outputs.jsonl").read_text().splitlines()]
    assert meant == said


def test_units_travel_to_other_processes(spec: Spec, registry: Registry, tmp_path: Path) -> None:
    plan = make_plan(load_spec(spec, registry=registry), registry=registry)
    for unit in plan.units:
        assert pickle.loads(pickle.dumps(unit)) == unit
    (plain,) = [unit for unit in plan.units if unit.stage == "plain"]
    assert run_unit(plain, tmp_path / "u", registry=registry).state == "done"
    assert find_unit(tmp_path / "u", plain.key) == tmp_path / "u" / plain.folder
    assert run_unit(plain, tmp_path / "u", registry=registry).state == "reused"


def test_sizes_seeds_and_overrides_apply(spec: Spec, run: Callable[..., Results]) -> None:
    results = run(spec, size="smoke")
    assert [unit.label for unit, _ in results.units if unit.stage == "base"] == ["base seed 0"]
    more = run(spec, seeds=3, overrides=["stages.tuned.budget.steps=1"])
    assert [unit.seed for unit, _ in more.units if unit.stage == "base"] == [0, 1, 2]
    kept = yaml.safe_load((more.out / "experiment.yaml").read_text())
    assert kept["stages"]["tuned"]["budget"] == {"steps": 1}


def test_a_train_stage_with_a_seed_of_its_own_is_one_start_for_every_seed(
    spec: Spec, run: Callable[..., Results]
) -> None:
    own = run(spec, seeds=3, overrides=["stages.base.seed=2"])
    assert [unit.seed for unit, _ in own.units if unit.stage == "base"] == [None]
    assert [unit.seed for unit, _ in own.units if unit.stage == "tuned"] == [0, 1, 2]
    each = run(spec, seeds=3)
    folders = own.folder("base", 2), each.folder("base", 2)
    shared, third = (load_file(f"{folder}/bundle/weights.safetensors") for folder in folders)
    assert shared.keys() == third.keys()
    assert all(torch.equal(shared[name], third[name]) for name in shared)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"engine": "lokal"}, "engine is 'lokal', expected one of: local, ray. Did you mean 'local'"),
        ({"workers": 0}, "workers is 0, expected at least 1"),
        ({"seeds": 0}, "seeds is 0, expected at least 1"),
    ],
)
def test_wrong_options_are_one_line(
    spec: Spec, run: Callable[..., Results], options: dict[str, Any], error: str
) -> None:
    with pytest.raises(SltError, match=error):
        run(spec, **options)


def test_a_folder_of_another_experiment_is_left_alone(spec: Spec, run: Callable[..., Results], tmp_path: Path) -> None:
    run(spec)
    with pytest.raises(DataError, match="holds the experiment 'toy', this one is 'other'"):
        run({**spec, "name": "other"})
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be written"):
        run(spec, out=tmp_path / "file")


@pytest.mark.parametrize("name", ["experiment.yaml", "results.json"])
def test_a_record_that_cannot_be_written_is_one_line_and_loses_no_unit(
    spec: Spec, run: Callable[..., Results], tmp_path: Path, name: str
) -> None:
    whole = run(spec)
    (whole.out / name).unlink()
    (whole.out / name).mkdir()
    if name == "experiment.yaml":
        (whole.out / name).rmdir()
        (whole.out / name).symlink_to(tmp_path / "no" / "folder")
    with pytest.raises(DataError, match=rf"{name} cannot be written: .*; finished units are kept, mend it and run"):
        run(spec)
    (whole.out / name).unlink() if name == "experiment.yaml" else (whole.out / name).rmdir()
    assert set(states(run(spec)).values()) == {"reused"}


def test_settings_that_no_pipeline_takes_stop_before_anything_runs(
    spec: Spec, run: Callable[..., Results], tmp_path: Path
) -> None:
    spec["stages"]["short"]["set"] = {"decoder.digit": 2}
    with pytest.raises(SpecError, match=r"stages.short.set.*has no field 'digit'"):
        run(spec)
    assert not (tmp_path / "out").exists()


def test_a_schedule_hands_out_what_is_ready_and_skips_what_was_lost() -> None:
    def unit(name: str, *needs: str) -> Unit:
        return Unit((name,), None, name, {"do": "decode"}, {need: need for need in needs})

    schedule = Schedule([unit("a"), unit("b"), unit("c", "a"), unit("d", "c", "b")])
    assert [ready.key for ready in schedule.ready()] == ["a", "b"]
    for ready in schedule.ready():
        schedule.take(ready)
    assert schedule.ready() == []
    assert not schedule.settle(UnitResult("b", "done"))
    lost = schedule.settle(UnitResult("a", "failed", error="no"))
    assert [(result.key, result.state, result.error) for result in lost] == [
        ("c", "skipped", "needs 'a', which failed"),
        ("d", "skipped", "needs 'a', which failed"),
    ]
    assert not schedule
