"""Every kind of technique is trained by the one loop; each result is checked against something that is not the loop."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import taking_part
import torch
from fake_plugins import Site
from taking_part import ClippedSums, Emulated, LowRank, Packed, Votes, linear_layers, registry_of
from torch import Tensor
from train_toys import CONFORMER, LSTM, train_spec, write_tones

import sltcore
from sltcore.alignment.posteriors import of_batch
from sltcore.bundle import save_bundle
from sltcore.ctc import pad_labels
from sltcore.errors import PluginError, TrainError
from sltcore.pipeline import Pipeline
from sltcore.registry import Registry
from sltcore.train import Trained, fit
from sltcore.train.checkpoint import newest_checkpoint
from sltcore.types import Item

STEPS = 8
PLAIN_SGD = {"name": "sgd", "learning_rate": 0.5, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tones")
    return write_tones(folder, 12), write_tones(folder, 4, 1, "dev.csv")


@pytest.fixture
def registry(site: Site, monkeypatch: pytest.MonkeyPatch) -> Registry:
    taking_part.EVENTS.clear()
    return registry_of(site, monkeypatch)


def pipeline_with(*transforms: Any, encoder: Any = LSTM) -> dict[str, Any]:
    spec = {"encoder": {**encoder, "dropout": 0.0}, "decoder": {"use": "ctc-greedy", "characters": "abcd"}}
    return {**spec, "transforms": list(transforms)} if transforms else spec


def run(tones: tuple[Path, Path], out: Path, registry: Registry, **changes: Any) -> Trained:
    spec = train_spec(tones[0], budget={"steps": STEPS}, log={"every_steps": 1, "tensorboard": False})
    return fit({**spec, **changes}, out=out, registry=registry, quiet=True)


def losses_of(trained: Trained) -> list[float]:
    lines = [json.loads(line) for line in trained.history.read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def rows_of(manifest: Path) -> list[tuple[Path, str]]:
    rows = [line.split(",") for line in manifest.read_text(encoding="utf-8").splitlines()[1:]]
    return [(manifest.parent / row[1], row[2]) for row in rows]


def says(pipeline: Pipeline, manifest: Path) -> Tensor:
    """Log-probabilities of the first three recordings, one after the other."""
    found = []
    for path, _ in rows_of(manifest)[:3]:
        value = pipeline.read(Item(path.name, str(path)))
        found.append(of_batch(pipeline, [value], {})[0][0])
    return torch.cat(found)


def progress_seen() -> list[float]:
    return [event[1] for event in taking_part.EVENTS if event[0] == "progress"]


def test_a_quantizer_is_told_its_progress_and_its_bundle_holds_codes(
    tones: tuple[Path, Path], tmp_path: Path, registry: Registry
) -> None:
    """The deployed model against the last checkpoint's weights, rounded here by numpy and put into a plain pipeline."""
    spec = pipeline_with("rounds", encoder=CONFORMER)
    trained = run(tones, tmp_path / "run", registry, pipeline=spec)
    steps = [place / (STEPS - 1) for place in range(STEPS)]
    assert progress_seen()[:STEPS] == pytest.approx(steps)
    assert taking_part.EVENTS[STEPS] == ("finish",)
    loaded = sltcore.load(trained.bundle, registry=registry)
    packed = [module for module in loaded.model.modules() if isinstance(module, Packed)]
    assert len(packed) > 5
    assert all(module.codes.dtype == torch.int8 and int(module.codes.abs().max()) == 7 for module in packed)
    checkpoint, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    plain = sltcore.load({"slt": 1, "kind": "pipeline", **pipeline_with(encoder=CONFORMER)}, registry=registry)
    weights = {}
    for name, tensor in checkpoint.weights.items():
        if name.startswith("step.model."):
            value = tensor.numpy()
            if name.endswith(".inner.weight"):
                scale = np.maximum(np.abs(value).max(1, keepdims=True), 1e-12) / 7
                value = np.round(value / scale) * scale
            weights[name.removeprefix("step.model.").replace(".inner.", ".")] = torch.from_numpy(value.copy())
    plain.model.load_state_dict(weights)
    torch.testing.assert_close(says(loaded, tones[0]), says(plain, tones[0]), atol=1e-5, rtol=0)


def test_an_accelerator_is_calibrated_and_trained_in_its_own_arithmetic(
    tones: tuple[Path, Path], tmp_path: Path, registry: Registry
) -> None:
    """The trained emulation against integers, bit for bit; its calibration travels in the bundle."""
    trained = run(
        tones,
        tmp_path / "run",
        registry,
        pipeline=pipeline_with("chip", encoder=CONFORMER),
        calibration=[{"manifest": str(tones[1])}],
    )
    assert taking_part.EVENTS[0] == ("calibrated", 4)
    assert losses_of(trained)[-1] < losses_of(trained)[0]
    loaded = sltcore.load(trained.bundle, registry=registry)
    (chip,) = loaded.transforms
    emulated = [module for module in loaded.model.modules() if isinstance(module, Emulated)]
    assert len({float(module.input_step) for module in emulated}) > 1  # measured, and not the value without data
    for module in emulated:
        x = torch.randn(3, 5, module.inner.in_features, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(module(x), chip.lower(module)(x))
        assert chip.cost(module, x).macs == 15 * module.inner.in_features * module.inner.out_features


def test_an_adapter_learns_and_leaves_its_base_alone(
    tones: tuple[Path, Path], tmp_path: Path, registry: Registry
) -> None:
    """The base's tensors bit for bit as in the bundle it began with; without the adapter, so are its outputs."""
    base = sltcore.load({"slt": 1, "kind": "pipeline", "seed": 5, **pipeline_with(encoder=CONFORMER)})
    before, said = {n: t.clone() for n, t in base.model.state_dict().items()}, says(base, tones[0])
    save_bundle(base, tmp_path / "base")
    trained = run(
        tones, tmp_path / "run", registry, pipeline=str(tmp_path / "base"), set={"transforms": ["rank-update"]}
    )
    assert losses_of(trained)[-1] < losses_of(trained)[0]
    loaded = sltcore.load(trained.bundle, registry=registry)
    adapted = [module for module in loaded.model.modules() if isinstance(module, LowRank)]
    assert len(adapted) > 5
    assert all(module.up.detach().abs().max() > 0 for module in adapted)
    kept = {name.replace(".inner.", "."): tensor for name, tensor in loaded.model.state_dict().items()}
    assert before.keys() <= kept.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, kept[name]), name
    assert not torch.equal(says(loaded, tones[0]), said)
    (adapter,) = loaded.transforms
    adapter.detach()
    assert torch.equal(says(loaded, tones[0]), said)


def privately(
    tones: tuple[Path, Path],
    out: Path,
    registry: Registry,
    *,
    steps: int = STEPS,
    batch: int = 6,
    log_every: int = 1,
    **options: Any,
) -> Trained:
    spec = train_spec(tones[0], budget={"steps": steps}, batch={"size": batch, "seconds": 30})
    spec |= {
        "pipeline": pipeline_with(),
        "data": {"private": [{"manifest": str(tones[0])}]},
        "privacy": {"use": "clipped", "steps": steps, **options},
        "optimizer": PLAIN_SGD,
        "log": {"every_steps": log_every, "tensorboard": False},
    }
    return fit(spec, out=out, registry=registry, quiet=True)


def fresh(registry: Registry) -> Pipeline:
    """The untrained pipeline of these runs, whose seed is 0."""
    return sltcore.load({"slt": 1, "kind": "pipeline", "seed": 0, **pipeline_with()}, registry=registry)


def weights_of(pipeline: Pipeline) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in pipeline.model.parameters()])


def test_a_privacy_mechanism_draws_the_utterances_of_every_step(
    tones: tuple[Path, Path], tmp_path: Path, registry: Registry
) -> None:
    """Exactly those, in any number of batches: at first the losses are those of the untrained network, one at a time."""
    trained = privately(tones, tmp_path / "run", registry, rate=0.4, batch=2, clip=1e-9)
    assert [len(step) for step in ClippedSums.losses] == [len(step) for step in ClippedSums.drawn]
    assert len({len(step) for step in ClippedSums.drawn}) > 1
    pipeline = fresh(registry)
    alone = []
    for path, text in rows_of(tones[0]):
        value = pipeline.read(Item(path.name, str(path)))
        with torch.no_grad():
            encoded = pipeline.parts["encoder"](pipeline.batch([value]), {})
            ids = pad_labels([pipeline.parts["decoder"].vocabulary.encode(text)])
            alone.append(float(pipeline.parts["decoder"].loss(encoded, ids, {})))
    for drawn, losses in zip(ClippedSums.drawn, ClippedSums.losses, strict=True):  # a clip of 1e-9 moves nothing
        assert sorted(losses) == pytest.approx(sorted(alone[place] for place in drawn), abs=1e-3)
    assert trained.steps == STEPS


def test_one_utterance_moves_a_private_step_by_no_more_than_the_clip(
    tones: tuple[Path, Path], tmp_path: Path, registry: Registry
) -> None:
    """What the accounting rests on, measured on the weights: two runs that differ in one utterance."""
    options: dict[str, Any] = {"steps": 1, "rate": 0.9, "clip": 0.1, "noise": 1.0}
    whole = privately(tones, tmp_path / "whole", registry, **options)
    chosen = ClippedSums.drawn[0]
    less = privately(tones, tmp_path / "less", registry, **options, leave_out=chosen[3])
    assert len(ClippedSums.drawn[0]) == len(chosen) - 1
    assert max(ClippedSums.norms[0]) == pytest.approx(0.1, rel=1e-4)  # the clip binds
    one, other = (weights_of(sltcore.load(trained.bundle, registry=registry)) for trained in (whole, less))
    most = PLAIN_SGD["learning_rate"] * 0.1 / (0.9 * 12)  # type: ignore[operator]
    moved = float((one - other).norm())
    assert 0.5 * most < moved <= most * (1 + 1e-3)


def test_what_a_private_run_spent_is_told(tones: tuple[Path, Path], tmp_path: Path, registry: Registry) -> None:
    trained = privately(tones, tmp_path / "run", registry, noise=4.0)
    rho = STEPS / (2 * 4.0**2)
    assert trained.privacy is not None
    assert trained.privacy["epsilon"] == pytest.approx(rho + 2 * math.sqrt(rho * math.log(1e6)))
    assert trained.privacy["delta"] == 1e-6


def test_a_finished_private_run_is_returned_and_spends_nothing_more(
    tones: tuple[Path, Path], tmp_path: Path, registry: Registry
) -> None:
    first = privately(tones, tmp_path / "run", registry, noise=4.0)
    ClippedSums.losses.clear()
    assert privately(tones, tmp_path / "run", registry, noise=4.0) == first
    assert ClippedSums.losses == []
    with pytest.raises(TrainError, match=r"was begun otherwise: privacy\.noise was 4\.0, is 2\.0"):
        privately(tones, tmp_path / "run", registry, noise=2.0)
    with pytest.raises(
        TrainError, match=r"is finished, with another budget, evaluation or log; training again would spend"
    ):
        privately(tones, tmp_path / "run", registry, noise=4.0, log_every=2)
    assert ClippedSums.losses == []


def test_teachers_and_a_student_are_models_of_one_run(
    tones: tuple[Path, Path], tmp_path: Path, registry: Registry
) -> None:
    """The student equals one that is trained by hand on the labels that the teachers gave, bit for bit."""
    spec = train_spec(tones[0], budget={"steps": 4})
    spec |= {
        "pipeline": pipeline_with(),
        "data": {"private": [{"manifest": str(tones[0])}], "public": [{"manifest": str(tones[1])}]},
        "privacy": {"use": "votes", "teachers": 2},
    }
    trained = fit(spec, out=tmp_path / "run", registry=registry, quiet=True)
    shards = [set(shard) for shard in Votes.shards]
    assert [len(shard) for shard in shards] == [6, 6]
    assert not shards[0] & shards[1]
    assert set(Votes.labels) == {f"dev-{index:03d}" for index in range(4)}
    assert trained.privacy is not None
    assert trained.privacy["epsilon"] == pytest.approx(2 * 4 / 4.0)
    lines = [f"{name},{name}.wav,{label}" for name, label in Votes.labels.items()]
    manifest = tones[1].with_name("labelled.csv")
    manifest.write_text("id,audio,text\n" + "\n".join(lines) + "\n", encoding="utf-8")
    by_hand = train_spec(manifest, budget={"steps": 4}) | {"pipeline": pipeline_with()}
    other = fit(by_hand, out=tmp_path / "by-hand", registry=registry, quiet=True)
    one, two = (weights_of(sltcore.load(bundle, registry=registry)) for bundle in (trained.bundle, other.bundle))
    assert torch.equal(one, two)
    assert not torch.equal(one, weights_of(fresh(registry)))


def test_an_objective_trains_the_encoder_in_the_place_of_the_decoder(
    tones: tuple[Path, Path], tmp_path: Path, registry: Registry
) -> None:
    trained = run(
        tones,
        tmp_path / "run",
        registry,
        pipeline=pipeline_with(),
        objective="loudness",
        augment=["louder"],
        budget={"steps": 40},
    )
    losses = losses_of(trained)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    before, after = (
        fresh(registry).model.state_dict(),
        sltcore.load(trained.bundle, registry=registry).model.state_dict(),
    )
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("decoder."))
    assert not all(torch.equal(before[name], after[name]) for name in before if name.startswith("encoder."))


def volumes() -> dict[float, list[float]]:
    """The factors that each recording got, in order of the passes over the data."""
    found: dict[float, list[float]] = {}
    for name, sound, factor in (event for event in taking_part.EVENTS if event[0] == "volume"):
        assert name == "volume"
        found.setdefault(sound, []).append(factor)
    return found


def test_an_augmentation_depends_on_utterance_and_epoch_alone(
    tones: tuple[Path, Path], tmp_path: Path, registry: Registry
) -> None:
    """Two passes in batches of 6 and of 4: the same factors; and none in evaluation."""
    seen = []
    for size in (6, 4):
        taking_part.EVENTS.clear()
        run(
            tones,
            tmp_path / str(size),
            registry,
            pipeline=pipeline_with(),
            augment=["louder"],
            batch={"size": size, "seconds": 30},
            budget={"epochs": 2},
            data={"train": [{"manifest": str(tones[0])}], "dev": [{"manifest": str(tones[1])}]},
        )
        seen.append(volumes())
    assert len(seen[0]) == 12
    assert all(len(set(factors)) == 2 for factors in seen[0].values())
    assert {sound: sorted(factors) for sound, factors in seen[0].items()} == {
        sound: sorted(factors) for sound, factors in seen[1].items()
    }


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_plain_models_have_linear_layers_to_attach_to() -> None:
    assert len(linear_layers(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)))) == 2
    with pytest.raises(PluginError, match="the model has no linear layer to attach to"):
        linear_layers(torch.nn.ReLU())
