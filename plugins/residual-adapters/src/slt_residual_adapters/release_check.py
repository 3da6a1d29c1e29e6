"""What a release pipeline asks of updates: what general audio loses, and which taught words it hears that nobody said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from slt_residual_adapters.conflicts import Conflict, Move, Moves
from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.selection import UPDATES, occurrences, spoken_words
from sltcore.errors import DataError, PluginError
from sltcore.experiment.bootstrap import Stats, paired_difference
from sltcore.interfaces import Value
from sltcore.types import Item

SEED = 0


class Insertions(NamedTuple):
    """How often general audio was heard to hold what an update teaches where it does not: with the base alone, and with all
    updates."""

    name: str
    base: int
    updated: int


class Limits(NamedTuple):
    """What a release may do to general audio. None: no limit.

    - `wer_increase`: of the word error rate, relative to the base's: 0.01 is one percent of it;
    - `upper`: whether that is asked of the upper end of its 95 % interval, and not of the measured value;
    - `false_insertions`: more than the base has; `same_frames`: of any two updates, see `Conflict`.
    """

    wer_increase: float | None = 0.01
    upper: bool = False
    false_insertions: int | None = 0
    same_frames: float | None = None


class ReleaseCheck(NamedTuple):
    """What was measured on `utterances` of general audio, with `failures` in words: empty where all limits hold.

    `wer` and `base_wer` are percentages; `increase` is their difference over the base's with its 95 % interval by a paired
    bootstrap over utterances.
    """

    utterances: int
    words: int
    base_wer: float
    wer: float
    increase: float
    increase_low: float
    increase_high: float
    moves: tuple[Move, ...]
    together: float
    conflicts: tuple[Conflict, ...]
    insertions: tuple[Insertions, ...]
    failures: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Every number as plain data."""
        found = self._asdict()
        for name in ("moves", "conflicts", "insertions"):
            found[name] = [one._asdict() for one in found[name]]
        return {**found, "failures": list(self.failures)}


def check_release(
    pipeline: Any, items: Iterable[Item], *, names: Sequence[str] | None = None, limits: Limits | None = None
) -> ReleaseCheck:
    """Measure a pipeline with updates on general audio, with `names` of them on (None: all) and with none.

    Utterances are called one by one. `same_frames` and the like are of the base's own frames. **Raises** `PluginError` for a
    pipeline without updates, `DataError` for items without texts, and what the pipeline raises.
    """
    limits = Limits() if limits is None else limits
    adapters = next((one for one in pipeline.transforms if isinstance(one, ResidualAdapters)), None)
    if adapters is None or not adapters.updates:
        raise PluginError("the pipeline has no updates to check; add some with `slt adapters add`")
    chosen = list(adapters.updates) if names is None else [adapters.update(name).name for name in names]
    spoken = [item for item in items if item.text is not None and spoken_words(item.text)]
    if not spoken:
        raise DataError("no utterance has a text, so nothing can be counted; give a manifest with a column text")
    moves = Moves(adapters, chosen)
    with moves.watching():
        plain = _heard(pipeline, spoken, [])
    changed = _heard(pipeline, spoken, chosen)
    texts = [str(item.text) for item in spoken]
    before, after = _statistics(texts, plain), _statistics(texts, changed)
    base_wer, wer = _rate(before), _rate(after)
    low, high = _relative(after, before)
    insertions = tuple(
        Insertions(
            name,
            _false(texts, plain, adapters.updates[name].words),
            _false(texts, changed, adapters.updates[name].words),
        )
        for name in chosen
    )
    increase = (wer - base_wer) / base_wer if base_wer else (0.0 if wer == base_wer else float("inf"))
    found = ReleaseCheck(
        len(spoken),
        int(before[:, 1].sum()),
        base_wer,
        wer,
        increase,
        low,
        high,
        tuple(moves.moves()),
        moves.together(),
        tuple(moves.conflicts()),
        insertions,
        (),
    )
    return found._replace(failures=tuple(_failures(found, limits)))


def _failures(found: ReleaseCheck, limits: Limits) -> Iterable[str]:
    value = found.increase_high if limits.upper else found.increase
    if limits.wer_increase is not None and not value <= limits.wer_increase:
        what = "may rise" if limits.upper else "rises"
        yield (
            f"word errors on general audio {what} by {100 * value:.2f} % of the base's, allowed are "
            f"{100 * limits.wer_increase:.2f} %"
        )
    if limits.false_insertions is not None:
        for one in found.insertions:
            if one.updated - one.base > limits.false_insertions:
                yield (
                    f"update '{one.name}': its words are heard {one.updated - one.base} times more than the base hears them "
                    f"where nobody says them, allowed are {limits.false_insertions}"
                )
    if limits.same_frames is not None:
        for pair in found.conflicts:
            if pair.same_frames > limits.same_frames:
                yield (
                    f"updates '{pair.first}' and '{pair.second}' move the same frames ({pair.same_frames:.2f}), allowed are "
                    f"{limits.same_frames:.2f}"
                )


def _heard(pipeline: Any, items: Sequence[Item], names: list[str]) -> list[str]:
    outputs = pipeline.run(items, batch_size=1, **{UPDATES.name: names})
    return [output.value.text for output in outputs]


def _statistics(texts: Sequence[str], heard: Sequence[str]) -> Stats:
    """[n 2]: word errors and reference words of each utterance."""
    rows = [
        (word_errors(spoken_words(text), spoken_words(other)), len(spoken_words(text)))
        for text, other in zip(texts, heard, strict=True)
    ]
    return np.array(rows, dtype=np.float64)


def word_errors(reference: Sequence[str], heard: Sequence[str]) -> int:
    """The fewest substitutions, deletions and insertions that turn one into the other.

    >>> word_errors("play the song".split(), "play song now".split())
    2
    """
    row = list(range(len(heard) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
            diagonal, row[j] = row[j], best
    return row[-1]


def _rate(stats: Stats) -> float:
    return 100.0 * float(stats[:, 0].sum() / stats[:, 1].sum())


def _relative(after: Stats, before: Stats) -> tuple[float, float]:
    """The 95 % interval of the increase over the base's rate, by a paired bootstrap of the difference."""
    base = _rate(before)
    if len(before) < 2 or not base:
        return (0.0, 0.0) if np.array_equal(after, before) else (float("nan"), float("nan"))
    generator = np.random.default_rng(SEED)
    found = paired_difference(after, before, lambda rows: {"wer": Value(_rate(rows), "%")}, generator=generator)["wer"]
    return found.low / base, found.high / base


def _false(texts: Sequence[str], heard: Sequence[str], words: Sequence[str]) -> int:
    """How often one of `words` is heard more often than it is said, summed over utterances."""
    return sum(
        max(0, occurrences(other, word) - occurrences(text, word))
        for text, other in zip(texts, heard, strict=True)
        for word in words
    )
