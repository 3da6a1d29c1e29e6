"""Many questions of one database in one row: the schema is read once, and no question sees another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import torch
from prompts import Prompts
from spider import Question
from torch import Tensor
from transformers import PreTrainedTokenizerBase


class Row(NamedTuple):
    """Token ids [l], positions [l], which segment each token is of [l] (0: the schema), and targets [l] (-100: none)."""

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    targets: Tensor


class Piece(NamedTuple):
    """A tokenized question and its answer, the end token included."""

    question: list[int]
    answer: list[int]


def pack(schema: Sequence[int], pieces: Sequence[Piece]) -> Row:
    """The schema, then each question and answer, with positions as if it stood alone.

    >>> row = pack([5, 6], [Piece([7], [8, 2]), Piece([9], [2])])
    >>> row.tokens.tolist(), row.positions.tolist()
    ([5, 6, 7, 8, 2, 9, 2], [0, 1, 2, 3, 4, 2, 3])
    >>> row.targets.tolist()  # of the token that follows
    [-100, -100, 8, 2, -100, 2, -100]
    """
    tokens, positions = list(schema), list(range(len(schema)))
    segments, targets = [0] * len(schema), [-100] * len(schema)
    for number, piece in enumerate(pieces, start=1):
        own = [*piece.question, *piece.answer]
        tokens += own
        positions += range(len(schema), len(schema) + len(own))
        segments += [number] * len(own)
        targets += [-100] * (len(piece.question) - 1) + piece.answer + [-100]
    return Row(*(torch.tensor(values) for values in (tokens, positions, segments, targets)))


def seen(segments: Tensor) -> Tensor:
    """Which tokens each token sees, [1 1 l l] bool: those before it of the schema and of its own segment."""
    own = (segments[:, None] == segments[None, :]) | (segments[None, :] == 0)
    return (own & torch.ones_like(own).tril())[None, None]


class Packer:
    """Rows of an epoch."""

    def __init__(self, prompts: Prompts, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> None:
        end = tokenizer.eos_token_id
        self.schemas: dict[str, list[int]] = {}
        self.pieces: dict[str, list[Piece]] = defaultdict(list)
        for question in questions:
            name = question.db_id
            if name not in self.schemas:
                self.schemas[name] = tokenizer(prompts.schema(name)).input_ids
            asked = tokenizer(prompts.question(question)).input_ids
            self.pieces[name].append(Piece(asked, [*tokenizer(prompts.answer(question)).input_ids, end]))

    def epoch(self, random: Random, most: int) -> Iterator[list[Row]]:
        """Lists of `most` questions, as rows of one database each, in a new order every time."""
        groups: list[tuple[str, list[Piece]]] = []
        for name, pieces in self.pieces.items():
            shuffled = random.sample(pieces, len(pieces))
            groups += [(name, shuffled[begin : begin + most // 3]) for begin in range(0, len(shuffled), most // 3)]
        random.shuffle(groups)
        batch: list[Row] = []
        count = 0
        for name, pieces in groups:
            batch.append(pack(self.schemas[name], pieces))
            count += len(pieces)
            if count >= most:
                yield batch
                batch, count = [], 0
        if batch:
            yield batch
