"""One forward pass of training: from a batch to a loss for each utterance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sltcore.context import GENERATOR
from sltcore.errors import PluginError, ShapeError, SpecError
from sltcore.interfaces import Objective
from sltcore.types import Encoded

if TYPE_CHECKING:
    from sltcore.pipeline import Pipeline
    from sltcore.train.loading import Batch

CLEAN = "clean"
"""Context key under which objectives find the batch before augmentation."""


class TrainStep(nn.Module):
    """The whole of a training pass as one module: a batch in, losses [b] out.

    losses = decoder's loss (or `objective`'s in its place) + Σ weight · auxiliary loss + Σ penalty of each transform.
    `further` are parameters of transforms that stand in no module. One module, so that gradients of every parameter are
    averaged over processes, and so that its `state_dict` is all there is to keep.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        objective: Objective | None = None,
        auxiliary: Sequence[tuple[Objective, float]] = (),
        augment: Sequence[Any] = (),
        further: Iterable[nn.Parameter] = (),
    ) -> None:
        super().__init__()
        check_losses(pipeline, objective, auxiliary)
        self.pipeline = pipeline
        self.main = objective
        self.beside = tuple(auxiliary)
        self.augment = tuple(augment)
        self.model = pipeline.model
        owners = {"objective": objective, **{f"auxiliary{i}": part for i, (part, _) in enumerate(auxiliary)}}
        owned: dict[str, Any] = {name: part for name, part in owners.items() if isinstance(part, nn.Module)}
        self.objectives = nn.ModuleDict(owned)
        held = {id(parameter) for parameter in self.parameters()}
        self.further = nn.ParameterList([p for p in further if id(p) not in held])

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Losses [b] float32 of a batch, fillers included: +inf, with zero gradient of the decoder's loss, for a target
        that needs more frames than there are. **Raises** `ShapeError` for a loss of another shape."""
        context = {**batch.context, GENERATOR: generator}
        with self.pipeline.using(context):
            losses = self._losses(batch, context)
            for place, transform in enumerate(self.pipeline.transforms):
                penalty = transform.penalty()
                if penalty is not None:
                    losses = losses + _scalar(penalty, place)
        return losses

    def _losses(self, batch: Batch, context: Mapping[str, Any]) -> Tensor:
        from sltcore.train.augmentation import features_augmented

        encoder: Any = self.pipeline.parts.get("encoder")
        size = len(batch.ids)
        for_objectives = {**context, CLEAN: batch.clean}
        with features_augmented(self.pipeline, self.augment if self.training else (), batch.seeds):
            if self.main is not None:
                losses = _checked(self.main.loss(encoder, batch.value, for_objectives), size, self.main)
            else:
                decoder = self.pipeline.parts["decoder"]
                encoded = batch.value if encoder is None else encoder(batch.value, context)
                losses = _checked(decoder.loss(encoded, batch.targets, context), size, decoder)
                if isinstance(encoded, Encoded):  # seen before for the sound as it is, but speed perturbation shortens
                    fits = decoder.frames_needed(batch.targets) <= encoded.lengths
                    losses = torch.where(fits, losses, torch.inf)
            for part, weight in self.beside:
                losses = losses + weight * _checked(part.loss(encoder, batch.value, for_objectives), size, part)
        return losses


def _checked(losses: Tensor, size: int, owner: object) -> Tensor:
    if losses.shape != (size,):
        raise ShapeError(
            f"{type(owner).__name__}.loss gave {tuple(losses.shape)} for {size} utterances, expected one number for each"
        )
    return losses.float()


def _scalar(penalty: Tensor, place: int) -> Tensor:
    if penalty.numel() != 1:
        raise ShapeError(f"transforms[{place}].penalty gave {tuple(penalty.shape)}, expected one number")
    return penalty.float().reshape(())


def check_losses(pipeline: Pipeline, objective: Objective | None, auxiliary: Sequence[tuple[Objective, float]]) -> None:
    """**Raises** `SpecError` when the pipeline has no loss, and what `Objective.check` raises for an unfit encoder."""
    encoder: Any = pipeline.parts.get("encoder")
    decoder: Any = pipeline.parts.get("decoder")
    objectives = [part for part in (objective, *(part for part, _ in auxiliary)) if part is not None]
    if objectives and encoder is None:
        raise SpecError("objective: the pipeline has no encoder that it could train; give one")
    for part in objectives:
        part.check(encoder)
    if objective is None and decoder is None:
        raise SpecError("pipeline: it has no decoder and so no loss; give a decoder, or an objective")
    if objective is None and not decoder.has_loss:
        raise SpecError(
            f"pipeline.decoder: {type(decoder).__name__} has no loss and cannot be trained; take another decoder, or give "
            f"an objective"
        )


def set_training(step: TrainStep) -> None:
    """Training mode, but evaluation for every module below which nothing is trained: no dropout and no running
    statistics in what is frozen."""
    step.train()
    _rest(step.model)
    _rest(step.objectives)


def _rest(module: nn.Module) -> None:
    for child in module.children():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            child.eval()
        else:
            _rest(child)


def make_generator(seed: int) -> torch.Generator:
    """A generator on the CPU for what objectives draw."""
    return torch.Generator().manual_seed(seed)


def refuse_frozen(parameters: Sequence[nn.Parameter], losses: Tensor) -> None:
    """**Raises** `PluginError` when no loss depends on a parameter that is trained."""
    if not losses.requires_grad:
        raise PluginError(
            f"the loss depends on none of the {len(parameters)} parameters that are trained; choose others in `trainable`"
        )
