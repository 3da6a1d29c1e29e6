"""Finding a corpus's files: several unpacked packages are searched as if they lay in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sltcore.errors import DataError


def find(roots: Sequence[Path], pattern: str) -> Path | None:
    """The first path below any root that matches a glob pattern, or None."""
    for root in roots:
        for path in sorted(root.glob(pattern)):
            return path
    return None


def first(roots: Sequence[Path], pattern: str) -> Path:
    """As `find`.

    Raises DataError where nothing matches.
    """
    path = find(roots, pattern)
    if path is None:
        places = ", ".join(map(str, roots)) or "no folder"
        raise DataError(f"nothing matches {pattern} in {places}; unpack the corpus again, or unset SLT_DATA")
    return path
