"""What a training run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Trained(NamedTuple):
    """The end of a training run.

    `bundle` is the result: the best weights, or the last where nothing was evaluated; `last` is the bundle of the last
    weights. `values` are those of the last evaluation, by METRIC.VALUE and `loss`; `best` holds `step`, `name`, `value`
    and `values` of the evaluation that decided, and is empty without one. `skipped` names utterances that were not
    learned from, with the reason; `history` is metrics.jsonl; `privacy` what a mechanism spent. `utterances` are those
    that could be learned from, `minutes` their sound.
    """

    bundle: Path
    last: Path
    steps: int
    seconds: float
    values: dict[str, float]
    best: dict[str, Any]
    skipped: dict[str, str]
    history: Path
    privacy: Mapping[str, Any] = {}
    utterances: int = 0
    minutes: float = 0.0

    def to_dict(self, folder: Path) -> dict[str, Any]:
        """Plain data, paths relative to the run's `folder`."""
        paths = {name: getattr(self, name).relative_to(folder).as_posix() for name in ("bundle", "last", "history")}
        return {**self._asdict(), **paths}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], folder: Path) -> Trained:
        """What `to_dict` gave, for the run that stands in `folder`."""
        paths = {name: folder / data[name] for name in ("bundle", "last", "history")}
        return cls(**{**{name: data[name] for name in cls._fields if name in data}, **paths})
