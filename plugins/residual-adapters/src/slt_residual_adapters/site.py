"""One place of the model with every update that stands there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from slt_residual_adapters.branches import Branch, by_name
from slt_residual_adapters.folding import Folded
from slt_residual_adapters.fusion import GateFusion, Mode, Term, plain_sum, stacked
from slt_residual_adapters.outputs import first_tensor, row_axis, with_first_tensor
from slt_residual_adapters.placement import Place
from slt_residual_adapters.selection import Selection
from sltcore.errors import PluginError

KEPT_FOLDS = 8


class Presence(NamedTuple):
    """Which updates are on: `on` [.. k] of ones and zeros (None: all of them, everywhere), and how `many` are [.. 1], at
    least 1."""

    on: Tensor | None
    many: Tensor | float


class Site(nn.Module):
    """Changes what a module returns: `y + Σ_k w_k A_k(y)`, or another fusion of the updates that are on.

    Where no gradient is asked for, the sum and the average (and the gated sum) work folded (`Folded`); foldings are kept
    for the last few subsets, and made anew when a parameter changed.
    """

    def __init__(
        self,
        place: Place,
        branches: Mapping[str, nn.Module],
        *,
        mode: Mode,
        fusion: nn.Module | None = None,
        batch_first: bool = True,
    ) -> None:
        """`batch_first`: whether utterances run along the first axis of what the module returns, else along the second."""
        super().__init__()
        self.name, self.d, self.axis = place.name, place.d, place.axis
        self.batch_first = batch_first
        self.branches = by_name(branches)
        self.mode: Mode = mode
        self.fusion = fusion
        self.folds = True
        self._kept: OrderedDict[Any, Folded] = OrderedDict()

    def forward(
        self, output: Any, arguments: tuple[Any, ...], selection: Selection, weights: Mapping[str, float]
    ) -> Any:
        """`output` of the module with the updates' change in its first tensor, and that output itself where none is on.

        **Raises** `PluginError` for an output of another width than the updates have.
        """
        names = [name for name in selection.names if name in self.branches]
        if not names:
            return output
        if self.mode != "stack":
            names.sort()  # so that the order in which updates were added changes no bit
        value, source = self.read(output, arguments)
        if value.device != self._device():
            with torch.inference_mode(False):  # so that they can still be trained there
                self.to(value.device)
        everywhere = Presence(None, float(len(selection.names)))
        presence = everywhere if selection.rows is None else self._presence(output, value, selection, names)
        changed = self._fused(value, source, self.terms(names, weights, presence.on), presence)
        return self.written(output, changed)

    def read(self, output: Any, arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """y [.. d] and, for branches that read the input, x [.. i]."""
        value = first_tensor(output, self.name)
        value = value if self.axis == -1 else value.transpose(self.axis, -1)
        if value.shape[-1] != self.d:
            raise PluginError(
                f"{self.name} returns {tuple(value.shape)}, but its updates are {self.d} wide; write d: {value.shape[-1]}, or "
                f"place them elsewhere"
            )
        reads_input = any(getattr(branch, "reads_input", False) for branch in self.branches.values())
        return value, first_tensor(arguments[0], self.name) if reads_input else value

    def written(self, output: Any, value: Tensor) -> Any:
        """`output` with the changed value."""
        return with_first_tensor(output, value if self.axis == -1 else value.transpose(self.axis, -1))

    def terms(self, names: list[str], weights: Mapping[str, float], on: Tensor | None = None) -> list[Term]:
        """The updates of these names, with their weights."""
        return [
            Term(name, self.branches[name], weights.get(name, 1.0), None if on is None else on[..., k : k + 1])
            for k, name in enumerate(names)
        ]

    def _fused(self, value: Tensor, source: Tensor, terms: list[Term], presence: Presence) -> Tensor:
        if self.folds and self.mode in ("sum", "average", "gate") and not self._learns(value):
            return self._folded(value, source, terms, presence)
        seen, read = self._own_type(value), self._own_type(source)
        if self.fusion is not None:
            change = self.fusion(seen, read, terms)
        elif self.mode == "stack":
            change = stacked(seen, read, terms)
        else:
            change = plain_sum(seen, read, terms)
            if self.mode == "average":
                change = change / presence.many
        changed: Tensor = value + change.to(value.dtype)
        return changed

    def _folded(self, value: Tensor, source: Tensor, terms: list[Term], presence: Presence) -> Tensor:
        on, count = presence
        share = 1.0
        if self.mode == "average" and on is None:
            share = 1.0 / float(count)
        elif self.mode == "average" and on is not None:
            on = on / count
        if isinstance(self.fusion, GateFusion):
            gates = self.fusion.gates(self._own_type(value), terms)
            on = gates if on is None else gates * on
        return self._fold(terms, share)(value, source, on)

    def _fold(self, terms: list[Term], share: float) -> Folded:
        own = [parameter for term in terms for parameter in term.branch.parameters()]
        changing = tuple((id(parameter), parameter._version) for parameter in own if parameter.requires_grad)
        key = (share, tuple((term.name, term.weight) for term in terms), changing)
        if key not in self._kept:
            branches: list[Branch] = [term.branch for term in terms]  # type: ignore[misc]
            pieces = [branch.piece() for branch in branches]
            weights = [share * term.weight for term in terms]
            self._kept[key] = Folded(pieces, weights, dtype=own[0].dtype, device=own[0].device)
            while len(self._kept) > KEPT_FOLDS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _presence(self, output: Any, value: Tensor, selection: Selection, names: list[str]) -> Presence:
        """Ones and zeros that fit `value`: which of `names` are on for the utterance of each row."""
        assert selection.rows is not None
        table = value.new_tensor([[float(on) for on in row] for row in selection.rows])
        own = table[:, [selection.names.index(name) for name in names]]
        count = table.sum(-1, keepdim=True).clamp(min=1.0)
        packed = _packed(output)
        if packed is not None:
            utterance = _utterances(packed)
            return Presence(own[utterance], count[utterance])
        axis = row_axis(value, len(table), batch_first=self.batch_first, site=self.name)
        shape = [1] * value.ndim
        shape[axis] = len(table)
        return Presence(own.view(*shape[:-1], len(names)), count.view(shape))

    def _learns(self, value: Tensor) -> bool:
        return torch.is_grad_enabled() and (
            value.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        )

    def _own_type(self, value: Tensor) -> Tensor:
        """The value in the updates' own type, where the model works in another one; autocast sees to that itself."""
        if torch.is_autocast_enabled(value.device.type):
            return value
        return value.to(next(self.parameters()).dtype)

    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _apply(self, fn: Any, recurse: bool = True) -> Site:
        self._kept.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _packed(output: Any) -> PackedSequence | None:
    if isinstance(output, PackedSequence):
        return output
    return _packed(output[0]) if isinstance(output, tuple) and output else None


def _utterances(packed: PackedSequence) -> Tensor:
    """The utterance that each row of packed data belongs to."""
    device = packed.data.device
    order = packed.sorted_indices
    largest = int(packed.batch_sizes[0]) if len(packed.batch_sizes) else 0
    order = torch.arange(largest, device=device) if order is None else order
    return torch.cat([order[: int(size)] for size in packed.batch_sizes])
