"""The lines of metrics.jsonl, and TensorBoard's events."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from sltcore.errors import TrainError

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class History:
    """Appends to `metrics.jsonl` and, where wanted, to TensorBoard's event file of `folder`.

    `start` is the step that the run goes on from: what was written for later steps is cut away, since it will be written
    again. Lines are plain JSON objects; numbers that are not finite are written as null. **Raises** `TrainError` when the
    folder cannot be written.
    """

    def __init__(self, folder: Path, *, start: int = 0, tensorboard: bool = True) -> None:
        self.path = folder / METRICS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _cut(self.path, start)
            self._file = self.path.open("a", encoding="utf-8")
            self._events = _Events(folder / TENSORBOARD, start) if tensorboard else None
        except OSError as error:
            raise TrainError(
                f"{self.path} cannot be written: {error.strerror or error}; choose another --out"
            ) from None

    def write(self, values: Mapping[str, Any]) -> None:
        """One line; its numbers become TensorBoard scalars at its `step`."""
        line = {name: _plain(value) for name, value in values.items()}
        try:
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
            if self._events is not None:
                self._events.write(values)
        except OSError as error:
            raise TrainError(
                f"{self.path} cannot be written: {error.strerror or error}; make room and run again, which goes on from the "
                f"last checkpoint"
            ) from None

    def close(self) -> None:
        """Nothing is written afterwards."""
        with contextlib.suppress(OSError):  # every line was flushed; on a full disk the failed one is tried once more
            self._file.close()
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cut(path: Path, start: int) -> None:
    """Leave only whole lines of steps up to `start`, replaced by a rename."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if step <= start and line.endswith("\n"):
            kept.append(line)
    beside = path.with_name(f".{path.name}")
    beside.write_text("".join(kept), encoding="utf-8")
    os.replace(beside, path)


class _Events:
    """TensorBoard's event file, written at once and in this thread, so that a full disk is an error here."""

    def __init__(self, folder: Path, start: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        goes_on = start > 0 or any(folder.iterdir())
        name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{os.getpid()}"
        self._file: IO[bytes] = (folder / name).open("wb")
        self._writer = RecordWriter(self._file)
        self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if goes_on:  # what other files say of later steps is purged
            log = SessionLog(status=SessionLog.START)
            self._put(Event(wall_time=time.time(), step=start + 1, session_log=log))

    def write(self, values: Mapping[str, Any]) -> None:
        numbers = [
            self._summary.Value(tag=name, simple_value=float(value))
            for name, value in _flat(values).items()
            if name not in ("step", "seconds")
        ]
        self._put(self._event(wall_time=time.time(), step=int(values["step"]), summary=self._summary(value=numbers)))

    def _put(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{name}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found
