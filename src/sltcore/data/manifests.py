"""Inputs of a run: recordings, folders and manifests become one stream of items."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sltcore.audio.headers import AUDIO_EXTENSIONS
from sltcore.errors import DataError, did_you_mean
from sltcore.types import Item

MANIFEST_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson")
_AUDIO_COLUMNS = ("audio", "path", "file", "audio_filepath", "wav")
_TEXT_COLUMNS = ("text", "transcript", "sentence")
_LISTED_PROBLEMS = 20


class _TabSeparated(csv.Dialect):
    """Cells between tabs, quotes being text like the rest: a transcript may hold one."""

    delimiter = "\t"
    quoting = csv.QUOTE_NONE
    lineterminator = "\n"


def iter_inputs(inputs: Iterable[str | os.PathLike[str]]) -> Iterator[Item]:
    """Items of files, folders (all recordings below, by name) and manifests, in the order given.

    A recording's id is its path as given; below a folder it is relative to that folder. The recordings are not opened.

    Raises DataError: nothing given, an input that does not exist, a folder without recordings, a bad manifest.
    """
    given = [Path(entry) for entry in inputs]
    if not given:
        raise DataError("no input was given; name a recording, a folder or a manifest (csv, tsv, jsonl)")
    for path in given:
        if path.is_dir():
            yield from _folder(path)
        elif path.suffix.lower() in MANIFEST_EXTENSIONS:
            yield from read_manifest(path)
        elif path.exists():
            yield Item(id=str(path), source=str(path))
        else:
            names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise DataError(f"no input {path}; check the name.{did_you_mean(path.name, names)}")


def _folder(folder: Path) -> Iterator[Item]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_EXTENSIONS and p.is_file())
    if not found:
        raise DataError(
            f"no recording lies in {folder} ({', '.join(e[1:] for e in AUDIO_EXTENSIONS)}); name another folder"
        )
    for path in found:
        yield Item(id=path.relative_to(folder).as_posix(), source=str(path))


def read_manifest(path: str | os.PathLike[str], *, audio_column: str | None = None) -> list[Item]:
    """The items of a manifest: CSV or TSV with a header, or JSON lines.

    The recording is in `audio_column`, else in `audio` (also `path`, `file`, `audio_filepath`, `wav`), relative to the
    manifest's folder; `text` (also `transcript`, `sentence`), `id`, `speaker` and `channel` are optional, other columns are kept.

    Raises DataError: it cannot be read, has no such column, and for bad rows, all at once with their line numbers.
    """
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"no manifest {place}; check the name") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror}; check the file") from None
    kind = place.suffix.lower()
    if kind not in MANIFEST_EXTENSIONS:
        raise DataError(f"{place} is no manifest; expected one that ends in {', '.join(MANIFEST_EXTENSIONS)}")
    problems: list[str] = []
    sounds = _AUDIO_COLUMNS if audio_column is None else (audio_column,)
    lined = kind in (".jsonl", ".ndjson")
    records = _json_lines(text, problems) if lined else _table(place, text, kind, problems, sounds)
    items: list[Item] = []
    lines: dict[str, int] = {}
    for line, record in records:
        item = _item(place, line, record, problems, sounds)
        if item is not None and lines.setdefault(item.id, line) != line:
            problems.append(f"line {line}: id {item.id!r} was given in line {lines[item.id]}; ids must differ")
        elif item is not None:
            items.append(item)
    if problems:
        more = f"; and {len(problems) - _LISTED_PROBLEMS} more" if len(problems) > _LISTED_PROBLEMS else ""
        raise DataError(f"{place}: {'; '.join(problems[:_LISTED_PROBLEMS])}{more}")
    if not items:
        raise DataError(f"{place} lists no recording; expected one row for each")
    return items


def _json_lines(text: str, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except json.JSONDecodeError as error:
            problems.append(f"line {line}: no JSON ({error.msg} at column {error.colno})")
            continue
        except RecursionError:
            problems.append(f"line {line}: JSON nested too deep")
            continue
        if not isinstance(record, dict):
            problems.append(f'line {line}: expected an object such as {{"audio": "a.wav"}}')
            continue
        yield line, record


def _table(
    place: Path, text: str, kind: str, problems: list[str], sounds: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    tabs = kind == ".tsv"
    reader = csv.reader(io.StringIO(text, newline=""), dialect=_TabSeparated if tabs else csv.excel)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if not set(header) & set(sounds):
                    raise DataError(
                        f"{place}: line {reader.line_num}: no column holds the recordings; expected one named "
                        f"{', '.join(sounds)}, found {', '.join(header)}"
                    )
                continue
            if len(cells) != len(header):
                problems.append(f"line {reader.line_num}: {len(cells)} cells, the header has {len(header)}")
                continue
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")


def _item(place: Path, line: int, record: Mapping[str, Any], problems: list[str], sounds: Sequence[str]) -> Item | None:
    audio = _first(record, sounds)
    source: str | Mapping[str, Any]
    if isinstance(audio, Mapping) and isinstance(audio.get("path"), str):
        audio = audio["path"]
    if not isinstance(audio, str) or not audio.strip():
        problems.append(f"line {line}: no recording; expected a path in {', '.join(sounds)}")
        return None
    file = place.parent / Path(audio).expanduser()
    source = str(file)
    channel = record.get("channel")
    if isinstance(channel, str):
        channel = int(channel) if channel.strip().isdigit() else channel.strip() or None
    if not (channel is None or channel == "mix" or (isinstance(channel, int) and not isinstance(channel, bool))):
        problems.append(f"line {line}: channel {channel!r}; expected a number from 0, or mix")
        return None
    known = {*sounds, *_TEXT_COLUMNS, "id", "speaker", "channel"}
    name, text, speaker = record.get("id"), _first(record, _TEXT_COLUMNS), record.get("speaker")
    return Item(
        id=str(name) if name not in (None, "") else (f"{audio}#{channel}" if channel is not None else audio),
        source=source,
        text=None if text is None else str(text),
        speaker=None if speaker in (None, "") else str(speaker),
        channel=channel,
        extra={key: value for key, value in record.items() if key not in known},
    )


def _first(record: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)
