"""The folder of a run: who works in it, what it was begun with, and whether it is finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sltcore.errors import TrainError
from sltcore.spec import path_text
from sltcore.spec.document import dump_document
from sltcore.spec.filled import diff
from sltcore.train.checkpoint import FOLDER, STEP, write_json
from sltcore.train.history import METRICS, TENSORBOARD
from sltcore.train.result import Trained

BUNDLE, LAST, BEST, MODELS = "bundle", "last", "best", "models"
RESULT, SPEC, LOCK = "result.json", "spec.yaml", ".lock"
OURS = (FOLDER, BEST, BUNDLE, LAST, MODELS, TENSORBOARD, METRICS, RESULT, SPEC)
MAY_CHANGE = ("budget", "evaluate", "checkpoint", "log", "name", "description")
"""Places of a spec that may differ when a run goes on."""


@contextmanager
def worked_in(folder: Path) -> Iterator[None]:
    """Make the folder and keep other runs out of it. **Raises** `TrainError` when it cannot be written, or another run
    works in it; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise TrainError(f"{folder} cannot be written: {error.strerror or error}; choose another --out") from None
    try:
        if not _locked(handle):
            raise TrainError(f"another run works in {folder}; wait for it, or choose another --out")
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # not on this system; nobody is kept out then
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError | PermissionError):
            return False
    return True  # a file system without locks keeps nobody out


def clear(folder: Path) -> None:
    """Remove what a run wrote, and nothing else. **Raises** `TrainError` when that is refused."""
    try:
        for name in OURS:
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        remove_half_written(folder)
    except OSError as error:
        raise TrainError(f"{folder} cannot be emptied: {error.strerror or error}; choose another --out") from None


def remove_half_written(folder: Path) -> None:
    """Remove bundles that a process was writing when it was killed; the caller works in the folder alone."""
    patterns = (f"{BEST}/.{STEP}*", f".{BUNDLE}.*", f".{LAST}.*")
    for left in [path for pattern in patterns for path in folder.glob(pattern)]:
        shutil.rmtree(left, ignore_errors=True)


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What may not change between two sets of facts of a run, one text for each place that differs."""
    found = [
        f"{path_text(path)} was {_shown(before)}, is {_shown(after)}"
        for path, before, after in diff(was["spec"], now["spec"])
        if path[0] not in MAY_CHANGE
    ]
    if not found:
        found = [
            f"pipeline.{path_text(path)} was {_shown(before)}, is {_shown(after)}"
            for path, before, after in diff(was["pipeline"], now["pipeline"])
            if path[0] not in MAY_CHANGE
        ]
    if was["data"] != now["data"]:
        found.append("the training data are others")
    if was["processes"] != now["processes"]:
        found.append(f"it had {was['processes']} processes, now {now['processes']}")
    return found


def refuse_changed(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """**Raises** `TrainError` when a run was begun with something else than it would go on with."""
    found = differences(was, now)
    if found:
        more = f"; and {len(found) - 4} more places" if len(found) > 4 else ""
        raise TrainError(
            f"{folder} was begun otherwise: {'; '.join(found[:4])}{more}. Go on as it was begun, choose another --out, or "
            f"begin anew with --fresh"
        )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return text if len(text) <= 60 else text[:57] + "…"


def write_begun(folder: Path, filled: Mapping[str, Any]) -> None:
    """Say that a run is under way here, with this spec, and remove what a killed one left half written.

    **Raises** `TrainError` when it cannot be written.
    """
    remove_half_written(folder)
    try:
        (folder / RESULT).unlink(missing_ok=True)
        (folder / SPEC).write_text(dump_document(dict(filled)), encoding="utf-8")
    except OSError as error:
        raise TrainError(
            f"{folder / SPEC} cannot be written: {error.strerror or error}; choose another --out"
        ) from None


def write_result(folder: Path, trained: Trained, facts: Mapping[str, Any]) -> None:
    """Say that the run is finished; written last."""
    kept = {name: facts[name] for name in ("spec", "pipeline", "data", "processes")}
    write_json(folder / RESULT, {"facts": kept, "trained": trained.to_dict(folder)})


def read_result(folder: Path, facts: Mapping[str, Any]) -> Trained | None:
    """What a finished run left, if it was the very same run; None where it is not finished, or is to go on."""
    try:
        data = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        same = all(data["facts"][name] == facts[name] for name in ("spec", "pipeline", "data", "processes"))
        found = Trained.from_dict(data["trained"], folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if same and found.bundle.is_dir() and found.last.is_dir() else None


def finished_facts(folder: Path) -> dict[str, Any] | None:
    """What the finished run in a folder was begun with; None where none is finished."""
    try:
        facts = json.loads((folder / RESULT).read_text(encoding="utf-8"))["facts"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts if isinstance(facts, dict) else None
