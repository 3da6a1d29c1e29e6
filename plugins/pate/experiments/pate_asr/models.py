"""Models of the experiment by the library's public ways, each trained once and kept by the rows that it learned from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import specs
from kept_frames import registry

import sltcore
from slt_pate.attacks.pipelines import pipeline_losses
from slt_speech.metrics.word_error import ErrorRate
from sltcore.data.examples import Example
from sltcore.pipeline import Pipeline
from sltcore.train import fit

BEAM = 16
N_BEST = 8
HEARD_TOGETHER = 32


@dataclass
class Fits:
    """`fit(rows)` for the mechanism `pate`: public rows with texts and, as often, the others; a pipeline with n-best lists.

    A model is made once for the same rows, texts and seed, and found again in `folder`.
    """

    folder: Path
    base: Path
    spoken: Path
    public: Mapping[str, str]
    seed: int
    steps: int
    dev: Sequence[Example] = ()
    last: Path | None = None

    @property
    def start(self) -> Path:
        """The bundle that every model begins from, which mechanisms check."""
        return self.base

    def __call__(self, rows: Sequence[Example]) -> Pipeline:
        """The model, with a beam search for its readings."""
        self.last = self.bundle([row for row in rows if row.item.id not in self.public])
        return searching(self.last)

    def bundle(self, others: Sequence[Example]) -> Path:
        """The bundle of a model that learned from these rows beside the public ones with texts."""
        told = sorted([row.item.id, row.item.text] for row in others)
        name = hashlib.sha256(json.dumps([told, self.seed, self.steps]).encode()).hexdigest()[:16]
        place = self.folder / name
        manifest = specs.write_manifest(self.folder / f"{name}.csv", others) if others else None
        share = len(self.public) / max(1, len(others))
        spec = specs.further(self.base, self.spoken, manifest, share, seed=self.seed, steps=self.steps)
        return trained(spec, place)


def trained(spec: dict[str, Any], place: Path) -> Path:
    """The bundle that a spec leaves; what only a resumed run needs is taken away."""
    if not (place / "bundle").is_dir():
        shutil.rmtree(place, ignore_errors=True)
        fit(spec, out=place, quiet=True, registry=registry())
    for name in ("checkpoints", "models"):
        shutil.rmtree(place / name, ignore_errors=True)
    return place / "bundle"


def searching(bundle: Path) -> Pipeline:
    """A bundle whose decoder gives n-best lists."""
    decoder = {"use": "ctc-beam", "characters": specs.LETTERS, "beam": BEAM, "n_best": N_BEST}
    found: Pipeline = sltcore.load(str(bundle), overrides=[f"decoder={json.dumps(decoder)}"], registry=registry())
    return found


def greedy(bundle: Path) -> Pipeline:
    """A bundle as it was trained."""
    found: Pipeline = sltcore.load(str(bundle), registry=registry())
    return found


def hear(pipeline: Pipeline, examples: Sequence[Example]) -> list[str]:
    """A text for each example, in their order."""
    order = sorted(range(len(examples)), key=lambda place: examples[place].seconds)
    found = [""] * len(examples)
    for begin in range(0, len(order), HEARD_TOGETHER):
        places = order[begin : begin + HEARD_TOGETHER]
        values = [pipeline.read(examples[place].item) for place in places]
        for place, said in zip(places, pipeline.run_batch(values, {}), strict=True):
            found[place] = said.text
    return found


def losses(bundle: Path, examples: Sequence[Example]) -> list[float]:
    """The loss of each example in nats a letter."""
    return [float(one) for one in pipeline_losses(greedy(bundle), examples, batch=HEARD_TOGETHER, per_label=True)]


def character_error(references: Sequence[str], heard: Sequence[str]) -> float:
    """In percent."""
    metric = ErrorRate("characters")
    metric.update(heard, references)
    return float(metric.reduce(metric.per_item())["cer"].value)
