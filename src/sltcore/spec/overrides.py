"""`--set PATH=VALUE`: one place of a spec replaced, the value written as YAML."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from sltcore.errors import SpecError
from sltcore.spec.document import PathKey, dump_value, parse_value
from sltcore.spec.problems import Origin, path_text, shown, shown_setting

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


class Setting(NamedTuple):
    """A place, what shall stand there, and where that was said: the text of a `--set`, or the path of a map's entry in
    the spec itself."""

    path: PathKey
    value: Any
    origin: Origin


def setting_of(text: str) -> Setting:
    """A `PATH=VALUE` as `--set` takes it. **Raises** `SpecError` when it does not read as one."""
    shown_as = f"--set {shown_setting(text)}"
    path, rest = _leading_path(text.strip())
    rest = rest.lstrip()
    if not rest.startswith("="):
        if "=" not in text:
            raise SpecError(f"{shown_as}: expected PATH=VALUE, such as decoder.beam=32")
        try:
            parse_path(text.partition("=")[0].strip())
        except SpecError as error:
            raise SpecError(f"--set {error}") from None
    if not path:
        raise SpecError(f"{shown_as}: the path is empty; write PATH=VALUE, such as decoder.beam=32")
    return Setting(path, parse_value(rest[1:], shown_as), text)


def setting_text(path: str, value: Any) -> str:
    """The `PATH=VALUE` that sets `value`, on one line."""
    return f"{path}={dump_value(value)}"


def apply_overrides(data: Any, settings: Iterable[str]) -> tuple[Any, dict[PathKey, Origin]]:
    """`data` with every `PATH=VALUE` applied in order, and which paths they replaced.

    A block given as a bare name grows into a map when one of its fields is set. **Raises** `SpecError` when a path
    leads through something that is neither a map nor a list, or beyond a list's end.
    """
    data = copy.deepcopy(data)
    replaced: dict[PathKey, Origin] = {}
    for text in settings:
        setting = setting_of(text)
        try:
            path = replace(data, setting)
        except SpecError as error:
            raise SpecError(f"--set {shown_setting(text)}: {error}") from None
        replaced[path] = text
    return data, replaced


def replace(data: Any, setting: Setting) -> PathKey:
    """Put a value at its place in `data`, and tell that place. **Raises** `SpecError` when there is no such place."""
    if not isinstance(data, dict):
        raise SpecError("the spec is no map, so nothing in it can be set")
    path = _collapsed(setting.path, data)
    node: Any = data
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(part, int):
            if not isinstance(node, list):
                raise SpecError(f"{path_text(path[:depth]) or 'the spec'} is no list, so it has no place [{part}]")
            if part > len(node) or (part == len(node) and not last):
                raise SpecError(f"{path_text(path[:depth])} has {len(node)} entries, there is no [{part}]")
            if last and part == len(node):
                node.append(setting.value)
                return path
        elif not isinstance(node, dict):
            raise SpecError(f"{path_text(path[:depth])} is {shown(node)}, so it has no field '{part}'")
        if last:
            node[part] = setting.value
            return path
        child = node.get(part) if isinstance(node, dict) else node[part]
        if child is None:
            child = [] if isinstance(path[depth + 1], int) else {}
        elif isinstance(child, str):
            child = {"use": child}
        elif not isinstance(child, dict | list):
            where = path_text(path[: depth + 1])
            raise SpecError(f"{where} is {shown(child)}, so it has no field '{path[depth + 1]}'")
        node[part] = child
        node = child
    return path


def _collapsed(path: PathKey, data: dict[str, Any]) -> PathKey:
    """A path that leads into a map whose keys are paths themselves, with its rest as one key: `set.decoder.beam` is the
    key `decoder.beam` of `set`."""
    if "do" in data:  # a stage by itself
        ends = 1 if path[0] == "set" else 0
    elif data.get("kind") == "experiment":
        is_map = path[0] == "stages" and len(path) > 2 and path[2] in ("set", "grid")
        ends = 3 if is_map else 2 if path[0] == "sizes" else 0
    else:
        ends = 1 if data.get("kind") == "train" and path[0] == "set" else 0
    return (*path[:ends], path_text(path[ends:])) if ends and len(path) > ends + 1 else path
