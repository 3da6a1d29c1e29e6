"""Promises of a training run: it learns, says what it does, leaves a bundle, and refuses clearly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from train_toys import CONFORMER, LSTM, train_spec, write_tones

import sltcore
from sltcore.bundle import describe_bundle
from sltcore.errors import DataError, SpecError, TrainError
from sltcore.interfaces import Augmentation
from sltcore.train import fit
from sltcore.train.checkpoint import newest_checkpoint
from sltcore.types import Port, Waveform

OTHERS = {"id": ["train-000", "train-002", "train-003", "train-004", "train-005"]}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Manifests to train and to evaluate on."""
    folder = tmp_path_factory.mktemp("tones")
    return write_tones(folder), write_tones(folder, 6, 1, "dev.csv")


@pytest.fixture
def said() -> list[str]:
    """What a run says."""
    return []


def lines_of(history: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_a_run_learns_to_read_tones(tones: tuple[Path, Path], tmp_path: Path) -> None:
    spec = train_spec(*tones, pipeline={"encoder": CONFORMER}, budget={"steps": 150}, evaluate={"every_steps": 50})
    trained = fit(spec, out=tmp_path / "run", quiet=True)
    assert trained.best["value"] < 35.0, trained.best  # an untrained network says nothing: 100 %
    pipeline = sltcore.load(trained.bundle)
    audio = tones[1].parent / "dev-000.wav"
    assert set(pipeline(str(audio)).text) <= set("abcd")


def test_the_bundle_of_the_best_weights_has_the_value_that_was_measured(
    tones: tuple[Path, Path], tmp_path: Path
) -> None:
    spec = train_spec(*tones, budget={"steps": 24}, evaluate={"every_steps": 6, "best": "loss"})
    trained = fit(spec, out=tmp_path / "run", quiet=True)
    dev = [line["dev"] for line in lines_of(trained.history) if "dev" in line]
    assert trained.best["value"] == min(values["loss"] for values in dev)
    assert trained.values == dev[-1]
    pipeline = sltcore.load(trained.bundle)
    (metric,) = pipeline.metrics
    rows = [line.split(",") for line in tones[1].read_text(encoding="utf-8").splitlines()[1:]]
    said = pipeline([str(tones[1].parent / row[1]) for row in rows])
    metric.update(said, [row[2] for row in rows])
    assert metric.reduce(metric.per_item())["cer"].value == pytest.approx(trained.best["values"]["cer.cer"])


def test_the_history_counts_and_times_every_step(tones: tuple[Path, Path], tmp_path: Path) -> None:
    trained = fit(train_spec(*tones), out=tmp_path / "run", quiet=True)
    lines = lines_of(trained.history)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "dev" in line] == [4, 8, 12]
    first = lines[0]
    assert first["epoch"] == 0.5  # 24 utterances in batches of 6
    assert first["learning_rate"] == 0.01
    for name in ("gradient_norm", "seconds", "utterances_per_s", "audio_s_per_s"):
        assert first[name] > 0


def test_without_development_data_the_last_weights_are_the_result(tones: tuple[Path, Path], tmp_path: Path) -> None:
    trained = fit(train_spec(tones[0]), out=tmp_path / "run", quiet=True)
    assert trained.bundle == trained.last == tmp_path / "run" / "bundle"
    assert trained.best == {}
    assert trained.values == {}
    checkpoint, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == trained.steps == 12
    stored = sltcore.load(trained.bundle).model.state_dict()
    for name, tensor in stored.items():
        assert torch.equal(checkpoint.weights[f"step.model.{name}"], tensor), name


def test_epochs_are_counted_in_steps(tones: tuple[Path, Path], tmp_path: Path) -> None:
    trained = fit(train_spec(tones[0], budget={"steps": None, "epochs": 1.5}), out=tmp_path / "run", quiet=True)
    assert trained.steps == 6  # 24 utterances in batches of 6, one and a half times


def test_patience_stops_a_run_that_no_longer_gains(tones: tuple[Path, Path], tmp_path: Path) -> None:
    spec = train_spec(
        *tones, optimizer={"learning_rate": 1e-9}, evaluate={"every_steps": 2, "patience": 2}, budget={"steps": 100}
    )
    trained = fit(spec, out=tmp_path / "run", quiet=True)
    assert trained.steps == 6  # the first evaluation is a gain, the next two are none
    assert fit(spec, out=tmp_path / "run", quiet=True) == trained


def test_as_many_best_bundles_are_kept_as_asked_for(tones: tuple[Path, Path], tmp_path: Path) -> None:
    spec = train_spec(*tones, evaluate={"every_steps": 2, "keep": 2, "best": "loss"}, checkpoint={"keep": 1})
    trained = fit(spec, out=tmp_path / "run", quiet=True)
    dev = {line["step"]: line["dev"]["loss"] for line in lines_of(trained.history) if "dev" in line}
    best = sorted(sorted(dev, key=lambda step: dev[step])[:2])
    assert sorted(path.name for path in (tmp_path / "run" / "best").iterdir()) == [f"step-{s:07d}" for s in best]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000012"]


def test_the_bundle_says_how_its_weights_were_made(tones: tuple[Path, Path], tmp_path: Path) -> None:
    trained = fit(train_spec(*tones), out=tmp_path / "run", quiet=True)
    facts = describe_bundle(trained.bundle)["provenance"]["training"]
    assert facts["data"] == "manifest train.csv"
    assert facts["steps"] == trained.best["step"]
    assert facts["spec"]["optimizer"]["learning_rate"] == 0.01
    assert str(tones[0].parent) not in json.dumps(facts)  # nobody's folders travel
    assert "Trained for" in (trained.bundle / "README.md").read_text(encoding="utf-8")


def test_the_same_run_twice_gives_the_same_weights(tones: tuple[Path, Path], tmp_path: Path) -> None:
    spec = train_spec(tones[0], pipeline={"encoder": {**CONFORMER, "dropout": 0.2}}, budget={"steps": 5})
    runs = [fit(spec, out=tmp_path / name, quiet=True) for name in ("one", "two")]
    one, two = (sltcore.load(run.bundle).model.state_dict() for run in runs)
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = fit({**spec, "seed": 1}, out=tmp_path / "three", quiet=True)
    three = sltcore.load(other.bundle).model.state_dict()
    assert not any(torch.equal(one[name], three[name]) for name in one if name.endswith("weight_ih_l0"))


def test_training_leaves_torchs_random_state_and_threads_alone(tones: tuple[Path, Path], tmp_path: Path) -> None:
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    fit(train_spec(*tones, budget={"steps": 2}), out=tmp_path / "run", quiet=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_run_tells_what_it_trains_on_and_what_is_left_out(tmp_path: Path, said: list[str]) -> None:
    manifest = write_tones(tmp_path / "data", 8)
    text = manifest.read_text(encoding="utf-8").splitlines()
    text[3] = text[3].rpartition(",s")[0].rpartition(",")[0] + "," + "abcd" * 30 + ",s0"  # no frames for so many labels
    text[5] = text[5].rpartition(",s")[0].rpartition(",")[0] + ",xyz,s0"  # no labels for these
    manifest.write_text("\n".join(text) + "\n", encoding="utf-8")
    trained = fit(train_spec(manifest, budget={"steps": 2}), out=tmp_path / "run", say=said.append)
    assert set(trained.skipped) == {"train-002", "train-004"}
    assert any(line.startswith("6 utterances, ") for line in said)
    assert "2 training utterances are left out:" in said
    assert any(line.startswith("  train-004: ") for line in said)
    assert any("parameters are trained" in line for line in said)


def test_quiet_says_nothing(tones: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit(train_spec(*tones, budget={"steps": 2}), out=tmp_path / "run", quiet=True)
    assert capfd.readouterr() == ("", "")


def test_tensorboard_events_hold_what_the_history_says(tones: tuple[Path, Path], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained = fit(train_spec(*tones, log={"tensorboard": True}), out=tmp_path / "run", quiet=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    losses = {event.step: event.value for event in events.Scalars("loss")}
    assert losses == pytest.approx({li["step"]: li["loss"] for li in lines_of(trained.history) if "loss" in li})
    assert len(events.Scalars("dev/cer.cer")) == 3


def test_a_finished_run_is_returned_and_a_fresh_one_replaces_it(
    tones: tuple[Path, Path], tmp_path: Path, said: list[str]
) -> None:
    spec = train_spec(*tones, budget={"steps": 4})
    first = fit(spec, out=tmp_path / "run", quiet=True)
    written = first.history.stat().st_mtime_ns
    assert fit(spec, out=tmp_path / "run", say=said.append) == first
    assert any("is finished, after 4 steps; begin anew with --fresh" in line for line in said)
    assert first.history.stat().st_mtime_ns == written
    (tmp_path / "run" / "notes.txt").write_text("mine", encoding="utf-8")
    again = fit(spec, out=tmp_path / "run", quiet=True, resume=False)
    assert again.values == first.values
    assert first.history.stat().st_mtime_ns != written
    assert (tmp_path / "run" / "notes.txt").read_text(encoding="utf-8") == "mine"


REFUSED: list[tuple[str, Callable[[dict[str, Any]], None], type[Exception], str]] = [
    (
        "nothing is measured so",
        lambda s: s.update(evaluate={"best": "cer.wer"}),
        SpecError,
        r"evaluate.best: nothing is measured as 'cer.wer'; values: cer.cer, .*loss. Did you mean 'cer.cer'\?",
    ),
    (
        "no parameter has the name",
        lambda s: s.update(trainable=["encodr.*"]),
        SpecError,
        r"trainable\[0\]: no parameter is named like 'encodr.\*'; parameters are: encoder.\*, decoder.\*. Did you mean 'encoder",
    ),
    (
        "nothing is left to train",
        lambda s: s.update(trainable=["!*"]),
        SpecError,
        "trainable: no parameter is left to train",
    ),
    (
        "no group has the name",
        lambda s: s["optimizer"].update(groups=[{"match": ["decoder.haed.*"]}]),
        SpecError,
        r"optimizer.groups\[0\].match: no parameter is named like 'decoder.haed.\*'; parameters are: decoder.head.*Did you mean",
    ),
    (
        "float16 needs another device",
        lambda s: s.update(precision="float16"),
        SpecError,
        "precision: float16 cannot be computed on cpu; write bfloat16 or float32",
    ),
    (
        "the decoder has no loss",
        lambda s: s["pipeline"].pop("decoder") and s["pipeline"].pop("metrics"),
        SpecError,
        "pipeline: it has no decoder and so no loss; give a decoder, or an objective",
    ),
    (
        "data that are not there",
        lambda s: s["data"].update(train=[{"manifest": "nowhere.csv"}]),
        DataError,
        "nowhere.csv",
    ),
]


@pytest.mark.parametrize(("change", "error", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_run_that_cannot_begin_is_refused_in_one_line(
    change: Callable[[dict[str, Any]], None],
    error: type[Exception],
    text: str,
    tones: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    spec = train_spec(*tones)
    change(spec)
    with pytest.raises(error, match=text) as found:
        fit(spec, out=tmp_path / "run", quiet=True)
    assert "\n" not in str(found.value)


def test_gradients_that_are_not_finite_are_skipped_counted_and_too_many_refused(
    tones: tuple[Path, Path], tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sltcore.train.losses import TrainStep

    forward = TrainStep.forward

    def broken(self: TrainStep, batch: Any, generator: torch.Generator) -> torch.Tensor:
        losses = forward(self, batch, generator)
        return losses * torch.where(torch.tensor([name == "train-003" for name in batch.ids]), torch.nan, 1.0)

    monkeypatch.setattr(TrainStep, "forward", broken)
    trained = fit(train_spec(tones[0], budget={"steps": 8}), out=tmp_path / "run", say=said.append)
    skipped = [line for line in said if "the gradient is not finite, so the step is skipped" in line]
    assert len(skipped) == 2  # once in each of two epochs
    assert skipped[1].endswith("(2 so far); no finite loss for: train-003")
    assert lines_of(trained.history)[-1]["skipped_steps"] == 2
    assert all(torch.isfinite(value).all() for value in sltcore.load(trained.bundle).model.state_dict().values())
    everything = train_spec(tones[0], batch={"size": 24}, budget={"steps": 30})
    with pytest.raises(TrainError, match=r"step 20: the gradient was not finite 20 times in a row; .*train-003"):
        fit(everything, out=tmp_path / "other", quiet=True)


class Slowed(Augmentation):
    """Leaves too few samples for any text of one utterance, as speed perturbation may."""

    consumes = produces = Port("Waveform")

    def __call__(self, x: Waveform, context: Mapping[str, Any], generator: torch.Generator) -> Waveform:
        return (
            x._replace(samples=x.samples[:, :300], lengths=x.lengths.clamp(max=300)) if len(x.samples[0]) < 2000 else x
        )


def test_an_utterance_that_augmentation_makes_impossible_is_counted_and_named(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sltcore.train import run
    from sltcore.train.start import Parts

    build = run.build_parts

    def with_slowed(*given: Any) -> Parts:
        return build(*given)._replace(augment=[Slowed()])

    monkeypatch.setattr(run, "build_parts", with_slowed)
    manifest = write_tones(tmp_path / "data", 6)
    rows = [line.split(",") for line in manifest.read_text(encoding="utf-8").splitlines()[1:]]
    assert [row[0] for row in rows if len(row[2]) == 2] == ["train-001"]  # the only one below 2,000 samples
    spec = train_spec(manifest, budget={"steps": 4}, checkpoint={"every_steps": 1})
    trained = fit(spec, out=tmp_path / "run", say=said.append)
    named = [line for line in said if "nothing was learned from" in line]
    assert len(named) == 2
    assert named[1].startswith(
        "step 4: nothing was learned from train-001, train-001 (4 so far): the loss is not finite"
    )
    lines = lines_of(trained.history)
    assert [line["skipped_utterances"] for line in lines] == [2, 4]
    assert [line["skipped_steps"] for line in lines] == [0, 0]
    others = train_spec(manifest, budget={"steps": 4}, data={"train": [{**spec["data"]["train"][0], "where": OTHERS}]})
    alone = lines_of(fit(others, out=tmp_path / "others", quiet=True).history)
    assert lines[0]["loss"] == pytest.approx(alone[0]["loss"], rel=0.02)  # a mean over those that have a loss


def test_what_was_learned_from_is_counted(tones: tuple[Path, Path], tmp_path: Path) -> None:
    trained = fit(train_spec(tones[0], budget={"steps": 1}), out=tmp_path / "run", quiet=True)
    rows = [line.split(",") for line in tones[0].read_text(encoding="utf-8").splitlines()[1:]]
    assert trained.utterances == 24
    assert trained.minutes == pytest.approx(sum(0.12 * len(row[2]) for row in rows) / 60)
    assert fit(train_spec(tones[0], budget={"steps": 1}), out=tmp_path / "run", quiet=True) == trained


def test_bfloat16_computes_in_it_and_keeps_weights_in_float32(tones: tuple[Path, Path], tmp_path: Path) -> None:
    spec = train_spec(tones[0], budget={"steps": 3}, pipeline={"encoder": CONFORMER})
    exact = fit(spec, out=tmp_path / "one", quiet=True)
    rough = fit({**spec, "precision": "bfloat16"}, out=tmp_path / "two", quiet=True)
    losses = [lines_of(run.history)[-1]["loss"] for run in (exact, rough)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    stored = sltcore.load(rough.bundle).model
    assert all(parameter.dtype == torch.float32 for parameter in stored.parameters())


def test_what_is_frozen_stays_bit_for_bit_and_out_of_training_mode(tones: tuple[Path, Path], tmp_path: Path) -> None:
    from sltcore.train.losses import TrainStep, set_training

    spec = train_spec(tones[0], trainable=["decoder.*"], pipeline={"encoder": {**CONFORMER, "norm": "batch"}})
    trained = fit(spec, out=tmp_path / "run", quiet=True)
    before = sltcore.load({"slt": 1, "kind": "pipeline", **spec["pipeline"]})
    after = sltcore.load(trained.bundle)
    for name, tensor in before.model.state_dict().items():
        same = torch.equal(after.model.state_dict()[name], tensor)
        assert same == name.startswith("encoder."), name  # running statistics of batch norms among them
    for name, parameter in before.model.named_parameters():
        parameter.requires_grad_(name.startswith("decoder."))
    step = TrainStep(before)
    set_training(step)
    assert not any(module.training for module in before.parts["encoder"].modules())
    assert before.model.training
    assert before.parts["decoder"].training


def test_a_run_starts_from_a_bundle_with_another_head(tones: tuple[Path, Path], tmp_path: Path) -> None:
    first = fit(train_spec(tones[0], budget={"steps": 3}), out=tmp_path / "one", quiet=True)
    spec = train_spec(tones[0], budget={"steps": 2}, trainable=["decoder.*"])
    spec["pipeline"] = str(first.bundle)
    spec["set"] = {"decoder.characters": "abcdxyz"}
    second = fit(spec, out=tmp_path / "two", quiet=True)
    old, new = sltcore.load(first.bundle), sltcore.load(second.bundle)
    assert new.parts["decoder"].head.out_features == old.parts["decoder"].head.out_features + 3
    for name, tensor in old.parts["encoder"].state_dict().items():
        assert torch.equal(new.parts["encoder"].state_dict()[name], tensor), name


def test_the_runs_seed_decides_the_weights_that_no_file_brings(tones: tuple[Path, Path], tmp_path: Path) -> None:
    spec = train_spec(tones[0], budget={"steps": 1}, optimizer={"learning_rate": 1e-12}, seed=3)
    trained = fit(spec, out=tmp_path / "run", quiet=True)
    pipeline = {"slt": 1, "kind": "pipeline", "encoder": LSTM, "decoder": spec["pipeline"]["decoder"], "seed": 3}
    expected = sltcore.load(pipeline).model.state_dict()
    found = sltcore.load(trained.bundle).model.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0)
