"""The lowered model: whole models in integers equal the emulation, offline, in streams and inside pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slt_nna.integer import IntegerTensor
from slt_nna.lower import in_integers, lower, overflow_report
from slt_nna.nna import Nna
from sltcore.errors import PluginError
from sltcore.testing.toys import models
from sltcore.types import Encoded, Features, Waveform

CHIPS = ("generous-8bit", "mixed-8-16", "harsh")


def attached(model: nn.Module, example: Any, chip: Any = "harsh") -> Nna:
    transform = Nna(chip)
    transform.attach(model.eval(), iter([example]))
    return transform


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("chip", CHIPS)
def test_toys_in_integers_equal_the_emulation(chip: str, place: int) -> None:
    _, model, example = models()[place]
    transform = attached(model, example, chip)
    lowered = transform.lower(model)
    with torch.no_grad():
        for x in (example, 3.0 * example[:1, :5]):
            found = lowered(x)
            assert type(found) is Tensor
            assert torch.equal(found, model(x))


def encoders() -> list[Any]:
    speech = pytest.importorskip("slt_speech.conformer"), pytest.importorskip("slt_speech.lstm")
    torch.manual_seed(1)
    conformer, lstm = speech[0].Conformer, speech[1].Lstm
    return [
        conformer(20, 16, layers=2, heads=2, kernel=5),
        conformer(20, 16, layers=1, heads=2, kernel=5, position="rotary", norm="batch"),
        conformer(20, 16, layers=2, heads=2, kernel=5, convolution="causal", chunk_frames=4, left_chunks=2),
        lstm(20, 12, layers=2),
        lstm(20, 12, layers=2, projection=7, bidirectional=True),
    ]


def speech_features(*lengths: int) -> Features:
    torch.manual_seed(2)
    return Features(torch.randn(len(lengths), max(lengths), 20), torch.tensor(lengths), 0.01)


class Whole(nn.Module):
    """What transforms attach to: a container whose parts a pipeline calls."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Features) -> Encoded:
        encoded: Encoded = self.encoder(features, {})
        return encoded


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("chip", CHIPS)
def test_speech_encoders_in_integers_equal_the_emulation(chip: str, place: int) -> None:
    model, batch = Whole(encoders()[place]), speech_features(90, 61, 37)
    transform = attached(model, batch, chip)
    lowered = transform.lower(model)
    with torch.no_grad():
        emulated = model(batch)
        assert torch.equal(lowered(batch).values, emulated.values)
        assert torch.equal(lowered.encoder(batch, {}).values, emulated.values), "a part, as a pipeline calls it"
        assert torch.equal(lower(transform, model.encoder)(batch, {}).values, emulated.values), "lowered alone"


def streamed(encoder: Any, features: Tensor, cuts: list[int]) -> Tensor:
    session, found = encoder.open({}), []
    for start, stop in zip([0, *cuts], [*cuts, features.shape[1]], strict=True):
        chunk = Features(features[:, start:stop], torch.tensor([stop - start]), 0.01)
        found.append(session.push(chunk))
    found.append(session.finish())
    return torch.cat([each.values for each in found if each is not None], 1)


@pytest.mark.parametrize("place", [2, 3])
@pytest.mark.parametrize("chip", CHIPS)
def test_a_stream_in_integers_equals_the_emulated_one(chip: str, place: int) -> None:
    model, batch = Whole(encoders()[place]), speech_features(90)
    transform = attached(model, batch, chip)
    lowered = transform.lower(model)
    with torch.no_grad():
        with transform.use({}):
            emulated = streamed(model.encoder, batch.values, [7, 11, 40, 41])
            other = streamed(model.encoder, batch.values, [30])
        with lowered.running():
            found = streamed(lowered.encoder, batch.values, [7, 11, 40, 41])
            assert isinstance(found, IntegerTensor)
        assert torch.equal(found.clone(), emulated)
        assert torch.equal(other, emulated), "states are kept in the chip's words, so the cuts do not matter"
        if place == 3:
            assert torch.equal(model(batch).values, emulated)


def test_a_state_of_the_emulation_goes_on_in_integers() -> None:
    torch.manual_seed(0)
    model = nn.LSTM(5, 4, batch_first=True)
    x = torch.randn(1, 20, 5)
    transform = attached(model, x)
    with torch.no_grad(), transform.use({}):
        whole = model(x)[0]
        first, state = model(x[:, :8])
        with in_integers(transform):
            rest = model(x[:, 8:], state)[0]
            assert isinstance(rest, IntegerTensor)
        assert torch.equal(torch.cat([first, rest], 1), whole)


def test_a_lowered_model_stays_what_it_was() -> None:
    _, model, example = models()[0]
    transform = attached(model, example)
    lowered = transform.lower(model)
    with torch.no_grad():
        before = lowered(example)
        next(model.parameters()).mul_(2.0)
        transform.ranges.limits.clear()
        transform.detach()
        assert torch.equal(lowered(example), before)


def test_a_pipeline_and_its_streams_run_in_integers(tmp_path: Path) -> None:
    pytest.importorskip("slt_speech")
    from sltcore.bundle import load

    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "slt: 1\nkind: pipeline\nencoder:\n  use: lstm\n  hidden: 24\n  layers: 2\n  frontend: {use: log-mel}\n"
        'decoder: {use: ctc-greedy, characters: "abcdefgh\'"}\n'
    )
    torch.manual_seed(0)
    pipeline = load(spec)
    audio = (np.random.default_rng(0).standard_normal(32000) * 0.1).astype(np.float32)
    transform = attached(pipeline.model, Waveform(torch.from_numpy(audio)[None], torch.tensor([len(audio)]), 16000))
    pipeline.transforms.append(transform)

    def heard() -> Any:
        session = pipeline.open()
        for start in range(0, len(audio), 5000):
            session.push(audio[start : start + 5000])
        return [_texts(pipeline(audio)), _texts(session.finish())]

    emulated = heard()
    seen: list[Any] = []
    transform.listeners.append(lambda event: seen.extend(map(type, event.outputs)) if event.on_chip else None)
    with in_integers(transform) as reference:
        assert transform.backend is reference
        found = heard()
    assert found == emulated
    assert IntegerTensor in seen
    assert transform.backend is not reference


def _texts(result: Any) -> Any:
    return [(each.text, each.score) for each in result]


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("place", range(3))
def test_codebook_weights_run_in_integers(place: int, finished: bool) -> None:
    from sltcore.plugin import Ports

    sub8bit = pytest.importorskip("slt_sub8bit.build")
    config = pytest.importorskip("slt_sub8bit.config").Sub8bitConfig(bits=3)
    _, model, example = models()[place]
    quantizer = sub8bit.sub8bit(config, Ports())
    quantizer.attach(model, iter([example]))
    transform = attached(model, example, "mixed-8-16")
    if finished:
        quantizer.finish()
        model.eval()
    with torch.no_grad(), quantizer.use({}):
        emulated = model(example)
        lowered = lower(transform, model)
        assert torch.equal(lowered(example), emulated)
    weights = [codes for codes, _ in lowered.reference.constants.entries("weight")]
    assert weights
    assert all(len(np.unique(each)) <= 8 for each in weights)


def test_overflows_are_reported_with_their_layer() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(200, 4), nn.Linear(4, 3)), torch.ones(5, 200)
    with torch.no_grad():
        model[0].weight.fill_(1.0)  # type: ignore[union-attr]
    chip = {
        "name": "narrow",
        "description": "its accumulator does not hold 200 products",
        "accumulator": {"bits": 20},
        "words": {"bias": 20},
    }
    transform = attached(model, x, chip)
    lowered = lower(transform, model)
    assert lowered.overflow_report() == "no sum left the accumulator of 20 bits"
    with torch.no_grad():
        assert torch.equal(lowered(x), model(x))
    assert lowered.overflows() == {"0": 20}
    assert lowered.overflow_report() == (
        "20 sums left the accumulator of 20 bits, in 0 (20); widen accumulator.bits, or train on the chip"
    )
    with torch.no_grad(), in_integers(transform) as reference:
        model(x)
    assert overflow_report(reference) == lowered.overflow_report()


def test_lowering_asks_for_an_attached_model_on_an_integer_chip() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(
        PluginError, match="chip 'harsh' is not attached, so there is nothing to lower; attach it first"
    ):
        lower(Nna("harsh"), model)
    ideal = attached(model, torch.ones(1, 3), "ideal")
    with pytest.raises(PluginError, match="chip 'ideal' computes in float; an integer form needs words below 32 bits"):
        lower(ideal, model)
    ideal.detach()
    transform = attached(model, torch.ones(1, 3))
    with pytest.raises(
        PluginError, match="this Linear is no part of the Linear that chip 'harsh' is attached to; lower"
    ):
        lower(transform, nn.Linear(3, 2))
