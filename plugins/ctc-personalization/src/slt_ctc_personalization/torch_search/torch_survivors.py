"""Which candidates of a frame become hypotheses, how they are related, and which of them can never win."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from slt_ctc_personalization.beam_search.candidates import NO_LM, Options
from slt_ctc_personalization.torch_search.torch_beams import (
    ABOVE,
    DONE,
    EARNED,
    FLAGS,
    FUSED,
    HASH,
    HASH_ABOVE,
    KEY,
    LETTERS,
    LISTED,
    LM,
    NODE,
    PHRASE,
    SPELL,
    History,
    Hypotheses,
    mixed,
)  # fmt: skip
from slt_ctc_personalization.torch_search.torch_tables import Automata


def survive(options: Options, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places [b k] of the best candidates in their order, the best one first; which of them live; the least score."""
    k = options.beam
    best = score.amax(1, keepdim=True)
    kth = score.topk(k, dim=1).values[:, -1:]
    threshold = torch.maximum(best + options.prune, kth)
    keep = (score >= threshold) & (score > -torch.inf)
    rank = keep.cumsum(1)
    keep &= rank <= k
    order = torch.arange(score.shape[1], device=score.device).expand_as(rank)
    source = torch.zeros((len(score), k + 1), dtype=torch.int64, device=score.device)
    source = source.scatter_(1, torch.where(keep, rank - 1, k), order)[:, :k]
    living = order[:, :k] < rank[:, -1:]
    first = torch.where(keep & (score == best), rank - 1, 0).amax(1, keepdim=True)
    ahead = source.gather(1, first)
    source = source.scatter(1, first, source[:, :1])
    return torch.cat([ahead, source[:, 1:]], 1) if k > 1 else source, living, threshold


def relate(
    options: Options,
    automata: Automata,
    beams: Hypotheses,
    is_new: Tensor,
    fresh: Tensor,
    number: int,
    history: History,
) -> Hypotheses:
    """Names new prefixes, finds parents, and drops what cannot win; hypotheses of equal labels have equal hashes.

    The hash has 64 mixed bits; comparing a beam of 100 with itself for an hour of frames meets a wrong equal with
    a probability of about 1e-10, and would then add the mass of one label to another text.
    """
    ints = beams.ints
    size, k = ints.shape[:2]
    places = torch.arange(k, device=ints.device)
    living = beams.total > -torch.inf
    above = ints[..., HASH_ABOVE, None] == ints[:, None, :, HASH]  # [b child parent]
    above &= living[..., None] & living[:, None]
    child = torch.where(above, places[:, None], -1).amax(1)
    node = torch.where(is_new, 1 + number * k + places, ints[..., NODE])
    node = torch.where(is_new & (child >= 0), ints[..., ABOVE].gather(1, child.clamp(min=0)), node)
    node = torch.where(living, node, 0)
    block = slice(1 + number * k, 1 + (number + 1) * k)
    history.above[:size, block] = ints[..., ABOVE].int()
    history.key[:size, block] = ints[..., KEY].int()
    history.start[:size, block] = number
    history.last[:size, block] = number
    ints = torch.cat([node[..., None], ints[..., ABOVE:]], 2)
    parent = torch.where(above, places, -1).amax(2)
    beams = replace(beams, ints=ints, parent=parent, has_child=child >= 0)
    if not options.single:
        return beams
    dropped = dominated(options, automata, beams, living) & fresh
    living = living & ~dropped
    gone = torch.where(living, 0.0, -torch.inf)
    parent = torch.where((parent >= 0) & living.gather(1, parent.clamp(min=0)), parent, -1)
    return replace(
        beams,
        blank=beams.blank + gone,
        label=beams.label + gone,
        total=beams.total + gone,
        parent=torch.where(living, parent, -1),
        has_child=(above & living[..., None]).any(1),
    )


def dominated(options: Options, automata: Automata, beams: Hypotheses, living: Tensor) -> Tensor:
    """Which hypotheses another one with the same future is ahead of, as `candidates.drop_dominated` finds them."""
    ints = beams.ints
    k = ints.shape[1]
    places = torch.arange(k, device=ints.device)
    state = ints[..., PHRASE]
    begun = torch.where(automata.span[state] > 0, state, -1)
    future = mixed(begun, ints[..., KEY] * 4 + ints[..., FLAGS])
    if options.lm_unit != NO_LM:
        letters = torch.where(ints[..., SPELL] >= 0, 0, ints[..., LETTERS])
        for column in (ints[..., LM], ints[..., SPELL], ints[..., LISTED], letters):
            future = mixed(future, column)
    same = (future[..., None] == future[:, None]) & living[..., None] & living[:, None]
    other = torch.where(same, places, k).amin(2)
    behind = living & (other < places)
    other = other.clamp(max=k - 1)
    ahead = _lead(automata, beams, begun, other)
    behind &= beams.blank.gather(1, other) + ahead >= beams.blank
    behind &= beams.label.gather(1, other) + ahead >= beams.label
    orphan = (ints[..., KEY] >= 0) & (beams.parent < 0)
    # A parent that is dropped before its child makes the child an orphan: follow such parents to the last.
    follows = behind & (beams.parent >= 0) & (beams.parent < places)
    jump = torch.where(follows, beams.parent, places)
    for _ in range(math.ceil(math.log2(k)) if k > 1 else 0):
        jump = jump.gather(1, jump)
    return (behind & orphan).gather(1, jump)


def _lead(automata: Automata, beams: Hypotheses, begun: Tensor, other: Tensor) -> Tensor:
    """How much more `other` [b k] adds to its acoustic score, whatever follows; both have the same future.

    What a begun phrase may yet earn is added to what had been earned before it: the least lead over all of them counts.
    """

    def more(value: Tensor) -> Tensor:
        return value.gather(1, other) - value

    fused, known, earned = (more(beams.floats[..., column]) for column in (FUSED, DONE, EARNED))
    if automata.chain == 0:
        return fused
    lead, state = known + earned, begun.clamp(min=0)
    for _ in range(automata.chain):
        span = automata.span[state]
        place = (span - 1).clamp(min=0)[..., None]
        theirs = beams.bases.gather(1, other[..., None].expand_as(beams.bases)).gather(2, place)
        before = (theirs - beams.bases.gather(2, place))[..., 0]
        lead = torch.where(span > 0, torch.minimum(lead, known + before), lead)
        state = automata.fail[state]
    return torch.where(begun >= 0, lead, fused)
