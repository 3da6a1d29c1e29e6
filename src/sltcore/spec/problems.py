"""From pydantic's errors to lines a person can act on: place, path, value, what was expected, what exists, what next."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from sltcore.errors import SpecError, did_you_mean
from sltcore.spec.document import Document, PathKey

MAX_SHOWN = 50
_NAME = re.compile(r"[A-Za-z_][\w-]*")


class Problem(NamedTuple):
    """One thing wrong with a spec, at a path."""

    path: PathKey
    message: str


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
    for item in error.errors(include_url=False):
        inner = _located(item, model, data)
        path = (*prefix, *inner)
        context: Mapping[str, Any] = item.get("ctx") or {}
        if item["type"] == "slot":
            component = context["entry"].component
            label_below = f"{component.kind}/{component.name}"
            below = _value_at(data, inner)
            below = {key: value for key, value in below.items() if key != "use"} if isinstance(below, dict) else {}
            below = None if data is None else below
            yield from problems_of(context["nested"], context["model"], label_below, path, data=below)
        elif item["type"] == "slot_problem":
            given = context["given"]
            where = (*path, context["inner"]) if context["inner"] else path
            yield Problem(where, context["message"] + ("" if given is None else f", got {shown(given)}"))
        elif len(inner) < len(item["loc"]):
            members.setdefault(inner, []).append(item)
        else:
            yield Problem(path, _sentence([item], inner, model, label))
    for inner, items in members.items():
        yield Problem((*prefix, *inner), _sentence(items, inner, model, label))


def _located(item: Any, model: type[BaseModel], data: Any) -> PathKey:
    """The part of pydantic's location that stands in the data, or would if it were not missing."""
    if data is None:
        return tuple(part for part in item["loc"] if isinstance(part, int) or part.isidentifier())
    path: list[str | int] = []
    node = data
    for depth, part in enumerate(item["loc"]):
        last = depth == len(item["loc"]) - 1
        is_place = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if is_place or (isinstance(node, dict) and part in node):
            node = node[part]
        elif (last and item["type"] == "missing") or (depth == 0 and part in model.model_fields):
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


def _sentence(items: list[Any], inner: PathKey, model: type[BaseModel], label: str) -> str:
    item = items[0]
    owner = f"{label} " if label else ""
    more = f" (slt explain {label})" if label else ""
    if item["type"] == "extra_forbidden":
        fields = _fields_at(model, inner[:-1])
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


def _fields_at(model: type[BaseModel], path: PathKey) -> list[str]:
    current: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        current = _model_in(field.annotation) if field is not None else None
    return list(getattr(current, "model_fields", {}))


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
    problems: list[Problem], document: Document, overridden: Mapping[PathKey, str] | None = None
) -> SpecError:
    """One exception for all problems, sorted by place; a problem under an override names the override."""
    lines = []
    for problem in sorted(problems, key=lambda p: (document.mark(p.path), str(p.path))):
        mark = document.mark(problem.path)
        path = path_text(problem.path)
        source = _override(problem.path, overridden or {})
        place = f"--set {shown_setting(source)}" if source is not None else f"{document.name}:{mark.line}:{mark.column}"
        lines.append(f"{place}: {path + ': ' if path else ''}{problem.message}")
    if len(lines) > MAX_SHOWN:
        lines = [*lines[:MAX_SHOWN], f"{document.name}:1:1: and {len(lines) - MAX_SHOWN} more problems"]
    return SpecError("\n".join(dict.fromkeys(lines)))


def _override(path: PathKey, overridden: Mapping[PathKey, str]) -> str | None:
    for end in range(len(path), 0, -1):
        if path[:end] in overridden:
            return overridden[path[:end]]
    return None
