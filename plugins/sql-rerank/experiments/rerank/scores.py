"""What each arm puts first on the test questions, and whether that is right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import arms
import numpy as np
import numpy.typing as npt
from items import FORMS, Item, Judged

from sltcore.experiment.bootstrap import Stats

Right = npt.NDArray[np.bool_]
FIRST, ORACLE = "first pass", "oracle"


class Scores:
    """Orders of every arm, made once and kept in `folder`."""

    def __init__(self, items: Sequence[Item], judged: Judged, tuned: Mapping[str, Any], folder: Path) -> None:
        self.items, self.judged, self.tuned, self.folder = items, judged, tuned, folder
        self.specs = arms.specs(tuned)

    @property
    def both(self) -> str:
        """The arm that stands for both rerankers, chosen on the tune lists."""
        return str(self.tuned["both"])

    @cached_property
    def databases(self) -> list[str]:
        """Of each item."""
        return [item.database for item in self.items]

    def orders(self, arm: str, *, synonym: bool = False) -> list[arms.Order]:
        """The order of each item's candidates."""
        if arm == FIRST:
            return [list(range(len(item.candidates))) for item in self.items]
        if arm == ORACLE:
            return [arms.order_of(row[:, 0]) for row in self.judged.right]
        spec = self.specs[arm]
        return self._kept([spec, synonym], lambda: arms.orders(spec, self.items, synonym=synonym))  # type: ignore[no-any-return]

    def drawn(self, arm: str) -> list[list[arms.Order]]:
        """Orders of an arm that draws, for each seed."""
        if arm == "shuffled-plan":
            spec = [arm, self.specs["plan"], arms.SHUFFLES]
            return self._kept(spec, lambda: arms.shuffled_plan(self.tuned, self.items, self.folder))  # type: ignore[no-any-return]
        return arms.random_order(self.items, range(arms.SHUFFLES))

    def right(self, orders: Sequence[arms.Order], form: str = FORMS[0], place: int = 0) -> Right:
        """Whether the candidate at a place of each order is right, [n] bool."""
        column = FORMS.index(form)
        return np.array(
            [
                row[order[min(place, len(order) - 1)], column]
                for row, order in zip(self.judged.right, orders, strict=True)
            ]
        )

    def arm(self, name: str, form: str = FORMS[0], *, synonym: bool = False) -> Right:
        """`right` of an arm that draws nothing."""
        if name == ORACLE:
            return np.array([row[:, FORMS.index(form)].any() for row in self.judged.right])
        return self.right(self.orders(name, synonym=synonym), form)

    def oracle_at(self, n: int, form: str = FORMS[0]) -> Right:
        """Whether one of the first n candidates is right."""
        column = FORMS.index(form)
        return np.array([row[:n, column].any() for row in self.judged.right])

    def runs(self, orders: Sequence[arms.Order]) -> Right:
        """Whether the first candidate is one that the database prepares."""
        return np.array([row[order[0]] for row, order in zip(self.judged.runs, orders, strict=True)])

    def _kept(self, key: Any, make: Callable[[], Any]) -> Any:
        lists = [
            [item.id, [h.text for h in item.candidates], [h.score for h in item.candidates]] for item in self.items
        ]
        text = json.dumps([key, lists], sort_keys=True)
        file = self.folder / f"orders-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            made = make()
            file.with_suffix(".new").write_text(json.dumps(made), encoding="utf-8")
            file.with_suffix(".new").replace(file)
        return json.loads(file.read_text(encoding="utf-8"))


def stats(*rights: Right) -> Stats:
    """[s n 1] of one row for each seed."""
    return np.stack(rights)[..., None].astype(np.float64)
