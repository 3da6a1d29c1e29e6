"""A pipeline mapped over a dataset by the workers of a Ray, results in parts that a second run need not do again."""

from __future__ import annotations

import os
import pickle
import platform
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sltcore.cluster.fingerprint import fingerprint
from sltcore.cluster.parts import Form, Store, form_of
from sltcore.cluster.session import Joined, joined, places
from sltcore.cluster.shards import Shard, cut, described, divided, items_per_part
from sltcore.cluster.worker import PART, SHARD, Job, Ledger, Worker
from sltcore.errors import DataError, SltError
from sltcore.types import Item

if TYPE_CHECKING:
    from sltcore.pipeline import Pipeline

WAITING = 2  # parts that wait at a worker: enough that it never waits, few enough that the last ones are shared out
PACKAGES = ("sltcore-lib", "torch", "numpy", "ray", "pyarrow")


class Advance(NamedTuple):
    """How far a run is: inputs done (those of earlier runs too), all, failed, and seconds of audio done in this run."""

    done: int
    total: int
    failed: int
    audio_s: float


class Mapped(NamedTuple):
    """What a run left: the folder with part-NNNNN.parquet and run.json, and figures.

    `wall_s` counts from the call on, `map_s` from the first part on; `cpu_s` is processor time of the workers at parts;
    bytes are those of descriptions, of parts, and of what each worker was told once.
    """

    folder: Path
    parts: int
    reused_parts: int
    items: int
    failed: int
    audio_s: float
    wall_s: float
    map_s: float
    cpu_s: float
    sent_bytes: int
    returned_bytes: int
    told_bytes: int
    report: Mapping[str, Any]


def run_dataset(
    source: str | Path | Mapping[str, Any],
    inputs: Any,
    out: str | Path,
    *,
    workers: int | None = None,
    overrides: Iterable[str] = (),
    context: Mapping[str, Any] | None = None,
    items_per_part: int | None = None,
    resume: bool = True,
    progress: Callable[[Advance], None] = lambda advance: None,
    device: str | None = None,
    threads: int = 1,
    batch_size: int | None = None,
) -> Mapped:
    """Run a pipeline on many inputs with Ray Data; each worker loads it once, each part of the inputs becomes a file.

    `inputs` are recordings, folders and manifests as `slt run` takes them, or `Item`s, or a `datasets` table whose
    recordings lie on disk. Descriptions travel, not sound: recordings (and a bundle) must lie where every worker sees
    them; a recording that a worker cannot read is a row with its error. `out` is written by this process alone.

    `workers` (default: as many as find room) have `threads` threads each, and a GPU each where `device` is cuda. A part
    whose worker dies is done again; a recording that kills its worker three times is a row with that error.
    `items_per_part` is kept from an earlier run in `out`, whose whole parts of the same inputs are not done again unless
    `resume` is False.

    **Raises** `DataError` for inputs in memory, ids given twice, a folder of another run, a cluster that cannot be
    joined or that gave up; `ContextError` for wrong side information; whatever `sltcore.load` raises; `PluginError`
    without the package ray.
    """
    from sltcore.bundle import load

    settings = tuple(overrides)
    pipeline = load(source, overrides=settings)
    items = _items(inputs, pipeline.consumes.type == "Text")
    return map_items(
        pipeline,
        items,
        out,
        source=source,
        workers=workers,
        overrides=settings,
        context=context,
        items_per_part=items_per_part,
        resume=resume,
        progress=progress,
        device=device,
        threads=threads,
        batch_size=batch_size,
    )


def map_items(
    pipeline: Pipeline,
    items: Iterable[Item],
    out: str | Path,
    *,
    source: str | Path | Mapping[str, Any],
    workers: int | None = None,
    overrides: Sequence[str] = (),
    context: Mapping[str, Any] | None = None,
    items_per_part: int | None = None,
    resume: bool = True,
    progress: Callable[[Advance], None] = lambda advance: None,
    device: str | None = None,
    threads: int = 1,
    batch_size: int | None = None,
) -> Mapped:
    """`run_dataset` where the pipeline was loaded already, from `source` with `overrides`."""
    start = time.perf_counter()
    reads_text = pipeline.consumes.type == "Text"
    given = _checked(pipeline, context or {})
    listed = list(described(items, reads_text=reads_text))
    _check_lengths(pipeline, given, len(listed))
    shared, single = divided(given, pipeline.context_keys)
    form, filled = form_of(pipeline.produces), pipeline.spec.filled()
    mark = fingerprint(source, pipeline, shared)
    store = Store(Path(out), mark, resume=resume)
    size = _size(items_per_part, store, len(listed), form)
    shards = cut(listed, single, pipeline.context_keys, size=size, mark=mark)
    bundle = os.path.abspath(source) if isinstance(source, str | Path) and Path(source).is_dir() else None
    job = Job(
        source=bundle or filled,
        overrides=tuple(overrides) if bundle else (),
        device=device,
        context=shared,
        form=form,
        threads=threads,
        batch_size=batch_size,
        is_cluster=False,
    )
    run = _Run(store, shards, store.done(shards), size=size, job=job, filled=filled, progress=progress)
    run.record("running", start)
    if run.todo:
        try:
            run.map(workers)
        except BaseException:
            run.record("stopped", start)
            raise
    run.record("done", start)
    return run.mapped(time.perf_counter() - start)


def _items(inputs: Any, reads_text: bool) -> Iterator[Item]:
    """Items of paths (texts, where the pipeline reads texts), of `Item`s, or of rows."""
    from sltcore.data import iter_inputs
    from sltcore.pipeline.inputs import items_of

    given = [inputs] if isinstance(inputs, str | Path | Item) else inputs
    if not reads_text and isinstance(given, list | tuple) and all(isinstance(entry, str | Path) for entry in given):
        return iter_inputs(given)
    return items_of(given)


def _checked(pipeline: Pipeline, context: Mapping[str, Any]) -> dict[str, Any]:
    from sltcore.context import GENERATOR, check_context

    check_context(context, pipeline.context_keys, batch=None)
    pipeline.prepare(**{name: value for name, value in context.items() if name != GENERATOR})  # one line here, now
    return dict(context)


def _check_lengths(pipeline: Pipeline, context: Mapping[str, Any], count: int) -> None:
    from sltcore.context import check_lengths

    if not count:
        raise DataError("no input was given; name a recording, a folder or a manifest (csv, tsv, jsonl)")
    check_lengths(context, pipeline.context_keys, count)


def _size(wanted: int | None, store: Store, count: int, form: Form) -> int:
    if wanted is not None and wanted < 1:
        raise SltError(f"items_per_part is {wanted}, expected a number from 1 on")
    before = store.before.get("items_per_part")
    return wanted or (before if isinstance(before, int) and before > 0 else items_per_part(count, form))


class _Run:
    """One run: what is done, what is sent, what came back."""

    def __init__(
        self,
        store: Store,
        shards: Sequence[Shard],
        done: Mapping[int, Mapping[str, Any]],
        *,
        size: int,
        job: Job,
        filled: Mapping[str, Any],
        progress: Callable[[Advance], None],
    ) -> None:
        self.store = store
        self.job = job
        self.facts = {part: dict(facts) for part, facts in done.items()}
        self.todo = [shard for shard in shards if shard.part not in done]
        self.reused = len(done)
        self.parts = len(shards)
        self.items = sum(len(shard.items) for shard in shards)
        self.size = size
        self.filled = filled
        self.progress = progress
        self.sent = self.returned = self.told = 0
        self.audio_s = self.map_s = self.cpu_s = 0.0
        self.workers = 0
        self.report: dict[str, Any] = {}

    def map(self, workers: int | None) -> None:
        """Do what is missing on a Ray."""
        local_cpus = workers * self.job.threads if workers else None
        with joined(cpus=local_cpus, threads=self.job.threads) as here:
            self.workers = min(places(here, workers=workers, threads=self.job.threads), len(self.todo))
            ledger = here.ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger).remote(self.workers)
            try:
                with _settings(here.ray) as data:
                    for row in self._rows(here, data, ledger):
                        self._keep(row)
            except here.ray.exceptions.RayError as error:
                raise DataError(
                    f"the run on Ray stopped: {_reason(error)}; finished parts are kept in {self.store.folder}, the same "
                    "command goes on from there"
                ) from error
            self.report = here.ray.get(ledger.report.remote())
            here.ray.kill(ledger)
        left = len(self.todo) + self.reused - len(self.facts)
        if left:
            raise DataError(f"Ray ended with {left} parts missing in {self.store.folder}; the same command does them")

    def _rows(self, here: Joined, data: Any, ledger: Any) -> Iterator[dict[str, Any]]:
        """Finished parts as they come."""
        import pyarrow as pa

        schema = pa.schema([(PART, pa.int64()), (SHARD, pa.binary())])
        tables = []
        for shard in self.todo:
            packed = shard.packed()
            self.sent += len(packed)
            tables.append(pa.table({PART: [shard.part], SHARD: [packed]}, schema=schema))
        job = self.job._replace(is_cluster=here.is_cluster)
        self.told = len(pickle.dumps(job, protocol=5))
        on_gpu = (self.job.device or "").startswith("cuda")
        mapped = data.from_arrow(tables).map_batches(
            Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(
                size=self.workers, max_tasks_in_flight_per_actor=WAITING, max_concurrent_calls_per_actor=1
            ),
            fn_constructor_kwargs={"job": job, "ledger": ledger},
            num_cpus=self.job.threads,
            num_gpus=1 if on_gpu else None,
            runtime_env=here.runtime_env(self.job.threads),
        )
        start = None
        for batch in mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in batch.to_pylist():
                now = time.perf_counter()
                start = start if start is not None else now - (row["busy_s"] or 0.0)
                self.map_s = now - start
                yield row

    def _keep(self, row: Mapping[str, Any]) -> None:
        if row["problem"]:
            raise DataError(row["problem"])
        self.store.add(row[PART], row["data"])
        self.returned += len(row["data"])
        self.audio_s += row["audio_s"]
        self.cpu_s += row["cpu_s"]
        self.facts[row[PART]] = {name: row[name] for name in ("rows", "failed", "audio_s")}
        self.progress(Advance(self._sum("rows"), self.items, self._sum("failed"), self.audio_s))

    def _sum(self, name: str) -> Any:
        return sum(facts[name] for facts in self.facts.values())

    def record(self, state: str, start: float) -> None:
        """Write run.json: what ran, where, and how far it is."""
        versions = {"python": platform.python_version()}
        for package in PACKAGES:
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        self.store.record(
            {
                "state": state,
                "written": datetime.now(UTC).isoformat(timespec="seconds"),
                "host": socket.gethostname(),
                "spec": self.filled,
                "bundle": self.job.source if isinstance(self.job.source, str) else None,
                "overrides": list(self.job.overrides),
                "form": self.job.form,
                "items_per_part": self.size,
                "parts": self.parts,
                "parts_done": len(self.facts),
                "parts_reused": self.reused,
                "items": self.items,
                "items_done": self._sum("rows"),
                "failed": self._sum("failed"),
                "audio_s": round(self._sum("audio_s"), 3),
                "wall_s": round(time.perf_counter() - start, 2),
                "map_s": round(self.map_s, 2),
                "cpu_s": round(self.cpu_s, 2),
                "workers": self.workers,
                "threads": self.job.threads,
                "travelled": {"sent_bytes": self.sent, "returned_bytes": self.returned, "told_each_bytes": self.told},
                "ray": self.report,
                "versions": versions,
            }
        )

    def mapped(self, wall_s: float) -> Mapped:
        """The result."""
        return Mapped(
            self.store.folder,
            self.parts,
            self.reused,
            self.items,
            self._sum("failed"),
            self.audio_s,
            wall_s,
            self.map_s,
            self.cpu_s,
            self.sent,
            self.returned,
            self.told,
            self.report,
        )


@contextmanager
def _settings(ray: Any) -> Iterator[Any]:
    """`ray.data` without bars and without an end at the first death; as it was afterwards."""
    current = ray.data.DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "max_consecutive_actor_init_deaths": -1,  # the ledger counts them, those of restarts too
    }
    before = {name: getattr(current, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(current, name, value)
        yield ray.data
    finally:
        for name, value in before.items():
            setattr(current, name, value)


def _reason(error: BaseException) -> str:
    """The last cause in one line, without Ray's traceback."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {(lines[-1] if lines else '')[:300]}"
