"""The units of an experiment on the workers of a Ray; one whose worker died runs again."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sltcore.cluster.session import Joined, joined, places, processors
from sltcore.experiment.units import Schedule, Unit, UnitResult, run_unit

MOST_DEATHS = 3  # a unit that kills its worker more often is failed
Run = Callable[[Unit, str], UnitResult]


class _Running(NamedTuple):
    unit: Unit
    deaths: int


def run_units(
    units: Sequence[Unit], out: str | Path, workers: int | None = None, *, run: Run = run_unit
) -> Iterator[UnitResult]:
    """Run units in the folder `out`, each after those that it needs, `workers` at a time; results come as they finish.

    Each unit has a process of its own, an equal share of the processors, and a GPU where the cluster has any. `out` and
    what the units read lie where every worker sees them. `run` does the work of one unit and can be pickled. A unit
    whose worker died (killed, out of memory, its machine gone) runs again, three times at most, and then is failed; an
    exception that `run` raises fails the unit at once.

    **Raises** as `joined` does: `PluginError` without the package ray, `DataError` when a cluster cannot be joined.
    """
    folder = os.path.abspath(out)
    schedule = Schedule(units)
    if not schedule:
        return
    with joined(cpus=workers, threads=max(1, processors() // (workers or processors()))) as here:
        room = places(here, workers=workers, threads=1)
        remote = _remote(here, room)
        running: dict[Any, _Running] = {}
        try:
            while schedule or running:
                for unit in schedule.ready()[: room - len(running)]:
                    schedule.take(unit)
                    running[remote.remote(run, unit, folder, os.getcwd())] = _Running(unit, 0)
                finished, _ = here.ray.wait(list(running), num_returns=1)
                work = running.pop(finished[0])
                result = _result(here.ray, finished[0], work)
                if result is None:
                    running[remote.remote(run, work.unit, folder, os.getcwd())] = work._replace(deaths=work.deaths + 1)
                    continue
                yield result
                yield from schedule.settle(result)
        finally:
            for left in running:
                here.ray.cancel(left, force=True)


def _remote(here: Joined, room: int) -> Any:
    """The remote function: its processors, its GPU, and a process that ends with the unit."""
    node = min((int(each["Resources"].get("CPU", 1)) for each in here.ray.nodes() if each["Alive"]), default=1)
    threads = max(1, min(here.cpus // room, node))
    return here.ray.remote(
        num_cpus=threads,
        num_gpus=1 if here.gpus else 0,
        max_retries=0,
        max_calls=1,
        runtime_env=here.runtime_env(threads),
    )(_work)


def _work(run: Run, unit: Unit, folder: str, beside: str) -> UnitResult:
    """One unit in a worker."""
    import torch

    host = socket.gethostname()
    if not os.path.isdir(folder):
        error = f"{folder} is not there on {host}; put --out into a folder that every worker sees"
        return UnitResult(unit.key, "failed", 0.0, error, host)
    if os.path.isdir(beside):
        os.chdir(beside)  # where relative paths of the spec begin
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return run(unit, folder)


def _result(ray: Any, finished: Any, work: _Running) -> UnitResult | None:
    """What became of a unit; None where its worker died and it should run again."""
    try:
        result: UnitResult = ray.get(finished)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if getattr(error, "cause", None) is not None else error
        return UnitResult(
            work.unit.key, "failed", 0.0, f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}", ""
        )
    except ray.exceptions.RayError as error:
        if work.deaths + 1 < MOST_DEATHS:
            return None
        why = f"its worker died {work.deaths + 1} times (killed, or out of memory), the last time with {type(error).__name__}"
        return UnitResult(work.unit.key, "failed", 0.0, f"{why}; run the experiment again to go on", "")
    return result
