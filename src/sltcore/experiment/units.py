"""The unit of work: one stage with one seed, run anywhere, kept in a folder that is whole or unfinished."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sltcore.errors import DataError, SltError

if TYPE_CHECKING:
    from sltcore.registry import Registry

NAME = "unit.json"
ERROR = "error.txt"
KEY_LETTERS = 12

State = Literal["done", "reused", "failed", "skipped"]


@dataclass(frozen=True)
class Unit:
    """One stage with one seed, as plain data that can be sent to another process.

    - `key`: sha256 of everything the result depends on; two stages that would do the same work share one unit, and
      `stages` names them all, the first one first.
    - `seed`: None where nothing is drawn at random, neither here nor before.
    - `fields`: of the stage, filled, as JSON values. `needs`: stage to key of the unit whose result is read.
    - `more`: what the stage must know beyond its own fields.
    - `problem`: why it cannot run, found while it was planned.
    """

    stages: tuple[str, ...]
    seed: int | None
    key: str
    fields: Mapping[str, Any]
    needs: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def stage(self) -> str:
        """The stage it is named after."""
        return self.stages[0]

    @property
    def do(self) -> str:
        """train, transform, decode or measure."""
        return str(self.fields["do"])

    @property
    def label(self) -> str:
        """How progress and messages call it."""
        return self.stage if self.seed is None else f"{self.stage} seed {self.seed}"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        seed = "" if self.seed is None else f"seed-{self.seed}--"
        return f"{self.stage.replace('/', '.')}--{seed}{self.key[:KEY_LETTERS]}"


class UnitResult(NamedTuple):
    """What became of a unit. `seconds` is what it took when it ran; `error` is one line."""

    key: str
    state: State
    seconds: float = 0.0
    error: str = ""
    host: str = ""


def find_unit(units: Path, key: str) -> Path | None:
    """The folder of a finished unit in `units`, whatever stage it was named after; None where there is none."""
    for folder in sorted(units.glob(f"*--{key[:KEY_LETTERS]}")):
        facts = read_unit(folder)
        if facts is not None and facts.get("key") == key:
            return folder
    return None


def read_unit(folder: Path) -> dict[str, Any] | None:
    """The facts of a finished unit; None for an unfinished one."""
    try:
        facts = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def write_json(path: Path, data: Any) -> None:
    """Write JSON beside its place and rename it there, so that a reader never sees half of it; numbers that are not
    finite become null."""
    fresh = path.with_name(f".{path.name}")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(_finite(data), file, ensure_ascii=False, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(item) for item in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def run_unit(unit: Unit, units: str | Path, *, registry: Registry | None = None) -> UnitResult:
    """Do the work of one unit in the folder `units`, where the units that it needs are finished.

    A finished unit is not done again. Its folder appears whole, by rename; that of a train unit is there from the
    start, so that an interrupted one goes on from its checkpoint, and counts once unit.json is in it. An error is
    returned, not raised, and its traceback is kept beside the folders.
    """
    units = Path(units)
    reused = finished(unit, units)
    if reused is not None:
        return reused
    start = time.perf_counter()
    trace = units / f"{unit.folder}.{ERROR}"
    try:
        units.mkdir(parents=True, exist_ok=True)
        _work(unit, units, registry)
        trace.unlink(missing_ok=True)
    except Exception as error:
        _keep_trace(trace)
        return UnitResult(unit.key, "failed", time.perf_counter() - start, one_line(error), platform.node())
    return UnitResult(unit.key, "done", time.perf_counter() - start, host=platform.node())


def finished(unit: Unit, units: Path) -> UnitResult | None:
    """What an earlier run did of a unit, where and in what time; None where it did not finish it."""
    place = find_unit(units, unit.key)
    if place is None:
        return None
    facts = read_unit(place) or {}
    return UnitResult(unit.key, "reused", float(facts.get("seconds", 0.0)), host=str(facts.get("host", "")))


def _keep_trace(path: Path) -> None:
    try:
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:  # the disk may be what failed; the error itself is returned
        return


def one_line(error: BaseException) -> str:
    """An error as the row of a failed unit shows it; only errors that nobody foresaw name their type."""
    text = " ".join(str(error).split())
    if isinstance(error, SltError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _work(unit: Unit, units: Path, registry: Registry | None) -> None:
    from sltcore.experiment.cost import Meter
    from sltcore.experiment.stages import STAGES, tidy

    if unit.problem:
        raise DataError(unit.problem)
    places = {}
    for stage, key in unit.needs.items():
        place = find_unit(units, key)
        if place is None:
            raise DataError(f"stage '{unit.stage}' needs '{stage}', which is not finished in {units}")
        places[stage] = place
    target = units / unit.folder
    started = datetime.now(UTC).isoformat(timespec="seconds")
    if unit.do == "train":
        work = target
        work.mkdir(parents=True, exist_ok=True)
    else:
        work = Path(tempfile.mkdtemp(prefix=f".{unit.folder}-", dir=units))
    try:
        with Meter() as meter:
            facts = STAGES[unit.do](unit, work, places, registry)
        told = {
            "stages": list(unit.stages),
            "seed": unit.seed,
            "key": unit.key,
            "do": unit.do,
            "fields": unit.fields,
            "needs": {stage: place.name for stage, place in places.items()},
            "host": platform.node(),
            "started": started,
            **meter.facts(),
            **facts,
        }
        write_json(work / NAME, told)
        if work == target:
            tidy(work, str(facts["bundle"]))
        else:
            work.chmod(0o755)
            _place(work, target)
    finally:
        if work != target:
            shutil.rmtree(work, ignore_errors=True)


def _place(work: Path, target: Path) -> None:
    """The finished folder at its place; what lies there is unfinished, or another process was as fast."""
    if target.exists():
        if read_unit(target) is not None:
            return
        shutil.rmtree(target)
    os.rename(work, target)


def clear_leftovers(units: Path) -> None:
    """Delete what killed processes left half filled; the caller holds the lock of the experiment's folder."""
    for entry in units.glob(".*--*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)


class Schedule:
    """Which units may run, and what follows when one is settled; every engine runs its units by one of these.

    `units` come in an order in which each stands after those that it needs.
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        self._waiting: dict[str, Unit] = {unit.key: unit for unit in units}
        self._names = {unit.key: unit.label for unit in self._waiting.values()}
        self._lost: dict[str, str] = {}
        self._open = set(self._waiting)

    def __bool__(self) -> bool:
        """Whether any unit has not been handed out."""
        return bool(self._waiting)

    def ready(self) -> list[Unit]:
        """Units whose needs are finished and that were not handed out yet, in order; they stay ready until `take`."""
        return [unit for unit in self._waiting.values() if not self._open & set(unit.needs.values())]

    def take(self, unit: Unit) -> None:
        """Hand a unit out."""
        del self._waiting[unit.key]

    def settle(self, result: UnitResult) -> Sequence[UnitResult]:
        """Note a result; returns those of the units that can no longer run because of it, each naming the failed one."""
        self._open.discard(result.key)
        if result.state not in ("failed", "skipped"):
            return ()
        self._lost[result.key] = self._names[result.key]
        skipped = []
        for unit in list(self._waiting.values()):
            cause = next((self._lost[key] for key in unit.needs.values() if key in self._lost), None)
            if cause is not None:
                self.take(unit)
                self._open.discard(unit.key)
                self._lost[unit.key] = cause
                skipped.append(UnitResult(unit.key, "skipped", error=f"needs '{cause}', which failed"))
        return skipped
