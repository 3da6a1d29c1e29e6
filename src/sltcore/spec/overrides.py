"""`--set PATH=VALUE`: one place of a spec replaced, the value written as YAML."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from typing import Any

from sltcore.errors import SpecError
from sltcore.spec.document import PathKey, parse_value
from sltcore.spec.problems import path_text, shown, shown_setting

_PART = re.compile(
    r'(?P<dot>\.?)(?:(?P<name>[A-Za-z_][\w-]*)|(?P<index>\d{1,6}))|\[(?:(?P<place>\d{1,6})|(?P<quoted>"(?:[^"\\]|\\.)*"))\]'
)


def parse_path(text: str) -> PathKey:
    """The parts of a path such as `transforms[0].bits`; **Raises** `SpecError` when it does not read as one.

    >>> parse_path("transforms[0].bits")
    ('transforms', 0, 'bits')
    """
    path, rest = _leading_path(text)
    if rest:
        raise SpecError(
            f"{shown_setting(text)}: not a path; write names joined by dots and list places in brackets, as decoder.beam or transforms[0].bits"
        )
    if not path:
        raise SpecError("the path is empty; write names joined by dots, such as decoder.beam")
    return path


def _leading_path(text: str) -> tuple[PathKey, str]:
    """The path that a text begins with, and what follows it."""
    parts: list[str | int] = []
    position = 0
    while match := _PART.match(text, position):
        bracket = match["place"] or match["quoted"]
        if not bracket and bool(match["dot"]) != bool(position):
            break  # a dot stands between parts and only there
        try:
            parts.append(
                json.loads(match["quoted"]) if match["quoted"] else match["name"] or int(bracket or match["index"])
            )
        except ValueError:
            break
        position = match.end()
    return tuple(parts), text[position:]


def apply_overrides(data: Any, settings: Iterable[str]) -> tuple[Any, dict[PathKey, str]]:
    """`data` with every `PATH=VALUE` applied in order, and which paths they replaced.

    A block given as a bare name grows into a map when one of its fields is set. **Raises** `SpecError` when a path
    leads through something that is neither a map nor a list, or beyond a list's end.
    """
    data = copy.deepcopy(data)
    replaced: dict[PathKey, str] = {}
    for setting in settings:
        shown_as = f"--set {shown_setting(setting)}"
        path, rest = _leading_path(setting.strip())
        rest = rest.lstrip()
        if not rest.startswith("="):
            if "=" not in setting:
                raise SpecError(f"{shown_as}: expected PATH=VALUE, such as decoder.beam=32")
            try:
                parse_path(setting.partition("=")[0].strip())
            except SpecError as error:
                raise SpecError(f"--set {error}") from None
        if not path:
            raise SpecError(f"{shown_as}: the path is empty; write PATH=VALUE, such as decoder.beam=32")
        new = parse_value(rest[1:], shown_as)
        if not isinstance(data, dict):
            raise SpecError(f"{shown_as}: the spec is no map, so nothing in it can be set")
        _replace(data, path, new, shown_as)
        replaced[path] = setting
    return data, replaced


def _replace(data: Any, path: PathKey, value: Any, shown_as: str) -> None:
    node = data
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        where = path_text(path[: depth + 1])
        if isinstance(part, int):
            if not isinstance(node, list):
                raise SpecError(
                    f"{shown_as}: {path_text(path[:depth]) or 'the spec'} is no list, so it has no place [{part}]"
                )
            if part > len(node) or (part == len(node) and not last):
                raise SpecError(f"{shown_as}: {path_text(path[:depth])} has {len(node)} entries, there is no [{part}]")
            if last and part == len(node):
                node.append(value)
                return
        elif not isinstance(node, dict):
            raise SpecError(f"{shown_as}: {path_text(path[:depth])} is {shown(node)}, so it has no field '{part}'")
        if last:
            node[part] = value  # type: ignore[index]
            return
        child = node.get(part) if isinstance(node, dict) else node[part]  # type: ignore[index]
        if child is None:
            child = {}
        elif isinstance(child, str):
            child = {"use": child}
        elif not isinstance(child, dict | list):
            raise SpecError(f"{shown_as}: {where} is {shown(child)}, so it has no field '{path[depth + 1]}'")
        node[part] = child  # type: ignore[index]
        node = child
