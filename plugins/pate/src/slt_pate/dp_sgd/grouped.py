"""Gradients of several units from one forward and one backward pass."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from slt_pate.dp_sgd.clipped_sum import ClippedSum
from slt_pate.dp_sgd.held_batches import Held, HeldBatches
from slt_pate.dp_sgd.micro_batches import MicroBatches, Rows, devices_of
from slt_pate.dp_sgd.refusals import StillBuffers
from slt_pate.dp_sgd.row_gradients import RowGradients, Unfit, evaluating
from slt_pate.dp_sgd.rows_of_batch import rounded_length, take
from slt_pate.dp_sgd.sample_layers import uncovered

LOG = logging.getLogger(__name__)
TOLERANCE = 1e-3
"""Relative difference of two gradients at which a model is taken to mix the rows of a batch."""

Group = list[tuple[str, Held, list[int]]]
"""Whole units whose rows go together."""


class Grouped:
    """Units of equally long utterances together where the model allows it, else one after another.

    Utterances are padded to a length that depends on their own alone, so a group says nothing about its members but for the
    last digits of matrix products. Before the first step, gradients of a group are compared with those of each unit alone; a
    model that mixes rows (losses against others of the batch, padding that counts, a first axis that is not the utterances)
    or holds trained parameters outside `Linear`, `LayerNorm`, convolutions and embeddings goes one unit after another, as do
    units of several lengths. Dropout's masks for a group come from one generator, whose seed is drawn from the operating
    system at each step, so they are as secret as the noise.
    """

    def __init__(self, held: HeldBatches, clipped: ClippedSum) -> None:
        assert held.module is not None
        self.held, self.clipped = held, clipped
        self.alone = MicroBatches(held, clipped)
        self.reason = ""
        self._checked = False
        outside = uncovered(held.module)
        if outside:
            self.reason = f"parameter {outside[0]} is in a layer without a rule"
            self._say()
            return
        self.rows = RowGradients(held.module, clipped)
        if self.rows.most < 2:
            self.reason = "the gradients of two units do not fit into memory set aside"
            self._say()

    def add(self, units: Mapping[str, Rows]) -> None:
        """Add the gradient of each unit. **Raises** `PrivacyError` where a forward pass changes the model's buffers."""
        groups, rest = self._groups(units) if not self.reason else ([], dict(units))
        if groups and not self._checked:
            try:
                self._verify(max(groups, key=len))
                self._checked = True
            except Unfit as error:
                self.reason = str(error)
                self._say()
                groups, rest = [], dict(units)
        self.alone.add(rest)
        if groups:
            generator = torch.Generator().manual_seed(torch.seed())
            for group in groups:
                self.clipped.add_rows(self._of_group(group, generator))

    def _say(self) -> None:
        LOG.info("dp-sgd: units go one after another, for %s", self.reason)

    def _groups(self, units: Mapping[str, Rows]) -> tuple[list[Group], dict[str, Rows]]:
        """Whole units by batch and rounded length, as many as fit together; the others as they are."""
        open_groups: dict[tuple[int, int], Group] = {}
        groups: list[Group] = []
        rest: dict[str, Rows] = {}
        for name, rows in units.items():
            held, places = rows[0]
            lengths = _lengths(held)
            rounded = {rounded_length(lengths[place]) for place in places} if lengths else set()
            if len(rows) > 1 or len(rounded) != 1 or len(places) > self.rows.most // 2:
                rest[name] = rows
                continue
            key = (id(held), rounded.pop())
            group = open_groups.setdefault(key, [])
            if sum(len(own) for _, _, own in group) + len(places) > self.rows.most:
                groups.append(group)
                group = open_groups[key] = []
            group.append((name, held, places))
        for group in [*groups, *open_groups.values()]:
            if len(group) == 1:
                name, held, places = group[0]
                rest[name] = [(held, places)]
        return [group for group in [*groups, *open_groups.values()] if len(group) > 1], rest

    def _of_group(self, group: Group, generator: torch.Generator) -> Tensor:
        """Gradients [u p] of the units' mean losses."""
        assert self.held.module is not None
        held = group[0][1]
        places = [place for _, _, own in group for place in own]
        shares = torch.tensor([1 / len(own) for _, _, own in group for _ in own], device=self.clipped.gradient.device)
        batch = take(held.batch, places, length=rounded_length(_lengths(held)[places[0]]))
        still = StillBuffers(self.held.module)
        with self.rows.collected(len(places)) as found:
            losses = self.held.losses(batch, generator)
            still.verify()
            kept = torch.where(losses.isposinf(), 0.0, losses)
            (kept * shares).sum().backward()  # type: ignore[no-untyped-call]
        if held.losses is not None:
            held.losses[places] = losses.detach()
        if len(places) == len(group):
            return found
        firsts, place = [], 0
        for _, _, own in group:
            firsts.append(place)
            for other in range(place + 1, place + len(own)):
                found[place] += found[other]
            place += len(own)
        return found[firsts]

    def _verify(self, group: Group) -> None:
        """**Raises** `Unfit` where a unit's gradient in the group is not the one it has alone; both in evaluation mode, so
        that masks of dropout do not differ."""
        assert self.held.module is not None
        with evaluating(self.held.module):
            together = self._of_group(group, torch.Generator().manual_seed(0)).clone()
            for (_, held, places), found in zip(group, together, strict=True):
                with self.clipped.collected():
                    self.alone.backward([(held, places)], torch.Generator().manual_seed(0))
                expected = self.clipped.gradient
                size = float(torch.linalg.vector_norm(expected, dtype=torch.float64))
                apart = float(torch.linalg.vector_norm(found - expected, dtype=torch.float64))
                if not apart <= TOLERANCE * max(size, 1e-6):
                    raise Unfit("an utterance's gradient depends on what else is in its batch, or on padding")
        if self._is_noticed(group):
            raise Unfit("an utterance's loss in training depends on what else is in its batch")

    def _is_noticed(self, group: Group) -> bool:
        """Whether losses in training mode change when another utterance takes the place of the first; random draws are the
        same."""
        held = group[0][1]
        places = [place for _, _, own in group for place in own]
        length = rounded_length(_lengths(held)[places[0]])
        found = []
        for first in (places[0], places[-1]):
            batch = take(held.batch, [first, *places[1:]], length=length)
            with torch.no_grad(), torch.random.fork_rng(devices=devices_of(self.clipped.gradient.device)):
                torch.manual_seed(0)
                found.append(self.held.losses(batch, torch.Generator().manual_seed(0))[1:])
        own, other = found
        return not torch.allclose(own, other, rtol=TOLERANCE, atol=1e-6, equal_nan=True)


def _lengths(held: Held) -> list[int]:
    """Of each row; none for texts."""
    lengths = getattr(held.batch.value, "lengths", None)
    return [] if lengths is None else lengths.tolist()
