"""Rerank the committed lists, judge every arm, and write the report.

    SLT_DATA=DATA python run.py --lists ../first_pass/lists --out OUT

DATA/spider holds the data. Settings come from tuned.json beside this file; `--tune` finds them anew, from the tune lists alone.
What was found is kept in OUT, so a second call takes seconds.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import report
import torch
import tuning
from items import Judged, Spider, read_items
from scores import Scores

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune where that is asked for, then the test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=Path, default=HERE.parent / "first_pass" / "lists")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SLT_DATA", ".")) / "spider")
    parser.add_argument("--name", default="", help="of the lists: dev-NAME.jsonl.gz and tune-NAME.jsonl.gz")
    parser.add_argument("--tuned", type=Path, help="file of the settings; tuned.json beside this file if not given")
    parser.add_argument("--tune", action="store_true", help="write the settings anew")
    parser.add_argument("--no-test", action="store_true", help="stop after tuning")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ending = f"-{given.name}" if given.name else ""
    spider = Spider(given.data, given.out / "databases")
    settings = given.tuned or HERE / f"tuned{ending}.json"
    if given.tune:
        items = read_items(given.lists / f"tune{ending}.jsonl.gz", spider, "tune")
        tuned = tuning.tune(items, Judged(items, spider, given.out / "kept"))
        settings.write_text(json.dumps(tuned, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(tuned, indent=1))
    if given.no_test:
        return
    tuned = json.loads(settings.read_text(encoding="utf-8"))
    items = read_items(given.lists / f"dev{ending}.jsonl.gz", spider, "dev")
    scores = Scores(items, Judged(items, spider, given.out / "kept"), tuned, given.out / "kept")
    facts = json.loads((given.lists / f"facts{ending}.json").read_text(encoding="utf-8"))
    command = f"SLT_DATA=DATA python run.py --out OUT{f' --name {given.name}' if given.name else ''}"
    for path in report.write_report(scores, facts, command, given.out):
        print(path)


if __name__ == "__main__":
    main()
