"""Spider's questions as data sets that plan models are trained and measured on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

HELD_OUT = 16
"""Train databases with rows that no model sees, the same as in `experiments/first_pass`: those with the smallest hashes."""


def held_out(rows: list[dict[str, Any]]) -> list[str]:
    """Their names, smallest hash first."""
    names = {row["db_id"] for row in rows if row["database_here"]}
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:HELD_OUT]


def questions(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """`train`, `held-out` and `dev` as rows with id, question, question_synonym, sql, db_id, and database (a schema)."""
    found: dict[str, list[dict[str, Any]]] = {"train": [], "held-out": [], "dev": []}
    schemas = folder.resolve() / "tables.json"
    for file in ("train", "dev"):
        with (folder / f"{file}.jsonl").open(encoding="utf-8") as opened:
            rows = [json.loads(line) for line in opened]
        out = set(held_out(rows)) if file == "train" else set()
        for row in rows:
            kept = {name: row[name] for name in ("id", "question", "question_synonym", "db_id")}
            kept |= {"sql": row["query"], "database": f"{schemas}#{row['db_id']}"}
            found["held-out" if row["db_id"] in out else file].append(kept)
    return found


def write_sets(found: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """Each as a folder for `datasets`."""
    from datasets import Dataset

    for name, rows in found.items():
        Dataset.from_list(rows).save_to_disk(folder / name)
