"""The engine of one machine: units one after another in this process, or several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sltcore.experiment.units import Schedule, Unit, UnitResult, run_unit

if TYPE_CHECKING:
    from sltcore.registry import Registry

_POLL_S = 0.1


class _Running(NamedTuple):
    """A process, the queue through which its result comes, and when it began."""

    process: BaseProcess
    results: Any
    start: float


def run_units(
    units: Sequence[Unit],
    out: str | Path,
    workers: int | None = None,
    *,
    registry: Registry | None = None,
    started: Callable[[Unit], None] = lambda unit: None,
) -> Iterator[UnitResult]:
    """Run units in the folder `out`, which come in an order in which each stands after those that it needs.

    With more than one worker each unit runs in a fresh process with its share of the processors; one that dies is a
    failed unit. `registry` is for one worker only: other processes find plugins by themselves.
    """
    schedule = Schedule(units)
    if workers is None or workers == 1:
        while schedule:
            unit = schedule.ready()[0]
            schedule.take(unit)
            started(unit)
            result = run_unit(unit, out, registry=registry)
            yield result
            yield from schedule.settle(result)
        return
    yield from _spread(schedule, Path(out), workers, started)


def _spread(schedule: Schedule, out: Path, workers: int, started: Callable[[Unit], None]) -> Iterator[UnitResult]:
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    running: dict[str, _Running] = {}
    try:
        while schedule or running:
            for unit in schedule.ready()[: workers - len(running)]:
                schedule.take(unit)
                started(unit)
                results = context.SimpleQueue()
                process = context.Process(target=_run, args=(unit, str(out), threads, results))
                process.start()
                running[unit.key] = _Running(process, results, time.perf_counter())
            for key, work in list(running.items()):
                result = _result_of(key, work)
                if result is not None:
                    del running[key]
                    yield result
                    yield from schedule.settle(result)
            if running:
                time.sleep(_POLL_S)
    finally:
        for work in running.values():
            work.process.terminate()
            work.process.join()


def _result_of(key: str, work: _Running) -> UnitResult | None:
    """What a process said, or that it died without a word; None while it works."""
    alive = work.process.is_alive()  # asked before its queue is looked into, so that no last word is missed
    if not work.results.empty():
        result: UnitResult = work.results.get()
        work.process.join()
        return result
    if alive:
        return None
    code = work.process.exitcode or 0
    why = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    error = f"the process of this unit {why}; run the experiment again to go on"
    return UnitResult(key, "failed", time.perf_counter() - work.start, error, platform.node())


def _run(unit: Unit, out: str, threads: int, results: Any) -> None:
    """The whole life of a worker."""
    import torch

    torch.set_num_threads(threads)
    results.put(run_unit(unit, out))
