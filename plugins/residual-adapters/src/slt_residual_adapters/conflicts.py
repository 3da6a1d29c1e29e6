"""What updates do to general audio: how far each moves it, and how far two move the same frames the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.selection import Selection
from slt_residual_adapters.site import Site


class Move(NamedTuple):
    """How far one update moves general frames, relative to their size: the root mean square over frames and places
    together, and the place where it is largest."""

    name: str
    relative: float
    largest: float
    place: str


class Conflict(NamedTuple):
    """Two updates on general frames, over all places together; each number from -1 to 1, `same_frames` from 0.

    - `same_frames`: Σ |A_i| |A_j| / sqrt(Σ |A_i|² Σ |A_j|²), 1 where both move the same frames in proportion;
    - `agreement`: Σ A_i · A_j / sqrt(Σ |A_i|² Σ |A_j|²), 1 where they also move them the same way;
    - `mean_cosine`: the cosine between the means of A_i and of A_j over frames, what both do everywhere.
    """

    first: str
    second: str
    same_frames: float
    agreement: float
    mean_cosine: float


class Moves:
    """Sums over the frames that an adapter sees, while `watching` it. Each update is asked about the frames of the base (or
    of whatever is on), so that what one does depends on no other."""

    def __init__(self, adapters: ResidualAdapters, names: Sequence[str] | None = None) -> None:
        """`names` are the updates that are looked at; None: all."""
        self.adapters = adapters
        self.names = tuple(adapters.updates) if names is None else tuple(names)
        self._moved = 0.0
        self._frames: dict[str, int] = {}
        self._size: dict[str, float] = {}
        self._mean: dict[str, Tensor] = {}
        self._dots: dict[str, Tensor] = {}
        self._norms: dict[str, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[Moves]:
        """Looks at every call inside. Padded frames would count, so utterances are to be called one by one."""
        before, self.adapters.observer = self.adapters.observer, self._observe
        try:
            yield self
        finally:
            self.adapters.observer = before

    def moves(self) -> list[Move]:
        """How far each update moves the frames seen."""
        found = []
        for k, name in enumerate(self.names):
            at = {place: _ratio(float(self._dots[place][k, k]), size) ** 0.5 for place, size in self._size.items()}
            moved = sum(float(dots[k, k]) for dots in self._dots.values())
            place = max(at, key=lambda one: at[one], default="")
            found.append(Move(name, _ratio(moved, sum(self._size.values())) ** 0.5, at.get(place, 0.0), place))
        return found

    def together(self) -> float:
        """How far all of them together move the frames by their fusion, as `Move.relative`: `sqrt(Σ |y' - y|² / Σ |y|²)`."""
        return float(_ratio(self._moved, sum(self._size.values())) ** 0.5)

    def conflicts(self) -> list[Conflict]:
        """Every pair, those first that move the same frames most."""
        if not self._dots:
            return []
        dots, norms = sum(self._dots.values()), sum(self._norms.values())
        means = torch.cat([self._mean[place] / self._frames[place] for place in self._mean], dim=1)
        assert isinstance(dots, Tensor)
        assert isinstance(norms, Tensor)
        found = []
        for i, j in combinations(range(len(self.names)), 2):
            size = float(dots[i, i] * dots[j, j]) ** 0.5
            both = float(means[i].norm() * means[j].norm())
            found.append(
                Conflict(
                    self.names[i],
                    self.names[j],
                    _ratio(float(norms[i, j]), size),
                    _ratio(float(dots[i, j]), size),
                    _ratio(float(means[i] @ means[j]), both),
                )
            )
        return sorted(found, key=lambda one: -one.same_frames)

    def _observe(self, site: Site, output: Any, arguments: tuple[Any, ...]) -> None:
        value, source = site.read(output, arguments)
        d = value.shape[-1]
        weights: Mapping[str, float] = self.adapters.weights
        added = torch.zeros(len(self.names), value[..., 0].numel(), d, dtype=torch.float64)
        with torch.no_grad():
            for k, name in enumerate(self.names):
                if name in site.branches:
                    (term,) = site.terms([name], weights)
                    added[k] = term.added(value, source).reshape(-1, d).double().cpu()
            fused, _ = site.read(site(output, arguments, Selection(self.names), weights), arguments)
        self._moved += float((fused.double() - value.double()).square().sum())
        sizes = added.norm(dim=-1)
        place, count = site.name, len(self.names)
        self._frames[place] = self._frames.get(place, 0) + added.shape[1]
        self._size[place] = self._size.get(place, 0.0) + float(value.double().square().sum())
        self._mean[place] = self._mean.get(place, torch.zeros(count, d, dtype=torch.float64)) + added.sum(1)
        zeros = torch.zeros(count, count, dtype=torch.float64)
        self._dots[place] = self._dots.get(place, zeros) + torch.einsum("itd,jtd->ij", added, added)
        self._norms[place] = self._norms.get(place, zeros) + sizes @ sizes.T


def _ratio(value: float, whole: float) -> float:
    return value / whole if whole > 0 else 0.0
