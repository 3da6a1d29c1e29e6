"""slt reproduce: run a plugin's experiment, and write the report with its verdict."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltcore.cli.console import Console, counted, table
from sltcore.cli.specs import Settings
from sltcore.errors import SltError

if TYPE_CHECKING:
    from sltcore.experiment import Experiment, Results

EXIT_PARTLY = 1
SMALL, FULL = "small", "full"
ENDINGS = (".yaml", ".yml", ".json")


def reproduce(
    experiment: Annotated[
        str | None,
        typer.Argument(
            metavar="[PLUGIN[/EXPERIMENT]|FILE]",
            help="a plugin's experiment, main if no name is given, or the file of one; nothing: a list of all",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="NAME", help="a size of the experiment: smoke, small (if it has one) or full, as written"
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, max=1000, help="only the seeds 0 to N-1")] = None,
    engine: Annotated[str, typer.Option("--engine", metavar="NAME", help="local, or ray for many machines")] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=10_000, help="units that run at the same time")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="where results go (runs/PLUGIN-EXPERIMENT-SIZE)")
    ] = None,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="without an experiment: the list as JSON")] = False,
) -> None:
    """Run an experiment with its seeds, decide its claims, and write report.json and report.html.

    Units that are finished in DIR are not run again; an interrupted run is continued by the same call. A unit that fails
    is reported and the rest goes on. Exit codes: 0 all done, 1 some units failed, 2 nothing could be run.
    """
    if experiment is None:
        _list(as_json=as_json)
        return
    chosen = _chosen(experiment)
    size = size if size is not None else SMALL if SMALL in chosen.sizes else FULL
    place = out if out is not None else Path("runs") / "-".join([*filter(None, (chosen.plugin, chosen.name)), size])
    from sltcore.experiment.run import run_experiment

    start = time.perf_counter()
    results = run_experiment(
        chosen.path,
        out=place,
        size=size,
        seeds=seeds,
        engine=engine,
        workers=workers,
        overrides=settings or (),
        progress=_progress(place),
    )
    _report(place, failed=bool(results.failed))
    states = Counter(result.state for _, result in results.units)
    told = ", ".join(f"{states[state]} {state}" for state in ("done", "reused", "failed", "skipped") if states[state])
    Console().say(f"{counted(len(results.units), 'unit')} ({told}) in {time.perf_counter() - start:.0f} s")
    if results.failed:
        _complain(results)
        raise typer.Exit(EXIT_PARTLY)


def _list(*, as_json: bool) -> None:
    from sltcore.experiment.discover import all_experiments

    found = all_experiments()
    if as_json:
        rows = [
            {"experiment": e.address, "sizes": [*e.sizes, FULL], "title": e.title, "path": str(e.path)} for e in found
        ]
        Console().result(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    if not found:
        Console().say("no installed plugin brings an experiment")
        return
    Console().result(
        table(
            ["experiment", "sizes", "title"],
            [[e.address, ",".join(dict.fromkeys([*e.sizes, FULL])), e.title[:80]] for e in found],
        )
    )


def _chosen(experiment: str) -> Experiment:
    """The experiment of a plugin, or that of a file."""
    from sltcore.experiment.discover import described, find_experiment

    path = Path(experiment)
    if path.suffix in ENDINGS:
        return described("", path)
    return find_experiment(experiment)


def _report(place: Path, *, failed: bool) -> None:
    """Judge the claims and write the page; where units failed, there may be too little to judge."""
    from sltcore.experiment.summary import summarize
    from sltcore.report.page import write

    console = Console()
    try:
        report = summarize(place)
        data, page = write(report, place)
    except SltError as error:
        if not failed:
            raise
        console.warn(f"no report: {error}")
        return
    for verdict in report.verdicts:
        console.result(_told(verdict))
    console.say(f"wrote {data} and {page}")


def _told(verdict: Any) -> str:
    """A verdict on one line."""
    from sltcore.report.numbers import interval, number

    claim = verdict.text or f"{verdict.arm} against {verdict.versus}: {verdict.value}"
    if verdict.effect is None:
        return f"{verdict.verdict}: {claim}" + (f" ({verdict.note})" if verdict.note else "")
    ends = interval(verdict.low, verdict.high, sign=True)
    return f"{verdict.verdict}: {claim}: {number(verdict.effect, sign=True)} {verdict.effect_unit} {ends}".rstrip()


def _complain(results: Results) -> None:
    console = Console()
    for unit, result in results.failed:
        if result.state == "failed":
            console.error(f"{unit.label}: {result.error}")
    skipped = sum(result.state == "skipped" for _, result in results.units)
    beside = f", {skipped} that need them were skipped" if skipped else ""
    lost = len(results.failed) - skipped
    console.warn(f"{counted(lost, 'unit')} failed{beside}; mend it and run the same command, finished units are kept")


def _progress(place: Path) -> Any:
    """A line for each unit, with a bar and what is running below them while a person watches."""
    from sltcore.cli.watching import Lines, Watched

    watched = not Console.quiet and not Console.json and sys.stderr.isatty()
    return Watched(place / "units") if watched else Lines()
