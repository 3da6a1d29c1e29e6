"""What runs on a worker: the pipeline, loaded once, and the ledger that knows which recordings kill their worker."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sltcore.cluster.parts import Form, counts, encoded, row_of
from sltcore.cluster.shards import Shard
from sltcore.errors import DataError, SltError

if TYPE_CHECKING:
    import pyarrow as pa

    from sltcore.pipeline import Output, Pipeline

HASTY = 2  # deaths in a part before its recordings are taken one by one
MOST_LOADING_DEATHS = 3  # a pipeline that always dies while it loads must come to an end
PART, SHARD = "part", "shard"


class Job(NamedTuple):
    """What every worker is told once: plain data, but for the side information that all utterances share."""

    source: str | Mapping[str, Any]
    overrides: tuple[str, ...]
    device: str | None
    context: Mapping[str, Any]
    form: Form
    threads: int
    batch_size: int | None
    is_cluster: bool


class Attempt(NamedTuple):
    """How a worker should go about a part: one recording at a time, and leaving out those that killed a worker."""

    number: int
    is_careful: bool
    fatal: Mapping[int, int]


class Ledger:
    """Which worker began which part, so that a recording that kills its worker costs one row and no endless retries.

    A part whose worker died twice is taken up recording by recording; a worker that dies then names the recording by it,
    which becomes a row with that error. Lives in a Ray actor; each call is a few bytes.
    """

    def __init__(self, workers: int) -> None:
        self._room = workers
        self._loading = 0
        self._begun: dict[int, int] = {}
        self._at: dict[int, int] = {}
        self._fatal: dict[int, dict[int, int]] = {}
        self._workers: dict[tuple[str, int], dict[str, Any]] = {}

    def load(self) -> int:
        """A worker begins to load the pipeline; how many have died over that since the last one was ready."""
        self._loading += 1
        return max(0, self._loading - self._room)

    def arrive(self, host: str, pid: int, python: str, load_s: float) -> None:
        """A worker is ready."""
        self._loading = max(0, self._loading - 1)
        self._workers[host, pid] = {"host": host, "pid": pid, "python": python, "load_s": round(load_s, 2), "parts": 0}

    def begin(self, part: int, host: str, pid: int) -> Attempt:
        """A worker begins a part; what is known of it."""
        deaths = self._begun.get(part, 0)
        self._begun[part] = deaths + 1
        fatal = self._fatal.setdefault(part, {})
        if part in self._at:
            fatal[self._at.pop(part)] = deaths
        if (host, pid) in self._workers:
            self._workers[host, pid]["parts"] += 1
        return Attempt(deaths + 1, deaths >= HASTY, dict(fatal))

    def at(self, part: int, index: int) -> None:
        """A careful worker is about to take a recording."""
        self._at[part] = index

    def end(self, part: int) -> None:
        """A part is done."""
        self._at.pop(part, None)

    def report(self) -> dict[str, Any]:
        """Workers that were there, parts that were begun more than once, recordings that killed a worker."""
        return {
            "workers": list(self._workers.values()),
            "begun_again": sum(number - 1 for number in self._begun.values()),
            "fatal": sum(len(found) for found in self._fatal.values()),
        }


class Worker:
    """Maps a table with packed shards to one with finished parts; made once in each worker process.

    What goes wrong while loading is kept and told with the first part, as one line rather than Ray's traceback.
    """

    def __init__(self, job: Job, ledger: Any) -> None:
        import ray
        import torch

        self.job = job
        self._ledger = ledger
        self._get = ray.get
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._problem = ""
        torch.set_num_threads(job.threads)
        start = time.perf_counter()
        deaths = self._call("load")
        try:
            if deaths >= MOST_LOADING_DEATHS:
                raise DataError(f"{deaths} workers died while they loaded the pipeline (killed, or out of memory)")
            self._pipeline, self._prepared = self._load()
        except Exception as error:
            known = "" if isinstance(error, SltError) else f"{type(error).__name__}: "
            self._problem = f"worker on {self._host}: {known}{' '.join(str(error).split())}"
        self._call("arrive", self._host, self._pid, sys.executable, time.perf_counter() - start)

    def _load(self) -> tuple[Pipeline, Any]:
        from sltcore.bundle import load

        job = self.job
        if isinstance(job.source, str) and not os.path.isdir(job.source):
            raise DataError(f"no bundle {job.source} here; put it into a folder that every worker sees")
        pipeline = load(job.source, overrides=job.overrides, device=job.device)
        return pipeline, pipeline.prepare(**job.context)

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._get(getattr(self._ledger, method).remote(*arguments))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Finished parts of the shards in a table: part, data, counts, seconds at work and of processor time."""
        import pyarrow as pa

        rows = [self._part(data) for data in table.column(SHARD).to_pylist()]
        return pa.Table.from_pylist(
            rows,
            schema=pa.schema(
                [
                    (PART, pa.int64()),
                    ("data", pa.large_binary()),
                    ("rows", pa.int64()),
                    ("failed", pa.int64()),
                    ("audio_s", pa.float64()),
                    ("busy_s", pa.float64()),
                    ("cpu_s", pa.float64()),
                    ("problem", pa.string()),
                ]
            ),
        )

    def _part(self, data: bytes) -> dict[str, Any]:
        shard = Shard.unpacked(data)
        if self._problem:
            return {PART: shard.part, "problem": self._problem}
        start, cpu_start = time.perf_counter(), time.process_time()
        attempt = self._call("begin", shard.part, self._host, self._pid)
        host = self._host if self.job.is_cluster else None
        outputs = self._careful(shard, attempt) if attempt.is_careful else self._run(shard, range(len(shard.items)))
        rows = [row_of(output, self.job.form, host=host) for output in outputs]
        content = encoded(rows, self.job.form, shard)
        self._call("end", shard.part)
        spent = {"busy_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu_start}
        return {PART: shard.part, "data": content, **counts(rows), **spent}

    def _run(self, shard: Shard, rows: Sequence[int]) -> Iterator[Output]:
        """Outputs of some of a shard's inputs."""
        return self._pipeline.run(
            [shard.items[row] for row in rows],
            prepared=self._prepared,
            keep_going=True,
            batch_size=self.job.batch_size,
            count=len(rows),
            **{name: [values[row] for row in rows] for name, values in shard.context.items()},
        )

    def _careful(self, shard: Shard, attempt: Attempt) -> Iterator[Output]:
        """Outputs one by one, each announced before it is begun."""
        from sltcore.pipeline import Output

        for row, item in enumerate(shard.items):
            if row in attempt.fatal:
                error = DataError(
                    f"'{item.id}': its worker died {attempt.fatal[row]} times, the last time at this recording alone "
                    "(killed, or out of memory); run it by itself without --engine ray"
                )
                yield Output(item, None, None, error)
                continue
            self._call("at", shard.part, row)
            yield from self._run(shard, [row])
