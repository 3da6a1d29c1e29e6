"""What the batched label search carries from frame to frame, as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

NODE, ABOVE, HASH, HASH_ABOVE, KEY, FLAGS, LM, SPELL, LISTED, LETTERS, PHRASE, INTS = range(12)
"""Columns of `Hypotheses.ints`. NODE, ABOVE: rows of the history, of the last label and of the one before. HASH,
HASH_ABOVE: of the labels, and of all but the last. The others: as in `prefix_tree`; PHRASE counts over all lists."""

DONE, EARNED, FUSED, FLOATS = range(4)

ROOT_HASH, NO_HASH = 1, 0
FACTORS = (-7046029254386353131, -4658895280553007687, -7723592293110705685)
"""Odd multipliers of splitmix64, as signed numbers."""
HALF, LOW = 32, 0xFFFFFFFF


@dataclass(frozen=True)
class Hypotheses:
    """The beams of a batch, in the order of the compiled search, the best one first; a place without mass is free.

    `ints` [b k 11] int64, `floats` [b k 3] float64, see the columns above. `bases` [b k s]: phrase bonus earned before
    the last label, before the one before it, and so on. `blank`, `label`, `total` [b k] float64: ln of the probability
    of the alignments that end in blank, in a label, in either. `parent` [b k]: place of the hypothesis without the last
    label, -1 where it is not in the beam. `has_child` [b k]: whether it is the parent of one.
    """

    ints: Tensor
    floats: Tensor
    bases: Tensor
    blank: Tensor
    label: Tensor
    total: Tensor
    parent: Tensor
    has_child: Tensor

    def first(self, size: int) -> Hypotheses:
        """The first `size` utterances."""
        return self.rows(slice(0, size))

    def rows(self, which: slice) -> Hypotheses:
        """Some utterances."""
        return Hypotheses(*(value[which] for value in vars(self).values()))


class History(NamedTuple):
    """Every prefix that was ever in a beam, a row for each place and frame: [b, 1 + t k] int32; row 0 is the empty text."""

    above: Tensor
    key: Tensor
    start: Tensor
    last: Tensor


class Frame(NamedTuple):
    """One frame: its `number`, log-probabilities `row` [b v] float64, `admitted` [b v] labels, and these as a list:
    `tokens`, `values` [b c], rising, with values of -inf behind the last."""

    number: int
    row: Tensor
    admitted: Tensor
    tokens: Tensor
    values: Tensor


class Picked(NamedTuple):
    """Candidates [b w]: the hypothesis they extend, label, acoustic score (-inf: none), in the order of the compiled
    search; `hope`: what one can reach that only a phrase expects, inf for others; `rest` [b]: the largest bound of those
    left out."""

    owner: Tensor
    label: Tensor
    mass: Tensor
    hope: Tensor
    rest: Tensor


def mixed(code: Tensor, value: Tensor) -> Tensor:
    """A hash of a hash and a number, with the rounds of splitmix64."""
    code = code * FACTORS[0] + (value + 1) * FACTORS[1]
    code = (code ^ (code >> HALF & LOW)) * FACTORS[2]
    return code ^ (code >> HALF & LOW)
