"""Two processes do what one does with twice the batch, and only the first one writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from train_toys import CONFORMER, train_spec, write_tones

import sltcore
from sltcore.errors import TrainError
from sltcore.train import fit


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    data = write_tones(tmp_path / "data", 21), write_tones(tmp_path / "data", 5, 1, "dev.csv")
    spec = train_spec(
        *data,
        pipeline={"encoder": {**CONFORMER, "dropout": 0.0}},
        augment=["speed", "volume", "spec-augment"],  # keyed by utterance, so the same in one process and in two
        budget={"steps": 8},
        optimizer={"learning_rate": 0.001},
        batch={"size": 4, "seconds": 4},
        log={"every_steps": 1},
        evaluate={"every_steps": 4, "best": "loss"},
        checkpoint={"every_steps": 4},
    )
    path = tmp_path / "tones.yaml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, "-m", "sltcore.cli", "train", str(path), "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two/bundle") == 1  # one of them speaks
    assert done.stderr.count("8 steps on 2 processes") == 1
    fit(str(path), out=tmp_path / "one", overrides=["batch.size=8", "batch.seconds=8"], quiet=True)
    runs = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("two", "one")
    ]
    curves = [[line["loss"] for line in run if "loss" in line] for run in runs]
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    dev = [[line["dev"] for line in run if "dev" in line] for run in runs]
    assert len(dev[0]) == len(dev[1]) == 2
    for one, two in zip(*dev, strict=True):
        assert one == pytest.approx(two, abs=1e-4)
    weights = [sltcore.load(tmp_path / name / "bundle").model.state_dict() for name in ("two", "one")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-4, rtol=0)


def test_a_launcher_that_starts_one_process_only_is_not_taken_for_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(
        TrainError,
        match="starts one process however many are asked for; for several on CPUs: accelerate launch --multi_gpu",
    ):
        fit(train_spec(write_tones(tmp_path / "data", 2)), out=tmp_path / "run", quiet=True)
