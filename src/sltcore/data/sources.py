"""Getting a corpus: sources in order, each either whole or not used.

1. the folder that SLT_DATA names: `SLT_DATA/NAME` (or with `_` for `-`) or SLT_DATA itself, unpacked or as .deb files;
2. the packages as they are installed on this machine;
3. the Debian packages, downloaded and unpacked in the cache, without root;
4. the hub, where the descriptor names a data set there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sltcore.data import debian
from sltcore.data.cache import Progress, cache_folder
from sltcore.data.corpora import Corpus, corpus
from sltcore.data.layout import find
from sltcore.errors import DataError

_SYSTEM = Path("/")


class Fetched(NamedTuple):
    """Where a corpus was found: `source` is "folder", "installed", "debian" or "hub"; `roots` hold its files."""

    name: str
    source: str
    roots: tuple[Path, ...]
    versions: Mapping[str, str]


def quiet(line: str) -> None:
    """A progress function that says nothing."""


def fetch(name: str, *, progress: Progress = quiet) -> Fetched:
    """Make a corpus available on this machine; what is there already is not fetched again.

    `progress` gets one line for each step that takes time.

    Raises DataError: no such corpus, SLT_DATA is no folder, and where no source has it, with what to do.
    """
    entry = corpus(name)
    found = located(entry, progress=progress)
    if found is not None:
        return found
    if entry.packages:
        folder = cache_folder() / "debian"
        try:
            roots = tuple(debian.fetch(entry.packages, folder, progress))
        except DataError as error:
            if entry.hub is None:
                raise DataError(f"corpus {entry.name}: {error}") from error
            progress(f"{error}; taking the hub's {entry.hub} instead")
        else:
            return Fetched(entry.name, "debian", roots, debian.versions(entry.packages, folder))
    if entry.hub is not None:
        return Fetched(entry.name, "hub", (), {})
    raise DataError(
        f"corpus {entry.name} has no source on this machine; unpack it into a folder and set SLT_DATA=FOLDER"
    )


def located(entry: Corpus, *, progress: Progress = quiet) -> Fetched | None:
    """Where the corpus lies on this machine, or None; asks no network.

    Raises DataError where SLT_DATA is no folder, or a .deb in it is damaged.
    """
    named = os.environ.get("SLT_DATA")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise DataError(f"SLT_DATA={named} is no folder; name one that holds corpora, or unset it")
        found = _local(entry, folder.resolve(), progress)
        if found is not None:
            return found
    if not entry.markers or not entry.packages:
        return None
    if _holds((_SYSTEM,), entry):
        return Fetched(entry.name, "installed", (_SYSTEM,), {})
    cache = cache_folder() / "debian"
    roots = debian.unpacked(entry.packages, cache)
    if roots is not None and _holds(tuple(roots), entry):
        return Fetched(entry.name, "debian", tuple(roots), debian.versions(entry.packages, cache))
    return None


def _local(entry: Corpus, folder: Path, progress: Progress) -> Fetched | None:
    for place in (folder / entry.name, folder / entry.name.replace("-", "_"), folder):
        if not place.is_dir():
            continue
        children = tuple(place / package.name for package in entry.packages if (place / package.name).is_dir())
        for roots in ((place,), children):
            if roots and entry.markers and _holds(roots, entry):
                return Fetched(entry.name, "folder", roots, {})
        if entry.packages and any(place.glob(f"{entry.packages[0].name}_*.deb")):
            unpacked = debian.from_files(entry.packages, place, cache_folder() / "debian", progress)
            if unpacked is not None:
                versions = debian.versions(entry.packages, cache_folder() / "debian")
                return Fetched(entry.name, "folder", tuple(unpacked), versions)
    return None


def _holds(roots: tuple[Path, ...], entry: Corpus) -> bool:
    return all(find(roots, marker) is not None for marker in entry.markers)
