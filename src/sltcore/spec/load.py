"""From a file, text or dict to a validated spec."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, overload

from pydantic import ValidationError
from typing_extensions import TypeVar

from sltcore.errors import SpecError, did_you_mean
from sltcore.spec.document import MAX_DEPTH, Document, Mark, PathKey, parse_document, read_document
from sltcore.spec.experiments import ExperimentSpec
from sltcore.spec.filled import fill, flatten
from sltcore.spec.grammar import PipelineSpec
from sltcore.spec.heads import checked_head
from sltcore.spec.overrides import Setting, apply_overrides, parse_path, replace
from sltcore.spec.problems import Origin, Problem, moved, problems_of, shown, spec_error
from sltcore.spec.references import reference_problems
from sltcore.spec.stages import experiment_problems, run_problems
from sltcore.spec.training import TrainSpec

if TYPE_CHECKING:
    from sltcore.registry import Registry

Source = str | Path | Mapping[str, Any]
Model = TypeVar("Model", bound=PipelineSpec | TrainSpec | ExperimentSpec, default=PipelineSpec)
MODELS: Mapping[str, type[PipelineSpec] | type[TrainSpec] | type[ExperimentSpec]] = {
    "pipeline": PipelineSpec,
    "train": TrainSpec,
    "experiment": ExperimentSpec,
}
NOT_SIZED = ("slt", "kind", "name", "sizes")


class Spec(NamedTuple, Generic[Model]):
    """A validated spec: its typed model, its filled form, and the overrides that made it."""

    model: Model
    name: str
    folder: Path | None
    overrides: tuple[str, ...]

    def filled(self) -> dict[str, Any]:
        """The spec with every default written out, as plain data."""
        return fill(self.model)


@overload
def load_spec(
    source: Source,
    *,
    overrides: Iterable[str] = ...,
    registry: Registry | None = ...,
    folder: Path | None = ...,
    kind: Literal["pipeline"],
    size: None = ...,
    sources: bool = ...,
) -> Spec[PipelineSpec]: ...
@overload
def load_spec(
    source: Source,
    *,
    overrides: Iterable[str] = ...,
    registry: Registry | None = ...,
    folder: Path | None = ...,
    kind: Literal["train"],
    size: None = ...,
    sources: bool = ...,
) -> Spec[TrainSpec]: ...
@overload
def load_spec(
    source: Source,
    *,
    overrides: Iterable[str] = ...,
    registry: Registry | None = ...,
    folder: Path | None = ...,
    kind: Literal["experiment"],
    size: str | None = ...,
    sources: bool = ...,
) -> Spec[ExperimentSpec]: ...
@overload
def load_spec(
    source: Source,
    *,
    overrides: Iterable[str] = ...,
    registry: Registry | None = ...,
    folder: Path | None = ...,
    kind: str | None = ...,
    size: str | None = ...,
    sources: bool = ...,
) -> Spec[Any]: ...
def load_spec(
    source: Source,
    *,
    overrides: Iterable[str] = (),
    registry: Registry | None = None,
    folder: Path | None = None,
    kind: str | None = None,
    size: str | None = None,
    sources: bool = True,
) -> Spec[Any]:
    """Read, migrate, override and validate a spec. `source` is a path, or the spec itself as a dict.

    `kind` is the one that is expected, if not any will do. `size` is one of an experiment's `sizes`, applied before the
    overrides; without one every size is checked too. `sources` says whether the spec files and bundles that a training
    run or stage begins with are looked at.

    **Raises** `SpecError` whose text lists every problem at once, one line each, with file, line and column.
    """
    document = open_source(source)
    if folder is None:
        folder = Path(source).resolve().parent if isinstance(source, str | Path) and not _is_text(source) else None
    settings = tuple(overrides)
    context = {"registry": registry, "folder": folder, "sources": sources}
    sized, replaced, problems = _sized(document.data, size)
    if problems:
        raise spec_error(problems, document)
    data, set_here = apply_overrides(sized, settings)
    replaced = {**replaced, **set_here}
    data = checked_head(data, document, replaced, expected=kind)
    model, problems = validated(data, data["kind"], context)
    if model is None or problems:
        raise spec_error(problems, document, replaced)
    if isinstance(model, ExperimentSpec) and size is None:
        problems = [problem for name in model.sizes for problem in _size_problems(data, name, context)]
        if problems:
            raise spec_error(problems, document, replaced)
    return Spec(model, document.name, folder, settings)


def validated(data: dict[str, Any], kind: str, context: Mapping[str, Any]) -> tuple[Any, list[Problem]]:
    """The model of data whose head is right, or None, and what is wrong with it."""
    cls = MODELS[kind]
    try:
        model = cls.model_validate(data, context=dict(context))
    except ValidationError as error:
        return None, list(problems_of(error, cls, data=data))
    if isinstance(model, PipelineSpec):
        return model, list(reference_problems(model))
    if isinstance(model, TrainSpec):
        return model, run_problems(model, data, (), context)[0]
    return model, experiment_problems(model, data, context)


def _sized(data: Any, size: str | None) -> tuple[Any, dict[PathKey, Origin], list[Problem]]:
    """`data` with the places of one of its `sizes` replaced, where those came from, and what cannot be replaced; `full`
    is the spec as it is written, if not said otherwise."""
    sizes = data.get("sizes") if isinstance(data, dict) else None
    found = sizes.get(size) if isinstance(sizes, dict) and size is not None else None
    if size is None or (size == "full" and found is None):
        return data, {}, []
    if not isinstance(found, dict):
        known = ["full", *(name for name in sizes if isinstance(sizes[name], dict))] if isinstance(sizes, dict) else []
        has = f"its sizes: {', '.join(known) or 'none'}.{did_you_mean(size, known)}"
        return data, {}, [Problem(("sizes",), f"this spec has no size '{size}'; {has}")]
    data = copy.deepcopy(data)
    problems, replaced = [], dict[PathKey, Origin]()
    for key, value in found.items():
        origin = ("sizes", size, key)
        try:
            path = parse_path(key)
            if path[0] in NOT_SIZED:
                raise SpecError(f"'{path[0]}' is not for a size to change")
            replaced[replace(data, Setting(path, copy.deepcopy(value), origin))] = origin
        except SpecError as error:
            problems.append(Problem(origin, str(error)))
    return data, replaced, problems


def _size_problems(data: dict[str, Any], size: str, context: Mapping[str, Any]) -> Iterator[Problem]:
    """What would be wrong with an experiment at one of its sizes."""
    sized, replaced, problems = _sized(data, size)
    for problem in problems or validated(sized, "experiment", context)[1]:
        found = moved(problem, replaced, data)
        is_ours = found is not problem or problem.path[:1] == ("sizes",)
        yield found if is_ours else problem._replace(message=f"{problem.message} (at size {size})")


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
    return parse_document(str(source)) if _is_text(source) else read_document(source)


def _is_text(source: str | Path) -> bool:
    """Whether this is a spec itself and no path of one."""
    return isinstance(source, str) and "\n" in source


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{shown(value)} is a {type(value).__name__}")
