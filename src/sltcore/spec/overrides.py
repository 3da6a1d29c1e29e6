"""`--set PATH=VALUE`: one place of a spec replaced, the value written as YAML."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from sltcore.errors import SpecError
from sltcore.spec.document import PathKey, parse_value
from sltcore.spec.problems import path_text, shown

_PART = re.compile(r"\.?([A-Za-z_][\w-]*)|\[(\d{1,6})\]|\.(\d{1,6})")


def parse_path(text: str) -> PathKey:
    """The parts of a path such as `transforms[0].bits`; **Raises** `SpecError` when it does not read as one.

    >>> parse_path("transforms[0].bits")
    ('transforms', 0, 'bits')
    """
    parts: list[str | int] = []
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None or (position == 0 and text[0] == "."):
            raise SpecError(
                f"--set {text}: not a path; write names joined by dots and list places in brackets, as decoder.beam or transforms[0].bits"
            )
        name, index, dotted = match.groups()
        parts.append(name if name is not None else int(index or dotted))
        position = match.end()
    if not parts:
        raise SpecError("--set: the path is empty; write PATH=VALUE, such as decoder.beam=32")
    return tuple(parts)


def apply_overrides(data: Any, settings: Iterable[str]) -> tuple[Any, dict[PathKey, str]]:
    """`data` with every `PATH=VALUE` applied in order, and which paths they replaced.

    A block given as a bare name grows into a map when one of its fields is set. **Raises** `SpecError` when a path
    leads through something that is neither a map nor a list, or beyond a list's end.
    """
    data = copy.deepcopy(data)
    replaced: dict[PathKey, str] = {}
    for setting in settings:
        text, equals, value = setting.partition("=")
        if not equals:
            raise SpecError(f"--set {setting}: expected PATH=VALUE, such as decoder.beam=32")
        path = parse_path(text.strip())
        new = parse_value(value, f"--set {setting}")
        if not isinstance(data, dict):
            raise SpecError(f"--set {setting}: the spec is no map, so nothing in it can be set")
        _replace(data, path, new, setting)
        replaced[path] = setting
    return data, replaced


def _replace(data: Any, path: PathKey, value: Any, setting: str) -> None:
    node = data
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        where = path_text(path[: depth + 1])
        if isinstance(part, int):
            if not isinstance(node, list):
                raise SpecError(f"--set {setting}: {path_text(path[:depth])} is no list, so it has no place [{part}]")
            if part > len(node) or (part == len(node) and not last):
                raise SpecError(
                    f"--set {setting}: {path_text(path[:depth])} has {len(node)} entries, there is no [{part}]"
                )
            if last and part == len(node):
                node.append(value)
                return
        elif not isinstance(node, dict):
            raise SpecError(f"--set {setting}: {path_text(path[:depth])} is {shown(node)}, so it has no field '{part}'")
        if last:
            node[part] = value  # type: ignore[index]
            return
        child = node.get(part) if isinstance(node, dict) else node[part]  # type: ignore[index]
        if child is None:
            child = {}
        elif isinstance(child, str):
            child = {"use": child}
        elif not isinstance(child, dict | list):
            raise SpecError(f"--set {setting}: {where} is {shown(child)}, so it has no field '{path[depth + 1]}'")
        node[part] = child  # type: ignore[index]
        node = child
