"""What a component of each kind says to the kit's inputs: one value to compare before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sltcore.testing import inputs
from sltcore.testing.case import Case
from sltcore.testing.promises import augmentation, decoder, encoder, metric, objective, reranker, vocoder


def of_decoder(case: Case, part: Any, raw: Mapping[str, Any]) -> Any:
    """Results, and the loss where there is one."""
    found = [decoder.decode(case, part, decoder.utterances(part, decoder.FRAMES), raw)]
    if part.has_loss and decoder.usable_labels(part):
        found.append(decoder.loss_of(case, part, *decoder.lesson(case, part), raw))
    return found


def of_metric(case: Case, part: Any, raw: Mapping[str, Any]) -> Any:
    """The values of the kit's items."""
    metric.update(part, *metric.items(case, part))
    return [value.value for _, value in sorted(part.reduce(part.per_item()).items())]


OUTPUTS: Mapping[str, Callable[[Case, Any, Mapping[str, Any]], Any]] = {
    "encoder": lambda case, part, raw: encoder.run(case, part, inputs.batch(part.consumes), raw),
    "decoder": of_decoder,
    "vocoder": lambda case, part, raw: vocoder.synthesize(part, vocoder.frames_of(part)),
    "reranker": lambda case, part, raw: reranker.score(case, part, inputs.nbest(4), raw),
    "objective": lambda case, part, raw: objective.loss(case, part, objective.toy(part), objective.batch(part), raw),
    "augmentation": lambda case, part, raw: augmentation.augment(case, part, inputs.batch(part.consumes), raw),
    "metric": of_metric,
}


def outputs(case: Case, part: Any) -> list[Any]:
    """Outputs for every small context, of the kinds in `OUTPUTS`."""
    with torch.no_grad():
        return [OUTPUTS[case.kind](case, part, raw) for raw in case.contexts]
