"""A toy to run experiments with: an encoder with one weight, a decoder that writes it down, a metric of distances, and
a training that can be killed. `python toy_experiment.py SPEC OUT` runs an experiment with it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sltcore.interfaces import Decoder, Encoder, Metric, Quantizer, Size, Value
from sltcore.plugin import Component, Ports, hookimpl
from sltcore.registry import Registry
from sltcore.spec import Config, File
from sltcore.train.result import Trained
from sltcore.types import Encoded, Hypothesis, NBest, Port, Waveform


class Gain(Encoder, nn.Module):
    """Frames [b 1 1]: the sum of the samples times a weight; a sum above 1000 is an error."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(start))

    @property
    def consumes(self) -> Port:
        return Port("Waveform", {"sample_rate_hz": 16000})

    @property
    def produces(self) -> Port:
        return Port("Encoded", {"d": 1, "frame_shift_s": 0.01})

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return torch.ones_like(lengths)

    def forward(self, x: Waveform, context: Mapping[str, Any]) -> Encoded:
        sums = torch.stack([row[:length].sum() for row, length in zip(x.samples, x.lengths, strict=True)])
        if bool((sums > 1000).any()):
            raise RuntimeError("too loud")
        return Encoded((sums * self.gain).reshape(-1, 1, 1), self.output_lengths(x.lengths), 0.01)


class Writer(Decoder):
    """The number as text; `words` numbers in the n-best list."""

    def __init__(self, digits: int) -> None:
        self.digits = digits

    @property
    def consumes(self) -> Port:
        return Port("Encoded", {"d": 1})

    @property
    def produces(self) -> Port:
        return Port("Hypotheses")

    def decode(self, encoded: Encoded, context: Mapping[str, Any]) -> list[NBest]:
        numbers = encoded.values[:, 0, 0].tolist()
        return [NBest([Hypothesis(f"{number + k:.{self.digits}f}", -float(k)) for k in range(3)]) for number in numbers]


class Distance(Metric):
    """Mean of |said - meant|; an empty text is 100 away."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.reset()

    @property
    def consumes(self) -> Port:
        return Port("Hypotheses")

    @property
    def directions(self) -> Mapping[str, str]:
        return {"mean": "lower"}

    def update(
        self,
        outputs: Sequence[Any],
        references: Sequence[Any],
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        names = list(ids or map(str, range(len(outputs))))
        for output, reference in zip(outputs, references, strict=True):
            away = abs(float(output.text) - float(reference)) if output.text else 100.0
            self._rows.append([self.factor * away])
        self._ids += names
        self._groups += list(groups or names)

    def per_item(self) -> np.ndarray:
        return np.array(self._rows, dtype=np.float64).reshape(-1, 1)

    def reduce(self, stats: np.ndarray) -> Mapping[str, Value]:
        return {"mean": Value(float(stats.mean()) if len(stats) else float("nan"), "1")}

    def reset(self) -> None:
        self._rows: list[list[float]] = []
        self._ids: list[str] = []
        self._groups: list[str] = []

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    @property
    def groups(self) -> Sequence[str]:
        return self._groups


class Halved(Quantizer):
    """The weight rounded to halves when it is finished; what it measured of calibration is kept."""

    def __init__(self) -> None:
        self.model: nn.Module | None = None
        self.heard = torch.zeros(())
        self.before = torch.zeros(())
        self.finished = torch.zeros(())

    def attach(self, model: nn.Module, calibration: Any = None) -> None:
        self.model = model
        self.heard = torch.tensor(float(sum(len(batch.lengths) for batch in calibration or ())))

    def detach(self) -> None:
        self.model = None

    def state(self) -> Mapping[str, Tensor]:
        return {"heard": self.heard, "finished": self.finished}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        self.model = model
        self.heard = state.get("heard", self.heard)
        self.finished = state.get("finished", self.finished)

    def finish(self) -> None:
        assert self.model is not None
        gain = self.model.get_parameter("encoder.gain")
        gain.data = (gain.data * 2).round() / 2
        self.finished = torch.ones(())

    def report(self, module: nn.Module) -> Size:
        return Size(1, 1)


class GainConfig(Config):
    """Where the weight begins."""

    start: float = 1.0


class WriterConfig(Config):
    """How many digits, and a file of which nothing is made."""

    digits: int = 3
    note: File | None = None


class DistanceConfig(Config):
    """A factor."""

    factor: float = 1.0


class NoFields(Config):
    """Nothing to choose."""


def gain(config: GainConfig, ports: Ports) -> Gain:
    return Gain(config.start)


def writer(config: WriterConfig, ports: Ports) -> Writer:
    return Writer(config.digits)


def distance(config: DistanceConfig, ports: Ports) -> Distance:
    return Distance(config.factor)


def halved(config: NoFields, ports: Ports) -> Halved:
    return Halved()


SLT_API = (1, 0)
COMPONENTS = {
    ("encoder", "gain"): "GainConfig",
    ("decoder", "writer"): "WriterConfig",
    ("metric", "distance"): "DistanceConfig",
    ("quantizer", "halved"): "NoFields",
}


@hookimpl
def slt_components() -> list[Component]:
    """All of them."""
    return [
        Component(kind, name, impl=f"toy_experiment:{name}", config=f"toy_experiment:{config}", summary=f"toy {name}")
        for (kind, name), config in COMPONENTS.items()
    ]


def toy_registry(site: Any) -> Registry:
    """A registry of these components alone; `site` is a folder like site-packages."""
    site.add("lab-toys", "from toy_experiment import SLT_API, slt_components\n")
    return Registry(path=[str(site.folder)])


def fit(
    source: Any, *, out: Any, overrides: Any = (), registry: Any = None, resume: bool = True, quiet: bool = False
) -> Trained:
    """Move the weight by a number drawn from the seed at each step. A checkpoint is kept after each one, and each step
    that is really done is noted in the file that TOY_STEPS names. With TOY_KILL=N the process kills itself at the N-th."""
    from sltcore.bundle import load, save_bundle
    from sltcore.spec.overrides import setting_text

    out = Path(out)
    spec = source["pipeline"]
    if not isinstance(spec, str):
        spec = {"slt": 1, "kind": "pipeline", **spec}
    pipeline = load(spec, overrides=[setting_text(k, v) for k, v in source["set"].items()], registry=registry)
    steps = source["budget"]["steps"]
    weight = pipeline.model.get_parameter("encoder.gain")
    checkpoint = out / "checkpoints" / "state.json"
    done = 0
    if not resume:
        checkpoint.unlink(missing_ok=True)
    if checkpoint.exists():
        state = json.loads(checkpoint.read_text())
        done, weight.data = state["done"], torch.tensor(state["weight"])
    for step in range(done, steps):
        draw = torch.Generator().manual_seed(1000 * source["seed"] + step)
        weight.data = weight.data + 0.01 * torch.rand((), generator=draw)
        if source["optimizer"]["learning_rate"] > 50:
            raise RuntimeError("diverged\nat once")
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.write_text(json.dumps({"done": step + 1, "weight": weight.item()}))
        note_step(f"{out.name} {step}")
    save_bundle(pipeline, out / "bundle")
    bundle = out / "bundle"
    return Trained(
        bundle=bundle, last=bundle, steps=steps, seconds=0.0, values={"loss": float("nan")}, best={}, skipped={},
        history=out / "metrics.jsonl", utterances=6, minutes=0.005,
    )  # fmt: skip


def note_step(line: str) -> None:
    """Keep a line, and die where that was asked for."""
    place = os.environ.get("TOY_STEPS")
    if place:
        with open(place, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        limit = os.environ.get("TOY_KILL")
        if limit and len(Path(place).read_text(encoding="utf-8").splitlines()) >= int(limit):
            os.kill(os.getpid(), 9)


if __name__ == "__main__":
    import toy_experiment

    import sltcore.experiment.plan
    import sltcore.train
    from sltcore.experiment import run_experiment

    sltcore.train.fit = toy_experiment.fit  # type: ignore[attr-defined]
    sltcore.experiment.plan.code_versions = lambda entries: ["toys"]  # nobody's edits come between two calls
    results = run_experiment(sys.argv[1], out=sys.argv[2])
    print(json.dumps([[unit.label, result.state] for unit, result in results.units]))
