"""Promises of the loader: components draw side information for their batches from the seeds alone, and only in training;
what stands inside a wrapper keeps the weights it had outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_data import fields, make_examples, small_pipeline

from sltcore.bundle.weights import fill_model
from sltcore.errors import BundleError, PluginError, PortError
from sltcore.interfaces import Objective
from sltcore.train.loading import Loader
from sltcore.types import ContextKey, Port

SECONDS = [0.30, 0.45, 0.62, 0.38, 0.91, 0.55]


class Lists(Objective, nn.Module):
    """Draws a number for each utterance from its seed, and remembers the texts it was told."""

    consumes = Port("Waveform")

    def __init__(self, name: str = "hint", value: Any = None) -> None:
        super().__init__()
        self.name, self.value = name, value
        self.texts: list[str] = []

    def context_keys(self) -> tuple[ContextKey, ...]:
        return (ContextKey("hint", "number", "a number"),)

    def learn_texts(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)

    def training_context(
        self, texts: Sequence[str], context: Mapping[str, Any], seeds: Sequence[int]
    ) -> Mapping[str, Any]:
        drawn = [float(torch.rand((), generator=torch.Generator().manual_seed(seed))) for seed in seeds]
        return {self.name: drawn if self.value is None else self.value}

    def check(self, encoder: Any) -> None:
        return

    def loss(self, encoder: Any, batch: Any, context: Mapping[str, Any]) -> torch.Tensor:
        return torch.zeros(len(batch.lengths))


def loader(folder: Path, part: Lists, **batch: Any) -> Loader:
    folder.mkdir(parents=True, exist_ok=True)
    examples = make_examples(folder, SECONDS)
    spec = fields(batch={"size": 2, "seconds": 9.0, **batch})
    return Loader(small_pipeline(), examples, spec, seed=3, also=(part,))


def test_what_a_component_draws_depends_on_the_utterance_and_epoch_alone(tmp_path: Path) -> None:
    first = {}
    for size in (2, 3, 6):
        loading = loader(tmp_path / str(size), Lists(), size=size)
        steps = list(loading.steps(stop=loading.steps_in_epoch(0)))
        found = {
            name: hint
            for step in steps
            for batch in step.batches
            for name, hint in zip(batch.ids, batch.context["hint"], strict=True)
        }
        first = first or found
        assert found == first
    assert len(set(first.values())) == len(SECONDS)
    loading = loader(tmp_path / "two", Lists(), size=6)
    epochs = [step.batches[0].context["hint"] for step in loading.steps(stop=2)]
    assert not set(epochs[0]) & set(epochs[1])


def test_every_component_is_told_the_texts_of_the_training_data(tmp_path: Path) -> None:
    part = Lists()
    loading = loader(tmp_path, part)
    assert part.texts == [example.item.text for example in loading.examples]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hnt", None, r"Lists\.training_context: context 'hnt' is read by no component .* Did you mean 'hint'\?"),
        ("hint", "x", r"Lists\.training_context: context 'hint' expects a number, got str 'x'"),
        ("hint", [1.0, None, 2.0], r"Lists\.training_context: context 'hint' holds 3 values for 2 inputs"),
    ],
)
def test_what_nobody_reads_is_refused_by_name(tmp_path: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        next(loader(tmp_path, Lists(name, value)).steps(stop=1))


def test_an_encoder_without_inner_layers_says_so() -> None:
    encoder = small_pipeline().parts["encoder"]
    from sltcore.interfaces import Encoder

    assert Encoder.depths.fget(encoder) is None  # type: ignore[attr-defined]
    Encoder.keep_layers(encoder, [])
    with pytest.raises(PortError, match="gives out no inner layers; ask for its output only"):
        Encoder.keep_layers(encoder, [1])


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.base = inner
        self.more = nn.Linear(2, 2)


def stage(module: nn.Module) -> nn.Module:
    return nn.ModuleDict({"encoder": module, "decoder": nn.Linear(2, 3)})


def test_weights_follow_a_stage_into_its_wrapper(tmp_path: Path) -> None:
    old, new = stage(nn.LSTM(3, 2)), stage(Wrapper(nn.LSTM(3, 2)))
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    fill_model(new, old.state_dict(), bundle=tmp_path, replaced=["encoder"], fresh=True)
    for name, tensor in old.state_dict().items():
        assert torch.equal(new.state_dict()[name.replace("encoder.", "encoder.base.")], tensor)
    assert torch.equal(new.state_dict()["encoder.more.weight"], before["encoder.more.weight"])


def test_a_wrapper_around_something_else_gets_nothing(tmp_path: Path) -> None:
    old, new = stage(nn.LSTM(3, 2)), stage(Wrapper(nn.LSTM(3, 4)))
    before = {name: tensor.clone() for name, tensor in new.state_dict().items() if name.startswith("encoder")}
    fill_model(new, old.state_dict(), bundle=tmp_path, replaced=["encoder"], fresh=True)
    assert all(torch.equal(new.state_dict()[name], tensor) for name, tensor in before.items())
    with pytest.raises(BundleError, match="holds no encoder.base"):
        fill_model(new, old.state_dict(), bundle=tmp_path, replaced=["encoder"])


def test_texts_that_are_only_evaluated_are_not_learned(tmp_path: Path) -> None:
    part = Lists()
    examples = make_examples(tmp_path, SECONDS)
    Loader(small_pipeline(), examples, fields(batch={"size": 2}), seed=3, also=(part,), learned_from=False)
    assert part.texts == []
