"""What the frozen base hears of each utterance, computed once; adapters and decoders work on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import sltcore
from sltcore.data.examples import Example
from sltcore.types import Encoded

BATCH = 16


class Encodings(NamedTuple):
    """Batches of utterances of similar length: places in the list of examples, and what the base gives for them."""

    places: list[list[int]]
    batches: list[Encoded]
    frames: int
    seconds: float

    def spread(self, results: Sequence[Sequence[Any]]) -> list[Any]:
        """Results of the batches in the order of the examples."""
        found: list[Any] = [None] * sum(map(len, self.places))
        for places, batch in zip(self.places, results, strict=True):
            for place, result in zip(places, batch, strict=True):
                found[place] = result
        return found


@torch.no_grad()
def encode(pipeline: sltcore.Pipeline, encoder: Any, examples: Sequence[Example]) -> Encodings:
    """The frames of `encoder` (a part of the pipeline's, without side information), batch by batch."""
    order = sorted(range(len(examples)), key=lambda place: examples[place].seconds)
    places = [order[begin : begin + BATCH] for begin in range(0, len(order), BATCH)]
    batches, frames = [], 0
    for batch in places:
        encoded = encoder(pipeline.batch([pipeline.read(examples[place].item) for place in batch]), {})
        frames += int(encoded.lengths.sum())
        batches.append(encoded)
    return Encodings(places, batches, frames, sum(example.seconds for example in examples))


def kept(path: Path, pipeline: sltcore.Pipeline, encoder: Any, examples: Sequence[Example]) -> Encodings:
    """As `encode`, read from `path` where it was written before."""
    if path.exists():
        data = torch.load(path, weights_only=True)
        batches = [Encoded(**entry) for entry in data["batches"]]
        return Encodings(data["places"], batches, data["frames"], data["seconds"])
    found = encode(pipeline, encoder, examples)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = found._asdict() | {"batches": [_plain(batch) for batch in found.batches]}
    torch.save(data, path)
    return found


def _plain(batch: Encoded) -> dict[str, Any]:
    return batch._asdict() | {"layers": dict(batch.layers), "extra": dict(batch.extra)}


def utterances(encodings: Encodings, values: Sequence[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    """Each utterance's place and its rows of batches of tensors [b t ...]."""
    for places, encoded, rows in zip(encodings.places, encodings.batches, values, strict=True):
        for index, place in enumerate(places):
            yield place, rows[index, : int(encoded.lengths[index])]
