"""Updates of a shipped transducer on real speech: arms, claims and a report, with one command.

    python run.py --base BUNDLE --out OUT [--size smoke|small] [--workers N] [--seeds 0,1,...] [--report]

Needs `pip install espeakng-loader`, for synthetic speech, and the corpora asterisk-en and flight-of-the-amazon-queen.
BUNDLE is the transducer of seed 0 that `slt reproduce speech/transducer --size small --out RUNS` leaves, in
RUNS/units/transducer-trained--seed-0--*/bundle. Every unit is kept in OUT: a second call goes on where the first one
stopped, and `--report` writes the report of what there is. The claims stand in `claims.py`, the arms in `study.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from report import write_report  # noqa: E402 (after the thread limits)
from settings import SIZES  # noqa: E402
from study import Study, Unit, units  # noqa: E402
from work import do  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the report; 1 where a unit failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="bundle of the transducer that the updates are for")
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--workers", type=int, default=1, help="units at a time, one thread each")
    parser.add_argument("--seeds", help="such as 0,1; those of the size where not given")
    parser.add_argument("--report", action="store_true", help="run nothing, write the report of what there is")
    given = parser.parse_args(arguments)
    seeds = SIZES[given.size].seeds if given.seeds is None else tuple(int(seed) for seed in given.seeds.split(","))
    study = Study(given.base.resolve(), given.out.resolve(), given.size, seeds)
    failed = {} if given.report else run(study, given.workers)
    for path in write_report(study, failed):
        print(path)
    return 1 if failed else 0


def run(study: Study, workers: int) -> dict[str, str]:
    """Do every unit that has no result yet, in their order; the errors of those that failed, by name."""
    study.data  # noqa: B018 (made once, before the workers read it)
    waiting = [unit for unit in units(study) if not study.has(unit.name)]
    failed: dict[str, str] = {}
    running: dict[Future[str], Unit] = {}
    print(f"{len(waiting)} units to do", flush=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while waiting or running:
            for unit in ready(study, waiting)[: workers - len(running)]:
                waiting.remove(unit)
                running[pool.submit(do, study, unit)] = unit
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                unit = running.pop(future)
                try:
                    print(future.result(), flush=True)
                except Exception as error:
                    traceback.print_exception(error)
                    failed[unit.name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return failed | {unit.name: "it needs a unit that failed" for unit in waiting}


def ready(study: Study, waiting: Sequence[Unit]) -> list[Unit]:
    """Units whose needs are finished."""
    return [unit for unit in waiting if all(study.has(name) for name in unit.needs)]


if __name__ == "__main__":
    sys.exit(main())
