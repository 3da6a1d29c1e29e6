"""Some operators on the chip, the others in float: how much one of them costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slt_nna.grid import Grid

if TYPE_CHECKING:
    from slt_nna.backend import Backend, RecurrentGrids

Only = Callable[[str, str], bool]
PAIRED = frozenset({"matmul", "add", "multiply", "gate"})
UNTOUCHED = frozenset({"enter", "leave", "shape", "overwrite", "settle"})


class Selective:
    """A backend whose operators for which `only(operator, site)` is true are those of `chosen`, the others of `rest`.

    Values travel in float. A chosen operator rounds its operands to their grids first.
    """

    def __init__(self, chosen: Backend, rest: Backend, only: Only) -> None:
        self._chosen = chosen
        self._rest = rest
        self._only = only
        self.site = ""
        self.operator = ""

    def __getattr__(self, name: str) -> Any:
        rest = getattr(self._rest, name)
        if name in UNTOUCHED:
            return rest
        chosen = getattr(self._chosen, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._only(self.operator, self.site):
                self._rest.site, self._rest.operator = self.site, self.operator
                return rest(*args, **kwargs)
            self._chosen.site, self._chosen.operator = self.site, self.operator
            return chosen(*self._rounded(name, args), **kwargs)

        return call

    def _rounded(self, name: str, args: tuple[Any, ...]) -> list[Any]:
        """The operands on their grids; recurrent states on the grids of the layer."""
        found = list(args)
        for place in (0, 2) if name in PAIRED else (0,):
            if place + 1 < len(args) and isinstance(args[place + 1], Grid):
                again = place == 2 and args[2] is args[0]  # silu, gelu: one operand twice
                found[place] = found[0] if again else self._on(args[place], args[place + 1])
        if name in ("lstm", "gru") and args[4] is not None:
            found[4] = self._states(args[3], args[4])
        return found

    def _states(self, grids: RecurrentGrids, state: Any) -> Any:
        if isinstance(state, Tensor):
            return self._on(state, grids.hidden)
        assert grids.state is not None
        return self._on(state[0], grids.hidden), self._on(state[1], grids.state)

    def _on(self, value: Tensor, grid: Grid) -> Tensor:
        """Rounded; excluded entries stay excluded."""
        excluded = value == -torch.inf
        rounded = self._chosen.enter(value, grid)
        return rounded.masked_fill(excluded, -torch.inf) if bool(excluded.any()) else rounded
