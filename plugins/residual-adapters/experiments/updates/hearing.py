"""What a pipeline hears: texts of examples, in batches of equal length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sltcore
from sltcore.data.examples import Example

BATCH = 32


def hear(pipeline: sltcore.Pipeline, examples: Sequence[Example], **context: Any) -> list[str]:
    """A text for each example, in their order."""
    order = sorted(range(len(examples)), key=lambda place: (examples[place].seconds, examples[place].item.id))
    found = [""] * len(examples)
    prepared = dict(pipeline.prepare(**context).context) if "phrases" in context else context
    for begin in range(0, len(order), BATCH):
        places = order[begin : begin + BATCH]
        values = [pipeline.read(examples[place].item) for place in places]
        for place, said in zip(places, pipeline.run_batch(values, prepared), strict=True):
            found[place] = said.text
    return found


def by_id(examples: Sequence[Example], texts: Sequence[str]) -> Mapping[str, str]:
    """Texts by the id of their utterance."""
    return {example.item.id: text for example, text in zip(examples, texts, strict=True)}
