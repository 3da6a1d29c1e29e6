"""slt plugins, doctor, new-plugin."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from sltcore.cli.console import Console, table
from sltcore.errors import SltError
from sltcore.plugin import API_VERSION, ENTRY_POINT_GROUP, KINDS
from sltcore.registry import Row, probe, scan

Folders = Annotated[
    list[Path] | None,
    typer.Option("--path", metavar="DIR", help="look only into this folder of installed distributions; may repeat"),
]


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON list on standard output")] = False,
    path: Folders = None,
) -> None:
    """List plugins with origin, version and components; what is wrong with one stands in its row, with the remedy.

    Plugins are loaded in a child process: one that hangs, exits or crashes is stopped after SLT_PLUGIN_TIMEOUT seconds (5).
    SLT_PLUGINS=a,b allows only those (empty: none), SLT_DISABLE=a keeps some out.
    """
    rows = probe(_folders(path))
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


def _folders(path: list[Path] | None) -> list[str] | None:
    for folder in path or []:
        if not folder.is_dir():
            raise SltError(
                f"--path {folder}: there is no such folder; give one that holds installed distributions, such as a site-packages"
            )
    return [str(folder) for folder in path] if path else None


def _cells(row: Row) -> list[str]:
    components = " ".join(f"{component.kind}/{component.name}" for component in row.components)
    return [row.plugin, row.distribution, row.version, row.status, components or "-"]


def doctor(path: Folders = None) -> None:
    """Compare two independent readers of entry points, and name what is stale, shadowed or a stranger.

    Exit code 1 when anything is wrong.
    """
    folders = _folders(path)
    problems = [*_reader_differences(folders), *_strangers()]
    rows = probe(folders)
    problems += [
        f"{row.plugin} ({row.distribution} {row.version}) is {row.status}: {row.problem}. Next: {row.remedy}"
        for row in rows
        if row.problem
    ]
    console = Console()
    console.result(
        f"plugin API {API_VERSION[0]}.{API_VERSION[1]}; {len(rows)} plugins, {sum(len(row.components) for row in rows if row.usable)} components"
    )
    for problem in problems:
        console.result(f"- {problem}")
    console.result("nothing is wrong" if not problems else f"{len(problems)} to look at")
    if problems:
        raise typer.Exit(1)


def _reader_differences(folders: list[str] | None) -> Iterable[str]:
    """What `entrypoints` reads and `importlib.metadata` does not, and the other way round."""
    import warnings

    import entrypoints

    ours = {(found.plugin, found.value.replace(" ", "")): found for found in scan(folders)}
    theirs: dict[tuple[str, str], list[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place in folders or _search_path():
            try:
                group = entrypoints.get_group_all(ENTRY_POINT_GROUP, path=[place])
            except entrypoints.BadEntryPoint as error:
                yield f"malformed entry point in {place}: {error}; reinstall that distribution"
                continue
            except Exception as error:
                yield f"the metadata in {place} cannot be parsed: {type(error).__name__}: {' '.join(str(error).split())}; reinstall what is there"
                continue
            for point in group:
                value = point.module_name + (f":{point.object_name}" if point.object_name else "")
                theirs.setdefault((point.name, value), []).append(
                    f"{getattr(point.distro, 'name', '?')} {getattr(point.distro, 'version', '?')} in {place}"
                )
    for key, found in ours.items():
        for place in found.shadowed:
            yield f"{found.plugin}: {found.distribution} is installed twice; {found.location} wins over {place}. Next: uninstall one"
        if key not in theirs:
            yield f"{found.plugin}: only importlib.metadata finds it (in {found.location}); its entry_points.txt may be malformed. Next: reinstall {found.distribution}"
    for (name, value), places in theirs.items():
        if (name, value) not in ours:
            yield f"{name} = {value}: only the entrypoints reader finds it ({'; '.join(places)}); a stale or shadowed folder. Next: remove it"


def _search_path() -> list[str]:
    import sys

    return [place for place in sys.path if place and Path(place).is_dir()]


def _strangers() -> Iterable[str]:
    """The distribution named `sltcore` on PyPI belongs to somebody else."""
    from importlib import metadata

    try:
        version = metadata.version("sltcore")
    except metadata.PackageNotFoundError:
        return
    yield f"distribution 'sltcore' {version} is installed: it is another project's, ours is sltcore-lib. Next: pip uninstall sltcore, then pip install --force-reinstall sltcore-lib"


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
