"""PATE against DP-SGD on a game's roles and on made-up people, with one command.

    SLT_DATA=FOLDER python run.py --out OUT [--size smoke|small|full] [--part speech|synthetic] [--seeds 0,1,...] [--report]

FOLDER holds the public data (librispeech_mini, kathleen_en, fsdd); the game and asterisk-en are fetched as Debian packages.
The part `synthetic` needs no data. Every unit is kept in OUT: a second call goes on where the first one stopped, and
`--report` writes the report of what there is. The claims stand in `claims.py`, the units in `study.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import torch  # noqa: E402 (after the thread limits)
from report import write_report  # noqa: E402
from settings import SIZES  # noqa: E402
from study import Study, units  # noqa: E402
from work import WORK  # noqa: E402

from sltcore.experiment.units import write_json  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the report; 1 where a unit failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--part", choices=("all", "speech", "synthetic"), default="all")
    parser.add_argument("--seeds", help="such as 0,1; those of the size where not given")
    parser.add_argument("--report", action="store_true", help="run nothing, write the report of what there is")
    given = parser.parse_args(arguments)
    seeds = SIZES[given.size].seeds if given.seeds is None else tuple(int(seed) for seed in given.seeds.split(","))
    study = Study(given.out.resolve(), given.size, seeds, given.part)
    failed = {} if given.report else run(study)
    for path in write_report(study, failed):
        print(path)
    return 1 if failed else 0


def run(study: Study) -> dict[str, str]:
    """Do every unit that has no result yet, in their order; the errors of those that failed, by name."""
    torch.set_num_threads(1)
    failed: dict[str, str] = {}
    for unit in units(study):
        if study.has(unit.name):
            continue
        if not all(study.has(name) for name in unit.needs):
            failed[unit.name] = "it needs a unit that failed"
            continue
        begin, cpu = time.monotonic(), time.process_time()
        try:
            found = WORK[unit.kind](study, unit)
        except Exception as error:
            traceback.print_exception(error)
            failed[unit.name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            continue
        found |= {"seconds": time.monotonic() - begin, "cpu_s": time.process_time() - cpu}
        study.file(unit.name).parent.mkdir(parents=True, exist_ok=True)
        write_json(study.file(unit.name), found)
        print(f"{unit.name}: {found['cpu_s']:.1f} s of CPU, {found['seconds']:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
