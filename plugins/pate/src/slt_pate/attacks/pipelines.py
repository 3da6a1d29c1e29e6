"""Losses of a pipeline, for attacks on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slt_pate.rows import id_of, item_of, text_of
from sltcore.errors import DataError, PrivacyError
from sltcore.types import Encoded


def pipeline_losses(model: Any, rows: Sequence[Any], *, batch: int = 8, per_label: bool = False) -> NDArray[np.float64]:
    """The decoder's loss of each row [n] float64, in nats, in evaluation mode without augmentation; +inf where a text needs
    more frames than there are. `per_label` divides by the number of labels, for rows of very different lengths.

    **Raises** `PrivacyError` for a model whose decoder has no loss, `DataError` for a row without a text.
    """
    decoder = getattr(model, "parts", {}).get("decoder")
    encoder = getattr(model, "parts", {}).get("encoder")
    if decoder is None or not decoder.has_loss:
        raise PrivacyError(
            f"a {type(model).__name__} has no decoder with a loss, which the attack reads; expected a pipeline as sltcore.train "
            f"leaves it, or other losses"
        )
    silent = next((place for place, row in enumerate(rows) if text_of(row) is None), None)
    if silent is not None:
        raise DataError(f"utterance '{id_of(rows[silent], silent)}' has no text, so it has no loss; give it one")
    model.model.eval()
    values = [model.read(item_of(row)) for row in rows]
    order = sorted(range(len(rows)), key=lambda place: _length(values[place]))
    found = np.empty(len(rows))
    for start in range(0, len(rows), batch):
        places = order[start : start + batch]
        with torch.inference_mode(), model.using({}):
            value = model.batch([values[place] for place in places])
            targets = decoder.targets([text_of(rows[place]) for place in places], {})
            targets = type(targets)(*(tensor.to(model.device) for tensor in targets))
            encoded = value if encoder is None else encoder(value, {})
            losses = decoder.loss(encoded, targets, {}).double()
            if isinstance(encoded, Encoded):
                losses = torch.where(decoder.frames_needed(targets) <= encoded.lengths, losses, math.inf)
        divisors = targets.lengths.clamp(min=1) if per_label else torch.ones(len(places))
        found[places] = (losses.cpu() / divisors.cpu()).numpy()
    return found


def _length(value: Any) -> int:
    return len(getattr(value, "samples", value))
