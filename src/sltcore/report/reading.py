"""Dataclasses to JSON values and back, checked against their annotations."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, Union

from sltcore.errors import DataError, did_you_mean

NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def plain(value: Any) -> Any:
    """JSON values of a dataclass: NaN becomes None, an infinite entry of a map "∞" or "-∞", any other None."""
    if is_dataclass(value):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _entry(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Integral) and not isinstance(value, bool):  # numbers of other libraries count too
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else None
    return value


def _entry(value: Any) -> Any:
    if isinstance(value, Real) and math.isinf(value):
        return "∞" if float(value) > 0 else "-∞"
    return plain(value)


def read(expected: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type; **Raises** `DataError` with the place, what it holds and what belongs there."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if is_dataclass(expected) and isinstance(expected, type):
        return _fields(expected, value, where)
    if origin is list and isinstance(value, list):
        return [read(arguments[0], entry, f"{where}[{number}]") for number, entry in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return {str(key): read(arguments[1], entry, _below(where, str(key))) for key, entry in value.items()}
    if origin in (Union, types.UnionType):
        for choice in arguments:
            if _fits(choice, value):
                return read(choice, value, where)
    elif _fits(expected, value):
        return value
    raise DataError(f"{where}: expected {_named(expected)}, got {_shown(value)}")


def _fields(expected: type, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected a map, got {_shown(value)}")
    hints = _hints(expected)
    for key in value:
        if key not in hints:
            raise DataError(f"{where}: has no field '{key}'.{did_you_mean(str(key), hints)}")
    for entry in fields(expected):
        if entry.name not in value and entry.default is MISSING and entry.default_factory is MISSING:
            raise DataError(f"{_below(where, entry.name)} is missing; expected {_named(hints[entry.name])}")
    return expected(**{key: read(hints[key], entry, _below(where, key)) for key, entry in value.items()})


@cache
def _hints(expected: type) -> dict[str, Any]:
    return typing.get_type_hints(expected)


def _below(where: str, key: str) -> str:
    """Files end with a colon, places within go on with a dot."""
    return f"{where}.{key}" if ": " in where else f"{where}: {key}"


def _fits(expected: Any, value: Any) -> bool:
    """Whether a value has the outer shape of a type; true and false are no numbers."""
    origin = typing.get_origin(expected)
    if expected is Any:
        return True
    if origin is Literal:
        return isinstance(value, str) and value in typing.get_args(expected)
    if origin in (list, dict):
        return isinstance(value, origin)
    if expected in (int, float):
        kinds = (int, float) if expected is float else (int,)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, expected)


def _named(expected: Any) -> str:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin is Literal:
        return "one of: " + ", ".join(f"'{choice}'" for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_named(choice) for choice in arguments))
    return {list: "a list", dict: "a map"}.get(origin, NAMES.get(expected, "a map"))


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "…"
