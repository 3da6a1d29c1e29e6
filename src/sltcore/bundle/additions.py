"""What plugins added to a bundle after it was saved: each addition says which plugin it takes to hear it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sltcore.errors import BundleError
from sltcore.registry import Registry

MANIFEST = "added.json"
NEEDS = "needs"


def refuse_missing(folder: Path, digests: Mapping[str, str], registry: Registry) -> None:
    """Let no addition be passed over in silence. A folder of the bundle that holds an `added.json` which was not saved with
    it is an addition; its field `needs` names the distribution of the plugin that reads it.

    **Raises** `BundleError` when that plugin is not installed, switched off or broken, and for a manifest that cannot be
    read.
    """
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        name = path.relative_to(folder).as_posix()
        if name in digests:
            continue
        needs = _needs(folder, path)
        rows = [row for row in registry.rows if row.distribution == needs]
        if any(row.usable for row in rows):
            continue
        without = f"remove the folder {path.parent.name} to do without"
        if rows:
            raise BundleError(
                f"bundle {folder}: {name} needs {needs}, which is {rows[0].status}: {rows[0].problem}. Next: "
                f"{rows[0].remedy}, or {without}"
            )
        raise BundleError(
            f"bundle {folder}: {name} needs {needs}, which is not installed; the bundle would work without what was added. "
            f"Next: pip install {needs}, or {without}"
        )


def _needs(folder: Path, path: Path) -> str:
    try:
        data: Any = json.loads(path.read_bytes())
        needs = data[NEEDS]
        if not isinstance(needs, str) or not needs:
            raise TypeError
    except (ValueError, KeyError, TypeError, OSError):
        raise BundleError(
            f"bundle {folder}: {path.relative_to(folder).as_posix()} is cut or changed; remove the folder "
            f"{path.parent.name} and add again what was in it"
        ) from None
    return needs
