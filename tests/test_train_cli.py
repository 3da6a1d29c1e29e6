"""Promises of `slt train`: the result on standard output, remarks beside it, one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from train_toys import train_spec, write_tones

from sltcore.cli import app
from sltcore.cli.console import Console


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    path = folder / "tones.yaml"
    data = train_spec(write_tones(folder, 8), write_tones(folder, 2, 1, "dev.csv"), budget={"steps": 2})
    data["data"] = {"train": [{"manifest": "train.csv"}], "dev": [{"manifest": "dev.csv"}]}  # beside the spec
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def slt(*words: str) -> int:
    Console.quiet = Console.json = Console.debug = False
    with pytest.raises(SystemExit) as end:
        app.run(list(words))
    return int(end.value.code or 0)


def test_the_result_stands_on_standard_output_and_the_rest_beside_it(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert slt("train", str(spec)) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("loss: ")
    assert lines[1].startswith("cer.cer: ")
    assert lines[-1] == "runs/tones/bundle"
    assert Path(lines[-1]).is_dir()
    assert "2 steps on cpu, float32" in err
    assert "step 2: loss " in err
    assert slt("train", str(spec)) == 0
    again = capsys.readouterr()
    assert again.out == out
    assert "is finished, after 2 steps" in again.err
    assert slt("-q", "train", str(spec), "--fresh", "--set", "budget.steps=1") == 0
    assert capsys.readouterr().err == ""
    assert slt("--log-format", "json", "train", str(spec), "--out", "other") == 0
    assert all(json.loads(line)["message"] for line in capsys.readouterr().err.splitlines())


def test_what_is_wrong_is_one_line_with_its_place(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slt("train", str(spec), "--out", str(tmp_path / "run"), "--set", "optimizer.learning_rat=1") == 2
    assert "optimizer.learning_rat: has no field 'learning_rat'" in capsys.readouterr().err
    pipeline = tmp_path / "asr.yaml"
    pipeline.write_text("slt: 1\nkind: pipeline\nencoder: conformer\n", encoding="utf-8")
    assert slt("train", str(pipeline), "--out", str(tmp_path / "run")) == 2
    assert "slt run" in capsys.readouterr().err  # the command for such a spec
    assert not (tmp_path / "run").exists()
