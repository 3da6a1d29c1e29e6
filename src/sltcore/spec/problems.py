"""From pydantic's errors to lines a person can act on: place, path, value, what was expected, what exists, what next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from sltcore.errors import SpecError, did_you_mean
from sltcore.spec.document import Document, PathKey

MAX_SHOWN = 50


class Problem(NamedTuple):
    """One thing wrong with a spec, at a path."""

    path: PathKey
    message: str


def path_text(path: PathKey) -> str:
    """A path as it is printed and as `--set` takes it: transforms[0].bits.

    >>> path_text(("transforms", 0, "bits"))
    'transforms[0].bits'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def problems_of(
    error: ValidationError, model: type[BaseModel], label: str = "", prefix: PathKey = ()
) -> Iterator[Problem]:
    """Every problem of a validation error, those of nested slots included, with exact paths."""
    for item in error.errors(include_url=False):
        path: PathKey = (*prefix, *_clean(item["loc"]))
        context: Mapping[str, Any] = item.get("ctx") or {}
        if item["type"] == "slot":
            entry = context["entry"]
            yield from problems_of(
                context["nested"], context["model"], f"{entry.component.kind}/{entry.component.name}", path
            )
        elif item["type"] == "slot_problem":
            inner = (*path, context["inner"]) if context["inner"] else path
            given = context["given"]
            yield Problem(inner, context["message"] + ("" if given is None else f", got {shown(given)}"))
        else:
            yield Problem(path, _sentence(item, path[len(prefix) :], model, label))


def _clean(loc: tuple[int | str, ...]) -> PathKey:
    return tuple(
        part for part in loc if isinstance(part, int) or ("[" not in part and "-" not in part) or part.isidentifier()
    )


def _sentence(item: Any, inner: PathKey, model: type[BaseModel], label: str) -> str:
    owner = f"{label} " if label else ""
    more = f" (slt explain {label})" if label else ""
    if item["type"] == "extra_forbidden":
        fields = _fields_at(model, inner[:-1])
        name = str(inner[-1])
        return f"{owner}has no field '{name}'; fields: {', '.join(fields) or 'none'}.{did_you_mean(name, fields)}{more}"
    if item["type"] == "missing":
        return f"{owner}needs a value here: field '{inner[-1] if inner else ''}' is required{more}"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[:1].lower() + message[1:]
    message = message.replace("input should be", "expected").replace("input must be", "expected")
    return f"{owner}{message}, got {shown(item['input'])}{more}" if "input" in item else f"{owner}{message}{more}"


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


def spec_error(
    problems: list[Problem], document: Document, overridden: Mapping[PathKey, str] | None = None
) -> SpecError:
    """One exception for all problems, sorted by place; a problem under an override names the override."""
    lines = []
    for problem in sorted(problems, key=lambda p: (document.mark(p.path), p.path and str(p.path))):
        mark = document.mark(problem.path)
        path = path_text(problem.path)
        source = _override(problem.path, overridden or {})
        place = f"--set {source}" if source is not None else f"{document.name}:{mark.line}:{mark.column}"
        lines.append(f"{place}: {path + ': ' if path else ''}{problem.message}")
    if len(lines) > MAX_SHOWN:
        lines = [*lines[:MAX_SHOWN], f"{document.name}:1:1: and {len(lines) - MAX_SHOWN} more problems"]
    return SpecError("\n".join(dict.fromkeys(lines)))


def _override(path: PathKey, overridden: Mapping[PathKey, str]) -> str | None:
    for end in range(len(path), 0, -1):
        if path[:end] in overridden:
            return overridden[path[:end]]
    return None
