"""Promises of `slt report`: runs of training, reports that lie there, two side by side, and one line for what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from report_sample import sample

from sltcore.cli.app import run
from sltcore.errors import DataError
from sltcore.report import Report, write
from sltcore.report.training import training_report

SPEC = "slt: 1\nkind: train\nname: small run\npipeline: base.yaml\nseed: 3\n"


def slt(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(list(words))
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def trained(folder: Path, *, rate: float = 0.5, tail: str = "") -> Path:
    """What a run of 100 steps writes."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(10, 101, 10):
        loss = 5.0 * rate ** (step / 20)
        lines.append(
            {
                "step": step,
                "epoch": step / 40,
                "loss": loss,
                "learning_rate": 1e-3,
                "seconds": 0.7 * step,
                "skipped_steps": step // 50,
                "skipped_utterances": step // 20,
            }
        )
        if step % 50 == 0:
            lines.append({"step": step, "epoch": step / 40, "dev": {"loss": loss + 0.5, "wer.wer": 90.0 - step / 2}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail, encoding="utf-8")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return folder


def test_a_training_run_becomes_curves_and_values(tmp_path: Path) -> None:
    report = training_report(trained(tmp_path / "run"))
    assert (report.title, report.kind, report.problems) == ("small run", "train", [])
    assert report.facts == {
        "steps": 100,
        "epochs": 2.5,
        "time": "1 min 10 s",
        "steps left out, gradient not finite": 2,
        "times that nothing was learned from an utterance, loss not finite": 5,
    }
    assert report.command == f"slt train {tmp_path / 'run' / 'spec.yaml'} --out {tmp_path / 'run'}"
    assert [chart.title for chart in report.charts] == ["Loss", "wer.wer", "Learning rate"]
    loss = report.charts[0]
    assert [series.name for series in loss.series] == ["training", "development"]
    assert [point.x for point in loss.series[0].points] == list(range(10, 101, 10))
    assert [point.x for point in loss.series[1].points] == [50, 100]
    rows = {(row["value"], row["of"]): row for row in report.tables[0].rows}
    wer = rows["wer.wer", "development"]
    assert (wer["first"], wer["last"], wer["lowest"], wer["lowest_step"], wer["highest_step"]) == (
        65.0,
        40.0,
        40.0,
        100,
        50,
    )
    assert report.spec_yaml == SPEC


def test_versions_are_those_of_the_bundle(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run")
    (folder / "bundle").mkdir()
    made = {
        "python": "3.11.7",
        "distributions": {
            "torch": {"version": "2.13.0", "editable": False},
            "sltcore-lib": {"version": "0.3.0", "editable": True},
        },
    }
    (folder / "bundle" / "provenance.json").write_text(json.dumps(made))
    assert training_report(folder).versions == {
        "python": "3.11.7",
        "torch": "2.13.0",
        "sltcore-lib": "0.3.0 (editable)",
    }
    (folder / "bundle" / "provenance.json").write_text("[]")
    assert training_report(folder).versions == {}


def test_a_run_that_was_killed_is_reported_as_far_as_it_came(tmp_path: Path) -> None:
    report = training_report(trained(tmp_path / "run", tail='{"step": 110, "lo'))
    assert report.facts["steps"] == 100
    assert "the last line of metrics.jsonl is cut off" in report.problems[0]


def test_what_was_not_finite_is_a_problem_and_a_gap(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", tail='{"step": 110, "loss": null}\n{"step": 120, "loss": NaN}\n')
    report = training_report(folder)
    assert report.problems == ["loss was not finite at 2 steps, first at step 110"]
    assert report.charts[0].series[0].points[-1].y is None


def test_steps_that_were_written_twice_count_once(tmp_path: Path) -> None:
    report = training_report(trained(tmp_path / "run", tail='{"step": 90, "loss": 7.0}\n'))
    points = report.charts[0].series[0].points
    assert [point.x for point in points] == list(range(10, 101, 10))
    assert points[8].y == 7.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "metrics.jsonl: holds no steps yet; let slt train run longer"),
        ('{"loss": 1}\n{"step": 1}\n', "metrics.jsonl: line 1 is no JSON object with a step"),
        ('[1]\n{"step": 1}\n', "metrics.jsonl: line 1 is no JSON object with a step"),
    ],
)
def test_what_is_no_history_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        training_report(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="metrics.jsonl: cannot be read: No such file or directory; name a folder that slt train"
    ):
        training_report(tmp_path / "none")


def test_the_command_writes_both_files_and_prints_where(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(tmp_path / "run", tail='{"st')
    code, out, err = slt(capsys, "report", "run")
    assert (code, out) == (0, "run/report.html\n")
    assert err.startswith("warning: the last line of metrics.jsonl is cut off")
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    code, out, _ = slt(capsys, "report", "run", "--out", "elsewhere")
    assert (code, out) == (0, "elsewhere/report.html\n")
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["report.html", "report.json"]


def test_a_report_can_be_laid_out_again_without_its_run(tmp_path, capsys):
    data, page = write(sample(), tmp_path / "made")
    first = page.read_bytes()
    page.unlink()
    assert slt(capsys, "report", str(tmp_path / "made"))[0] == 0
    assert page.read_bytes() == first
    assert slt(capsys, "report", str(data), "--out", str(tmp_path / "again"))[0] == 0
    assert (tmp_path / "again" / "report.html").read_bytes() == first


def test_results_of_an_experiment_are_summarized(tmp_path, capsys, monkeypatch):
    summary = pytest.importorskip("sltcore.experiment.summary")
    asked = []
    monkeypatch.setattr(summary, "summarize", lambda folder: asked.append(folder) or sample())
    write(replace(sample(), title="an older one"), tmp_path)
    (tmp_path / "results.json").write_text("{}")
    assert slt(capsys, "report", str(tmp_path))[0] == 0
    assert asked == [tmp_path]
    assert json.loads((tmp_path / "report.json").read_text())["title"] == sample().title


def test_two_runs_are_compared_and_neither_is_touched(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(tmp_path / "a")
    trained(tmp_path / "b", rate=0.8)
    code, out, err = slt(capsys, "report", "a", "--compare", "b")
    assert (code, out, err) == (0, "a/comparison/report.html\n", "")
    assert not (tmp_path / "a" / "report.json").exists()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["metrics.jsonl", "spec.yaml"]
    report = Report.from_dict(json.loads((tmp_path / "a" / "comparison" / "report.json").read_text()))
    assert report.title == "small run: a against b"
    assert [series.name for series in report.charts[0].series] == [
        "training, a",
        "development, a",
        "training, b",
        "development, b",
    ]
    values = {(row["row"], row["value"]): row for row in report.tables[0].rows}
    assert values["loss", "last"]["difference"] == pytest.approx(5 * 0.5**5 - 5 * 0.8**5)


def test_folders_of_one_name_are_told_apart(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(tmp_path / "one" / "run")
    trained(tmp_path / "two" / "run")
    assert slt(capsys, "report", "one/run", "--compare", "two/run")[0] == 0
    report = json.loads((tmp_path / "one" / "run" / "comparison" / "report.json").read_text())
    assert report["title"] == "small run: one/run against two/run"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "error: none: there is no such folder; name one that slt reproduce or slt train has written"),
        (["empty"], "error: empty: holds no results.json of slt reproduce, no metrics.jsonl of slt train and no report.json"),
        (["run", "--compare", "run"], "error: --compare run: is the same folder as DIR; name another run"),
        (["run", "--compare", "none"], "error: none: there is no such folder"),
        (["cut"], "error: cut/report.json: is not JSON"),
        (["old"], "error: old/report.json: has schema 0, this version of sltcore reads 1; upgrade sltcore-lib"),
        (["run", "--out", "run/spec.yaml"], "error: run/spec.yaml: the report cannot be written: File exists; choose another folder with --out"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    trained(tmp_path / "run")
    for name, text in (("cut", '{"schema'), ("old", '{"schema": 0}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(text)
    (tmp_path / "empty").mkdir()
    code, out, err = slt(capsys, "report", *words)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write everywhere")
def test_a_folder_without_leave_to_write_is_one_line(tmp_path, capsys):
    trained(tmp_path / "run")
    (tmp_path / "run").chmod(0o500)
    code, _, err = slt(capsys, "report", str(tmp_path / "run"))
    assert code == 2
    assert "the report cannot be written: Permission denied; choose another folder with --out" in err


def test_reading_and_writing_reports_needs_nothing_heavy(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    code = (
        "import sys; from sltcore.cli.app import run\n"
        f"try: run(['report', {str(tmp_path / 'run')!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'numpy', 'datasets', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
