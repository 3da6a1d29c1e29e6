"""`privacy: dp-sgd` through `sltcore.train`: steps against a loop by hand, what is charged when, what is refused."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dp_sgd_models import rows
from pate_models import FRONT_END, LSTM, tone, utterance
from torch import nn

import sltcore
from slt_pate.dp_sgd.cost import epsilon_of_steps, least_noise_multiplier
from slt_pate.dp_sgd.held_batches import HeldBatches
from slt_pate.dp_sgd.step import PrivateGradient, Stepping
from slt_pate.dp_sgd.units import PoissonSampler, Units
from slt_pate.dp_sgd_component import DpSgd, Sampling
from slt_pate.events import Charge, SampledGaussian
from slt_pate.ledger import read_ledger
from slt_pate.settings import Protection
from slt_pate.stamps import read_stamp
from sltcore.bundle import load, save_bundle
from sltcore.data.examples import read_examples
from sltcore.errors import PrivacyError
from sltcore.spec.training import DataConfig
from sltcore.testing import fit as toy
from sltcore.train import fit as train

CONFORMER = {
    "use": "conformer",
    "d_model": 16,
    "layers": 1,
    "heads": 2,
    "ffn": 24,
    "kernel": 5,
    "position": "rotary",
    "dropout": 0.0,
    "frontend": FRONT_END,
}
ENCODERS = {"conformer": CONFORMER, "lstm": LSTM}
RATE = 0.05
TEXTS = ("abc", "cd", "dab", "bcad", "cab")


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen recordings of five speakers, of one to four letters, and two of others."""
    folder = tmp_path_factory.mktemp("dp-tones")
    texts = cycle(TEXTS)
    speakers = ["ann", "ann", "ann", "ann", "bob", "bob", "cid", "cid", "cid", "dan", "eve", "eve", "eve", "eve"]
    for name, own in (("private", speakers), ("dev", ["fay", "gil"])):
        lines = ["id,audio,text,speaker"]
        for k, speaker in enumerate(own):
            text = next(texts)
            utterance(folder, f"{name}{k}", text)
            lines.append(f"{name}{k},{name}{k}.wav,{text},{speaker}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def start(folder: Path, encoder: str) -> Path:
    """A bundle with weights at random, to begin from."""
    spec = {"slt": 1, "kind": "pipeline", "seed": 4, "encoder": ENCODERS[encoder]}
    pipeline: Any = sltcore.load({**spec, "decoder": {"use": "ctc-greedy", "characters": "abcd"}})
    return save_bundle(pipeline, folder / f"{encoder}-start")


def spec(folder: Path, bundle: Path, *, steps: int, lr: float = RATE, size: int = 5, **privacy: Any) -> dict[str, Any]:
    return {
        "slt": 1,
        "kind": "train",
        "pipeline": str(bundle),
        "data": {"private": [{"manifest": str(folder / "private.csv")}]},
        "privacy": {"use": "dp-sgd", "epsilon": None, "rate": 1.0, "clip": 100.0, "steps": steps, **privacy},
        "optimizer": {"name": "sgd", "learning_rate": lr, "momentum": 0, "weight_decay": 0, "clip_norm": None},
        "schedule": {"shape": "constant", "warmup_steps": 0},
        "budget": {"steps": steps},
        "batch": {"size": size},
        "log": {"tensorboard": False},
    }


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.model.named_parameters()}


def loss_alone(model: Any, row: Any) -> torch.Tensor:
    """The CTC loss of one utterance, with nothing beside it in the batch."""
    decoder, encoder = model.parts["decoder"], model.parts["encoder"]
    with model.using({}):
        encoded = encoder(model.batch([model.read(row.item)]), {})
        return decoder.loss(encoded, decoder.targets([row.item.text], {}), {})[0]


def by_hand(bundle: Path, folder: Path, batches: Sequence[Sequence[int]], *, clip: float, lr: float) -> Any:
    """Weights after SGD on (sum over speakers of the clipped gradient of their mean loss) / 3.5, from torch.autograd.grad."""
    model = load(bundle)
    model.model.train()
    parameters = [one for one in model.model.parameters() if one.requires_grad]
    examples = read_examples([DataConfig(manifest=folder / "private.csv")])
    for batch in batches:
        units: dict[str, list[int]] = {}
        for place in batch:
            units.setdefault(examples[place].item.speaker, []).append(place)
        sums = [torch.zeros_like(one, dtype=torch.float64) for one in parameters]
        for places in units.values():
            loss = torch.stack([loss_alone(model, examples[place]) for place in places]).mean()
            found = torch.autograd.grad(loss, parameters)
            norm = math.sqrt(sum(float(one.double().square().sum()) for one in found))
            for total, one in zip(sums, found, strict=True):
                total += one.double() * min(1.0, clip / norm)
        with torch.no_grad():
            for parameter, total in zip(parameters, sums, strict=True):
                parameter -= (lr * total / (0.7 * 5)).to(parameter.dtype)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "engine", "clip"),
    [
        ("conformer", "grouped", 100.0),
        ("conformer", "grouped", 2.0),
        ("conformer", "micro-batches", 2.0),
        ("conformer", "opacus", 2.0),
        ("lstm", "grouped", 2.0),
    ],
)
def test_steps_are_those_of_a_loop_by_hand_over_the_same_batches(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, engine: str, clip: float
) -> None:
    """Without noise, and with batches drawn by Poisson sampling that split speakers over several forward passes."""
    handed_out: list[tuple[int, ...]] = []
    original = PoissonSampler.draw

    def draw(self: PoissonSampler) -> Any:
        found = original(self)
        handed_out.append(found.places)
        return found

    monkeypatch.setattr(PoissonSampler, "draw", draw)
    bundle = start(tmp_path, encoder)
    run = train(
        spec(tones, bundle, steps=3, rate=0.7, clip=clip, engine=engine, units=5), out=tmp_path / "run", quiet=True
    )
    assert len(handed_out) == 3
    expected = weights(by_hand(bundle, tones, handed_out, clip=clip, lr=RATE))
    before, found = weights(load(bundle)), weights(load(run.bundle))
    moved = max(float((found[name] - before[name]).abs().max()) for name in found)
    assert moved > 1e-3 or not any(handed_out)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=2e-6)


@pytest.mark.slow
def test_groups_are_taken_together_and_models_that_cannot_be_go_one_by_one(
    tones: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slt_pate.dp_sgd.clipped_sum import ClippedSum

    together: list[int] = []
    original = ClippedSum.add_rows

    def add_rows(self: ClippedSum, gradients: torch.Tensor) -> None:
        together.append(len(gradients))
        original(self, gradients)

    monkeypatch.setattr(ClippedSum, "add_rows", add_rows)
    with caplog.at_level(logging.INFO, logger="slt_pate"):
        first = spec(tones, start(tmp_path, "conformer"), steps=1, unit="utterance", size=14)
        train(first, out=tmp_path / "a", quiet=True)
        assert max(together) > 1
        assert sum(together) == 14
        assert "one after another" not in caplog.text
        together.clear()
        second = spec(tones, start(tmp_path, "lstm"), steps=1, unit="utterance", size=14)
        train(second, out=tmp_path / "b", quiet=True)
        assert together == [1] * 14
        assert "go one after another, for parameter " in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("only_training", [False, True])
def test_a_model_that_mixes_utterances_gets_each_by_itself(
    tones: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, only_training: bool
) -> None:
    """Each loss has a share of its neighbour's, always or, as some augmentations, in training alone."""
    from sltcore.train.losses import TrainStep

    original = TrainStep.forward

    def forward(self: TrainStep, batch: Any, generator: torch.Generator) -> torch.Tensor:
        losses = original(self, batch, generator)
        return losses if only_training and not self.training else losses + 0.1 * losses.roll(1, 0)

    monkeypatch.setattr(TrainStep, "forward", forward)
    with caplog.at_level(logging.INFO, logger="slt_pate"):
        own = spec(tones, start(tmp_path, "conformer"), steps=1, unit="utterance", size=14)
        train(own, out=tmp_path / "run", quiet=True)
    assert "depends on what else is in its batch" in caplog.text


# The account


def mechanism(*, steps: int = 6, rate: float = 0.5, noise: float | None = 1.0, ledger: str = "", **terms: Any) -> DpSgd:
    protection = Protection(**{"epsilon": 20.0, "delta": 1e-5, "unit": "speaker", "ledger": ledger, **terms})
    return DpSgd(protection, Sampling(steps, rate, 12), noise=noise)


def test_the_account_counts_steps_as_dp_accounting_does() -> None:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    step = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(1.1))
    charge = [Charge(SampledGaussian(1.1, 0.1), 200)]
    found = epsilon_of_steps(charge, 1e-5)
    assert found == pytest.approx(PLDAccountant().compose(step, 200).get_epsilon(1e-5), rel=1e-6)
    assert found <= RdpAccountant().compose(step, 200).get_epsilon(1e-5)
    assert epsilon_of_steps([*charge, *charge], 1e-5) == epsilon_of_steps([Charge(charge[0].event, 400)], 1e-5)


def test_the_noise_for_a_budget_is_the_least_that_keeps_it() -> None:
    part = mechanism(noise=None, epsilon=3.0, steps=100, rate=0.2)
    noise = part.noise_for(100)
    assert part.plan(1e-5).epsilon <= 3.0
    assert epsilon_of_steps([Charge(SampledGaussian(noise / 1.003, 0.2), 100)], 1e-5) > 3.0
    with pytest.raises(PrivacyError, match="no noise up to 4000 times the clip keeps the steps within nothing"):
        least_noise_multiplier(lambda noise: False, what="nothing")


def test_what_a_run_costs_is_what_it_planned_and_only_steps_that_were_taken() -> None:
    part = mechanism()
    planned = part.plan(1e-5)
    part.train(toy.fit, rows(), [])
    assert part.spent(1e-5) == planned

    def half(data: Any, *, sampler: Any, gradient: Any) -> Any:
        return toy.fit(data, sampler=(batch for batch, _ in zip(sampler, range(3), strict=False)), gradient=gradient)

    other = mechanism()
    other.train(half, rows(), [])
    assert other.spent(1e-5) == other.plan(1e-5, steps=3)
    assert other.plan(1e-5, steps=3).epsilon < planned.epsilon


class Untouched(list[Any]):
    """Rows that must not be read."""

    def __iter__(self) -> Any:
        raise AssertionError("private data were read")

    def __getitem__(self, place: Any) -> Any:
        raise AssertionError("private data were read")


def test_a_run_beyond_the_budget_is_refused_before_private_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(
        PrivacyError, match=r"6 steps at rate 0\.5 with noise 1 cost epsilon .* more than the budget of 1;"
    ):
        mechanism(epsilon=1.0).train(toy.fit, Untouched(), [])
    spent = mechanism().plan(1e-5).epsilon
    again = mechanism(epsilon=1.2 * spent)
    again.train(toy.fit, rows(), [])
    with pytest.raises(
        PrivacyError, match=r"6 more steps make epsilon .* together with the .* spent before, more than"
    ):
        again.train(toy.fit, Untouched(), [])
    assert again.spent(1e-5).epsilon == pytest.approx(spent)
    ledger = str(tmp_path / "ledger.jsonl")
    mechanism(epsilon=1.2 * spent, ledger=ledger).train(toy.fit, rows(), [])
    with pytest.raises(PrivacyError, match="more than is left of epsilon"):
        mechanism(epsilon=1.2 * spent, ledger=ledger).train(toy.fit, Untouched(), [])


def test_all_steps_are_in_the_ledger_before_the_first_one(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    seen: list[int] = []

    def dies(data: Any, *, sampler: Any, gradient: Any) -> Any:
        seen.append(sum(charge.count for charge in read_ledger(ledger).charges))
        next(iter(sampler))
        raise KeyboardInterrupt

    part = mechanism(ledger=str(ledger))
    with pytest.raises(KeyboardInterrupt):
        part.train(dies, rows(), [])
    assert seen == [6]
    assert mechanism(ledger=str(ledger)).spent(1e-5).epsilon == part.plan(1e-5).epsilon
    mechanism(ledger=str(ledger)).train(toy.fit, rows(), [])
    assert sum(charge.count for charge in read_ledger(ledger).charges) == 12


def test_no_more_steps_are_drawn_than_were_charged() -> None:
    def twice(data: Any, *, sampler: Any, gradient: Any) -> Any:
        return toy.fit(data, sampler=[*sampler, *sampler], gradient=gradient)

    part = mechanism(steps=4)
    part.train(twice, rows(), [])
    assert part.spent(1e-5) == part.plan(1e-5, steps=4)

    def invents(data: Any, *, sampler: Any, gradient: Any) -> Any:
        return toy.fit(data, sampler=[*sampler, [0]], gradient=gradient)

    other = mechanism(steps=4)
    with pytest.raises(PrivacyError, match="a step was taken that the sampler did not draw, after 4"):
        other.train(invents, rows(), [])
    assert other.spent(1e-5) == other.plan(1e-5, steps=4)


@pytest.mark.parametrize("engine", ["grouped", "opacus"])
def test_a_step_in_which_nobody_is_drawn_releases_noise_and_is_counted(engine: Any) -> None:
    gradients: list[torch.Tensor] = []

    def fit(data: Any, *, sampler: Any, gradient: Any) -> Any:
        def watched(model: nn.Module, losses: torch.Tensor) -> None:
            assert not len(losses)
            gradient(model, losses)
            gradients.append(torch.cat([one.grad.flatten().clone() for one in model.parameters()]))  # type: ignore[union-attr]

        return toy.fit(data, sampler=sampler, gradient=watched)

    part = DpSgd(Protection(20.0, 1e-5, "speaker"), Sampling(300, 1e-9, 12), noise=2.0, clip=0.5, engine=engine)
    part.train(fit, rows(), [])
    values = torch.cat(gradients).numpy() * (1e-9 * 12)
    assert abs(np.sqrt(np.mean(values**2)) / (2.0 * 0.5) - 1) < 0.05
    assert part.spent(1e-5) == part.plan(1e-5, steps=300)


def test_the_size_of_a_step_depends_on_public_numbers_alone() -> None:
    """The divisor is rate times the public number of units, not how many were drawn."""
    units = Units.of(rows(units=12, each=2), "speaker")
    for stated in (12, 48):
        sampler = PoissonSampler(units, rate=1.0, steps=1)
        seen: list[torch.Tensor] = []
        hook = PrivateGradient(sampler, Stepping(100.0, 0.0, stated), HeldBatches())

        def watched(model: nn.Module, losses: torch.Tensor, hook: Any = hook, seen: Any = seen) -> None:
            expected = torch.autograd.grad(losses.mean(), list(model.parameters()), retain_graph=True)
            hook(model, losses)
            seen += [one.grad / own for one, own in zip(model.parameters(), expected, strict=True)]  # type: ignore[operator]

        toy.fit(rows(units=12, each=2), sampler=sampler, gradient=watched)
        for ratio in seen:
            torch.testing.assert_close(ratio, torch.full_like(ratio, 12 / stated), rtol=1e-4, atol=0)


def test_a_parameter_that_begins_to_train_later_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    sampler = PoissonSampler(Units.of(rows(units=3, each=1), "speaker"), rate=1.0, steps=2)
    hook = PrivateGradient(sampler, Stepping(1.0, 1.0, 3), HeldBatches())
    draws = iter(sampler)
    for is_late in (False, True):
        next(draws)
        model[0].requires_grad_(is_late)
        losses = model(torch.ones(3, 2)).squeeze(1)
        if not is_late:
            hook(model, losses)
            continue
        with pytest.raises(PrivacyError, match=r"parameter '0\.weight' has a gradient and took none at the first step"):
            hook(model, losses)


def test_development_data_that_share_a_speaker_are_refused() -> None:
    class Fit:
        dev: Sequence[Any] = rows(units=1, each=1)

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            raise AssertionError("it began to train")

    with pytest.raises(PrivacyError, match="development"):
        mechanism().train(Fit(), rows(), [])


def test_an_answer_is_not_what_it_releases() -> None:
    with pytest.raises(PrivacyError, match="dp-sgd releases trained models alone"):
        mechanism().release([1, 2])
    with pytest.raises(PrivacyError, match="there is a ledger, and no epsilon that it could keep"):
        mechanism(epsilon=math.inf, ledger="ledger.jsonl")
    with pytest.raises(PrivacyError, match=r"plan has no size 'queries'; the size of a run is: steps"):
        mechanism().plan(1e-5, queries=3)


@pytest.mark.slow
def test_a_killed_run_begins_anew_and_is_charged_again(tones: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    settings = {"epsilon": 40.0, "noise": 1.5, "rate": 0.5, "clip": 1.0, "units": 5, "ledger": str(ledger)}
    own = spec(tones, start(tmp_path, "lstm"), steps=4, **settings) | {"checkpoint": {"every_steps": 1}}
    kill: Callable[[str], None] = _killer(after=1)
    with pytest.raises(KeyboardInterrupt):
        train(own, out=tmp_path / "run", say=kill, quiet=False)
    assert sum(charge.count for charge in read_ledger(ledger).charges) == 4
    trained = train(own, out=tmp_path / "run", quiet=True)
    charges = read_ledger(ledger).charges
    assert sum(charge.count for charge in charges) == 8
    assert trained.privacy["epsilon"] == pytest.approx(epsilon_of_steps(charges, 1e-5))
    stamp, facts = read_stamp(trained.bundle)
    assert stamp == read_ledger(ledger).stamp
    assert (facts["mechanism"], facts["unit"]) == ("dp-sgd", "speaker")
    assert train(own, out=tmp_path / "run", quiet=True).privacy == trained.privacy  # finished: nothing is spent
    assert read_ledger(ledger).stamp == stamp


def _killer(*, after: int) -> Callable[[str], None]:
    """Stops the run at its first line after the model was announced."""
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if sum(one.startswith("model ") for one in lines) and len(lines) > after + 3:
            raise KeyboardInterrupt

    return say


def test_tones_differ_in_length_as_the_tests_above_need() -> None:
    assert len({len(tone(text, 0)) for text in TEXTS}) == 3
