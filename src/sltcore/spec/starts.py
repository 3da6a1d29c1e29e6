"""What a training run or stage begins with, checked: its pipeline once `set` has replaced places of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from sltcore.errors import SpecError, did_you_mean
from sltcore.spec.document import Document, PathKey, read_document
from sltcore.spec.grammar import PipelineFields
from sltcore.spec.heads import checked_head
from sltcore.spec.overrides import Setting, parse_path, replace
from sltcore.spec.problems import Origin, Problem, fields_of, moved, path_text, problems_of
from sltcore.spec.references import ORDER, reference_problems

SPEC_OF_BUNDLE = "spec.yaml"


class Base(NamedTuple):
    """The pipeline that something begins with: its fields as they are written, the folder of its files, and the text it
    stands in where that is not the spec at hand. `is_told` says that what is wrong with it is said elsewhere."""

    fields: dict[str, Any]
    folder: Path | None
    document: Document | None = None
    is_told: bool = False

    def stages(self) -> tuple[str, ...]:
        """The stages that a reference may name."""
        return tuple(name for name in ORDER if self.fields.get(name) is not None)

    def metrics(self) -> list[str]:
        """The names of its metrics, as results call them."""
        blocks = self.fields.get("metrics")
        names = [block.get("use") if isinstance(block, dict) else block for block in blocks or ()]
        return [str(name).rpartition("/")[2] for name in names]


def checked_start(
    holder: Any, data: Mapping[str, Any], prefix: PathKey, context: Mapping[str, Any], start: Base | None = None
) -> tuple[list[Problem], Base | None]:
    """What is wrong with the `pipeline` and the `set` of `holder`, which stands at `prefix` and was read from `data`;
    and the pipeline that comes out, if that can be known. `start` is what the stage that it begins `from` left."""
    where = (*prefix, "pipeline")
    settings, problems = _settings(holder.set, (*prefix, "set"))
    if isinstance(holder.pipeline, PipelineFields):
        start = Base(data["pipeline"], context.get("folder"))
    elif holder.pipeline is not None:
        try:
            start = _base_of(holder.pipeline) if context.get("sources", True) else None
        except SpecError as error:
            problems += [Problem(where, line) for line in str(error).split("\n")]
            start = None
    if start is None or problems:
        return problems, None
    fields = copy.deepcopy(start.fields)
    replaced: dict[PathKey, Origin] = {}
    found_here = _set(fields, settings, replaced, {**context, "folder": start.folder})
    for problem in found_here:
        found = moved(problem, replaced, start.fields)
        if found is not problem:
            problems.append(found)
        elif start.document is not None and not start.is_told:
            problems.append(Problem(where, _line(problem, start.document)))
        elif not start.is_told:
            problems.append(problem._replace(path=(*where, *problem.path)))
    return problems, None if found_here else start._replace(fields=fields, is_told=True)


def stage_references(value: Any, prefix: PathKey) -> Iterator[tuple[PathKey, str]]:
    """Every `{stage: NAME}` in a value that is set, which stands for what that stage left."""
    if _is_reference(value):
        yield prefix, value["stage"]
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from stage_references(item, (*prefix, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from stage_references(item, (*prefix, index))


def _is_reference(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"stage"} and isinstance(value["stage"], str)


def _with_places(value: Any) -> Any:
    """A value as it will be once each `{stage: NAME}` is the path of what that stage left."""
    if _is_reference(value):
        return value["stage"]
    if isinstance(value, Mapping):
        return {key: _with_places(item) for key, item in value.items()}
    return [_with_places(item) for item in value] if isinstance(value, list) else value


def _settings(values: Mapping[str, Any], prefix: PathKey) -> tuple[list[Setting], list[Problem]]:
    """The entries of a `set` whose paths can be those of a pipeline, and what is wrong with the others."""
    fields = fields_of(PipelineFields)
    settings: list[Setting] = []
    problems: list[Problem] = []
    for key, value in values.items():
        origin = (*prefix, key)
        try:
            path = parse_path(key)
        except SpecError as error:
            problems.append(Problem(origin, str(error)))
            continue
        if path[0] in fields:
            settings.append(Setting(path, _with_places(value), origin))
        else:
            known = f"fields: {', '.join(fields)}.{did_you_mean(str(path[0]), fields)}"
            problems.append(Problem(origin, f"a pipeline has no field '{path[0]}'; {known}"))
    return settings, problems


def _set(
    data: dict[str, Any], settings: list[Setting], replaced: dict[PathKey, Origin], context: Mapping[str, Any]
) -> list[Problem]:
    """Apply settings to the fields of a pipeline and say what is wrong with what comes out."""
    problems = []
    for setting in settings:
        try:
            replaced[replace(data, setting)] = setting.origin
        except SpecError as error:
            replaced[setting.path] = setting.origin
            problems.append(Problem(setting.path, str(error)))
    if problems:
        return problems
    try:
        model = PipelineFields.model_validate(data, context=dict(context))
    except ValidationError as error:
        return list(problems_of(error, PipelineFields, data=data))
    return list(reference_problems(model))


def _base_of(source: Path) -> Base:
    """The pipeline in a spec file or bundle. **Raises** `SpecError` where there is none."""
    is_bundle = source.is_dir()
    if is_bundle and not (source / SPEC_OF_BUNDLE).is_file():
        raise SpecError(f"the folder {source} is no bundle, for it holds no {SPEC_OF_BUNDLE}")
    document = read_document(source / SPEC_OF_BUNDLE if is_bundle else source)
    data = checked_head(document.data, document, expected="pipeline")
    fields = {key: value for key, value in data.items() if key not in ("slt", "kind")}
    # The fields of a bundle may be of an older version, which loading it brings up to date.
    return Base(fields, source if is_bundle else source.parent, document, is_told=is_bundle)


def _line(problem: Problem, document: Document) -> str:
    mark, path = document.mark(problem.path), path_text(problem.path)
    return f"{document.name}:{mark.line}:{mark.column}: {path + ': ' if path else ''}{problem.message}"
