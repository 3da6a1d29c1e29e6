"""Promises to those who take part: transforms, objectives, augmentations and privacy mechanisms are called as their
protocols say, and need no loop of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_plugins import Site
from train_components import Scale, Transforming, train_registry
from train_toys import train_spec, write_tones

import sltcore
from sltcore.bundle import describe_bundle
from sltcore.errors import PluginError, PortError, SpecError
from sltcore.registry import Registry
from sltcore.train import fit
from sltcore.train.loop import Loop


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tones")
    return write_tones(folder, 12), write_tones(folder, 4, 1, "dev.csv")


@pytest.fixture
def registry(site: Site, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr(Transforming, "events", [])
    return train_registry(site, monkeypatch)


def weights(bundle: Path, registry: Registry) -> dict[str, torch.Tensor]:
    return dict(sltcore.load(bundle, registry=registry).model.state_dict())


def history(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def with_transform(tones: tuple[Path, Path], name: str, **changes: Any) -> dict[str, Any]:
    pipeline = {"transforms": [name], "metrics": ["cer"]}
    return train_spec(*tones, pipeline=pipeline, calibration=[{"manifest": str(tones[0]), "limit": 3}], **changes)


def test_a_transform_lives_as_its_protocol_says(tones: tuple[Path, Path], registry: Registry, tmp_path: Path) -> None:
    spec = with_transform(tones, "scale", budget={"steps": 5})
    trained = fit(spec, out=tmp_path / "run", registry=registry, quiet=True)
    names = [event[0] for event in Scale.events]
    assert names[:2] == ["attach", "optimizer"]
    assert Scale.events[0] == ("attach", 3)  # examples of the calibration
    assert [event[1] for event in Scale.events if event[0] == "step"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert "finish" in names
    assert names.index("finish") > max(place for place, name in enumerate(names) if name == "step")
    scale = weights(trained.bundle, registry)["decoder.head.scale"]
    assert float(scale) < 0.95  # its penalty pulls it down, at its own rate


def test_a_transform_is_brought_back_from_a_checkpoint_without_calibration(
    tones: tuple[Path, Path], registry: Registry, tmp_path: Path
) -> None:
    spec = with_transform(tones, "scale", checkpoint={"every_steps": 2}, budget={"steps": 6})
    whole = fit(spec, out=tmp_path / "whole", registry=registry, quiet=True)
    learn, left = Loop._learn, [3]

    def learning(self: Loop, step: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return learn(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_learn", learning)
        with pytest.raises(KeyboardInterrupt):
            fit(spec, out=tmp_path / "run", registry=registry, quiet=True)
    Transforming.events.clear()
    again = fit(spec, out=tmp_path / "run", registry=registry, quiet=True)
    assert Scale.events[0] == ("restore", 3.0)
    assert "attach" not in [event[0] for event in Scale.events]
    one, two = weights(whole.bundle, registry), weights(again.bundle, registry)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_adapter_is_trained_and_its_base_is_not(
    tones: tuple[Path, Path], registry: Registry, tmp_path: Path
) -> None:
    spec = with_transform(tones, "gain", budget={"steps": 4})
    trained = fit(spec, out=tmp_path / "run", registry=registry, quiet=True)
    base = sltcore.load({"slt": 1, "kind": "pipeline", **spec["pipeline"], "transforms": []}, registry=registry)
    after = weights(trained.bundle, registry)
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(after[name.replace("decoder.head.", "decoder.head.inner.")], tensor), name
    assert float(after["decoder.head.scale"]) != 1.0
    both = fit({**spec, "trainable": ["decoder.*"]}, out=tmp_path / "both", registry=registry, quiet=True)
    changed = weights(both.bundle, registry)
    assert not torch.equal(changed["decoder.head.inner.weight"], after["decoder.head.inner.weight"])


def test_the_penalty_counts_once_however_the_step_is_divided(
    tones: tuple[Path, Path], registry: Registry, tmp_path: Path
) -> None:
    spec = with_transform(
        tones, "scale", budget={"steps": 2}, log={"every_steps": 1}, optimizer={"learning_rate": 0.001}
    )
    one = fit(spec, out=tmp_path / "one", registry=registry, quiet=True, overrides=["batch.size=8"])
    parts = ["batch.size=4", "batch.accumulate=2"]
    two = fit(spec, out=tmp_path / "two", registry=registry, quiet=True, overrides=parts)
    losses = [[line["loss"] for line in history(run.history) if "loss" in line] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    first, second = weights(one.bundle, registry), weights(two.bundle, registry)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-4, rtol=0)


def test_accumulated_batches_are_one_larger_batch(tones: tuple[Path, Path], tmp_path: Path) -> None:
    spec = train_spec(tones[0], budget={"steps": 8}, log={"every_steps": 1}, optimizer={"learning_rate": 0.001})
    whole = fit(spec, out=tmp_path / "one", quiet=True, overrides=["batch.size=9"])
    parts = ["batch.size=3", "batch.seconds=10", "batch.accumulate=3"]
    divided = fit(spec, out=tmp_path / "two", quiet=True, overrides=parts)
    losses = [[line["loss"] for line in history(run.history)] for run in (whole, divided)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_an_objective_stands_in_place_of_the_decoders_loss(
    tones: tuple[Path, Path], registry: Registry, tmp_path: Path
) -> None:
    spec = train_spec(tones[0], objective="energy", log={"every_steps": 1}, budget={"steps": 12})
    del spec["pipeline"]["decoder"], spec["pipeline"]["metrics"]
    trained = fit(spec, out=tmp_path / "run", registry=registry, quiet=True)
    losses = [line["loss"] for line in history(trained.history)]
    assert losses[-1] < 0.5 * losses[0]
    assert set(weights(trained.bundle, registry)) == {f"encoder.{name}" for name in trained_names(spec, registry)}


def trained_names(spec: dict[str, Any], registry: Registry) -> list[str]:
    pipeline = sltcore.load({"slt": 1, "kind": "pipeline", **spec["pipeline"]}, registry=registry)
    return list(pipeline.parts["encoder"].state_dict())


def test_auxiliary_losses_are_added_with_their_weights(
    tones: tuple[Path, Path], registry: Registry, tmp_path: Path
) -> None:
    """The first loss is that of the untouched weights, so the three runs can be compared."""

    def first(name: str, **changes: Any) -> float:
        spec = train_spec(tones[0], budget={"steps": 1}, log={"every_steps": 1}, batch={"size": 12}, **changes)
        run = fit(spec, out=tmp_path / name, registry=registry, quiet=True)
        return float(history(run.history)[0]["loss"])

    plain = first("plain")
    once = first("once", auxiliary=[{"objective": "energy", "weight": 1.0}])
    thrice = first("thrice", auxiliary=[{"objective": "energy", "weight": 3.0}])
    assert once > plain
    assert thrice - plain == pytest.approx(3 * (once - plain), rel=1e-3)


def test_the_generator_of_a_step_depends_on_seed_and_step_alone(
    tones: tuple[Path, Path], registry: Registry, tmp_path: Path
) -> None:
    auxiliary = [{"objective": {"use": "energy", "noise": 100.0}}]
    spec = train_spec(tones[0], budget={"steps": 3}, log={"every_steps": 1}, auxiliary=auxiliary)
    runs = [fit(spec, out=tmp_path / str(n), registry=registry, quiet=True) for n in range(2)]
    losses = [[line["loss"] for line in history(run.history)] for run in runs]
    assert losses[0] == losses[1]
    assert max(losses[0]) - min(losses[0]) > 1.0  # each step draws anew


def test_an_objective_that_does_not_fit_the_encoder_is_refused(
    tones: tuple[Path, Path], registry: Registry, tmp_path: Path
) -> None:
    spec = train_spec(tones[0], objective={"use": "energy", "width": 3})
    with pytest.raises(PortError, match="energy needs an encoder with d = 3, got Encoded"):
        fit(spec, out=tmp_path / "run", registry=registry, quiet=True)


def privately(tones: tuple[Path, Path], name: str, **changes: Any) -> dict[str, Any]:
    spec = train_spec(*tones, privacy=name, budget={"steps": 6}, **changes)
    spec["data"] = {
        "private": spec["data"]["train"],
        "public": [{"manifest": str(tones[0]), "limit": 5}],
        "dev": spec["data"]["dev"],
    }
    return spec


def test_a_mechanism_replaces_sampling_and_gradient(
    tones: tuple[Path, Path], registry: Registry, tmp_path: Path
) -> None:
    """With all utterances in each step and the plain mean gradient it is plain training on the same batches."""
    private = fit(privately(tones, "whole"), out=tmp_path / "private", registry=registry, quiet=True)
    plain = train_spec(*tones, budget={"steps": 6}, batch={"size": 64})
    public = fit(plain, out=tmp_path / "plain", registry=registry, quiet=True)
    found, expected = weights(private.bundle, registry), weights(public.bundle, registry)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=0)
    assert private.privacy == {
        "epsilon": pytest.approx(0.6),
        "delta": 1e-6,
        "unit": "utterance",
        "data_dependent": False,
    }
    facts = describe_bundle(private.bundle)["provenance"]["training"]
    assert facts["privacy"] == dict(private.privacy)
    assert "Privacy: epsilon 0.6" in (private.bundle / "README.md").read_text(encoding="utf-8")


def test_a_mechanism_trains_teachers_and_a_student(
    tones: tuple[Path, Path], registry: Registry, tmp_path: Path
) -> None:
    said: list[str] = []
    spec = privately(tones, "teachers")
    trained = fit(spec, out=tmp_path / "run", registry=registry, say=said.append)
    assert [path.name for path in sorted((tmp_path / "run" / "models").iterdir())] == ["00", "01", "02"]
    assert [line.partition(" in ")[0] for line in said if line.startswith("model ")] == [
        "model 0: 6 utterances",
        "model 1: 6 utterances",
        "model 2: 5 utterances",
    ]
    assert trained.privacy["epsilon"] == pytest.approx(0.5)
    student = weights(tmp_path / "run" / "models" / "02" / "bundle", registry)
    assert all(torch.equal(student[name], tensor) for name, tensor in weights(trained.bundle, registry).items())
    again = fit(spec, out=tmp_path / "run", registry=registry, quiet=True)  # finished models are not trained again
    assert again.values == trained.values


def test_a_step_may_be_without_utterances(tones: tuple[Path, Path], registry: Registry, tmp_path: Path) -> None:
    trained = fit(privately(tones, "sparse"), out=tmp_path / "run", registry=registry, quiet=True)
    assert trained.steps == 3  # as long as its sampler


def test_a_mechanism_must_return_what_fit_made(tones: tuple[Path, Path], registry: Registry, tmp_path: Path) -> None:
    text = "privacy: Strange.train returned a str, expected one of the 1 models that fit made"
    with pytest.raises(PluginError, match=text):
        fit(privately(tones, "strange"), out=tmp_path / "run", registry=registry, quiet=True)


def test_a_loss_that_depends_on_nothing_trained_is_refused(
    tones: tuple[Path, Path], registry: Registry, tmp_path: Path
) -> None:
    spec = train_spec(tones[0], objective="energy", trainable=["decoder.*"])
    with pytest.MonkeyPatch.context() as patch:
        from train_components import Energy

        patch.setattr(Energy, "loss", lambda self, encoder, batch, context: torch.zeros(len(batch.lengths)))
        with pytest.raises(PluginError, match=r"the loss depends on none of the \d+ parameters that are trained"):
            fit(spec, out=tmp_path / "run", registry=registry, quiet=True)


def test_features_of_a_run_reach_the_augmentation(tones: tuple[Path, Path], tmp_path: Path) -> None:
    spec = train_spec(tones[0], budget={"steps": 2}, log={"every_steps": 1}, batch={"size": 12})
    plain = fit(spec, out=tmp_path / "plain", quiet=True)
    masked = fit({**spec, "augment": ["spec-augment"]}, out=tmp_path / "masked", quiet=True)
    losses = [history(run.history)[0]["loss"] for run in (plain, masked)]
    assert losses[0] != losses[1]
    with pytest.raises(SpecError, match="no augmentation is named 'spec-agument'"):
        fit({**spec, "augment": ["spec-agument"]}, out=tmp_path / "wrong", quiet=True)
