"""What the result of a unit depends on, as one hash."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sltcore.registry import Entry

FORMAT = 1  # counts up when stages come to mean something else with the same fields
SILENT = ("name", "description", "log")  # fields of a stage that change no result
SPECTATORS = ("cli", "cluster", "report", "testing")  # parts of the core that no unit runs
WORKING = ("bootstrap", "grids", "measures", "outputs", "plan", "stages")  # of sltcore.experiment; the rest looks on
LIBRARIES = ("accelerate", "numba", "numpy", "soundfile", "soxr", "torch", "transformers")
MISSING = "missing"
SAMPLE_BYTES = 4096


def canonical(data: Any) -> bytes:
    """The one way plain data are written: sorted, without white space."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: Any) -> str:
    """sha256 of plain data."""
    return hashlib.sha256(canonical(data)).hexdigest()


def content_digest(path: Path) -> str:
    """sha256 of a file, or of all files of a folder with their names; "missing" where there is neither.

    >>> content_digest(Path("no such file"))
    'missing'
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if path.is_dir():
        return _folder_digest(path, [entry for entry in path.rglob("*") if entry.is_file()])
    return MISSING


def recording_digest(source: Any) -> str:
    """Of a recording's size and of 4 KiB from its middle: enough to notice that it was made anew with the same length,
    without reading hours of sound. "missing" where the source is no file that can be read.

    >>> recording_digest("no such file")
    'missing'
    """
    try:
        with Path(source).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, (size - SAMPLE_BYTES) // 2))
            return digest([size, hashlib.sha256(file.read(SAMPLE_BYTES)).hexdigest()])
    except (OSError, TypeError, ValueError):
        return MISSING


def _folder_digest(root: Path, files: Iterable[Path]) -> str:
    names = sorted((path.relative_to(root).as_posix(), path) for path in files)
    return digest([[name, content_digest(path)] for name, path in names])


def unit_key(
    fields: Mapping[str, Any],
    *,
    needs: Mapping[str, str],
    files: Mapping[str, str],
    data: Iterable[str],
    code: Iterable[str],
    seed: int | None,
    more: Mapping[str, Any],
) -> str:
    """sha256 of a unit's identity.

    - `fields`: of the stage. The names of other stages count only where results carry them (`of`); elsewhere what
      counts is the key of their unit, `needs`, so that stages that do the same work share it whatever they are called.
    - `files`: path to digest of its content, of everything that is read; the paths themselves do not count, nor do a
      stage's name and description.
    - `data`: fingerprints of the utterances; `code`: versions of the software; `seed`: None where nothing is drawn.
    """
    kept = {name: value for name, value in fields.items() if name not in SILENT}
    named = {} if "of" in fields else needs
    return digest(
        {
            "format": FORMAT,
            "fields": _identity(kept, named, files),
            "needs": {name: needs[name] for name in fields["of"]} if "of" in fields else sorted(needs.values()),
            "files": sorted(files.values()),
            "data": list(data),
            "code": sorted(code),
            "seed": seed,
            "more": more,
        }
    )


def _identity(value: Any, needs: Mapping[str, str], files: Mapping[str, str], key: str = "") -> Any:
    """`value` with names of stages replaced by keys of units, and paths of files by digests of their content."""
    if isinstance(value, Mapping):
        return {name: _identity(item, needs, files, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_identity(item, needs, files) for item in value]
    if isinstance(value, str):
        if key in ("from", "stage") and value in needs:
            return {"unit": needs[value]}
        if value in files:
            return {"sha256": files[value]}
    return value


def code_versions(entries: Iterable[Entry]) -> list[str]:
    """Versions of everything that can change what these components compute: the core, their distributions, and
    `LIBRARIES`. What is installed for editing counts by the content of its source files."""
    found = {_version("sltcore-lib", "sltcore"), *(f"{name} {_released(name)}" for name in LIBRARIES)}
    found |= {_version(entry.distribution, entry.component.impl.partition(".")[0]) for entry in entries}
    return sorted(found)


def _released(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def _version(distribution: str, package: str) -> str:
    """Name, version, and a digest of the code: of the record of its files, or of the files themselves where they may
    change below an installed version."""
    package = package.partition(":")[0]
    try:
        installed = metadata.distribution(distribution)
    except (metadata.PackageNotFoundError, ValueError):  # a component that a test registered
        return f"{distribution or package} {source_digest(package)}"
    record = installed.read_text("RECORD") or ""
    lines = sorted(line for line in record.splitlines() if line.startswith((f"{package}/", f"{package}.py,")))
    if is_editable(installed) or not lines:
        return f"{distribution} {installed.version} {source_digest(package)}"
    return f"{distribution} {installed.version} {digest([line for line in lines if ',,' not in line])[:16]}"


def is_editable(installed: metadata.Distribution) -> bool:
    """Whether a distribution's code lies in somebody's checkout."""
    try:
        direct = json.loads(installed.read_text("direct_url.json") or "{}")
    except ValueError:
        return False
    return bool(isinstance(direct, dict) and direct.get("dir_info", {}).get("editable"))


def package_folder(package: str) -> Path | None:
    """Where the files of an importable package lie, without importing it; the file of a single module."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if found is None:
        return None
    if found.submodule_search_locations:
        return Path(next(iter(found.submodule_search_locations)))
    return Path(found.origin) if found.origin else None


def source_digest(package: str) -> str:
    """Of all files of a package that can change a result, without what Python compiled and what only looks on."""
    place = package_folder(package)
    if place is None:
        return MISSING
    if place.is_file():
        return content_digest(place)[:16]
    files = [path for path in place.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    if package == "sltcore":
        files = [path for path in files if _works(path.relative_to(place).parts)]
    return _folder_digest(place, files)[:16]


def _works(parts: tuple[str, ...]) -> bool:
    """Whether a file of the core, as the parts of its path, can change what a unit computes."""
    if parts[0] == "experiment" and len(parts) == 2:
        return parts[1].removesuffix(".py") in WORKING
    return parts[0] not in SPECTATORS
