"""slt plugins, doctor, new-plugin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sltcore.cli.console import Console, counted, table
from sltcore.cli.readers import reader_differences, strangers
from sltcore.errors import SltError
from sltcore.plugin import API_VERSION, ENTRY_POINT_GROUP, KINDS
from sltcore.registry import Row, probe, scan
from sltcore.registry.announcements import settings_problems

Folders = Annotated[
    list[Path] | None,
    typer.Option(
        "--path",
        metavar="DIR",
        help="look only into this folder of installed distributions, with both readers; may repeat",
    ),
]


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON list on standard output")] = False,
    path: Folders = None,
) -> None:
    """List plugins with origin, version and components; what is wrong with one stands in its row, with the remedy.

    Plugins are loaded in a child process: one that hangs, exits or crashes is stopped after SLT_PLUGIN_TIMEOUT seconds (5).
    SLT_PLUGINS=a,b allows only those (empty: none), SLT_DISABLE=a keeps some out.
    """
    folders = _folders(path)
    rows = probe(folders)
    for problem in settings_problems(scan(folders)):
        Console().warn(problem)
    if as_json:
        Console().result(json.dumps([row.to_dict() for row in rows], ensure_ascii=False, indent=1))
        return
    if not rows:
        Console().result(f"no plugin announces itself in group '{ENTRY_POINT_GROUP}'; try: pip install sltcore-speech")
        return
    Console().result(
        table(["plugin", "distribution", "version", "status", "components"], [_cells(row) for row in rows])
    )
    for row in rows:
        if row.problem:
            Console().result(f"{row.plugin}: {row.problem}. Next: {row.remedy}")
    if folders:
        for difference in reader_differences(folders):
            Console().warn(difference)


def _folders(path: list[Path] | None) -> list[str] | None:
    for folder in path or []:
        if not folder.is_dir():
            raise SltError(
                f"--path {folder}: there is no such folder; give one that holds installed distributions, such as a site-packages"
            )
    return [str(folder.resolve()) for folder in path] if path else None


def _cells(row: Row) -> list[str]:
    components = " ".join(f"{component.kind}/{component.name}" for component in row.components)
    return [row.plugin, row.distribution, row.version, row.status, components or "-"]


def doctor(path: Folders = None) -> None:
    """Compare two independent readers of entry points, and name what is stale, shadowed or a stranger.

    Exit code 1 when anything is wrong.
    """
    folders = _folders(path)
    problems = [*settings_problems(scan(folders)), *reader_differences(folders), *strangers(folders)]
    rows = probe(folders, configs=None)
    for row in rows:
        if row.problem:
            problems.append(
                f"{row.plugin} ({row.distribution} {row.version}) is {row.status}: {row.problem}. Next: {row.remedy}"
            )
        problems += row.faults.values()
    console = Console()
    components = sum(len(row.components) - len(row.faults) for row in rows if row.usable)
    console.result(
        f"plugin API {API_VERSION[0]}.{API_VERSION[1]}; {counted(len(rows), 'plugin')}, {counted(components, 'component')}"
    )
    for problem in problems:
        console.result(f"- {problem}")
    console.result("nothing is wrong" if not problems else f"{len(problems)} to look at")
    if problems:
        raise typer.Exit(1)


def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="lower-case words joined by hyphens")],
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help=f"one of: {', '.join(KINDS)}")],
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="where to put the new folder")] = Path(),
) -> None:
    """Write a complete plugin: it installs, appears in `slt plugins`, and passes the conformance kit."""
    from sltcore.testing.template import new_plugin as write

    written = write(name, kind, folder)
    console = Console()
    console.result("\n".join(str(path) for path in written))
    root = folder / name if (folder / name).exists() else written[0].parent
    console.say(f"next: pip install -e {root}, then pytest --pyargs sltcore.testing.conformance --slt-plugin {name}")
