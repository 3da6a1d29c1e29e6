"""Beam search for many questions of one database at once: the schema is read once, a question once for all its beams."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from llama import Llama, Memory
from pool import Pool
from torch import Tensor

Allowed = Callable[[int, tuple[int, ...]], Tensor | None]
"""Of a question's number and the tokens written for it so far: which tokens may follow, [v] bool; None: all."""


class Written(NamedTuple):
    """One answer without its end token, and its log-probability in nats, the end token's among it."""

    tokens: tuple[int, ...]
    score: float


class Beam(NamedTuple):
    """How wide, how many tokens at most, which token ends an answer, and how many answers are wanted."""

    width: int
    longest: int
    end: int
    wanted: int


@torch.no_grad()
def search(
    model: Llama, schema: Memory, questions: Sequence[Sequence[int]], beam: Beam, allowed: Allowed | None = None
) -> list[list[Written]]:
    """The `wanted` best answers to each question, best first, and up to `width`; fewer where fewer end in time.

    score(y) = sum_t log p(y_t | schema, question, y_<t)

    It ends when no running beam can still get among the wanted: a score only falls. `questions` are token ids behind the schema.
    **Source**: beam search as in Graves 2012, arXiv:1211.3711, section 3.3; no length penalty.
    """
    count, width = len(questions), beam.width
    memory, hidden = model.read(schema, questions)
    logs = model.logits(hidden).log_softmax(-1)  # [q v]
    if allowed is not None:
        logs = _masked(logs, [(number, ()) for number in range(count)], allowed)
    done: list[list[Written]] = [[] for _ in range(count)]
    running = [[((), 0.0)] + [((), -math.inf)] * (width - 1) for _ in range(count)]
    logs = logs.repeat_interleave(width, 0)
    pool = Pool(*memory, width)
    active = list(range(count))
    for step in range(beam.longest):
        scores = torch.tensor([[score for _, score in running[q]] for q in active])
        points = scores[..., None] + logs.view(len(active), width, -1)
        top, places = points.flatten(1).topk(2 * width, -1)
        vocabulary = points.shape[-1]
        parents, tokens, kept = [], [], []
        for at, (q, values, flat) in enumerate(zip(active, top.tolist(), places.tolist(), strict=True)):
            following = _follow(running[q], values, flat, vocabulary, beam, done[q])
            if _over(done[q], following, beam.wanted):
                continue
            kept.append(at)
            running[q] = [(text, score) for text, score, _ in following]
            parents.append([parent for _, _, parent in following])
            tokens += [text[-1] if text else 0 for text, _, _ in following]
        if not kept or step + 1 == beam.longest:
            break
        active = [active[at] for at in kept]
        pool.follow(kept, torch.tensor(parents))
        hidden = model.step(schema, pool, torch.tensor(tokens))
        logs = model.logits(hidden).log_softmax(-1)
        if allowed is not None:
            logs = _masked(
                logs, [(q, text) if score > -math.inf else None for q in active for text, score in running[q]], allowed
            )
    return [sorted(found, key=lambda one: -one.score)[:width] for found in done]


Running = tuple[tuple[int, ...], float]


def _follow(
    running: Sequence[Running],
    values: Sequence[float],
    flat: Sequence[int],
    vocabulary: int,
    beam: Beam,
    done: list[Written],
) -> list[tuple[tuple[int, ...], float, int]]:
    """The beams of the next step with their parents; answers that end go to `done`."""
    following: list[tuple[tuple[int, ...], float, int]] = []
    for value, place in zip(values, flat, strict=True):
        parent, token = divmod(place, vocabulary)
        if value == -math.inf or len(following) == beam.width:
            break
        text = running[parent][0]
        if token == beam.end:
            done.append(Written(text, value))
        else:
            following.append(((*text, token), value, parent))
    done.sort(key=lambda one: -one.score)
    del done[beam.width :]
    return following + [((0,), -math.inf, 0)] * (beam.width - len(following))


def _over(done: Sequence[Written], following: Sequence[tuple[tuple[int, ...], float, int]], wanted: int) -> bool:
    best = following[0][1]
    return best == -math.inf or (len(done) >= wanted and best <= done[wanted - 1].score)


def _masked(logs: Tensor, rows: Sequence[tuple[int, tuple[int, ...]] | None], allowed: Allowed) -> Tensor:
    for row, beam in enumerate(rows):
        mask = allowed(*beam) if beam is not None else None
        if mask is not None:
            logs[row, ~mask] = -math.inf
    return logs
