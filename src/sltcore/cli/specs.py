"""slt check, fill, diff, schema, migrate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from sltcore.cli.console import Console
from sltcore.errors import SltError, SpecError, did_you_mean
from sltcore.registry import Registry, probe
from sltcore.spec.document import dump_document

SpecPath = Annotated[str, typer.Argument(metavar="SPEC", help="a spec file or a bundle folder")]
Size = Annotated[str | None, typer.Option("--size", metavar="NAME", help="a size of an experiment, such as smoke")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="replace one place of the spec; may repeat")
]


def spec_file(source: str) -> str:
    """The spec file itself, or the one inside a bundle."""
    path = Path(source)
    return str(path / "spec.yaml") if path.is_dir() else source


def isolated_registry(names: Iterable[str] | None = ()) -> Registry:
    """A registry of plugins that were loaded in a child process, with the configs of the components `names` (None: of
    all), so that none can take this one down."""
    return Registry.from_rows(probe(configs=names))


def names_in(data: Any) -> set[str]:
    """Every text in a document that may be a component's name."""
    if isinstance(data, str):
        return {data.rpartition("/")[2]}
    if isinstance(data, dict):
        return set().union(*(names_in(value) for value in data.values())) if data else set()
    if isinstance(data, list):
        return set().union(*(names_in(value) for value in data)) if data else set()
    return set()


def _loaded(source: str, settings: list[str] | None, size: str | None = None) -> Any:
    from sltcore.spec.load import load_spec

    registry = isolated_registry(component_names([source], settings))
    return load_spec(spec_file(source), overrides=settings or [], registry=registry, size=size)


def component_names(sources: Iterable[str], settings: Iterable[str] | None = None) -> set[str]:
    """Every text that may be a component's name in some specs, and in the specs and bundles that those begin with; what
    cannot be read is reported when it is loaded."""
    from sltcore.spec.load import open_source
    from sltcore.spec.overrides import apply_overrides

    names: set[str] = set()
    for source in sources:
        with suppress(SpecError):
            file = spec_file(source)
            data = apply_overrides(open_source(file).data, settings or [])[0]
            names |= names_in(data)
            for start in starts_in(data):
                with suppress(SpecError, OSError, ValueError, RuntimeError):
                    names |= names_in(open_source(spec_file(str(Path(file).parent / Path(start).expanduser()))).data)
    return names


def starts_in(data: Any) -> set[str]:
    """The path at every `pipeline:` in a document that has one there."""
    found: set[str] = set()
    if isinstance(data, dict):
        start = data.get("pipeline")
        found = found.union({start} if isinstance(start, str) else (), *(starts_in(value) for value in data.values()))
    return found


def check(
    spec: Annotated[list[str], typer.Argument(metavar="SPEC...", help="spec files or bundle folders")],
    settings: Settings = None,
) -> None:
    """Say everything that is wrong with specs, each problem with file, line and column; exit code 2 when there is any."""
    from sltcore.spec.load import load_spec

    registry = isolated_registry(component_names(spec, settings))
    problems = []
    for source in spec:
        try:
            file = spec_file(source)
            foreign = _checker(file)
            if foreign is None:
                load_spec(file, overrides=settings or [], registry=registry)
            elif settings:
                raise SpecError(f"{source}: --set changes specs only; change the file itself")
            else:
                foreign(Path(file))
            Console().say(f"{source}: good")
        except SpecError as error:
            problems.append(str(error))
    if problems:
        raise SpecError("\n".join(problems))


def _checker(file: str | Path) -> Callable[[Path], object] | None:
    """What checks a file that is no spec but of a kind that a plugin reads; None for specs, and what cannot be read."""
    from sltcore.spec.grammar import SPEC_KINDS
    from sltcore.spec.load import open_source

    with suppress(SpecError):
        data = open_source(file).data
        kind = data.get("kind") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind not in SPEC_KINDS:
            for row in probe():
                if row.usable and kind in row.checks:
                    module, _, function = row.checks[kind].partition(":")
                    found: Callable[[Path], object] = getattr(import_module(module), function)
                    return found
    return None


def fill(spec: SpecPath, settings: Settings = None, size: Size = None) -> None:
    """Print a spec with every default written out."""
    Console().result(dump_document(_loaded(spec, settings, size).filled()))


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="a spec file or a bundle folder")],
    second: Annotated[str, typer.Argument(metavar="B", help="another")],
) -> None:
    """Print each place at which two specs differ once filled; exit code 1 when there is any."""
    from sltcore.spec.filled import diff as differences
    from sltcore.spec.problems import path_text

    found = differences(_loaded(first, None).filled(), _loaded(second, None).filled())
    for path, left, right in found:
        Console().result(
            f"{path_text(path)}: {json.dumps(left, ensure_ascii=False)} -> {json.dumps(right, ensure_ascii=False)}"
        )
    if found:
        raise typer.Exit(1)


def schema(
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="pipeline, train or experiment")] = "pipeline",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="write to a file instead of standard output")
    ] = None,
) -> None:
    """Write the JSON Schema of specs of one kind for the plugins installed here, for completion and checking in an
    editor.

    Put `# yaml-language-server: $schema=slt.schema.json` on the first line of a spec.
    """
    from sltcore.spec.grammar import SPEC_KINDS
    from sltcore.spec.schema import json_schema

    if kind not in SPEC_KINDS:
        kinds = f"kinds: {', '.join(SPEC_KINDS)}.{did_you_mean(kind, SPEC_KINDS)}"
        raise SltError(f"--kind {kind}: there is no such kind of spec; {kinds}")
    _deliver(json.dumps(json_schema(isolated_registry(None), kind), indent=1, ensure_ascii=False), out)


def _deliver(text: str, out: Path | None) -> None:
    """Print a result, or write it to a file."""
    if out is None:
        Console().result(text)
        return
    try:
        out.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
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
    from sltcore.spec.document import read_document
    from sltcore.spec.heads import checked_head

    document = read_document(spec)
    newest = checked_head(document.data, document)
    if document.data["slt"] == CURRENT:
        _deliver(document.text, out)
        Console().say(f"{spec} is of the newest version, {CURRENT}")
    else:
        _deliver(dump_document(newest), out)
