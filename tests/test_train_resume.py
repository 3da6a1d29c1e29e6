"""Promises about crashes: a run goes on bit for bit, a checkpoint is whole or not there, a full disk is one clear line."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from train_toys import CONFORMER, train_spec, write_tones

import sltcore
from sltcore.errors import TrainError
from sltcore.train import fit
from sltcore.train.checkpoint import Checkpoint, newest_checkpoint, steps_in, write_checkpoint
from sltcore.train.folder import worked_in
from sltcore.train.history import History
from sltcore.train.loop import Loop
from sltcore.train.packing import pack, unpack


class Crash(BaseException):
    """What no handler foresees."""


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tones")
    return write_tones(folder), write_tones(folder, 4, 1, "dev.csv")


@pytest.fixture(scope="module")
def spec(tones: tuple[Path, Path]) -> dict[str, Any]:
    """With dropout, augmentation, several best bundles, and checkpoints that do not fall on lines of the history."""
    return train_spec(
        *tones,
        augment=["speed", "volume", "spec-augment"],
        pipeline={"encoder": {**CONFORMER, "dropout": 0.3}},
        evaluate={"every_steps": 4, "keep": 2, "best": "loss"},
        checkpoint={"every_steps": 3},
        log={"every_steps": 2},
    )


@pytest.fixture(scope="module")
def uninterrupted(spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    fit(spec, out=folder, quiet=True)
    return folder


def crash_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = Loop._learn
    left = [steps]

    def learning(self: Loop, step: Any) -> Any:
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        return learn(self, step)

    monkeypatch.setattr(Loop, "_learn", learning)


def timeless(history: Path) -> list[dict[str, Any]]:
    """The lines of a history without what a clock says."""
    clocks = ("seconds", "utterances_per_s", "audio_s_per_s")
    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in clocks} for line in lines]


def assert_same_run(one: Path, two: Path) -> None:
    first, _ = newest_checkpoint(one / "checkpoints")
    second, _ = newest_checkpoint(two / "checkpoints")
    assert first is not None
    assert second is not None
    assert first.step == second.step
    assert first.weights.keys() == second.weights.keys()
    for name, tensor in first.weights.items():
        assert torch.equal(tensor, second.weights[name]), name
    for index, state in first.optimizer["state"].items():
        for name, value in state.items():
            assert torch.equal(value, second.optimizer["state"][index][name]), name
    assert timeless(one / "metrics.jsonl") == timeless(two / "metrics.jsonl")
    assert sorted(p.name for p in (one / "best").iterdir()) == sorted(p.name for p in (two / "best").iterdir())
    weights = [sltcore.load(folder / "bundle").model.state_dict() for folder in (one, two)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize("steps", [0, 2, 7, 11])
def test_an_interrupted_run_goes_on_bit_for_bit(
    steps: int, spec: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_after(steps, patch)
        with pytest.raises(Crash):
            fit(spec, out=tmp_path / "run", quiet=True)
    said: list[str] = []
    fit(spec, out=tmp_path / "run", say=said.append)
    assert any(line == f"going on from step {steps // 3 * 3}" for line in said) == (steps >= 3)
    assert_same_run(uninterrupted, tmp_path / "run")


def test_a_crash_while_a_checkpoint_is_written_leaves_the_one_before_it(
    spec: dict[str, Any], uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        rename = os.rename

        def crashing(source: Any, target: Any) -> None:
            if "step-0000006" in str(target) and "checkpoints" in str(target):
                raise Crash
            rename(source, target)

        patch.setattr(os, "rename", crashing)
        with pytest.raises(Crash):
            fit(spec, out=tmp_path / "run", quiet=True)
    folder = tmp_path / "run" / "checkpoints"
    assert steps_in(folder) == [3]
    assert len(list(folder.iterdir())) == 2  # and what was being written
    fit(spec, out=tmp_path / "run", quiet=True)
    assert_same_run(uninterrupted, tmp_path / "run")
    assert all(path.name.startswith("step-") for path in folder.iterdir())


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("place", ["best/step-0000008", "bundle"])
def test_a_bundle_half_written_by_a_killed_process_is_removed(
    place: str, resume: bool, spec: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    from sltcore.bundle import bundle

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        rename = os.rename

        def crashing(source: Any, target: Any) -> None:
            if Path(target) == run / place:
                raise Crash
            rename(source, target)

        patch.setattr(os, "rename", crashing)
        left = SimpleNamespace(rmtree=lambda *args, **options: None)  # a killed process has no time to tidy
        patch.setattr(bundle, "shutil", left)
        with pytest.raises(Crash):
            fit(spec, out=run, quiet=True)
    name = Path(place).name
    assert [path.name.startswith(f".{name}.") for path in (run / place).parent.glob(f".{name}*")] == [True]
    fit(spec, out=run, quiet=True, resume=resume)
    assert {path.name for path in run.iterdir()} == {path.name for path in uninterrupted.iterdir()}
    assert_same_run(uninterrupted, run)


def test_a_damaged_checkpoint_is_named_and_an_older_one_taken(
    spec: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_after(7, patch)
        with pytest.raises(Crash):
            fit(spec, out=tmp_path / "run", quiet=True)
    damaged = tmp_path / "run" / "checkpoints" / "step-0000006" / "weights.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    said: list[str] = []
    fit(spec, out=tmp_path / "run", say=said.append)
    assert "going on from step 3" in said
    assert any("step-0000006 is damaged and left out: weights.safetensors does not match state.json" in s for s in said)
    assert_same_run(uninterrupted, tmp_path / "run")


def test_a_full_disk_is_one_clear_line_and_the_last_checkpoint_is_whole(
    spec: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        import safetensors.torch
        from safetensors import SafetensorError

        save = safetensors.torch.save_file

        def full(tensors: Any, path: Any, **options: Any) -> None:
            if "step-0000006" in str(path):
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
            save(tensors, path, **options)

        patch.setattr(safetensors.torch, "save_file", full)
        text = "checkpoint .*step-0000006 cannot be written: .*No space left.*the one of step 3 is whole: make room and run"
        with pytest.raises(TrainError, match=text) as found:
            fit(spec, out=tmp_path / "run", quiet=True)
        assert "\n" not in str(found.value)
    assert steps_in(tmp_path / "run" / "checkpoints") == [3]
    fit(spec, out=tmp_path / "run", quiet=True)
    assert_same_run(uninterrupted, tmp_path / "run")


def test_what_is_newer_than_the_checkpoint_goes_and_not_the_checkpoint(tmp_path: Path) -> None:
    """A newer one is there only where it was damaged, and the run went on from an older one."""
    for step in (6, 8):
        write_checkpoint(tmp_path, Checkpoint(step, {}, {}, {}), keep=2)
    (tmp_path / "step-0000008" / "state.json").unlink()
    write_checkpoint(tmp_path, Checkpoint(7, {}, {}, {}), keep=1)
    assert steps_in(tmp_path) == [7]
    found, remarks = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 7
    assert remarks == []


def test_a_history_that_could_not_be_written_is_closed_without_another_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full, which refuses every byte")
    history = History(tmp_path, tensorboard=False)
    history.close()
    history._file = open("/dev/full", "a", encoding="utf-8")  # noqa: SIM115
    with pytest.raises(TrainError, match="metrics.jsonl cannot be written: No space left on device; make room and run"):
        history.write({"step": 1})
    history.close()


@pytest.mark.parametrize("place", ["best/", "bundle", "metrics.jsonl"])
def test_a_disk_that_fills_up_elsewhere_is_one_line_too(
    place: str, spec: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if place == "metrics.jsonl":
            from sltcore.train import history

            class Full:
                def __init__(self) -> None:
                    self.lines = 0

                def dumps(self, *args: Any, **options: Any) -> str:
                    self.lines += 1
                    if self.lines == 6:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    return json.dumps(*args, **options)

                loads = staticmethod(json.loads)

            patch.setattr(history, "json", Full())
        else:
            from sltcore.bundle import card

            def full(*args: Any) -> str:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            crash_free = card.model_card
            kept = iter([crash_free] * (3 if place == "bundle" else 1))
            patch.setattr(card, "model_card", lambda *args: next(kept, full)(*args))
        with pytest.raises(TrainError, match="cannot be written: No space left on device; .*again") as found:
            fit(spec, out=tmp_path / "run", quiet=True)
        assert "\n" not in str(found.value)
    fit(spec, out=tmp_path / "run", quiet=True)
    assert_same_run(uninterrupted, tmp_path / "run")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_file_system_that_is_really_full(spec: dict[str, Any], uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(TrainError, match="cannot be written: .*o space left") as found:
            _until_full(spec, folder)
        assert "\n" not in str(found.value)
        (folder / "ballast").unlink()
        left = newest_checkpoint(folder / "run" / "checkpoints")
        assert left[1] == []
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _until_full(spec: dict[str, Any], folder: Path) -> None:
    for kilobytes in range(0, 400, 40):
        (folder / "ballast").write_bytes(b"\0" * 1024 * kilobytes)
        fit(spec, out=folder / "run", quiet=True)
        shutil.rmtree(folder / "run")


def test_a_folder_that_cannot_be_written_is_one_clear_line(spec: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(TrainError, match=r"file/run cannot be written: Not a directory; choose another --out"):
        fit(spec, out=tmp_path / "file" / "run", quiet=True)


def test_two_runs_cannot_work_in_one_folder(spec: dict[str, Any], tmp_path: Path) -> None:
    with (
        worked_in(tmp_path / "run"),
        pytest.raises(TrainError, match=r"another run works in .*run; wait for it, or choose another --out"),
    ):
        fit(spec, out=tmp_path / "run", quiet=True)


def test_a_run_does_not_go_on_with_another_spec_or_other_data(
    spec: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    text = r"was begun otherwise: optimizer.learning_rate was 0.01, is 0.5. Go on as it was begun, choose another --out, or "
    with pytest.raises(TrainError, match=text):
        fit(spec, out=folder, overrides=["optimizer.learning_rate=0.5"], quiet=True)
    with pytest.raises(
        TrainError, match=r"data.train\[0\].limit was \(not there\), is 5; the training data are others"
    ):
        fit(spec, out=folder, overrides=["data.train[0].limit=5"], quiet=True)
    with pytest.raises(TrainError, match=r"pipeline.encoder.layers was 1, is 2"):
        fit(spec, out=folder, overrides=["pipeline.encoder.layers=2"], quiet=True)
    longer = fit(spec, out=folder, overrides=["budget.steps=14", "log.every_steps=1", "checkpoint.keep=1"], quiet=True)
    assert longer.steps == 14
    assert steps_in(folder / "checkpoints") == [14]


def test_a_longer_run_is_the_run_that_was_longer_from_the_beginning(spec: dict[str, Any], tmp_path: Path) -> None:
    """A constant rate does not depend on the budget; a schedule that does would say so in its curve."""
    spec = {**spec, "data": {"train": spec["data"]["train"]}, "evaluate": {}}
    fit(spec, out=tmp_path / "one", overrides=["budget.steps=6"], quiet=True)
    fit(spec, out=tmp_path / "one", overrides=["budget.steps=9"], quiet=True)
    fit(spec, out=tmp_path / "two", overrides=["budget.steps=9"], quiet=True)
    weights = [sltcore.load(tmp_path / name / "bundle").model.state_dict() for name in ("one", "two")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_threads_are_those_the_run_was_begun_with(spec: dict[str, Any], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_after(4, patch)
        with pytest.raises(Crash):
            fit(spec, out=tmp_path / "run", quiet=True)
    threads = torch.get_num_threads()
    seen = []
    learn = Loop._learn
    said: list[str] = []
    try:
        torch.set_num_threads(threads + 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Loop, "_learn", lambda self, step: (seen.append(torch.get_num_threads()), learn(self, step))[1]
            )
            fit(spec, out=tmp_path / "run", say=said.append)
        assert set(seen) == {threads}
        assert torch.get_num_threads() == threads + 1
        assert f"{threads} threads for computing, as the run was begun with, not {threads + 1}" in said
    finally:
        torch.set_num_threads(threads)


def test_another_version_of_torch_is_told(spec: dict[str, Any], uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    (folder / "result.json").unlink()
    state = folder / "checkpoints" / "step-0000012" / "state.json"
    data = json.loads(state.read_text(encoding="utf-8"))
    data["facts"]["versions"]["torch"] = "1.0"
    state.write_text(json.dumps(data), encoding="utf-8")
    said: list[str] = []
    fit(spec, out=folder, say=said.append)
    assert any(line.startswith("begun with torch 1.0, here is ") for line in said)


def test_state_of_any_shape_survives_packing() -> None:
    shared = torch.arange(3.0)
    state = {"state": {0: {"step": torch.tensor(2.0), "m": shared}, 7: {"m": shared}}, "groups": [{"betas": (0.9, 1)}]}
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack({**state, "none": None, "yes": True}, tensors, "o")))
    found = unpack(packed, tensors)
    assert found["groups"] == [{"betas": (0.9, 1)}]
    assert found["state"].keys() == {0, 7}
    assert torch.equal(found["state"][7]["m"], shared)
    assert found["none"] is None
    assert found["yes"] is True
    with pytest.raises(TrainError, match=r"o.bad.0 is a complex, which a checkpoint cannot keep"):
        pack({"bad": [1j]}, {}, "o")


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Checkpoint(1, {"a": torch.zeros(1)}, {}, {}), keep=1)
    state = tmp_path / "step-0000001" / "state.json"
    state.write_text(state.read_text(encoding="utf-8").replace('"checkpoint": 1', '"checkpoint": 9'), encoding="utf-8")
    with pytest.raises(TrainError, match="format 9 is not 1, which this sltcore reads; begin anew with --fresh"):
        newest_checkpoint(tmp_path)


PRELOADED = ["torch", "accelerate", "datasets", "soundfile", "sltcore.train.fitting", "slt_speech.build_encoders"]


@pytest.mark.slow
def test_a_killed_process_goes_on_bit_for_bit(spec: dict[str, Any], tmp_path: Path) -> None:
    """Three kills at random times; by hand with SLT_KILLS=20. A server forks the processes, which have everything
    imported but have computed nothing."""
    kills = int(os.environ.get("SLT_KILLS", "3"))
    longer = {**spec, "budget": {"steps": 12 * kills}, "log": {**spec["log"], "tensorboard": True}}
    run, history = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    whole = server.Process(target=fit, args=(longer,), kwargs={"out": tmp_path / "whole", "quiet": True})
    whole.start()  # with as many threads as the others, whatever earlier tests left in this process
    whole.join()
    assert whole.exitcode == 0
    generator = random.Random(int(os.environ.get("SLT_KILL_SEED", "0")))
    reached = []
    for _ in range(kills):
        before = history.stat().st_mtime_ns if history.exists() else 0
        wanted = generator.randrange(1, 10)  # new lines of the history, however fast this machine is
        process = server.Process(target=fit, args=(longer,), kwargs={"out": run, "quiet": True})
        process.start()
        while process.is_alive() and (not history.exists() or history.stat().st_mtime_ns == before):
            time.sleep(0.002)  # until it has begun to learn
        begun = len(history.read_bytes().splitlines()) if history.exists() else 0
        while process.is_alive() and len(history.read_bytes().splitlines()) < begun + wanted:
            time.sleep(0.002)
        time.sleep(generator.uniform(0.0, 0.05))
        process.kill()
        process.join()
        reached.append((process.exitcode, max(steps_in(run / "checkpoints"), default=0)))
    print(f"exit code and last checkpoint of each: {reached}")
    assert sum(code == -signal.SIGKILL for code, _ in reached) >= 0.8 * kills
    fit(longer, out=run, quiet=True)
    assert_same_run(tmp_path / "whole", run)
