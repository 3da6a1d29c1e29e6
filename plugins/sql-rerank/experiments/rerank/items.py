"""Questions with their candidates, and which candidates are right."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_sql_rerank.databases import Sandboxes, schema_of
from slt_sql_rerank.metrics.hardness import hardness
from sltcore.pipeline import build_component
from sltcore.types import Hypothesis, NBest

sys.path.append(str(Path(__file__).parents[1] / "first_pass"))
from spider import Spider

FORMS = ("execution-strict", "execution", "exact-match-strict", "exact-match")
"""Columns of `right`: how a candidate is judged; the first is what the claims are about."""


class Item(NamedTuple):
    """One question of Spider; `synonym` asks the same in other words."""

    id: str
    database: str
    file: Path
    question: str
    synonym: str
    gold: str
    candidates: NBest

    def asked(self, *, synonym: bool) -> str:
        """What rerankers are told."""
        return self.synonym if synonym else self.question


def read_items(lists: Path, spider: Spider, split: str) -> list[Item]:
    """The questions of a split with their lists, in the order of the file; a list without candidates holds the empty text."""
    with gzip.open(lists, "rt", encoding="utf-8") as file:
        rows = {row["id"]: row for row in map(json.loads, file)}
    found = []
    for question in spider.questions(split):
        row = rows[question.id]
        given = NBest(Hypothesis(one["sql"], one["score"]) for one in row["candidates"]) or NBest([Hypothesis("", 0.0)])
        place = spider.database(question.db_id).resolve()
        found.append(
            Item(
                question.id, question.db_id, place, question.question, question.question_synonym, question.query, given
            )
        )
    return found


class Judged:
    """Which candidates of which items are right, found once and kept in `folder`."""

    def __init__(self, items: Sequence[Item], spider: Spider, folder: Path) -> None:
        self.items, self.spider, self.folder = items, spider, folder

    @cached_property
    def right(self) -> list[npt.NDArray[np.bool_]]:
        """For each item [k forms] bool."""
        rows = self._kept("right", self._judge)
        return [np.array(row, dtype=bool).reshape(-1, len(FORMS)) for row in rows]

    @cached_property
    def runs(self) -> list[list[bool]]:
        """For each item, which candidates the database prepares."""
        found: list[list[bool]] = self._kept("runs", self._prepare)
        return found

    @cached_property
    def levels(self) -> list[str]:
        """Easy, medium, hard or extra, by the gold query."""
        found: list[str] = self._kept("levels", self._levels)
        return found

    def _judge(self) -> list[list[list[bool]]]:
        outputs = [one.text for item in self.items for one in item.candidates]
        labels = [{"query": item.gold, "database": str(item.file)} for item in self.items for _ in item.candidates]
        columns = []
        for use in ("execution", "exact-match"):
            options = {"tables": str(self.spider.folder / "tables.json")} if use == "exact-match" else {}
            if use == "exact-match":
                labels = [
                    {"query": item.gold, "database": item.database} for item in self.items for _ in item.candidates
                ]
            metric: Any = build_component("metric", use, {"forms": ["official", "strict"], **options})
            metric.update(outputs, labels)
            columns.append(metric.per_item()[:, ::-1])  # strict first
        stacked = np.concatenate(columns, axis=1).astype(bool)
        sizes = np.cumsum([len(item.candidates) for item in self.items])[:-1]
        return [part.tolist() for part in np.split(stacked, sizes)]

    def _prepare(self) -> list[list[bool]]:
        with Sandboxes() as sandboxes:
            return [
                [one.ok for one in sandboxes.of(str(item.file)).check_all([h.text for h in item.candidates])]
                for item in self.items
            ]

    def _levels(self) -> list[str]:
        tables = self.spider.folder / "tables.json"
        found = []
        for item in self.items:
            schema = schema_of(f"{tables}#{item.database}")
            assert schema is not None
            found.append(str(hardness(item.gold, schema)))
        return found

    def _kept(self, name: str, make: Any) -> Any:
        """The value of `make`, from a file that is for just these items."""
        text = json.dumps([[item.id, item.gold, [h.text for h in item.candidates]] for item in self.items])
        file = self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            made = make()
            file.with_suffix(".new").write_text(json.dumps(made), encoding="utf-8")
            file.with_suffix(".new").replace(file)
        return json.loads(file.read_text(encoding="utf-8"))
