"""A quantizer and a chip in one `transforms:` list: the chip sees the codebooks, computes with them, counts their bits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from train_toys import CONFORMER, LSTM, train_spec, write_tones

import sltcore
from sltcore.bundle import save_bundle
from sltcore.pipeline import Pipeline
from sltcore.table_weights import origin_of, table_weight
from sltcore.train import fit
from sltcore.types import Waveform

slt_nna = pytest.importorskip("slt_nna.nna")
pytest.importorskip("slt_sub8bit.build")
pytest.importorskip("slt_speech.lstm")

BITS = 3
HOST = ["*frontend*"]
QUANTIZERS: dict[str, dict[str, Any]] = {
    "sub8bit": {"use": "sub8bit", "bits": BITS},
    "straight-through": {"use": "straight-through", "bits": BITS, "range": "max"},
}
ENCODERS = {"conformer": CONFORMER, "lstm": LSTM}
CHIPS = ("generous-8bit", "mixed-8-16", "harsh")


def chip_block(chip: str = "mixed-8-16") -> dict[str, Any]:
    return {"use": "nna", "chip": chip, "exclude": HOST}


def pipeline_of(encoder: str, *transforms: dict[str, Any]) -> Pipeline:
    """Not calibrated, its transforms attached."""
    return sltcore.load(
        {
            "slt": 1,
            "kind": "pipeline",
            "seed": 1,
            "encoder": {**ENCODERS[encoder], "dropout": 0.0},
            "decoder": {"use": "ctc-greedy", "characters": "abcd"},
            "transforms": list(transforms),
        }
    )


class Heard:
    """What the chip was told about: the weights of its operators, by name."""

    def __init__(self, chip: Any) -> None:
        self.weights: dict[str, Any] = {}
        self.chip = chip

    def __enter__(self) -> Heard:
        self.chip.listeners.append(self._hear)
        return self

    def __exit__(self, *exception: object) -> None:
        self.chip.listeners.remove(self._hear)

    def _hear(self, event: Any) -> None:
        if event.on_chip and event.operator in ("linear", "convolution", "lstm", "embedding"):
            self.weights.update({weight.name: weight for weight in event.weights})


class Composed:
    """A body of the two encoders' layers under a quantizer and a chip, as a pipeline's list would attach them."""

    def __init__(
        self, encoder: str, quantizer: str, *, chip: str = "mixed-8-16", finished: bool, late: bool = False
    ) -> None:
        self.pipeline = pipeline_of(encoder, QUANTIZERS[quantizer])
        self.quantizer = self.pipeline.transforms[0]
        self.model = self.pipeline.model.eval()
        self.chip = slt_nna.Nna(chip, exclude=HOST)
        if finished and not late:
            self.quantizer.finish()
        self.chip.attach(self.model, iter([waveform(seed) for seed in range(2)]))
        if finished and late:
            self.quantizer.finish()
        self.pipeline.transforms.append(self.chip)

    def __call__(self, model: Any, value: Any) -> Tensor:
        with torch.no_grad(), self.quantizer.use({}), self.chip.use({}):
            return torch.as_tensor(model.encoder(value, {}).values + 0.0)


def waveform(seed: int, samples: int = 6000) -> Waveform:
    noise = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(seed))
    return Waveform(noise, torch.tensor([samples]), 8000)


ORDERS = [(False, False), (True, False), (True, True)]
ORDER_IDS = ["attached", "packed-before-the-chip", "packed-under-the-chip"]


@pytest.mark.parametrize(("finished", "late"), ORDERS, ids=ORDER_IDS)
@pytest.mark.parametrize("quantizer", list(QUANTIZERS))
@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_the_chip_sees_the_codebook_of_every_weight(encoder: str, quantizer: str, finished: bool, late: bool) -> None:
    composed = Composed(encoder, quantizer, finished=finished, late=late)
    with Heard(composed.chip) as heard:
        composed(composed.model, waveform(7))
    assert len(heard.weights) >= 2
    for weight in heard.weights.values():
        assert weight.table is not None, weight.name
        module, name = origin_of(weight.value)
        assert composed.model.get_submodule(weight.name.rpartition(".")[0]) is module
        offered = table_weight(module, name)
        for given, expected in zip(weight.table, offered, strict=True):
            assert torch.equal(given, expected)
        assert int(weight.table.indices.max()) < len(weight.table.table) <= 2**BITS
        decoded = weight.table.table[weight.table.indices.long()] * weight.table.scale
        assert torch.equal(decoded, weight.value), f"{weight.name} in use is table[indices] * scale"


@pytest.mark.parametrize(("finished", "late"), ORDERS, ids=ORDER_IDS)
@pytest.mark.parametrize("quantizer", list(QUANTIZERS))
@pytest.mark.parametrize("encoder", [pytest.param("conformer", marks=pytest.mark.slow), "lstm"])
def test_codebooks_on_the_chip_equal_integers_bit_for_bit(
    encoder: str, quantizer: str, finished: bool, late: bool
) -> None:
    for chip in CHIPS:
        composed = Composed(encoder, quantizer, chip=chip, finished=finished, late=late)
        with torch.no_grad(), composed.quantizer.use({}):
            lowered = composed.chip.lower(composed.model)
        for seed in (7, 8):
            emulated = composed(composed.model, waveform(seed, 5000 + 700 * seed))
            found = composed(lowered, waveform(seed, 5000 + 700 * seed))
            assert torch.equal(found, emulated), chip
        codes = [entry for entry, _ in lowered.reference.constants.entries("weight")]
        assert len(codes) >= 2
        for kernel in codes:
            rows = kernel if composed.chip.chip.weight_scales == "channel" else [kernel]
            assert all(len(np.unique(row)) <= 2**BITS for row in rows), "codes are those of the tables"


def test_a_table_does_not_change_with_what_it_is_packed_in() -> None:
    """Attached and packed give the same numbers: what was trained is what is deployed."""
    attached, packed = (Composed("lstm", "sub8bit", finished=finished, late=True) for finished in (False, True))
    assert torch.equal(attached(attached.model, waveform(3)), packed(packed.model, waveform(3)))


@pytest.mark.parametrize("finished", [False, True])
def test_cost_counts_indices_and_tables_instead_of_words(finished: bool) -> None:
    """By hand: n indices of 3 bits, and 8 entries of 8 bits, for each kernel."""
    from slt_nna.cost import account
    from slt_nna.deployment import scores

    composed = Composed("lstm", "straight-through", finished=finished)
    with Heard(composed.chip) as heard, composed.quantizer.use({}):
        counted = account(composed.chip, composed.model, waveform(3), call=scores)
    expected = 0.0
    for weight in heard.weights.values():
        levels, entries = len(weight.table.table), math.prod(weight.value.shape)
        assert levels > 2 ** (BITS - 1)
        expected += (entries * BITS + levels * 8) / 8
    weighted = [site for site in counted.sites if site.operator in ("linear", "convolution", "lstm")]
    assert sum(site.bytes_weights for site in weighted if site.on_chip) == pytest.approx(expected)

    bare = slt_nna.Nna("mixed-8-16", exclude=HOST)
    model = pipeline_of("lstm").model.eval()
    bare.attach(model, iter([waveform(0)]))
    without = account(bare, model, waveform(3), call=scores)
    words = sum(site.bytes_weights for site in without.sites if site.operator in ("linear", "convolution", "lstm"))
    assert words == sum(math.prod(weight.value.shape) for weight in heard.weights.values())
    assert counted.macs == without.macs
    assert counted.cost.bytes_moved - without.cost.bytes_moved == pytest.approx(expected - words, abs=1.0)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"), 10)


@pytest.fixture
def trained(request: pytest.FixtureRequest, manifest: Path, tmp_path: Path) -> Iterator[tuple[Any, list[float]]]:
    encoder, quantizer = request.param
    spec = train_spec(
        manifest,
        pipeline={
            "encoder": {**ENCODERS[encoder], "dropout": 0.0},
            "decoder": {"use": "ctc-greedy", "characters": "abcd"},
            "metrics": [],
            "transforms": [QUANTIZERS[quantizer], chip_block("harsh")],
        },
        calibration=[{"manifest": str(manifest), "limit": 4}],
        budget={"steps": 10},
        log={"every_steps": 1, "tensorboard": False},
    )
    found = fit(spec, out=tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in found.history.read_text(encoding="utf-8").splitlines()]
    return found, [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    "trained", [(encoder, quantizer) for encoder in ENCODERS for quantizer in QUANTIZERS], indirect=True
)
def test_training_with_both_in_the_list_learns_and_the_bundle_runs_in_integers(
    trained: tuple[Any, list[float]], tmp_path: Path
) -> None:
    run, losses = trained
    assert sum(losses[-3:]) < sum(losses[:3])
    pipeline = sltcore.load(run.bundle)
    quantizer, chip = pipeline.transforms
    assert chip.ranges.limits, "calibrated, and kept in the bundle"
    with Heard(chip) as heard, torch.no_grad(), pipeline.using({}):
        emulated = pipeline.model.encoder(waveform(3), {}).values
    assert heard.weights
    assert all(weight.table is not None for weight in heard.weights.values())
    with torch.no_grad(), pipeline.using({}):
        lowered = chip.lower(pipeline.model)
        with lowered.running():
            found = lowered.encoder(waveform(3), {}).values
    assert torch.equal(found + 0.0, emulated)
    again = sltcore.load(save_bundle(pipeline, tmp_path / "again"))
    with torch.no_grad(), again.using({}):
        assert torch.equal(again.model.encoder(waveform(3), {}).values, emulated)


def test_a_chip_alone_knows_no_tables() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    chip = slt_nna.Nna("mixed-8-16")
    chip.attach(model, iter([torch.randn(5, 4)]))
    with Heard(chip) as heard:
        model(torch.randn(2, 4))
    assert heard.weights["0.weight"].table is None
