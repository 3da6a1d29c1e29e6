"""Lay out Spider as the experiments read it: questions of the hub, databases and schemas of the official archive.

    python fetch.py --archive spider_data.zip --out SPIDER

The archive (or a folder that holds its files) is what the homepage in spider-hub.yaml gives. `--hub` names another data set of
`datasets`, or a folder of one. Every gold query is run in the sandbox; questions whose query does not run are marked and left out
of training and tests. There are no synonyms in Spider: `question_synonym` is the question again.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from slt_sql_rerank.databases import Sandboxes
from sltcore.errors import DataError, SltError

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Write train.jsonl, dev.jsonl, tables.json and the archives of databases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hub", help="instead of the data set that spider-hub.yaml names")
    given = parser.parse_args(arguments)
    source = yaml.safe_load((HERE / "spider-hub.yaml").read_text(encoding="utf-8"))
    given.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = given.archive
        if not folder.is_dir():
            folder = Path(stack.enter_context(TemporaryDirectory()))
            with zipfile.ZipFile(given.archive) as archive:
                archive.extractall(folder)
        tables = _one(folder, "tables.json")
        databases = {
            path.stem: path
            for path in sorted(tables.parent.glob("database/*/*.sqlite"))
            if path.parent.name == path.stem
        }
        if not databases:
            raise DataError(
                f"{given.archive} holds no database/NAME/NAME.sqlite; expected the archive of {source['homepage']}"
            )
        (given.out / "tables.json").write_bytes(tables.read_bytes())
        with Sandboxes() as sandboxes:
            for split, name in source["splits"].items():
                rows = [
                    _row(f"{split}-{number:05d}", row, source["columns"])
                    for number, row in enumerate(_questions(given.hub or source["hub"], name))
                ]
                _mark(rows, databases, sandboxes)
                lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                (given.out / f"{split}.jsonl").write_text(lines, encoding="utf-8")
                used = sorted({row["db_id"] for row in rows if row["database_here"]})
                with zipfile.ZipFile(given.out / f"databases_{split}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
                    for database in used:
                        packed.write(databases[database], f"{database}/{database}.sqlite")
                print(
                    f"{split}: {len(rows)} questions, {sum(row['executes'] for row in rows)} run, {len(used)} databases"
                )


def _one(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name), key=lambda path: len(path.parts))
    if not found:
        raise DataError(f"{folder} holds no {name}; expected the archive of Spider")
    return found[0]


def _questions(name: str, split: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    try:
        yield from load_dataset(name, split=split)
    except (OSError, ValueError) as error:
        raise DataError(f"the data set {name} cannot be loaded: {str(error).splitlines()[0]}") from error


def _row(identity: str, row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    named = {mine: row[theirs] for mine, theirs in columns.items()}
    return {"id": identity, **named, "question_synonym": named["question"], "touches_missing_table": False}


def _mark(rows: Sequence[dict[str, Any]], databases: dict[str, Path], sandboxes: Sandboxes) -> None:
    """Whether the database is here, whether the gold query runs, and how many rows it gives."""
    for row in sorted(rows, key=lambda one: str(one["db_id"])):
        place = databases.get(row["db_id"])
        row |= {"database_here": place is not None, "executes": False, "rows": 0}
        if place is None:
            continue
        try:
            result = sandboxes.of(str(place)).execute(row["query"], 10.0)
        except SltError:
            continue
        row |= {"executes": result.ok, "rows": len(result.rows)}


if __name__ == "__main__":
    main()
