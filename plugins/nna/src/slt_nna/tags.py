"""Where a tensor comes from and on which grid it lies: a mark that travels with the tensor, never with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from slt_nna.grid import Grid

MARK = "_nna"
DATA = "_nna_data"
"""On float tensors that come from a call's inputs, while somebody listens: what is computed from weights alone is no work
of a call."""

KEPT = "_nna_kept"
"""On last states of recurrent layers: the bits of their words. A chip keeps them from call to call, so that they cross
only when the host computes with them."""

MASK = "_nna_mask"
"""On float host tensors made of bools or integers by a conversion: products with them may be masks."""


class Tag(NamedTuple):
    """The mark of one tensor.

    - `site`: the weighted operator that it last went through, and behind it, after `|`, the operators without weights;
    - `grid`: the grid of its values; None for a float value on the host, of which only the origin is known;
    - `order`: the place of that weighted operator among the model's parameters: of two operands, the later one names
      the result, offline and in streaming alike;
    - `masked`: whether entries may be excluded from a softmax to come, so that they stand for no number.
    """

    site: str
    grid: Grid | None
    order: int
    masked: bool = False

    @property
    def host(self) -> Tag:
        """The same origin, without a grid."""
        return self if self.grid is None else self._replace(grid=None, masked=False)


def tag_of(value: Any) -> Tag | None:
    """The mark of a tensor, or None."""
    tag: Tag | None = getattr(value, MARK, None)
    return tag


def put(value: Tensor, tag: Tag) -> Tensor:
    """The same tensor, marked."""
    setattr(value, MARK, tag)
    return value


def behind(tag: Tag, operator: str) -> str:
    """The site of an operator without weights whose leading operand has `tag`.

    No operator is named more than twice in it: a loop in Python over such operators comes back to the names of its
    second round, so that its ranges hold for any number of rounds.

    >>> behind(Tag("a|mul|add|mul|add", None, 0), "mul")
    'a|mul|add|mul'
    """
    first, *chain = tag.site.split("|")
    places = [index for index, name in enumerate(chain) if name == operator]
    chain = chain[: places[1] + 1] if len(places) > 1 else [*chain, operator]
    return "|".join((first, *chain))
