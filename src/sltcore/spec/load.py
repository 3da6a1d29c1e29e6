"""From a file, text or dict to a validated spec, and back to a filled one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ValidationError

from sltcore.errors import SpecError, did_you_mean, nearest
from sltcore.migrate import MIGRATIONS, migrate
from sltcore.spec.document import MAX_DEPTH, Document, Mark, PathKey, parse_document, read_document
from sltcore.spec.grammar import RUNNABLE_KINDS, SPEC_KINDS, SPEC_VERSION, PipelineSpec
from sltcore.spec.overrides import apply_overrides
from sltcore.spec.problems import Problem, problems_of, shown, spec_error
from sltcore.spec.slots import Block, Ref, dump_slot

if TYPE_CHECKING:
    from sltcore.registry import Registry

Source = str | Path | Mapping[str, Any]


class Spec(NamedTuple):
    """A validated spec: its typed model, its filled form, and the overrides that made it."""

    model: PipelineSpec
    name: str
    folder: Path | None
    overrides: tuple[str, ...]

    def filled(self) -> dict[str, Any]:
        """The spec with every default written out, as plain data."""
        return fill(self.model)


def load_spec(
    source: Source, *, overrides: Iterable[str] = (), registry: Registry | None = None, folder: Path | None = None
) -> Spec:
    """Read, migrate, override and validate a spec. `source` is a path, or the spec itself as a dict.

    **Raises** `SpecError` whose text lists every problem at once, one line each, with file, line and column.
    """
    document = open_source(source)
    if folder is None:
        folder = Path(source).resolve().parent if isinstance(source, str | Path) else None
    settings = tuple(overrides)
    data, replaced = apply_overrides(document.data, settings)
    data = checked_head(data, document, replaced)
    context = {"registry": registry, "folder": folder}
    try:
        model = PipelineSpec.model_validate(data, context=context)
    except ValidationError as error:
        raise spec_error(list(problems_of(error, PipelineSpec, data=data)), document, replaced) from None
    problems = list(_reference_problems(model, data))
    if problems:
        raise spec_error(problems, document, replaced)
    return Spec(model, document.name, folder, settings)


def open_source(source: Source) -> Document:
    """The document of a path, or of a dict given in its place."""
    if isinstance(source, Mapping):
        try:
            data = json.loads(json.dumps(source, default=_plain))
        except (TypeError, ValueError, RecursionError) as error:
            raise SpecError(f"<dict>:1:1: a spec holds plain values only: {error}") from None
        if len(max(flatten(data), key=len)) > MAX_DEPTH:
            raise SpecError(f"<dict>:1:1: nested deeper than {MAX_DEPTH} levels")
        return Document(data, {(): Mark(1, 1)}, "<dict>")
    if isinstance(source, str) and "\n" in source:
        return parse_document(source)
    return read_document(source)


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{shown(value)} is a {type(value).__name__}")


def checked_head(data: Any, document: Document, replaced: Mapping[PathKey, str] = {}) -> dict[str, Any]:
    """`data` brought to the newest version. Its first two keys decide what the rest means, so they come first.

    **Raises** `SpecError` for a wrong version or kind, and for an old spec that cannot be brought to the newest version.
    """
    if not isinstance(data, dict):
        raise spec_error(
            [Problem((), f"a spec is a map that begins with `slt: {SPEC_VERSION}`, got {shown(data)}")], document
        )
    problems = []
    version = data.get("slt")
    if "slt" not in data:
        near = nearest("slt", data)
        meant = f" Did you mean 'slt' by {shown(near)}?" if near else ""
        problems.append(
            Problem((near,) if near else (), f"the spec's version is missing; begin with `slt: {SPEC_VERSION}`.{meant}")
        )
    elif isinstance(version, bool) or not isinstance(version, int):
        problems.append(Problem(("slt",), f"expected the version number {SPEC_VERSION}, got {shown(version)}"))
    elif version > SPEC_VERSION:
        problems.append(
            Problem(
                ("slt",),
                f"version {version} is newer than this sltcore reads ({SPEC_VERSION}). Next: pip install -U sltcore-lib",
            )
        )
    elif version < SPEC_VERSION and version not in MIGRATIONS:
        problems.append(Problem(("slt",), f"there is no version {version}; write slt: {SPEC_VERSION}"))
    kind = data.get("kind")
    if kind not in RUNNABLE_KINDS:
        choices = ", ".join(RUNNABLE_KINDS)
        if "kind" not in data:
            problems.append(Problem((), f"the spec's kind is missing; write kind: {choices}"))
        elif kind in SPEC_KINDS:
            problems.append(
                Problem(
                    ("kind",),
                    f"kind '{kind}' is described in the grammar but this version does not run it; it runs: {choices}",
                )
            )
        else:
            problems.append(
                Problem(
                    ("kind",),
                    f"expected one of: {', '.join(SPEC_KINDS)}, got {shown(kind)}.{did_you_mean(str(kind)[:40], SPEC_KINDS)}",
                )
            )
    if problems:
        raise spec_error(problems, document, replaced)
    try:
        return migrate(data)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = f"this spec of version {version} cannot be brought to version {SPEC_VERSION}: {type(error).__name__}: {error}"
        raise spec_error([Problem((), " ".join(problem.split()))], document, replaced) from None


def _reference_problems(model: PipelineSpec, data: Any) -> Iterable[Problem]:
    """References must point at a slot that stands before them; what a component offers is checked when it is built."""
    order = [name for name in ("encoder", "decoder", "reranker", "vocoder") if getattr(model, name) is not None]
    for path, reference in references(model):
        first = reference.ref.partition(".")[0].partition("[")[0]
        if first not in order:
            yield Problem(
                (*path, "ref"),
                f"there is no '{first}' in this spec to refer to; it has: {', '.join(order)}.{did_you_mean(first, order)}",
            )
        elif path and isinstance(path[0], str) and path[0] in order and order.index(first) > order.index(path[0]):
            yield Problem(
                (*path, "ref"), f"'{reference.ref}' is built after {path[0]}; a reference points at an earlier stage"
            )


def references(config: Any, prefix: PathKey = ()) -> Iterator[tuple[PathKey, Ref]]:
    """Every `{ref: …}` in a config and whatever it holds, with its path."""
    if isinstance(config, Ref):
        yield prefix, config
    elif isinstance(config, Block):
        yield from references(config.config, prefix)
    elif isinstance(config, BaseModel):
        for name in type(config).model_fields:
            yield from references(getattr(config, name), (*prefix, name))
    elif isinstance(config, list | tuple):
        for index, item in enumerate(config):
            yield from references(item, (*prefix, index))
    elif isinstance(config, Mapping):
        for key, item in config.items():
            yield from references(item, (*prefix, str(key)))


def fill(model: PipelineSpec, *, portable: bool = False) -> dict[str, Any]:
    """A spec's model as plain data, every default written out; loading it gives an equal model.

    `portable` keeps only the names of files, as a bundle does.
    """
    filled: dict[str, Any] = {}
    for name in PipelineSpec.model_fields:
        value = getattr(model, name)
        if isinstance(value, list):
            filled[name] = [dump_slot(item, portable=portable) for item in value]
        elif isinstance(value, Block | Ref):
            filled[name] = dump_slot(value, portable=portable)
        elif hasattr(value, "model_dump"):
            filled[name] = value.model_dump(mode="json")
        elif value is not None:
            filled[name] = value
    return filled


def flatten(data: Any, prefix: PathKey = ()) -> dict[PathKey, Any]:
    """Leaf values by path; empty maps and lists count as leaves."""
    if isinstance(data, dict) and data:
        parts: Iterable[tuple[str | int, Any]] = data.items()
    elif isinstance(data, list) and data:
        parts = enumerate(data)
    else:
        return {prefix: data}
    result: dict[PathKey, Any] = {}
    for key, value in parts:
        result.update(flatten(value, (*prefix, key)))
    return result


def diff(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[PathKey, Any, Any]]:
    """Paths at which two filled specs differ, with both values; `MISSING` where one has none."""
    left, right = flatten(dict(first)), flatten(dict(second))
    return [
        (path, left.get(path, MISSING), right.get(path, MISSING))
        for path in dict.fromkeys([*left, *right])
        if left.get(path, MISSING) != right.get(path, MISSING)
    ]


MISSING = "(not there)"
