"""slt check, fill, diff, schema, migrate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
@@

from sltcore.cli.console import Console
from sltcore.errors import SltError, SpecError
from sltcore.registry import Registry, probe

SpecPath = Annotated[str, typer.Argument(metavar="SPEC", help="a spec file or a bundle folder")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="replace one place of the spec; may repeat")
]


def spec_file(source: str) -> str:
    """The spec file itself, or the one inside a bundle."""
    path = Path(source)
    return str(path / "spec.yaml") if path.is_dir() else source


def isolated_registry(names: set[str] | None = None) -> Registry:
    """A registry of plugins that were loaded in a child process, so that none can take this one down."""
    return Registry.from_rows(probe(configs=names or ()))


def names_in(data: Any) -> set[str]:
    """Every text in a document that may be a component's name."""
    if isinstance(data, str):
        return {data.rpartition("/")[2]}
    if isinstance(data, dict):
        return set().union(*(names_in(value) for value in data.values())) if data else set()
    if isinstance(data, list):
        return set().union(*(names_in(value) for value in data)) if data else set()
    return set()


def _loaded(source: str, settings: list[str] | None) -> Any:
    from sltcore.spec.load import load_spec, open_source
    from sltcore.spec.overrides import apply_overrides

    path = spec_file(source)
    data, _ = apply_overrides(open_source(path).data, settings or [])
    return load_spec(path, overrides=settings or [], registry=isolated_registry(names_in(data)))


def check(
    spec: Annotated[list[str], typer.Argument(metavar="SPEC...", help="spec files or bundle folders")],
    settings: Settings = None,
) -> None:
    """Say everything that is wrong with specs, each problem with file, line and column; exit code 2 when there is any."""
    problems = []
    for source in spec:
        try:
            _loaded(source, settings)
            Console().say(f"{source}: good")
        except SpecError as error:
            problems.append(str(error))
    if problems:
        raise SltError("\n".join(problems))


def fill(spec: SpecPath, settings: Settings = None) -> None:
    """Print a spec with every default written out."""
    Console().result(dump_document(_loaded(spec, settings).filled()))


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="a spec file or a bundle folder")],
    second: Annotated[str, typer.Argument(metavar="B", help="another")],
) -> None:
    """Print each place at which two specs differ once filled; exit code 1 when there is any."""
    from sltcore.spec.load import diff as differences
    from sltcore.spec.problems import path_text

    found = differences(_loaded(first, None).filled(), _loaded(second, None).filled())
    for path, left, right in found:
        Console().result(
            f"{path_text(path)}: {json.dumps(left, ensure_ascii=False)} -> {json.dumps(right, ensure_ascii=False)}"
        )
    if found:
        raise typer.Exit(1)


def schema(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="write to a file instead of standard output")
    ] = None,
) -> None:
    """Write the JSON Schema of specs for the plugins installed here, for completion and checking in an editor.

    Put `# yaml-language-server: $schema=slt.schema.json` on the first line of a spec.
    """
    from sltcore.spec.schema import json_schema

    rows = probe()
    names = {component.name for row in rows if row.usable for component in row.components}
    text = json.dumps(json_schema(isolated_registry(names)), indent=1, ensure_ascii=False) + "\n"
    if out is None:
        Console().result(text)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SltError(f"{out} cannot be written: {error.strerror}") from None
    Console().say(f"wrote {out}")


def migrate(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="a spec file")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="write to a file instead of standard output")
    ] = None,
) -> None:
    """Bring an old spec to the newest version of the grammar; a new one comes back as it is, comments and all."""
    from sltcore.migrate import CURRENT
    from sltcore.migrate import migrate as migrated
    from sltcore.spec.document import read_document

    document = read_document(spec)
    version = document.data.get("slt") if isinstance(document.data, dict) else None
    if isinstance(version, bool) or not isinstance(version, int) or version > CURRENT:
        raise SpecError(f"{spec}:1:1: slt: expected a version number up to {CURRENT}, got {version!r}")
    if version == CURRENT:
        text = spec.read_text(encoding="utf-8")
        Console().say(f"{spec} is of the newest version, {CURRENT}")
    else:
        text = dump_document(migrated(document.data))
    if out is None:
        Console().result(text)
    else:
        out.write_text(text, encoding="utf-8")
