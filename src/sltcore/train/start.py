"""What a run begins with: the pipeline with its weights, rows and transforms, and the parts that only training has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from sltcore.bundle.open import load_unattached
from sltcore.interfaces import Objective
from sltcore.pipeline.build import Scope, build_block
from sltcore.registry import Registry
from sltcore.spec.filled import pipeline_source
from sltcore.spec.training import TrainSpec
from sltcore.train.optimizer import freeze
from sltcore.train.randomness import kept_random_state, seed_of

if TYPE_CHECKING:
    from sltcore.pipeline import Pipeline
    from sltcore.train.checkpoint import Checkpoint

CALIBRATION_BATCH = 8
Calibration = Callable[["Pipeline"], Iterator[Any] | None]


class Beginning(NamedTuple):
    """A pipeline that is ready to be trained: the base's own trainable parameters by name, and remarks for the log."""

    pipeline: Pipeline
    base: dict[str, nn.Parameter]
    remarks: list[str]


class Parts(NamedTuple):
    """What only training has."""

    objective: Objective | None
    auxiliary: list[tuple[Objective, float]]
    augment: list[Any]


def begin(
    spec: TrainSpec,
    *,
    registry: Registry,
    device: torch.device,
    calibration: Calibration,
    checkpoint: Checkpoint | None = None,
) -> Beginning:
    """Build the pipeline under the run's seed, copy rows, freeze, and attach its transforms.

    A transform that a bundle brings back stays as it is; from a `checkpoint` all of them are brought back, without
    calibration. Nothing here changes torch's random state. **Raises** what building raises.
    """
    pipeline, loose, remarks = _pipeline(spec, registry)
    pipeline.to(device)
    attached = [transform for transform in pipeline.transforms if all(transform is not one for one in loose)]
    own = [p for transform in attached for group in transform.parameter_groups() for p in group["params"]]
    base = freeze(pipeline.model, spec.trainable, pipeline.transforms, own)
    with kept_random_state():
        for index, transform in enumerate(pipeline.transforms):
            if all(transform is not one for one in loose):
                continue
            torch.manual_seed(seed_of(spec.seed, "transform", index))
            if checkpoint is not None:
                transform.restore(pipeline.model, _below(checkpoint.weights, f"transforms.{index}."))
            else:
                transform.attach(pipeline.model, calibration(pipeline))
    pipeline.to(device)
    kept = {name: parameter for name, parameter in base.items() if parameter.requires_grad}
    return Beginning(pipeline, kept, remarks)


def _pipeline(spec: TrainSpec, registry: Registry) -> tuple[Pipeline, list[Any], list[str]]:
    assert spec.pipeline is not None  # the spec's own check
    source, overrides = pipeline_source(spec.pipeline, spec.set)
    if not any(setting.startswith("seed=") for setting in overrides):
        overrides.append(f"seed={spec.seed}")
    pipeline, loose = load_unattached(source, overrides=overrides, registry=registry, fresh=True)
    remarks: list[str] = []
    if spec.copy_rows:
        from sltcore.train.heads import copy_rows

        wants_start = any(entry.source.startswith("start.") for entry in spec.copy_rows)
        before = load_unattached(source, registry=registry)[0] if wants_start else None
        remarks = copy_rows(pipeline, spec.copy_rows, start=before)
    return pipeline, loose, remarks


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def build_parts(spec: TrainSpec, pipeline: Pipeline, registry: Registry) -> Parts:
    """The objective, auxiliary ones and augmentations of a spec, built under its seed; they may refer to the
    pipeline's components."""
    builder = _Builder(pipeline, registry, spec.seed)
    encoder = pipeline.parts.get("encoder")
    upstream = None if encoder is None else encoder.produces
    objective = None if spec.objective is None else builder.build(spec.objective, "objective", upstream)
    auxiliary = [
        (builder.build(entry.objective, f"auxiliary[{place}].objective", upstream), entry.weight)
        for place, entry in enumerate(spec.auxiliary)
    ]
    augment = [builder.build(block, f"augment[{place}]", pipeline.consumes) for place, block in enumerate(spec.augment)]
    return Parts(objective, auxiliary, augment)


class _Builder:
    """Builds components beside a pipeline, without putting them into it."""

    def __init__(self, pipeline: Pipeline, registry: Registry, seed: int) -> None:
        scope = pipeline.scope
        self.scope = Scope(registry, scope.folder, dict(scope.objects), dict(scope.slots))
        self.device = pipeline.device
        self.seed = seed

    def build(self, block: Any, path: str, upstream: Any) -> Any:
        with kept_random_state():
            torch.manual_seed(seed_of(self.seed, path))
            part = build_block(block, path, upstream, self.scope)
        return part.to(self.device) if isinstance(part, nn.Module) else part


def build_privacy(spec: TrainSpec, registry: Registry) -> Any:
    """The privacy mechanism of a spec, which needs no pipeline."""
    assert spec.privacy is not None
    with kept_random_state():
        torch.manual_seed(seed_of(spec.seed, "privacy"))
        return build_block(spec.privacy, "privacy", None, Scope(registry))


def calibration_inputs(pipeline: Pipeline, items: Sequence[Any]) -> Iterator[Any]:
    """Batches of inputs as the pipeline's first stage takes them, read as in a call."""
    for begin_ in range(0, len(items), CALIBRATION_BATCH):
        yield pipeline.batch([pipeline.read(item) for item in items[begin_ : begin_ + CALIBRATION_BATCH]])


def parameters_of(module: nn.Module, base: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Every parameter that the base and the objectives may change, by name."""
    named = dict(base)
    objectives = getattr(module, "objectives", nn.ModuleDict())
    named.update({name: p for name, p in objectives.named_parameters() if p.requires_grad})
    return named
