"""YAML 1.2 text to plain data, with the line and column of every key, and limits that no text can exceed.

PyYAML scans; scalars are resolved by the YAML 1.2 core schema, so `no` is Norwegian, `1e-4` a number and `012` twelve.
Tags, several documents, repeated keys, keys that are not strings, and alias bombs are refused.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sltcore.errors import SpecError, did_you_mean

PathKey = tuple[str | int, ...]

MAX_DEPTH = 40
MAX_NODES = 100_000
MAX_BYTES = 4_000_000
MAX_DIGITS = 300

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCT = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NAN = frozenset((".nan", ".NaN", ".NAN"))


class Mark(NamedTuple):
    """A place in a text, counted from 1."""

    line: int
    column: int


class Document(NamedTuple):
    """Parsed text: `data` of dicts, lists and scalars, and where each path begins; `text` as it was written."""

    data: Any
    marks: dict[PathKey, Mark]
    name: str
    text: str = ""

    def mark(self, path: PathKey) -> Mark:
        """The place of a path, or of the nearest parent that stands in the text."""
        for end in range(len(path), -1, -1):
            found = self.marks.get(path[:end])
            if found is not None:
                return found
        return Mark(1, 1)


def read_document(path: str | Path) -> Document:
    """The document in a file. **Raises** `SpecError` when it is missing, unreadable, too large, or not YAML."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise SpecError(f"{path}:1:1: this is a folder, expected a spec file") from None
    except FileNotFoundError:
        raise SpecError(f"{path}:1:1: there is no such spec file{_neighbours(path)}") from None
    except OSError as error:
        raise SpecError(f"{path}:1:1: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SpecError(f"{str(path)!r}:1:1: cannot be read: {error}") from None
    return parse_document(data, str(path))


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    names = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml", ".json") and p.is_file())
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"; {path.parent} holds {listed}.{did_you_mean(path.name, names)}" if names else ""


def parse_document(text: str | bytes, name: str = "<spec>") -> Document:
    """The document in a text; **Raises** `SpecError` with file, line and column."""
    if isinstance(text, bytes):
        text = _decoded(text, name)
    if len(text) > MAX_BYTES:
        raise SpecError(f"{name}:1:1: the text has {len(text):,} characters, at most {MAX_BYTES:,} are read")
    return _Reader(text, name).document()


def parse_value(text: str, where: str) -> Any:
    """One value as it might stand behind a key; **Raises** `SpecError` naming `where`."""
    return parse_document(text, where).data if text.strip() else ""


def dump_document(data: Any) -> str:
    """Plain data as YAML that reads back equal here: PyYAML alone would write the text `1e-4` bare, for it knows YAML 1.1
    only, and lose characters such as U+0085."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def dump_value(value: Any) -> str:
    """One value as YAML on one line, that `parse_value` reads back equal."""
    text: str = yaml.dump(
        [value], Dumper=_LineDumper, sort_keys=False, allow_unicode=True, width=math.inf, default_flow_style=True
    )
    return text.strip()[1:-1]


class _Dumper(yaml.SafeDumper):
    """Never writes an alias, and quotes what YAML 1.2 would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _LineDumper(_Dumper):
    """Writes line breaks as escapes."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = text if isinstance(dumper, _LineDumper) else text.replace("\n", "")
    odd = not plain.isprintable() or not isinstance(resolve(text[: MAX_DIGITS + 1]), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if odd else None)


_Dumper.add_representer(str, _represent_text)
_LineDumper.add_representer(str, _represent_text)


def resolve(text: str) -> Any:
    """What an unquoted scalar means by the YAML 1.2 core schema: null, a boolean, a number, or itself."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text in _NAN:
        return float("nan")
    if _INFINITE.fullmatch(text):
        return float("-inf" if text.startswith("-") else "inf")
    if _INT.fullmatch(text):
        return int(text)
    if _OCT.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    return float(text) if _FLOAT.fullmatch(text) else text


def _decoded(data: bytes, name: str) -> str:
    encoding = next((codec for mark, codec in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "ignore")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        what = encoding.upper().removesuffix("-SIG")
        raise SpecError(
            f"{name}:{line}:{column}: byte 0x{data[error.start]:02x} is not {what}; save the file as UTF-8"
        ) from None


class _Anchored(NamedTuple):
    """What an anchor names: its value, how many nodes it has, how many levels lie below its own."""

    value: Any
    size: int
    height: int


class _Reader:
    """Builds data from PyYAML's event stream, so that depth and size are known before anything is made."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.text = text
        self.events: Iterator[Any] = iter(())
        self.marks: dict[PathKey, Mark] = {}
        self.anchors: dict[str, _Anchored] = {}
        self.open_anchors: set[str] = set()
        self.nodes = 0
        self.deepest = 0
        self.last = Mark(1, 1)

    def document(self) -> Document:
        try:
            self.events = yaml.parse(self.text, Loader=yaml.SafeLoader)
            self._next()  # stream start
            event = self._next()
            if isinstance(event, yaml.StreamEndEvent):
                self._fail(1, 1, "the spec is empty; begin with `slt: 1` and `kind: pipeline`")
            data = self._node(self._next(), (), 0)
            self._next()  # document end
            event = self._next()
            if not isinstance(event, yaml.StreamEndEvent):
                line, column = _place(event)
                self._fail(line, column, "a second document begins here; a spec is one document, remove the `---`")
        except yaml.reader.ReaderError as error:
            # ReaderError counts characters, not lines.
            before = self.text[: error.position] if isinstance(error.position, int) else ""
            self._fail(
                before.count("\n") + 1,
                len(before) - before.rfind("\n"),
                f"character #x{_code(error.character):04x} is not allowed in YAML",
            )
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = " ".join(str(error.problem or error.context or "cannot be parsed").split())
            if "'\\t'" in problem:
                problem = "a tab stands where YAML wants spaces; indent with spaces"
            self._fail((mark.line if mark else 0) + 1, (mark.column if mark else 0) + 1, f"not YAML: {problem}")
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # PyYAML turns escapes such as "\\U00110000" and %YAML 9…9 into numbers without a check of its own.
            self._fail(*self.last, f"not YAML, at or after this place: {' '.join(str(error).split())[:200]}")
        return Document(data, self.marks, self.name, self.text)

    def _fail(self, line: int, column: int, message: str) -> None:
        raise SpecError(f"{self.name}:{line}:{column}: {message}") from None

    def _next(self) -> Any:
        event = next(self.events)
        self.last = _place(event)
        return event

    def _node(self, event: Any, path: PathKey, depth: int) -> Any:
        line, column = _place(event)
        self.marks.setdefault(path, Mark(line, column))
        self._count(1, line, column)
        self._descend(depth, line, column)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth, line, column)
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            self._fail(line, column, f"tag {tag!r} is not allowed; a spec holds plain values only")
        anchor = event.anchor
        start, outside = self.nodes, self.deepest
        self.deepest = depth
        if anchor is not None:
            self.open_anchors.add(anchor)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, line, column)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path, depth)
        else:
            value = self._mapping(path, depth)
        if anchor is not None:
            self.open_anchors.discard(anchor)
            self.anchors[anchor] = _Anchored(value, self.nodes - start + 1, self.deepest - depth)
        self.deepest = max(self.deepest, outside)
        return value

    def _descend(self, depth: int, line: int, column: int) -> None:
        self.deepest = max(self.deepest, depth)
        if depth > MAX_DEPTH:
            self._fail(line, column, f"nested deeper than {MAX_DEPTH} levels")

    def _count(self, more: int, line: int, column: int) -> None:
        self.nodes += more
        if self.nodes > MAX_NODES:
            self._fail(line, column, f"the spec has more than {MAX_NODES:,} values once its aliases are written out")

    def _alias(self, event: Any, depth: int, line: int, column: int) -> Any:
        if event.anchor in self.open_anchors:
            self._fail(line, column, f"alias *{event.anchor} stands inside its own anchor")
        if event.anchor not in self.anchors:
            self._fail(line, column, f"alias *{event.anchor} has no anchor &{event.anchor} above it")
        value, size, height = self.anchors[event.anchor]
        self._count(size, line, column)
        self._descend(depth + height, line, column)
        return _copied(value)  # so that --set at one place does not change the other

    def _sequence(self, path: PathKey, depth: int) -> list[Any]:
        items: list[Any] = []
        while True:
            event = self._next()
            if isinstance(event, yaml.SequenceEndEvent):
                return items
            items.append(self._node(event, (*path, len(items)), depth + 1))

    def _mapping(self, path: PathKey, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while True:
            event = self._next()
            if isinstance(event, yaml.MappingEndEvent):
                return result
            line, column = _place(event)
            key = self._key(event, line, column)
            if key in result:
                self._fail(line, column, f"key {_short(key)} stands here and on line {lines[key]}; keep one")
            lines[key] = line
            inner = (*path, key)
            self.marks[inner] = Mark(line, column)
            result[key] = self._node(self._next(), inner, depth + 1)

    def _key(self, event: Any, line: int, column: int) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._fail(line, column, "a key must be a name, not a list, map or alias")
        if len(event.value) > 200:
            self._fail(line, column, f"a key of {len(event.value)} characters; at most 200")
        if getattr(event, "tag", None) not in (None, "!"):
            self._fail(line, column, f"tag {event.tag!r} is not allowed; a spec holds plain values only")
        value = self._scalar(event, line, column)
        if not isinstance(value, str):
            kind = _type_name(value)
            self._fail(line, column, f"key {_short(event.value)} is read as a {kind}; quote it or write a name")
        return str(event.value)

    def _scalar(self, event: Any, line: int, column: int) -> Any:
        text = event.value
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            self._fail(line, column, f"{_short(text)} holds half of a surrogate pair, which is no character")
        if event.style is not None or event.tag == "!":
            return text
        if len(text) > MAX_DIGITS and (text[0].isdigit() or text[0] in "+-."):
            if any(pattern.fullmatch(text) for pattern in (_FLOAT, _HEX, _OCT)):
                self._fail(line, column, f"a number of {len(text)} digits; at most {MAX_DIGITS}")
            return text
        return resolve(text)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _place(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


def _code(character: Any) -> int:
    return character if isinstance(character, int) else ord(character)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    return {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "map"}[type(value)]
