"""slt run --engine ray: the same inputs, done by workers, results as parquet files in a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltcore.cli.console import Console
from sltcore.cli.results import shown
from sltcore.errors import SltError, did_you_mean

if TYPE_CHECKING:
    from sltcore.cluster import Advance, Mapped
    from sltcore.pipeline import Item, Pipeline

ENGINES = ("local", "ray")
SHOWN_ERRORS = 20


def folder_for(engine: str, form: str, out: Path | None, workers: int | None) -> Path | None:
    """The folder of a run on Ray; None for a run here. **Raises** `SltError` for options that do not go together."""
    if engine not in ENGINES:
        raise SltError(f"--engine is '{engine}', expected one of: {', '.join(ENGINES)}.{did_you_mean(engine, ENGINES)}")
    if engine == "local":
        if workers is not None:
            raise SltError("--workers needs --engine ray; a run on this machine has --threads")
        return None
    if form != "text":
        raise SltError(f"--{form} does not go with --engine ray, which writes parquet files into the folder of --out")
    if out is None:
        raise SltError("--engine ray writes parquet files; say where with --out FOLDER")
    return out


def run_on_ray(
    pipeline: Pipeline, items: Sequence[Item], folder: Path, **settings: Any
) -> tuple[int, Mapping[str, str | None]]:
    """Map `pipeline` over `items` into `folder`; how many failed, and the text of each other one by id."""
    from sltcore.cluster.dataset import map_items
    from sltcore.cluster.parts import as_unicode

    console = Console()
    with _bar(len(items)) as progress:
        done = map_items(pipeline, items, folder, progress=progress, **settings)
    if done.reused_parts:
        console.say(f"{done.reused_parts} of {done.parts} parts are done already in {folder}")
    failed, texts = _results(folder, has_text=pipeline.produces.type in ("Hypotheses", "Text"))
    _say(done, failed)
    return done.failed, {item.id: texts.get(as_unicode(item.id)) for item in items}


def _results(folder: Path, *, has_text: bool) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Errors and texts by id."""
    from sltcore.cluster.parts import read_results

    rows = read_results(folder, columns=["id", "error", *(["text"] if has_text else [])]).to_pylist()
    failed = [(row["id"], row["error"]) for row in rows if row["error"] is not None]
    return failed, {row["id"]: row["text"] for row in rows if has_text and row["error"] is None}


def _say(done: Mapped, failed: Sequence[tuple[str, str]]) -> None:
    """What a person wants to know at the end."""
    console = Console()
    for name, error in failed[:SHOWN_ERRORS]:
        console.error(error if shown(name) in error else f"{shown(name)}: {error}")
    if done.audio_s:
        again = done.report.get("begun_again", 0)
        lost = f"; {again} parts begun again because a worker died" if again else ""
        console.say(
            f"{done.items - done.failed} of {done.items} inputs, {done.audio_s:.1f} s of audio in {done.wall_s:.1f} s "
            f"({done.map_s:.1f} s without starting{lost}); {done.folder}"
        )
    if failed:
        more = f", {SHOWN_ERRORS} of them shown" if len(failed) > SHOWN_ERRORS else ""
        console.warn(f"{len(failed)} of {done.items} inputs failed{more}; the column error says why, the rest is done")


@contextmanager
def _bar(total: int) -> Iterator[Callable[[Advance], None]]:
    """A bar on standard error while a person watches, and nothing otherwise."""
    if Console.quiet or Console.json or not sys.stderr.isatty():
        yield lambda advance: None
        return
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"), TimeRemainingColumn())
    with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
        task = bar.add_task("run", total=total, failed=0)
        yield lambda advance: bar.update(task, completed=advance.done, failed=advance.failed)
