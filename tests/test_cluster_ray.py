"""Promises of the cluster on a local Ray of two workers, some of which die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from fake_plugins import Site
from fragile_components import FATAL_SAMPLES

import sltcore
from sltcore.cli.app import run
from sltcore.cluster import read_results, run_dataset, run_units
from sltcore.cluster.session import Joined, joined
from sltcore.errors import DataError
from sltcore.experiment.units import Unit, UnitResult

pytest.importorskip("ray")
pytestmark = pytest.mark.system

COUNT = 24


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    """One Ray for all tests, whose workers find the plugin `fragile`."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.add("fragile", "from fragile_components import SLT_API, slt_components\n")
    tests = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site.folder), str(tests), os.environ.get("PYTHONPATH", "")]))
        patch.syspath_prepend(str(site.folder))
        patch.setattr("sltcore.registry.registry._default", None)
        with joined(cpus=2) as here:
            yield here


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of different lengths, one of which is no recording, and one that is fatal."""
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(COUNT):
        samples = np.random.default_rng(index).normal(0, 0.1, FATAL_SAMPLES + 40 * index).astype(np.float32)
        soundfile.write(folder / f"{index:02d}.wav", samples, 16000, subtype="FLOAT")
    (folder / "broken.wav").write_bytes(b"no sound")
    return folder


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A spec of the fragile pipeline."""

    def make(**fields: Any) -> dict[str, Any]:
        (tmp_path / "marks").mkdir(exist_ok=True)
        encoder = {"use": "fragile", "marks": str(tmp_path / "marks"), "spared": os.getpid(), **fields}
        return {"slt": 1, "kind": "pipeline", "encoder": encoder, "decoder": "tally"}

    return make


def expected(spec: dict[str, Any], folder: Path) -> dict[str, str]:
    """What the same pipeline says in this process."""
    pipeline = sltcore.load(spec)
    paths = sorted(folder.glob("[0-9]*.wav"))
    return {path.name: result.text for path, result in zip(paths, pipeline([str(p) for p in paths]), strict=True)}


def kill_one_at_work(marks: Path) -> int:
    """Kill a worker in the middle of a batch."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for mark in marks.glob("working-*"):
            pid = int(mark.name.partition("-")[2])
            if pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
                mark.unlink(missing_ok=True)
                return pid
        time.sleep(0.01)
    raise AssertionError("nobody works")


def test_a_killed_worker_loses_nothing_and_repeats_nothing(ray, recordings, spec, tmp_path):
    fields = spec(slow_s=0.2)
    killed: list[int] = []

    def progress(advance: Any) -> None:
        if not killed:
            killed.append(kill_one_at_work(tmp_path / "marks"))

    done = run_dataset(
        fields, recordings, tmp_path / "out", workers=2, items_per_part=4, batch_size=2, progress=progress
    )
    assert (done.parts, done.items, done.failed) == (7, COUNT + 1, 1)
    assert done.report["begun_again"] >= 1
    pids = {worker["pid"] for worker in done.report["workers"]}
    assert killed[0] in pids
    assert len(pids) == 3, "two workers, and one in place of the killed one"
    assert {worker["python"] for worker in done.report["workers"]} == {sys.executable}
    rows = read_results(tmp_path / "out").to_pylist()
    assert [row["id"] for row in rows] == [*sorted(expected(fields, recordings)), "broken.wav"]
    assert {row["id"]: row["text"] for row in rows[:-1]} == expected(fields, recordings)
    assert "broken.wav is not audio" in rows[-1]["error"]
    assert len(list((tmp_path / "out").iterdir())) == 7 + 1, "seven parts and run.json"

    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    (tmp_path / "out" / "part-00003.parquet").unlink()
    again = run_dataset(fields, recordings, tmp_path / "out", workers=2)
    assert (again.reused_parts, again.parts, again.failed) == (6, 7, 1)
    assert read_results(tmp_path / "out").to_pylist() == rows
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert [name for name in stamps if after[name] != stamps[name]] == ["part-00003.parquet"]


def test_a_recording_that_kills_its_worker_is_one_row_with_that_error(ray, recordings, spec, tmp_path):
    fields = spec(dies="always")
    done = run_dataset(fields, recordings, tmp_path / "out", workers=2, items_per_part=13)
    assert done.failed == 2
    assert done.report["fatal"] == 1
    rows = {row["id"]: row for row in read_results(tmp_path / "out").to_pylist()}
    assert len(rows) == COUNT + 1
    assert rows["00.wav"]["error"].startswith(
        "'00.wav': its worker died 3 times, the last time at this recording alone"
    )
    wanted = expected(fields, recordings)
    assert {name: row["text"] for name, row in rows.items() if row["error"] is None} == {
        name: text for name, text in wanted.items() if name != "00.wav"
    }
    assert len((tmp_path / "marks" / "died").read_text().split()) == 3


def test_workers_that_die_while_they_load_end_the_run_with_one_line(ray, recordings, spec, tmp_path):
    with pytest.raises(DataError, match="workers died while they loaded the pipeline") as caught:
        run_dataset(spec(dies="loading"), recordings, tmp_path / "out", workers=1)
    assert "\n" not in str(caught.value)
    assert '"state": "stopped"' in (tmp_path / "out" / "run.json").read_text()


def test_the_command_writes_what_the_local_run_says(ray, recordings, spec, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stereo = np.stack([np.full(3200, 0.25, np.float32), np.full(3200, 0.5, np.float32)], 1)
    soundfile.write("stereo.wav", stereo, 16000, subtype="FLOAT")
    texts = ["said so", "not said", "said so"]
    lines = ["audio,text", *(f"{name},{text}" for name, text in zip(("x.wav", "y.wav", "z.wav"), texts, strict=True))]
    Path("three.csv").write_text("\n".join(lines) + "\n")
    for name in ("x.wav", "y.wav", "z.wav"):
        soundfile.write(name, stereo, 16000, subtype="FLOAT")
    Path("asr.yaml").write_text(yaml.safe_dump({**spec(), "metrics": ["wer"]}))
    words = ["run", "asr.yaml", "three.csv", "--reference", "1", "--context", "language=en"]

    def call(*more: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run([*words, *more])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    code, here, _ = call()
    assert code == 0
    assert "800.00 1600.00 - en" in here  # 3200 samples of 0.25, and of the reference's 0.5
    code, out, err = call("--engine", "ray", "--workers", "2", "--out", "results")
    assert code == 0
    assert out.splitlines() == here.splitlines()[3:], "the word error rate, as the local run prints it"
    assert "3 of 3 inputs" in err
    table = pq.read_table("results/part-00000.parquet").to_pylist()
    assert [f"{row['id']}\t{row['text']}" for row in table] == here.splitlines()[:3]
    assert [row["reference"] for row in table] == texts
    code, out, err = call("--engine", "ray", "--workers", "2", "--out", "results")
    assert (code, "1 of 1 parts are done already in results" in err) == (0, True)


def unit(name: str, *needs: str, **more: Any) -> Unit:
    return Unit((name,), None, name, {"do": "decode"}, {key: key for key in needs}, more)


def do(unit: Unit, folder: str) -> UnitResult:
    """Leave a mark; die or fail as the unit says."""
    with (Path(folder) / f"{unit.key}.begun").open("a") as file:
        file.write(f"{os.getpid()}\n")
    begun = len((Path(folder) / f"{unit.key}.begun").read_text().split())
    assert all((Path(folder) / f"{key}.done").exists() for key in unit.needs.values())
    if unit.more.get("dies", 0) >= begun:
        os.kill(os.getpid(), signal.SIGKILL)
    if "fails" in unit.more:
        raise ValueError(unit.more["fails"])
    (Path(folder) / f"{unit.key}.done").write_text(os.environ["OMP_NUM_THREADS"])
    return UnitResult(unit.key, "done", 0.1, host="here")


def test_units_keep_their_order_and_run_again_when_their_worker_dies(ray, tmp_path):
    units = [
        unit("a"),
        unit("b", "a", dies=1),
        unit("c", "b"),
        unit("d", fails="no\nsuch thing"),
        unit("e", "d"),
        unit("f", dies=9),
    ]
    results = list(run_units(units, tmp_path, 2, run=do))
    assert sorted(result.key for result in results) == list("abcdef"), "each once"
    by_key = {result.key: result for result in results}
    assert {key: result.state for key, result in by_key.items()} == {
        "a": "done", "b": "done", "c": "done", "d": "failed", "e": "skipped", "f": "failed",
    }  # fmt: skip
    assert by_key["d"].error == "ValueError: no such thing"
    assert by_key["f"].error.startswith("its worker died 3 times (killed, or out of memory)")
    begun = {key: (tmp_path / f"{key}.begun").read_text().split() for key in "abcdf"}
    assert {key: len(pids) for key, pids in begun.items()} == {"a": 1, "b": 2, "c": 1, "d": 1, "f": 3}
    assert len({pid for pids in begun.values() for pid in pids}) == 8, "every unit has a process of its own"
    assert (tmp_path / "c.done").read_text() == "1"


def processes_in(folder: Path) -> list[Path]:
    """Those whose working folder it is."""
    return [path for path in Path("/proc").glob("[0-9]*/cwd") if os.path.realpath(path) == str(folder)]


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")
def test_a_local_ray_is_quiet_and_gone_afterwards(recordings, tmp_path):
    """In a process of its own, as a user starts it."""
    (tmp_path / "asr.yaml").write_text(
        "slt: 1\nkind: pipeline\nencoder: {use: lstm, hidden: 8, layers: 1}\ndecoder: {use: ctc-greedy, characters: ab}\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = ["--engine", "ray", "--workers", "1", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-c", "from sltcore.cli import main; main()", "run", "asr.yaml", str(recordings), *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr  # one input is no recording
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[0].startswith("error: ")
    assert lines[0].endswith(".gsm")
    assert f"{COUNT} of {COUNT + 1} inputs" in lines[1]
    assert lines[2] == "warning: 1 of 25 inputs failed; the column error says why, the rest is done"
    end = time.monotonic() + 30  # those that were told to stop may still be at it
    while (left := processes_in(tmp_path)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left, f"processes that stay behind: {left}"
