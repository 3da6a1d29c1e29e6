"""Experiments: what is finished is kept, what is interrupted goes on, what changed is done again."""
# ruff: noqa: F811

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import toy_experiment
import yaml
from fake_plugins import Site
from toy_runs import Spec, registry, run, spec, states, values  # noqa: F401

from sltcore.experiment.keys import _version, unit_key
from sltcore.experiment.run import Results
from sltcore.experiment.units import read_unit


def without_times(value: Any) -> Any:
    """Measured values, whatever they took."""
    return {key: item for key, item in value.items() if key != "cost"}


def test_a_second_run_does_nothing_again(spec: Spec, run: Callable[..., Results]) -> None:
    first = run(spec)
    before = {path: path.stat().st_mtime_ns for path in (first.out / "units").rglob("*")}
    second = run(spec)
    assert set(states(second).values()) == {"reused"}
    assert {path: path.stat().st_mtime_ns for path in (first.out / "units").rglob("*")} == before


def test_finished_units_are_told_before_any_other_begins_and_start_no_process(
    spec: Spec, run: Callable[..., Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(spec)
    place = first.folder("base", 0)
    assert place is not None
    (place / "unit.json").unlink()
    handed: list[str] = []
    rows: list[int] = []

    def stopped(units: Any, folder: Path, workers: Any, **more: Any) -> Any:
        handed.extend(unit.label for unit in units)
        rows.append(len(json.loads((first.out / "results.json").read_text())["units"]))
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("sltcore.experiment.local.run_units", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(spec)
    assert handed == ["base seed 0"]
    assert rows == [len(first.units) - 1]


def test_stages_that_do_the_same_work_share_one_unit(
    spec: Spec, run: Callable[..., Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_STEPS", str(tmp_path / "steps"))
    spec["stages"]["again"] = {**copy.deepcopy(spec["stages"]["base"]), "name": "another name"}
    spec["stages"]["twin"] = {"do": "decode", "from": "again", "data": spec["stages"]["long"]["data"]}
    spec["stages"]["scores"]["of"].append("twin")
    spec["arms"]["twin"] = {"role": "control"}
    results = run(spec)
    assert len((tmp_path / "steps").read_text().splitlines()) == 2 * (3 + 2)
    assert results.folder("again", 1) == results.folder("base", 1)
    assert [unit.stages for unit, _ in results.units if unit.stage == "long"] == [("long", "twin")] * 2
    found = values(results)["arms"]
    assert found["twin"] == found["long"]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (("stages", "tuned", "budget", {"steps": 1}), {"tuned", "short", "scores"}),
        (("stages", "base", "seed_of_nothing", None), set()),
        (("stages", "long", "set", {"decoder.digits": 1}), {"long", "scores"}),
        (("stages", "scores", "metrics", [{"use": "distance", "factor": 2.0}]), {"scores"}),
        (("stages", "base", "description", "said otherwise"), set()),
        (("stages", "base", "log", {"every_steps": 3}), set()),
        (("claims", 0, "margin", 0.5), set()),
    ],
)
def test_a_changed_field_runs_exactly_its_descendants_again(
    spec: Spec, run: Callable[..., Results], change: tuple[Any, ...], again: set[str]
) -> None:
    run(spec)
    node: Any = spec
    *path, last, value = change
    for part in path:
        node = node[part]
    if value is not None:
        node[last] = value
    results = run(spec)
    assert {unit.stage for unit, result in results.units if result.state == "done"} == again
    assert {unit.stage for unit, result in results.units if result.state == "reused"} == set(spec["stages"]) - again


def test_changed_data_run_again_and_moved_data_do_not(spec: Spec, run: Callable[..., Results], tmp_path: Path) -> None:
    run(spec)
    sound = Path(spec["stages"]["plain"]["data"][0]["manifest"])
    moved = tmp_path / "elsewhere"
    sound.parent.rename(moved)
    text = json.dumps(spec).replace(str(sound.parent), str(moved))
    assert set(states(run(json.loads(text))).values()) == {"reused"}
    recording = moved / "3.wav"
    before = recording.read_bytes()
    samples, rate = soundfile.read(recording, dtype="float32")
    soundfile.write(recording, 0.5 * samples, rate, subtype="FLOAT")
    assert len(recording.read_bytes()) == len(before)
    assert set(states(run(json.loads(text))).values()) == {"done"}
    recording.write_bytes(before)
    assert set(states(run(json.loads(text))).values()) == {"reused"}
    manifest = moved / "all.csv"
    manifest.write_text(manifest.read_text().replace(",s0,", ",s9,"), encoding="utf-8")
    assert set(states(run(json.loads(text))).values()) == {"done"}


def test_files_that_a_stage_sets_lie_beside_the_spec_and_count_by_content(
    spec: Spec, run: Callable[..., Results], tmp_path: Path
) -> None:
    spec["stages"]["short"]["set"] = {"decoder.note": "note.txt"}
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "note.txt").write_text("one", encoding="utf-8")
        (tmp_path / folder / "toy.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    found = [run(tmp_path / folder / "toy.yaml") for folder in "ab"]
    (tmp_path / "b" / "note.txt").write_text("two", encoding="utf-8")
    found.append(run(tmp_path / "b" / "toy.yaml"))
    again = [{unit.stage for unit, result in results.units if result.state == "done"} for results in found]
    assert again == [set(spec["stages"]), set(), {"short", "scores"}]
    note = next(unit for unit, _ in found[0].units if unit.stage == "short").fields["set"]["decoder.note"]
    assert note == str(tmp_path / "a" / "note.txt")


def test_changed_code_runs_again(spec: Spec, run: Callable[..., Results], monkeypatch: pytest.MonkeyPatch) -> None:
    run(spec)
    monkeypatch.setattr("sltcore.experiment.plan.code_versions", lambda entries: ["toys 2"])
    assert set(states(run(spec)).values()) == {"done"}


def test_what_is_installed_for_editing_counts_by_its_source(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    name = site.add("spelt")
    monkeypatch.syspath_prepend(str(site.folder))
    found = []
    for text in ("A = 1\n", "A = 2\n", "A = 1\n"):
        (site.folder / "slt_spelt" / "build.py").write_text(text, encoding="utf-8")
        _version.cache_clear()
        found.append(_version(name, "slt_spelt"))
    assert found[0] == found[2] != found[1]
    assert found[0].startswith("sltcore-spelt 1.0 ")
    _version.cache_clear()


def test_the_code_of_the_core_counts_without_what_only_looks_on() -> None:
    from sltcore.experiment.keys import _works

    assert _works(("pipeline", "pipeline.py"))
    assert _works(("experiment", "stages.py"))
    assert not _works(("cli", "app.py"))
    assert not _works(("experiment", "verdict.py"))


@pytest.mark.slow
def test_killed_in_the_middle_it_finishes_without_repeating_and_gives_the_same_numbers(
    spec: Spec, site: Site, tmp_path: Path
) -> None:
    site.add("lab-toys", "from toy_experiment import SLT_API, slt_components\n")
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")

    def once(out: str, steps: str, **more: str) -> tuple[int, dict[str, str]]:
        environment = site.environment(
            TOY_STEPS=str(tmp_path / steps), SLT_PLUGINS="lab-toys", OMP_NUM_THREADS="1", **more
        )
        environment["PYTHONPATH"] = os.pathsep.join([str(site.folder), str(Path(__file__).parent)])
        done = subprocess.run(
            [sys.executable, str(Path(toy_experiment.__file__)), str(path), str(tmp_path / out)],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    assert once("whole", "steps-whole")[0] == 0
    assert once("cut", "steps-cut", TOY_KILL="7")[0] == -9
    code, told = once("cut", "steps-cut")
    assert code == 0
    assert told["base seed 0"] == "reused"
    assert set(told.values()) == {"reused", "done"}
    steps = (tmp_path / "steps-cut").read_text().splitlines()
    assert sorted(steps) == sorted((tmp_path / "steps-whole").read_text().splitlines())
    measured = sorted((tmp_path / "whole" / "units").glob("scores*"))
    assert len(measured) == 2
    for whole in measured:
        cut = tmp_path / "cut" / "units" / whole.name
        assert (cut / "stats.npz").read_bytes() == (whole / "stats.npz").read_bytes()
        first, second = (json.loads((folder / "values.json").read_text()) for folder in (whole, cut))
        assert without_times(first) == without_times(second)


@pytest.mark.parametrize(("begun", "steps"), [("as it is", 1), ("elsewhere", 3)])
def test_an_interrupted_training_goes_on_unless_it_was_begun_with_files_elsewhere(
    spec: Spec, run: Callable[..., Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str, steps: int
) -> None:
    spec["seeds"] = [0]
    first = run(spec)
    folder = first.folder("base", 0)
    assert folder is not None
    weights = (folder / "bundle" / "weights.safetensors").read_bytes()
    (folder / "unit.json").unlink()
    shutil.rmtree(folder / "bundle")
    (folder / "checkpoints").mkdir()
    two = 1.0
    for step in range(2):
        two += 0.01 * float(torch.rand((), generator=torch.Generator().manual_seed(step)))
    (folder / "checkpoints" / "state.json").write_text(json.dumps({"done": 2, "weight": two}), encoding="utf-8")
    if begun == "elsewhere":
        (folder / "begun").write_text("with another spec", encoding="ascii")
    monkeypatch.setenv("TOY_STEPS", str(tmp_path / "steps"))
    again = run(spec)
    assert len((tmp_path / "steps").read_text().splitlines()) == steps
    assert (folder / "bundle" / "weights.safetensors").read_bytes() == weights
    assert {unit.stage for unit, result in again.units if result.state == "done"} == {"base"}
    facts = read_unit(folder)
    assert facts is not None
    assert facts["values"] == {"loss": None}


def test_a_half_written_unit_is_done_again(spec: Spec, run: Callable[..., Results]) -> None:
    results = run(spec)
    folder = results.folder("plain")
    assert folder is not None
    (folder / "unit.json").unlink()
    (folder / "outputs.jsonl").write_text("half a li", encoding="utf-8")
    (results.out / "units" / ".plain--0123-x").mkdir()
    again = run(spec)
    assert states(again)["plain"] == "done"
    assert not list((results.out / "units").glob(".*"))


def test_keys_do_not_depend_on_names_or_paths() -> None:
    def key(fields: dict[str, Any], needs: dict[str, str], files: dict[str, str]) -> str:
        return unit_key(fields, needs=needs, files=files, data=["d"], code=["c"], seed=0, more={})

    first = key({"do": "decode", "from": "a", "set": {"decoder.lm": "/x/lm"}}, {"a": "1"}, {"/x/lm": "9"})
    assert first == key({"do": "decode", "from": "b", "set": {"decoder.lm": "/y/lm"}}, {"b": "1"}, {"/y/lm": "9"})
    assert first != key({"do": "decode", "from": "a", "set": {"decoder.lm": "/x/lm"}}, {"a": "2"}, {"/x/lm": "9"})
    assert first != key({"do": "decode", "from": "a", "set": {"decoder.lm": "/x/lm"}}, {"a": "1"}, {"/x/lm": "8"})
