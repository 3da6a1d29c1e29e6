"""What a bundle was made of, and the digests that detect accidents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sltcore.errors import BundleError

FORMAT = 1
NAME = "provenance.json"
NEEDED = ("spec.yaml", "weights.safetensors")
FIELDS = ("aliases", "components", "sha256")


def digest(path: Path) -> str:
    """sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(data: Mapping[str, Any]) -> bytes:
    """The one way these data are written."""
    return json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def write(folder: Path, data: Mapping[str, Any]) -> None:
    """Sign `data` and every file of `folder`, and write the provenance."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    signed = {**data, "bundle": FORMAT, "sha256": {path.relative_to(folder).as_posix(): digest(path) for path in files}}
    own = hashlib.sha256(canonical(signed)).hexdigest()
    (folder / NAME).write_bytes(canonical({**signed, "self": own}))


def read(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """The provenance of a bundle; **Raises** `BundleError` naming the file that is missing, cut or changed."""
    path = folder / NAME
    if not folder.is_dir():
        raise BundleError(f"bundle {folder}: there is no such folder")
    try:
        raw = path.read_bytes()
    except OSError:
        raise BundleError(
            f"bundle {folder}: {NAME} is missing, so this is no bundle; make one with `slt pack SPEC DIR`"
        ) from None
    try:
        data = json.loads(raw)
        own = data.pop("self")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BundleError(f"bundle {folder}: {NAME} is cut or changed; copy the bundle again") from None
    if canonical({**data, "self": own}) != raw or hashlib.sha256(canonical(data)).hexdigest() != own:
        raise BundleError(f"bundle {folder}: {NAME} was changed after saving; copy the bundle again")
    if data.get("bundle") != FORMAT:
        raise BundleError(
            f"bundle {folder}: format {data.get('bundle')} is not {FORMAT}, which this sltcore reads. Next: pip install -U sltcore-lib"
        )
    lacking = [name for name in FIELDS if not isinstance(data.get(name), dict)]
    lacking += [name for name in NEEDED if not lacking and name not in data["sha256"]]
    if lacking:
        raise BundleError(f"bundle {folder}: {NAME} says nothing about {', '.join(lacking)}; save the bundle again")
    if verify:
        _verify(folder, data["sha256"])
        _refuse_strays(folder, data["sha256"])
    return dict(data)


def _verify(folder: Path, digests: Mapping[str, str]) -> None:
    for name, expected in digests.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"bundle {folder}: {name} is missing; copy the bundle again")
        try:
            found = digest(path)
        except OSError as error:
            raise BundleError(f"bundle {folder}: {name} cannot be read: {error.strerror}") from None
        if found != expected:
            raise BundleError(
                f"bundle {folder}: {name} does not match {NAME} (sha256 {found[:8]}… ≠ {expected[:8]}…); "
                f"the file was cut or changed after saving, copy the bundle again"
            )


def _refuse_strays(folder: Path, digests: Mapping[str, str]) -> None:
    """A component would read a file that somebody laid beside its own; elsewhere further files do no harm."""
    for path in sorted((folder / "files").rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.startswith(".") and name not in digests:
            raise BundleError(f"bundle {folder}: {name} was added after saving; remove it, or copy the bundle again")
