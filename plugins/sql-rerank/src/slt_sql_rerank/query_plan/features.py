"""A question against a schema as a bag of hashed features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from zlib import crc32

import torch
from torch import Tensor, nn

from slt_sql_rerank.query_plan.mentions import Mentions, mentions
from slt_sql_rerank.schema import Schema

WORDS = 3
CLASSES = 4
LETTERS = (3, 4)
APART = 6
MOST_KEPT = 16384


def features(question: str, schema: Schema | None) -> Iterator[str]:
    """The features by name, some of them several times.

    Word n-grams (n <= 3) of the question; n-grams (n <= 4) and pairs up to 5 words apart of the question with names of
    tables and columns, numbers and values as classes, which is what carries over to other databases; letter n-grams
    within words; and how many tables and columns are mentioned and how many tables it takes to have them.
    """
    found = mentions(question, schema)
    yield from _grams("w", found.words, WORDS)
    yield from _grams("d", found.classes, CLASSES)
    classes = found.classes
    for place, first in enumerate(classes):
        yield from (f"k:{first} {second}" for second in classes[place + 2 : place + APART])
    for word in set(found.words):
        whole = f"<{word}>"
        for size in LETTERS:
            yield from (f"c:{whole[start : start + size]}" for start in range(len(whole) - size + 1))
    if schema is not None:
        yield from _counts(found, schema)
    yield f"s:length {min(len(found.words) // 3, 10)}"


def _grams(kind: str, words: Sequence[str], most: int) -> Iterator[str]:
    framed = ("^", *words, "$")
    for size in range(1, most + 1):
        for start in range(len(framed) - size + 1):
            yield f"{kind}:{' '.join(framed[start : start + size])}"


def _counts(found: Mentions, schema: Schema) -> Iterator[str]:
    needed, tables, columns = min(found.fewest_tables, 4), min(len(found.tables), 4), min(len(found.columns), 6)
    covered = all(any(table in found.tables for table, _ in options) for options in found.columns)
    yield from (f"s:needed {needed}", f"s:tables {tables}", f"s:columns {columns}", f"s:covered {covered}")
    yield f"s:needed {needed} tables {tables} covered {covered}"
    yield f"s:schema {min(len(schema.tables), 12)}"
    yield from (f"s:needed {needed} {word}" for word in set(found.classes))


@lru_cache(maxsize=MOST_KEPT)
def places(question: str, schema: Schema | None, buckets: int) -> tuple[int, ...]:
    """The buckets that the features of a question fall into, each once."""
    return tuple(sorted({crc32(name.encode()) % buckets for name in features(question, schema)}))


class QuestionEncoder(nn.Module):
    """h = dropout(relu(b + sum of the vectors of n features / sqrt(n))): hidden [b d] of questions and schemas.

    In training a share `drop_features` of the features is left out at random, by torch's global generator, which training
    seeds; so the rare ones are not learned by heart.
    """

    def __init__(self, buckets: int, width: int, *, dropout: float = 0.4, drop_features: float = 0.4) -> None:
        super().__init__()
        self.buckets = buckets
        self.width = width
        self.drop_features = drop_features
        self.vectors = nn.EmbeddingBag(buckets, width, mode="sum")
        nn.init.normal_(self.vectors.weight, std=0.05)
        self.bias = nn.Parameter(torch.zeros(width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, questions: Sequence[str], schemas: Sequence[Schema | None]) -> Tensor:
        """Hidden [b d] float32."""
        bags = [places(q, s, self.buckets) for q, s in zip(questions, schemas, strict=True)]
        device = self.bias.device
        sizes = torch.tensor([len(bag) for bag in bags], device=device)
        flat = torch.tensor([place for bag in bags for place in bag], dtype=torch.int64, device=device)
        weights = sizes.float().clamp(min=1).rsqrt().repeat_interleave(sizes)
        if self.training and self.drop_features:
            weights = weights * (torch.rand(len(flat), device=device) >= self.drop_features)
        starts = sizes.cumsum(0) - sizes
        hidden = self.vectors(flat, starts, per_sample_weights=weights) + self.bias
        dropped: Tensor = self.dropout(torch.relu(hidden))
        return dropped
