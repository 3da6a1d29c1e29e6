"""From pydantic's errors to lines a person can act on: place, path, value, what was expected, what exists, what next."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sltcore.errors import SpecError, did_you_mean
from sltcore.spec.document import Document, PathKey

Origin = str | PathKey
"""Where a value was set that stands elsewhere: the text of a `--set`, or the path of an entry of the spec itself."""

MAX_SHOWN = 50
_NAME = re.compile(r"[A-Za-z_][\w-]*")


class Problem(NamedTuple):
    """One thing wrong with a spec, at a path; `setting` is the `--set` that is to blame."""

    path: PathKey
    message: str
    setting: str | None = None


def path_text(path: PathKey) -> str:
    """A path as it is printed and as `--set` takes it: transforms[0].bits; odd names stand as ["a b"].

    >>> path_text(("transforms", 0, "bits"))
    'transforms[0].bits'
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _NAME.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=not part.isprintable())}]"
    return text


def problems_of(
    error: ValidationError, model: type[BaseModel], label: str = "", prefix: PathKey = (), *, data: Any = None
) -> Iterator[Problem]:
    """Every problem of a validation error, those of nested slots included, with exact paths.

    `data` is what was validated against `model`: pydantic puts names of union members and the like into its paths,
    and only the data tells them from keys.
    """
    members: dict[PathKey, list[Any]] = {}
    found = [(item, *_untagged(item["loc"], model)) for item in error.errors(include_url=False)]
    places = [_located(location, item["type"], model, data) for item, location, _ in found]
    for (item, location, annotation), inner in zip(found, places, strict=True):
        path = (*prefix, *inner)
        context: Mapping[str, Any] = item.get("ctx") or {}
        if item["type"] == "slot":
            label_below = _label_below(context)
            below = _fields_below(data, inner, context)
            yield from problems_of(context["nested"], context["model"], label_below, path, data=below)
        elif item["type"] == "slot_problem":
            given = context["given"]
            where = (*path, context["inner"]) if context["inner"] else path
            yield Problem(where, context["message"] + ("" if given is None else f", got {shown(given)}"))
        elif item["type"].startswith("union_tag_") and tagged(annotation)[0]:
            yield _tag_problem(item, path, annotation)
        elif len(inner) < len(location):
            # A map was meant for the member that takes maps, and what is wrong inside it is told there.
            is_inside = any(len(place) > len(inner) and place[: len(inner)] == inner for place in places)
            if not (isinstance(item["input"], dict) and is_inside):
                members.setdefault(inner, []).append(item)
        else:
            yield Problem(path, _sentence([item], inner, model, label, data))
    for inner, items in members.items():
        yield Problem((*prefix, *inner), _sentence(items, inner, model, label, data))


def _label_below(context: Mapping[str, Any]) -> str:
    """What lies below a slot: a component, or the fields of a pipeline, which have no name."""
    if "entry" not in context:
        return ""
    component = context["entry"].component
    return f"{component.kind}/{component.name}"


def _fields_below(data: Any, path: PathKey, context: Mapping[str, Any]) -> Any:
    """What a slot was validated from: the fields of a component stand beside its `use`."""
    if data is None:
        return None
    below = _value_at(data, path)
    if not isinstance(below, dict):
        return {}
    return {key: value for key, value in below.items() if key != "use"} if "entry" in context else below


def _tag_problem(item: Any, path: PathKey, union: Any) -> Problem:
    """A union whose members are told apart by one field, where that field is missing or names none of them."""
    field, members = tagged(union)
    if item["type"] == "union_tag_not_found":
        return Problem(path, f"field '{field}' is missing; write {field}: {' or '.join(members)}")
    given = item["input"].get(field)
    near = did_you_mean(given[:40], members) if isinstance(given, str) else ""
    return Problem((*path, field), f"expected one of: {', '.join(members)}, got {shown(given)}.{near}")


def _untagged(location: PathKey, model: type[BaseModel]) -> tuple[PathKey, Any]:
    """Pydantic's location without the tags that it puts behind each place of a union with a discriminator, and what
    stands there: a model, or another annotation."""
    path: list[str | int] = []
    current: Any = model
    parts = iter(location)
    for part in parts:
        path.append(part)
        current = annotation_below(current, part)
        members = tagged(current)[1]
        tag = next(parts, None) if members else None
        current = members.get(tag, current)
    return tuple(path), current


def tagged(annotation: Any) -> tuple[str, dict[Any, Any]]:
    """The field that tells a union's members apart, and the members by its value; nothing for other annotations."""
    for mark in getattr(annotation, "__metadata__", ()):
        field = getattr(mark, "discriminator", None)
        if isinstance(field, str):
            members = [each for each in get_args(get_args(annotation)[0]) if isinstance(each, type)]
            return field, {
                value: member
                for member in members
                if issubclass(member, BaseModel)
                for value in get_args(member.model_fields[field].annotation)
            }
    if get_origin(annotation) in (Union, UnionType):
        return next((found for each in get_args(annotation) if (found := tagged(each))[0]), ("", {}))
    return "", {}


def annotation_below(annotation: Any, part: str | int) -> Any:
    """What may stand at a key of a map, a place of a list, or a field of a model; None where that is not said."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return fields_of(annotation).get(str(part), None)
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return inner[1]
    if origin in (list, tuple):
        return inner[0]
    if origin is Annotated or origin in (Union, UnionType):
        inner = inner[:1] if origin is Annotated else inner
        return next((found for each in inner if (found := annotation_below(each, part)) is not None), None)
    return None


def fields_of(model: type[BaseModel]) -> dict[str, Any]:
    """The annotations of a model's fields, by the names that a spec uses."""
    return {
        field.alias or name: Annotated[field.annotation, field] if field.discriminator else field.annotation
        for name, field in model.model_fields.items()
    }


def _located(location: PathKey, error: str, model: type[BaseModel], data: Any) -> PathKey:
    """The part of pydantic's location that stands in the data, or would if it were not missing."""
    if data is None:
        return tuple(part for part in location if isinstance(part, int) or part.isidentifier())
    path: list[str | int] = []
    node = data
    for depth, part in enumerate(location):
        last = depth == len(location) - 1
        is_place = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if is_place or (isinstance(node, dict) and part in node):
            node = node[part]
        elif (last and error == "missing") or (depth == 0 and part in fields_of(model)):
            node = None
        else:
            continue
        path.append(part)
    return tuple(path)


def _value_at(data: Any, path: PathKey) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _sentence(items: list[Any], inner: PathKey, model: type[BaseModel], label: str, data: Any) -> str:
    item = items[0]
    owner = f"{label} " if label else ""
    more = f" (slt explain {label})" if label else ""
    if item["type"] == "extra_forbidden":
        fields = _fields_at(model, inner[:-1], data)
        name = str(inner[-1])
        return f"{owner}has no field {shown(name)}; fields: {', '.join(fields) or 'none'}.{did_you_mean(name, fields)}{more}"
    if item["type"] == "missing":
        return f"{owner}needs a value here: field '{inner[-1] if inner else ''}' is required{more}"
    wanted = list(dict.fromkeys(_wanted(item) for item in items))
    message = " or ".join([wanted[0], *(text.removeprefix("expected ") for text in wanted[1:])])
    return f"{owner}{message}, got {shown(item['input'])}{more}"


def _wanted(item: Any) -> str:
    message = " ".join(item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").split())
    message = message[:1].lower() + message[1:]
    return message.replace("input should be", "expected").replace("input must be", "expected")


def _fields_at(model: type[BaseModel], path: PathKey, data: Any) -> list[str]:
    """The fields of the model that `path` leads to."""
    current: Any = model
    for part in path:
        current = annotation_below(current, part)
        data = _value_at(data, (part,))
        field, members = tagged(current)
        current = members.get(_value_at(data, (field,))) if members else current
    found = _model_in(current)
    return list(fields_of(found)) if found else []


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def shown(value: Any) -> str:
    """A value as an error shows it: on one line, at most 60 characters."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…"


def shown_setting(setting: str) -> str:
    """A `PATH=VALUE` as an error shows it: on one line."""
    return setting if setting.isprintable() and len(setting) <= 120 else shown(setting)


def spec_error(
    problems: list[Problem], document: Document, replaced: Mapping[PathKey, Origin] | None = None
) -> SpecError:
    """One exception for all problems, sorted by place; a problem under a replaced place names what replaced it."""
    lines = []
    told = [moved(each, replaced or {}, document.data) for each in problems]
    for problem in sorted(told, key=lambda p: _order(p, document)):
        mark = document.mark(problem.path)
        path = path_text(problem.path)
        place = f"{document.name}:{mark.line}:{mark.column}" if problem.setting is None else problem.setting
        lines.append(f"{place}: {path + ': ' if path else ''}{problem.message}")
    if len(lines) > MAX_SHOWN:
        lines = [*lines[:MAX_SHOWN], f"{document.name}:1:1: and {len(lines) - MAX_SHOWN} more problems"]
    return SpecError("\n".join(dict.fromkeys(lines)))


def _order(problem: Problem, document: Document) -> Any:
    return document.mark(problem.path), str(problem.path)


def moved(problem: Problem, replaced: Mapping[PathKey, Origin], data: Any) -> Problem:
    """A problem under a replaced place as one of the `--set`, or of the entry, that put the value there. Where the
    place is not in `data`, as it was before, it is one of the setting that led through it."""
    path = problem.path
    above = [path[:end] for end in range(len(path), 0, -1)]
    below = [] if _stands(data, path) else [each for each in replaced if each[: len(path)] == path]
    origin = next((replaced[each] for each in (*above, *below) if each in replaced), None)
    if isinstance(origin, str):
        return problem._replace(setting=f"--set {shown_setting(origin)}")
    if origin is not None:
        settings = {each: value for each, value in replaced.items() if isinstance(value, str)}
        return moved(Problem(origin, f"{path_text(path)}: {problem.message}"), settings, data)
    return problem


def _stands(data: Any, path: PathKey) -> bool:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
