"""slt pack, show, push, pull."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sltcore.cli.console import Console, table
from sltcore.cli.specs import Settings
from sltcore.errors import BundleError


def pack(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="a spec file, or a bundle to repack with overrides")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the bundle to write")],
    settings: Settings = None,
    force: Annotated[bool, typer.Option("--force", help="replace a bundle that stands there")] = False,
    finish: Annotated[
        bool,
        typer.Option("--finish", help="end the training of its transforms: a quantizer stores codes, no float weights"),
    ] = False,
) -> None:
    """Build a pipeline and save it with its weights, files, provenance and model card."""
    from sltcore.bundle import load, save_bundle

    pipeline = load(spec, overrides=settings or ())
    if finish and not pipeline.transforms:
        raise BundleError(
            f"{spec} has no transforms, so --finish has nothing to do; leave it out, or give some by --set transforms=[…]"
        )
    for transform in pipeline.transforms if finish else ():
        transform.finish()
    written = save_bundle(pipeline, folder, force=force)
    size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
    Console().result(f"{written}: {size / 1e6:.1f} MB in {sum(path.is_file() for path in written.rglob('*'))} files")


def show(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="a bundle folder")],
    as_json: Annotated[bool, typer.Option("--json", help="everything as one JSON object")] = False,
) -> None:
    """Verify a bundle and print its spec, origin and tensors, without torch."""
    from sltcore.bundle import describe_bundle
    from sltcore.spec.document import dump_document

    facts = describe_bundle(folder)
    console = Console()
    if as_json:
        console.result(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    console.result(dump_document(facts["spec"]))
    rows = [
        [
            path,
            f"{info['kind']}/{info['name']} v{info['version']}",
            f"{info['distribution']} {info['distribution_version']}",
        ]
        for path, info in facts["provenance"]["components"].items()
    ]
    console.result(table(["place", "component", "distribution"], rows) + "\n")
    tensors = [
        [name, tensor["dtype"], "x".join(map(str, tensor["shape"])) or "scalar"]
        for name, tensor in facts["tensors"].items()
    ]
    console.result(table(["tensor", "type", "shape"], tensors) + "\n")
    console.result(f"{facts['bytes'] / 1e6:.1f} MB; every file matches its sha256")


def push(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="a bundle folder")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="a model repository on the hub")],
    public: Annotated[bool, typer.Option("--public", help="make a new repository public")] = False,
) -> None:
    """Verify a bundle and upload it; asks the hub only when this command runs."""
    from sltcore.bundle.hub import push_bundle

    Console().result(push_bundle(folder, repository, private=not public))


def pull(
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="a model repository on the hub")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to put the bundle")],
    revision: Annotated[str | None, typer.Option("--revision", help="a commit, tag or branch")] = None,
) -> None:
    """Download a bundle and verify it."""
    from sltcore.bundle.hub import pull_bundle

    Console().result(str(pull_bundle(repository, folder, revision=revision)))
