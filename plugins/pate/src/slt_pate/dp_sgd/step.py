"""One step of DP-SGD: the gradient of each unit that was drawn, clipped, summed, noised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from slt_pate.dp_sgd.clipped_sum import ClippedSum, LayersName
from slt_pate.dp_sgd.held_batches import HeldBatches
from slt_pate.dp_sgd.micro_batches import Engine, MicroBatches, Rows
from slt_pate.dp_sgd.normalization import NormalizationName, normalize
from slt_pate.dp_sgd.refusals import refuse_mixing
from slt_pate.dp_sgd.units import Draw, PoissonSampler
from sltcore.errors import PrivacyError

EngineName = Literal["grouped", "micro-batches", "opacus"]


@dataclass(frozen=True)
class Stepping:
    """How gradients are clipped, noised and scaled; `divisor` is the public number of units that a step expects."""

    clip: float
    noise: float
    divisor: float
    layers: LayersName = "flat"
    normalization: NormalizationName = "none"
    engine: EngineName = "grouped"


class PrivateGradient:
    """The `gradient` hook of a private run: leaves (sum of clipped unit gradients + noise) / divisor in `.grad`.

    A unit's gradient is that of the mean loss over its utterances in the step. `taken` counts the steps whose noise has been
    drawn.

    **Raises** `PrivacyError` when a step has utterances that the sampler did not draw, or more steps than it drew, and for
    models that `refuse_mixing` and `StillBuffers` name, or that begin to train a parameter after the first step.
    """

    def __init__(self, sampler: PoissonSampler, stepping: Stepping, held: HeldBatches) -> None:
        self.sampler, self.stepping, self.held = sampler, stepping, held
        self.taken = 0
        self.dropped = 0
        self._sum: ClippedSum | None = None
        self._engine: Engine | None = None

    def __call__(self, module: nn.Module, losses: Tensor) -> None:
        if not self.sampler.draws:
            raise PrivacyError(
                f"a step was taken that the sampler did not draw, after {self.taken}; expected one step for each batch of the sampler"
            )
        draw = self.sampler.draws.popleft()
        clipped = self._begin(module)
        if module is self.held.module:
            try:
                self._held_units(clipped, draw)
            finally:
                self.held.batches.clear()
        else:
            self._units_of_losses(clipped, losses, draw)
        _refuse_unclipped(module, clipped)
        self.taken += 1
        clipped.release(self.stepping.noise, self.stepping.divisor)
        self.dropped = clipped.dropped
        normalize(clipped, self.stepping.normalization)

    def _begin(self, module: nn.Module) -> ClippedSum:
        if self._sum is None:
            refuse_mixing(module)
            named = [(name, one) for name, one in module.named_parameters() if one.requires_grad]
            self._sum = ClippedSum(named, clip=self.stepping.clip, layers=self.stepping.layers)
        return self._sum

    def _units_of_losses(self, clipped: ClippedSum, losses: Tensor, draw: Draw) -> None:
        """Of a fit that computes the losses itself, one for each row in the order that the sampler gave."""
        if self.stepping.engine == "opacus" and draw.places:  # the other two differ in speed alone
            raise PrivacyError(
                "engine opacus needs the batches before their losses are computed, as sltcore.train has them; expected engine: "
                "micro-batches with another fit"
            )
        if len(losses) != len(draw.places):
            raise PrivacyError(
                f"a step has {len(losses)} losses for {len(draw.places)} rows of the sampler; expected one for each, in that order"
            )
        unit_of = self.sampler.units.unit_of_place
        rows: dict[str, list[int]] = {}
        for place, row in enumerate(draw.places):
            rows.setdefault(unit_of[row], []).append(place)
        for places in rows.values():
            with clipped.unit():
                losses[places].mean().backward(retain_graph=True)  # type: ignore[no-untyped-call]

    def _held_units(self, clipped: ClippedSum, draw: Draw) -> None:
        units = self._rows_by_unit(draw)
        if self._engine is None:
            self._engine = _engine(self.stepping.engine, self.held, clipped)
        self._engine.add(units)

    def _rows_by_unit(self, draw: Draw) -> Mapping[str, Rows]:
        """Neighbours in length of a unit together, as the loader's batches have them."""
        found: dict[str, Rows] = {}
        for held in self.held.batches:
            own: dict[str, list[int]] = {}
            for row, (name, weight) in enumerate(zip(held.batch.ids, held.batch.weights.tolist(), strict=True)):
                if weight > 0:
                    own.setdefault(self._unit_of(name, draw), []).append(row)
            for unit, places in own.items():
                found.setdefault(unit, []).append((held, places))
        return found

    def _unit_of(self, name: str, draw: Draw) -> str:
        unit = self.sampler.units.unit_of_id.get(name)
        if unit is None or unit not in draw.units:
            raise PrivacyError(
                f"a step has the utterance '{name}', which the sampler did not draw for it; expected the utterances that were "
                f"drawn alone, for the account counts on that"
            )
        return unit


def _refuse_unclipped(module: nn.Module, clipped: ClippedSum) -> None:
    """**Raises** `PrivacyError` where a gradient stands that is neither clipped nor noised, as when a parameter is unfrozen late."""
    known = {id(parameter) for parameter in clipped.parameters}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and id(parameter) not in known:
            raise PrivacyError(
                f"parameter '{name}' has a gradient and took none at the first step, so it is neither clipped nor noised; expected "
                f"the same trained parameters in all steps"
            )


def _engine(name: EngineName, held: HeldBatches, clipped: ClippedSum) -> Engine:
    if name == "opacus":
        from slt_pate.dp_sgd.opacus_hooks import OpacusHooks

        return OpacusHooks(held, clipped)
    if name == "grouped":
        from slt_pate.dp_sgd.grouped import Grouped

        return Grouped(held, clipped)
    return MicroBatches(held, clipped)
