"""slt reproduce: experiments of plugins are found, run, reported, and told of."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from fake_plugins import Site, Slt

from sltcore.cli.reproduce import _told
from sltcore.cli.watching import Lines, Watched
from sltcore.errors import PluginError
from sltcore.experiment import Unit, UnitResult
from sltcore.experiment.discover import all_experiments, described, experiments_of, find_experiment
from sltcore.report import Verdict

SPEECH = Path(__file__).parent.parent / "plugins" / "speech"
HEAD = "slt: 1\nkind: experiment\nname: {name}\ntitle: About {name}\nsizes: {{smoke: {{seeds: [0]}}}}\n"


@pytest.fixture
def imported(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(site.folder))
    return site


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.yaml").write_text(HEAD.format(name=name), encoding="utf-8")


def test_experiments_lie_in_the_package(imported: Site) -> None:
    imported.add("alpha")
    put(imported.folder / "slt_alpha" / "experiments", "main", "second")
    found = experiments_of("alpha", path=[str(imported.folder)])
    assert [(e.address, e.title, e.sizes) for e in found] == [
        ("alpha/main", "About main", ("smoke",)),
        ("alpha/second", "About second", ("smoke",)),
    ]
    assert "slt_alpha" not in sys.modules


def test_experiments_of_a_checkout_lie_beside_its_project(imported: Site, tmp_path: Path) -> None:
    name = imported.add("beta")
    checkout = tmp_path / "check out"
    put(checkout / "experiments", "main")
    info = imported.folder / f"{name.replace('-', '_')}-1.0.dist-info"
    noted = {"url": checkout.as_uri(), "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(noted), encoding="utf-8")
    assert find_experiment("beta", path=[str(imported.folder)]).path == checkout / "experiments" / "main.yaml"


def test_experiments_beside_a_source_folder_are_found_without_a_note(imported: Site, tmp_path: Path) -> None:
    imported.add("gamma")
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    put(tmp_path / "experiments", "main")
    assert [e.address for e in experiments_of("gamma", path=[str(imported.folder)])] == ["gamma/main"]


def test_what_is_not_there_is_named_with_what_is(imported: Site) -> None:
    path = [str(imported.folder)]
    imported.add("alpha")
    imported.add("empty")
    put(imported.folder / "slt_alpha" / "experiments", "rescoring", "window")
    with pytest.raises(PluginError, match=r"no plugin is named 'alpa'; installed: alpha, empty. Did you mean 'alpha'"):
        find_experiment("alpa", path=path)
    with pytest.raises(PluginError, match="no experiment 'main'; choose one of: alpha/rescoring, alpha/window"):
        find_experiment("alpha", path=path)
    with pytest.raises(PluginError, match=r"no experiment 'windo'; choose one of: .*Did you mean 'window'"):
        find_experiment("alpha/windo", path=path)
    with pytest.raises(PluginError, match="plugin 'empty' brings no experiment"):
        find_experiment("empty", path=path)
    assert [e.address for e in all_experiments(path=path)] == ["alpha/rescoring", "alpha/window"]


def test_a_spec_that_cannot_be_read_is_listed_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [1\n", encoding="utf-8")
    (tmp_path / "list.yaml").write_text("[1]\n", encoding="utf-8")
    assert described("p", tmp_path / "bad.yaml").title.startswith("cannot be read: ")
    assert described("p", tmp_path / "list.yaml").title == "cannot be read: it is no map"


def test_the_experiments_of_speech_are_in_its_wheel(tmp_path: Path) -> None:
    from flit_core.wheel import make_wheel_in

    wheel = make_wheel_in(SPEECH / "pyproject.toml", tmp_path).file
    with zipfile.ZipFile(wheel) as archive:
        held = {name.rpartition("/")[2] for name in archive.namelist() if name.startswith("slt_speech/experiments/")}
    beside = {path.name for path in (SPEECH / "experiments").glob("*.yaml")}
    assert "main.yaml" in held
    assert beside <= held


def unit(stage: str, seed: int | None = None) -> Unit:
    return Unit((stage,), seed, stage, {"do": "train"})


def test_a_line_for_each_unit(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    units = [unit("base", 0), unit("tuned", 0), unit("plain")]
    lines.begin(units)
    lines.settled(units[0], UnitResult("base", "done", 3.21))
    lines.settled(units[1], UnitResult("tuned", "failed", 1.0, "no room"))
    lines.settled(units[2], UnitResult("plain", "reused", 9.0))
    assert capsys.readouterr().err.splitlines() == [
        "[1/3] train base seed 0: done in 3.2 s",
        "[2/3] train tuned seed 0: failed: no room",
        "[3/3] train plain: reused",
    ]


def test_a_bar_says_what_is_running_and_how_far_it_is(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    base = unit("base", 0)
    watched.begin([base])
    watched.started(base)
    column: Any = watched.bar.columns[-1]
    task = watched.bar.tasks[0]
    assert column.render(task).plain == "base seed 0"
    (tmp_path / base.folder).mkdir()
    metrics = tmp_path / base.folder / "metrics.jsonl"
    metrics.write_text('{"step": 10}\n{"step": 20}\n', encoding="utf-8")
    assert column.render(task).plain == "base seed 0 (step 20)"
    metrics.write_text('{"step": 10}\n{"st', encoding="utf-8")
    assert column.render(task).plain == "base seed 0"
    watched.settled(base, UnitResult("base", "done", 1.0))
    assert column.render(task).plain == ""
    watched.end()


TINY: Mapping[str, Any] = {
    "encoder": {"use": "conformer", "d_model": 16, "layers": 1, "heads": 2},
    "decoder": {"use": "ctc-greedy", "characters": "ab"},
    "metrics": ["wer"],
}


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A tiny network is trained on noise, decoded and measured against its untrained self."""
    draw = np.random.default_rng(0)
    lines = ["audio,text"]
    for number in range(6):
        samples = 0.1 * draw.standard_normal(8000 + 100 * number)
        soundfile.write(tmp_path / f"{number}.wav", samples, 16000)
        lines.append(f"{number}.wav,{'ab'[number % 2]} b")
    (tmp_path / "all.csv").write_text("\n".join(lines), encoding="utf-8")
    data = [{"manifest": "all.csv"}]
    spec = {
        "slt": 1,
        "kind": "experiment",
        "name": "noise",
        "title": "Nothing is learned from noise",
        "claims": [
            {"text": "Training helps", "measure": "scores", "value": "wer.wer", "arm": "taught", "versus": "untaught"}
        ],
        "seeds": [0, 1],
        "replicates": 200,
        "stages": {
            "base": {
                "do": "train", "pipeline": dict(TINY), "data": {"train": data, "dev": data}, "budget": {"steps": 2},
                "log": {"tensorboard": False},
            },
            "taught": {"do": "decode", "from": "base", "data": data, "audio": 1},
            "untaught": {"do": "decode", "pipeline": dict(TINY), "data": data},
            "scores": {"do": "measure", "of": ["taught", "untaught"], "metrics": ["wer"]},
        },
        "arms": {"taught": {"role": "technique"}, "untaught": {"role": "baseline"}},
        "sizes": {"small": {"seeds": [0]}},
    }  # fmt: skip
    path = tmp_path / "noise.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.slow
def test_reproduce_runs_reports_reuses_and_names_what_failed(
    experiment: Path, slt: Slt, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole, again, failing, wrong = slt.several(
        [
            ["reproduce", experiment],
            ["reproduce", experiment],
            ["reproduce", experiment, "--set", "stages.taught.data[0].manifest=none.csv", "--out", "other"],
            ["reproduce", experiment, "--size", "smal"],
        ],
        site=site,
        OMP_NUM_THREADS="1",
    )
    assert whole[0] == 0, whole[2]
    out = tmp_path / "runs" / "noise-small"
    assert [line.split(":")[0] for line in whole[2].splitlines() if line.startswith("[")] == [
        "[1/4] train base seed 0", "[2/4] decode taught seed 0", "[3/4] decode untaught", "[4/4] measure scores seed 0",
    ]  # fmt: skip
    assert "4 units (4 done)" in whole[2]
    assert whole[1].count("Training helps") == 1
    assert json.loads((out / "report.json").read_text())["title"] == "Nothing is learned from noise"
    assert (out / "report.html").stat().st_size > 1000
    (taught,) = (out / "units").glob("taught*")
    assert (taught / "audio" / "000-in.wav").exists()
    (base,) = (out / "units").glob("base*")
    assert sorted(path.name for path in base.iterdir() if path.is_dir()) == ["bundle"]
    assert again[0] == 0, again[2]
    assert "4 units (4 reused)" in again[2]
    assert again[1] == whole[1]
    assert failing[0] == 1
    assert "error: taught seed 0: no manifest" in failing[2]
    assert "warning: 1 unit failed, 1 that need them were skipped" in failing[2]
    assert wrong[0] == 2
    assert "Did you mean 'small'?" in wrong[2]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"unit": "%"}, "supported: fewer errors: −1.5 percentage points [−2, −1]"),
        ({"unit": "%", "relative": True}, "supported: fewer errors: −1.5 % of old [−2, −1]"),
        ({"unit": "dB"}, "supported: fewer errors: −1.5 dB [−2, −1]"),
        ({"unit": "", "low": None}, "supported: fewer errors: −1.5"),
        ({"effect": None, "note": "No figure: it broke."}, "supported: fewer errors (No figure: it broke.)"),
    ],
)
def test_a_verdict_is_a_line_with_the_unit_of_the_difference(fields: dict[str, Any], told: str) -> None:
    values: dict[str, Any] = {"effect": -1.5, "low": -2.0, "high": -1.0, **fields}
    verdict = Verdict(
        text="fewer errors", measure="scores", value="wer.wer", arm="new", versus="old", verdict="supported", **values
    )
    assert _told(verdict) == told


SPREAD = """
import json, os, signal, sys, threading, time
from sltcore.experiment import run_experiment

def shoot():
    while True:
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                parent = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[1]
                line = open(f"/proc/{name}/cmdline").read()
            except OSError:
                continue
            if parent == str(os.getpid()) and "spawn_main" in line:
                os.kill(int(name), signal.SIGKILL)
                return
        time.sleep(0.02)

def run(out, workers):
    found = run_experiment(sys.argv[1], out=os.path.join(sys.argv[2], out), size="small", workers=workers)
    return [[unit.stage, result.state, result.error] for unit, result in found.units]

if __name__ == "__main__":
    alone = run("alone", None)
    threading.Thread(target=shoot, daemon=True).start()
    print(json.dumps([alone, run("spread", 2), run("spread", 2)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds its children in /proc")
def test_several_workers_give_the_same_numbers_and_a_killed_one_is_a_failed_unit(
    experiment: Path, tmp_path: Path
) -> None:
    (tmp_path / "spread.py").write_text(SPREAD, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "spread.py"), str(experiment), str(tmp_path / "runs")],
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone, shot, again = json.loads(done.stdout.splitlines()[-1])
    assert [state for _, state, _ in alone] == ["done"] * 4
    assert [error for _, state, error in shot if state == "failed"] == [
        "the process of this unit was killed by signal 9; run the experiment again to go on"
    ]
    finished = {stage for stage, state, _ in shot if state == "done"}
    assert {stage: state for stage, state, _ in again} == {
        stage: "reused" if stage in finished else "done" for stage, _, _ in alone
    }
    first, second = (
        np.load(next((tmp_path / "runs" / out / "units").glob("scores*/stats.npz"))) for out in ("alone", "spread")
    )
    assert first.files == second.files
    assert all(np.array_equal(first[name], second[name]) for name in first.files)


@pytest.mark.system
def test_a_ray_runs_the_same_units(experiment: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")

    def call(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sltcore.cli", "reproduce", str(experiment), "--out", "out", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)

    done = call("--engine", "ray", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "4 units (4 done)" in done.stderr
    again = call()
    assert "4 units (4 reused)" in again.stderr
    assert again.stdout == done.stdout


@pytest.mark.slow
def test_sound_is_measured_against_what_went_in_and_kept_to_be_heard(tmp_path: Path) -> None:
    """Copy synthesis through two vocoders; the recordings lie in a table, as bytes without a file."""
    import datasets

    from sltcore.experiment import run_experiment

    rate = 16000
    time_s = np.arange(rate // 2) / rate
    for number, pitch in enumerate((110, 150, 200)):
        voice = 0.05 * sum(np.sin(2 * np.pi * pitch * k * time_s) / k for k in range(1, 20))
        soundfile.write(tmp_path / f"{number}.wav", voice, rate)
    table = {
        "id": ["a", "b", "c"],
        "audio": [{"path": f"{n}.wav", "bytes": (tmp_path / f"{n}.wav").read_bytes()} for n in range(3)],
        "text": ["", "", ""],
    }
    datasets.Dataset.from_dict(table).save_to_disk(str(tmp_path / "table"))
    data = [{"dataset": str(tmp_path / "table")}]
    spec = {
        "slt": 1,
        "kind": "experiment",
        "name": "copies",
        "claims": [
            {
                "measure": "scores", "value": "mel-cepstral-distortion.mel-cepstral-distortion",
                "arm": "world", "versus": "noise",
            }
        ],
        "stages": {
            "world": {"do": "decode", "pipeline": {"vocoder": "world"}, "data": data, "audio": 2},
            "noise": {"do": "decode", "pipeline": {"vocoder": {"use": "griffin-lim", "iterations": 1}}, "data": data},
            "scores": {
                "do": "measure", "of": ["world", "noise"], "metrics": ["mel-cepstral-distortion"], "reference": "audio",
            },
        },
        "arms": {"world": {"role": "technique"}, "noise": {"role": "baseline"}},
    }  # fmt: skip
    results = run_experiment(spec, out=tmp_path / "out")
    assert not results.failed, results.failed
    scores, world = results.folder("scores"), results.folder("world")
    assert scores is not None
    assert world is not None
    arms = json.loads((scores / "values.json").read_text())["arms"]
    (near, far) = (next(iter(arms[arm].values()))["value"] for arm in ("world", "noise"))
    assert 0 < near < far
    facts = json.loads((world / "unit.json").read_text())
    assert [kept["id"] for kept in facts["audio"]] == ["a", "b"]
    samples, kept_rate = soundfile.read(world / facts["audio"][1]["out"])
    assert kept_rate == rate
    assert np.abs(samples).max() > 0.01
    heard, _ = soundfile.read(world / facts["audio"][1]["in"])
    told, _ = soundfile.read(tmp_path / "1.wav")
    assert np.abs(heard - told).max() < 1e-3
