"""Bootstrap replicates of any metric's values, many at once: weights of clusters times sums of statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sltcore.errors import DataError, ShapeError
from sltcore.experiment.bootstrap import Clusters, Reduce, Stats

Rows = npt.NDArray[np.intp]

BLOCK = 4_000_000  # weights that are held at once, 32 MB
CHECKED = 16  # replicates of each seed that are computed again without the short cut, beside the outermost
OUTERMOST = 2  # on either side
EXACT = 1e-9  # relative difference that counts as none


class Replicated(NamedTuple):
    """One value of one system: on all items [s], and in each replicate [r s], for each of its s seeds."""

    unit: str
    values: Stats
    replicates: Stats


class Draws:
    """Which clusters each replicate holds and how often, and weights of seeds; the same for all systems, as pairs need.

    **Shapes**: `clusters` [n] labels, equal ones are drawn together; without it each item is its own cluster.
    **Raises** `ShapeError` when clusters is not [n], `DataError` for no items or fewer than 2 replicates.
    """

    def __init__(
        self,
        items: int,
        *,
        clusters: Sequence[Hashable] | None = None,
        replicates: int = 10_000,
        generator: np.random.Generator,
    ) -> None:
        if items < 1:
            raise DataError("there are no items, so there is nothing to resample; expected at least one")
        if replicates < 2:
            raise DataError(f"replicates is {replicates}, expected at least 2; 10000 is usual")
        self.items = items
        self.replicates = replicates
        self._clusters = Clusters(items, clusters)
        self.clusters = self._clusters.count
        self._entropy = [int(word) for word in generator.integers(2**32, size=4)]
        self._block = max(1, BLOCK // self.clusters)

    def sums(self, features: Stats) -> Stats:
        """Sums over the drawn items of each column of `features` [n q]: [r q]."""
        order = self._clusters
        within = np.add.reduceat(features[order.rows], order.starts, axis=0)
        return np.concatenate([weights @ within for weights in self._weights()])

    def rows(self, chosen: Sequence[int]) -> Iterator[tuple[int, Rows]]:
        """The drawn items of the chosen replicates, in ascending order of replicates."""
        wanted: dict[int, list[int]] = {}
        for replicate in sorted(set(chosen)):
            wanted.setdefault(replicate // self._block, []).append(replicate)
        for block, members in wanted.items():
            counts = self._counts(block)
            for replicate in members:
                drawn = np.repeat(np.arange(self.clusters), counts[replicate - block * self._block])
                yield replicate, self._clusters.pick(drawn)

    def seeds(self, number: int) -> Stats:
        """Weights [r s] whose sum with the values of s > 1 seeds has mean 0 and the variance of the seeds' mean.

        Normal and centred in each replicate (a multiplier bootstrap): a draw with replacement of the three or five
        seeds that one can afford has but a few dozen outcomes, bounded by the outermost seed.
        """
        drawn = self._generator(-1).standard_normal((self.replicates, number))
        weights: Stats = (drawn - drawn.mean(axis=1, keepdims=True)) / math.sqrt(number * (number - 1))
        return weights

    def _generator(self, block: int) -> np.random.Generator:
        return np.random.default_rng([*self._entropy, block + 1])

    def _counts(self, block: int) -> Rows:
        size = min(self._block, self.replicates - block * self._block)
        drawn = self._generator(block).integers(self.clusters, size=(size, self.clusters))
        drawn += self.clusters * np.arange(size)[:, None]
        counts: Rows = np.bincount(drawn.ravel(), minlength=size * self.clusters).reshape(size, self.clusters)
        return counts

    def _weights(self) -> Iterator[Stats]:
        for block in range(math.ceil(self.replicates / self._block)):
            yield self._counts(block).astype(np.float64)


def replicated(
    stats: Stats, reduce: Reduce, draws: Draws, *, names: Sequence[str] | None = None
) -> dict[str, Replicated]:
    """Values of each seed on all items and in each replicate, as `reduce` gives them on the drawn rows.

    Most metrics are ratios of sums, so `reduce` need not see the rows: for each value a form (w . S) / (v . S) is
    sought, S being the sums of the columns, the number of items, and where that does not do the sum of the values of
    single items. It is found as the null space of f (v . S) - w . S over random selections. A value without one is
    asked for on one row of column means, and where `reduce` does not depend on the means alone, on all drawn rows.
    Whatever was found is trusted only if it agrees with `reduce` to 1e-9 on the random selections, on 16 replicates of
    each seed and on the outermost ones; replicates whose denominator vanishes are always given to `reduce`.

    **Shapes**: `stats` [s n k] float64: seeds, items in the same order for every seed, statistics.
    **Raises** `ShapeError` when stats is not [s n k] with the n of draws, `DataError` when reduce lacks a name.
    """
    stats = np.asarray(stats, dtype=np.float64)
    if stats.ndim != 3 or stats.shape[1] != draws.items or not len(stats):
        raise ShapeError(
            f"stats has shape {stats.shape}, expected (s, {draws.items}, k): seeds, items, statistics of each item"
        )
    whole = [reduce(rows) for rows in stats]
    wanted = list(whole[0]) if names is None else list(names)
    for name in wanted:
        if name not in whole[0]:
            raise DataError(f"the metric gives no value named {name!r}; it gives {', '.join(sorted(whole[0]))}")
    found = _Shortcuts(stats, reduce, draws, wanted).values()
    return {
        name: Replicated(whole[0][name].unit, np.array([float(values[name].value) for values in whole]), found[name])
        for name in wanted
    }


class _Shortcuts:
    """Replicates of the wanted values by the quickest way that agrees with `reduce`."""

    def __init__(self, stats: Stats, reduce: Reduce, draws: Draws, names: Sequence[str]) -> None:
        self.stats = stats
        self.reduce = reduce
        self.draws = draws
        self.names = names
        self.source = np.random.default_rng(0)  # of selections that check; no result depends on it

    def values(self) -> dict[str, Stats]:
        seeds, items, columns = self.stats.shape
        every = self.stats.reshape(seeds * items, columns)
        features = np.concatenate([every, np.ones((len(every), 1))], axis=1)
        selections = self._selections(len(every), columns)
        answers = [self._reduced(every[rows]) for rows in selections]
        forms: dict[str, Form] = {}
        for name in self.names:
            asked = np.array([answer[name] for answer in answers])
            form = ratio_form(features, selections, asked)
            if form is None:
                single = np.nan_to_num(self._single(every, name), nan=0.0, posinf=0.0, neginf=0.0)
                wider = np.concatenate([features, single[:, None]], axis=1)
                form = ratio_form(wider, selections, asked)
                features = wider if form is not None else features
            if form is not None:
                forms[name] = form
        width = features.shape[1]
        sums = self.draws.sums(
            features.reshape(seeds, items, width).transpose(1, 0, 2).reshape(items, seeds * width)
        ).reshape(-1, seeds, width)
        found = self._checked({name: form.of(sums) for name, form in forms.items()})
        left = [name for name in self.names if name not in found]
        if left and self._of_means(every, selections, answers, left):
            means = sums[..., :columns] / sums[..., columns : columns + 1]
            found |= self._checked(self._called(left, lambda r, j: means[r, j][None]))
            left = [name for name in left if name not in found]
        return found | (self._direct(left) if left else {})

    def _reduced(self, rows: Stats) -> dict[str, float]:
        return {name: float(value.value) for name, value in self.reduce(rows).items()}

    def _selections(self, rows: int, columns: int) -> list[Rows]:
        """Few rows each, as sums of many are all alike and say little about the form."""
        sizes = np.exp(self.source.uniform(0, math.log(min(rows, 200) + 1), 24 + 12 * columns)).astype(int)
        return [self.source.integers(rows, size=max(1, size)) for size in sizes]

    def _single(self, every: Stats, name: str) -> Stats:
        distinct, place = np.unique(every, axis=0, return_inverse=True)
        alone = np.array([self._reduced(row[None])[name] for row in distinct])
        return alone[place.reshape(-1)]

    def _of_means(
        self, every: Stats, selections: list[Rows], answers: list[dict[str, float]], names: list[str]
    ) -> bool:
        sizes = {name: _size(np.array([answer[name] for answer in answers])) for name in names}
        for rows, answer in zip(selections, answers, strict=True):
            asked = self._reduced(every[rows].mean(axis=0)[None])
            if not all(_agree(asked[name], answer[name], sizes[name]) for name in names):
                return False
        return True

    def _called(self, names: list[str], rows: Callable[[int, int], Stats]) -> dict[str, Stats]:
        shape = (self.draws.replicates, len(self.stats))
        found = {name: np.empty(shape) for name in names}
        for r in range(shape[0]):
            for j in range(shape[1]):
                answer = self._reduced(rows(r, j))
                for name in names:
                    found[name][r, j] = answer[name]
        return found

    def _direct(self, names: list[str]) -> dict[str, Stats]:
        shape = (self.draws.replicates, len(self.stats))
        found = {name: np.empty(shape) for name in names}
        for r, rows in self.draws.rows(range(shape[0])):
            for j in range(shape[1]):
                answer = self._reduced(self.stats[j][rows])
                for name in names:
                    found[name][r, j] = answer[name]
        return found

    def _checked(self, candidates: dict[str, Stats]) -> dict[str, Stats]:
        """Candidates that agree with `reduce`; where one is not a number, reduce's answer is put in its place."""
        if not candidates:
            return {}
        total = self.draws.replicates
        sample = self.source.choice(total, size=min(CHECKED, total), replace=False)
        asked: dict[int, set[int]] = {}
        for j in range(len(self.stats)):
            chosen = set(sample.tolist())
            for values in candidates.values():
                ranked = np.argsort(values[:, j], kind="stable")
                chosen.update(ranked[:OUTERMOST].tolist(), ranked[-OUTERMOST:].tolist())
                chosen.update(np.flatnonzero(~np.isfinite(values[:, j])).tolist())
            for replicate in chosen:
                asked.setdefault(replicate, set()).add(j)
        agreeing = set(candidates)
        sizes = {name: _size(values) for name, values in candidates.items()}
        for replicate, rows in self.draws.rows(list(asked)):
            for j in asked[replicate]:
                answer = self._reduced(self.stats[j][rows])
                for name, values in candidates.items():
                    if not np.isfinite(values[replicate, j]):
                        values[replicate, j] = answer[name]
                    elif not _agree(values[replicate, j], answer[name], sizes[name]):
                        agreeing.discard(name)
        return {name: values for name, values in candidates.items() if name in agreeing}


class Form(NamedTuple):
    """A value as a ratio of weighted sums: numerator . S / denominator . S."""

    numerator: Stats
    denominator: Stats

    def of(self, sums: Stats) -> Stats:
        """The value for each [... q] of sums; columns that were added after the form was found are not used. NaN where
        the denominator vanishes."""
        used = sums[..., : len(self.numerator)]
        below = used @ self.denominator
        size = np.abs(used) @ np.abs(self.denominator)
        with np.errstate(divide="ignore", invalid="ignore"):
            result: Stats = np.where(np.abs(below) > EXACT * size, (used @ self.numerator) / below, np.nan)
        return result


def ratio_form(features: Stats, selections: Sequence[Rows], values: Stats) -> Form | None:
    """The form (w . S) / (v . S) that gives `values` [m] on the sums S of the selected rows of `features` [N q].

    f (v . S) - w . S = 0 is linear in (v, w): its null space, in a basis of what the rows span, holds every such form;
    of those, the one whose denominators are nearest to the number of rows is taken. None where there is none.
    """
    said = np.isfinite(values)
    scale = np.abs(features).max(axis=0)
    scale[scale == 0] = 1.0
    scaled = features / scale
    weight, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    basis = vectors[:, weight > 1e-12 * weight[-1]]
    rank = basis.shape[1]
    if said.sum() < 2 * rank + 4:
        return None
    means = np.array([scaled[rows].mean(axis=0) for rows, kept in zip(selections, said, strict=True) if kept]) @ basis
    known = values[said]
    size = _size(known)
    _, singular, right = np.linalg.svd(np.concatenate([known[:, None] / size * means, -means], axis=1))
    null = right[singular < 1e-11 * singular[0]]
    if not len(null):
        return None
    mixed, *_ = np.linalg.lstsq(means @ null[:, :rank].T, np.ones(len(means)), rcond=None)
    below, above = null[:, :rank].T @ mixed, null[:, rank:].T @ mixed * size
    divisor = means @ below
    if np.abs(divisor).min() < EXACT or np.abs((means @ above) / divisor - known).max() > EXACT * size:
        return None
    return Form(basis @ above / scale, basis @ below / scale)


def _agree(a: float, b: float, size: float) -> bool:
    """Equal to 1e-9 of themselves or of `size`, NaN beside NaN."""
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=EXACT, abs_tol=EXACT * size)


def _size(values: Stats) -> float:
    """What a value usually amounts to, at least 0.001, so that rounding beside 0 is not taken for a difference."""
    finite = values[np.isfinite(values)]
    return max(1e-3, float(np.abs(finite).max())) if len(finite) else 1.0
