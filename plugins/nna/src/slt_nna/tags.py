"""Where a tensor comes from and on which grid it lies: a mark that travels with the tensor, never with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from slt_nna.grid import Grid

MARK = "_nna"
NOW = "_nna_now"
"""On a tensor that an in-place function changed in training: the tensor that has its new values."""

DATA = "_nna_data"
"""On float tensors that come from a call's inputs, while somebody listens: what is computed from weights alone is no work
of a call."""

MASK = "_nna_mask"
"""On float host tensors made of bools or integers by a conversion: products with them may be masks."""


class Tag(NamedTuple):
    """The mark of one tensor.

    - `site`: the weighted operator that it last went through, and behind it, after `|`, the operators without weights;
    - `grid`: the grid of its values; None for a float value on the host, of which only the origin is known;
    - `order`: the place of that weighted operator among the model's parameters: of two operands, the later one names
      the result, offline and in streaming alike.
    """

    site: str
    grid: Grid | None
    order: int

    @property
    def host(self) -> Tag:
        """The same origin, without a grid."""
        return self if self.grid is None else self._replace(grid=None)


def tag_of(value: Any) -> Tag | None:
    """The mark of a tensor, or None."""
    tag: Tag | None = getattr(value, MARK, None)
    return tag


def put(value: Tensor, tag: Tag) -> Tensor:
    """The same tensor, marked."""
    setattr(value, MARK, tag)
    return value


def current(value: Tensor) -> Tensor:
    """What a tensor is after the in-place functions that were called on it."""
    now: Tensor | None = getattr(value, NOW, None)
    return value if now is None else current(now)


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
