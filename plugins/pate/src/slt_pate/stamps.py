"""The ledger's head in every released bundle, so that a ledger that was rolled back is detected beside it."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slt_pate.ledger import Stamp
from slt_pate.plugin import STAMP_FILE
from sltcore.errors import PrivacyError

_STAMPED: weakref.WeakKeyDictionary[Any, Mapping[str, Any]] = weakref.WeakKeyDictionary()


def stamp_model(model: Any, facts: Mapping[str, Any]) -> None:
    """Let every bundle that is saved of this model hold `facts`."""
    _STAMPED[model] = dict(facts)


def write_stamp(pipeline: Any, folder: Path) -> None:
    """Write the stamp of a pipeline that was released, or that a stamped bundle was loaded into, into a bundle."""
    if pipeline in _STAMPED:
        (folder / STAMP_FILE).write_text(json.dumps(_STAMPED[pipeline], indent=1) + "\n", encoding="utf-8")
        return
    loaded = getattr(getattr(pipeline, "scope", None), "folder", None)
    if loaded is not None and (Path(loaded) / STAMP_FILE).is_file() and Path(loaded) != folder:
        shutil.copyfile(Path(loaded) / STAMP_FILE, folder / STAMP_FILE)


def read_stamp(bundle: str | Path) -> tuple[Stamp, Mapping[str, Any]]:
    """The stamp of a released bundle and what else it says.

    **Raises** `PrivacyError` when it has none, `BundleError` when its files are not those that were saved.
    """
    from sltcore.bundle import provenance

    folder = Path(bundle)
    provenance.read(folder)
    try:
        data = json.loads((folder / STAMP_FILE).read_text(encoding="utf-8"))
        return Stamp.from_json(data["stamp"]), data
    except FileNotFoundError:
        raise PrivacyError(
            f"{folder} has no {STAMP_FILE}: it was not released from a ledger. Next: name the bundle that slt train left"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise PrivacyError(
            f"{folder / STAMP_FILE} is no stamp of a ledger; expected the file that slt train left"
        ) from None
