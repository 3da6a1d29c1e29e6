"""Teachers trained ahead of a run, several at a time: processes of this machine, or workers of a Ray.

Each lies where `slt train` would put it, so that the run finds it finished and goes on with the votes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from slt_pate.pate import Pate
from slt_pate.rows import text_of
from sltcore.errors import PrivacyError

if TYPE_CHECKING:
    from sltcore.spec.load import Spec
    from sltcore.spec.training import TrainSpec

Engine = Literal["local", "ray"]


class Ahead(NamedTuple):
    """One model to train: the place among those that the run makes, the rows it learns from, and whether it is private."""

    number: int
    rows: list[Any]
    is_private: bool


class _Order(NamedTuple):
    """What a worker is told: the spec, the run's folder, which model, and how many threads it may use."""

    source: str
    overrides: tuple[str, ...]
    out: str
    number: int
    threads: int


def train_ahead(
    source: str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    engine: Engine = "local",
    say: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Train the public model, where one is trained, and every teacher of a run with `privacy: pate`; their bundles.

    `workers` at a time (default: one for each processor), each with its share of the threads. Workers read the spec and the
    data themselves, so with `ray` both, and `out`, must lie where every worker sees them. What is finished already is left
    as it is. No answer is released, so nothing is spent; the bundles are as private as the recordings.

    **Raises** `PrivacyError` for a spec without pate, and where private, public and development data share a unit, id or
    file; what training raises.
    """
    from sltcore.train import folder as places

    path, target = os.path.abspath(source), Path(os.path.abspath(out))
    _, spec, part = _read(path, tuple(overrides))
    planned = _planned(spec, part)
    count = min(workers or os.cpu_count() or 1, len(planned))
    threads = max(1, (os.cpu_count() or 1) // count)
    orders = [_Order(path, tuple(overrides), str(target), one.number, threads) for one in planned]
    say(f"{len(orders)} models, {count} at a time")
    found: dict[int, Path] = {}
    with places.worked_in(target):
        for number in (_on_ray if engine == "ray" else _on_this_machine)(orders, count):
            found[number] = Path(out) / places.MODELS / f"{number:02d}" / places.BUNDLE
            say(f"model {number} is finished, {len(orders) - len(found)} are left")
    return [found[number] for number in sorted(found)]


def _read(source: str, overrides: tuple[str, ...]) -> tuple[Any, Spec[TrainSpec], Pate]:
    """The registry, the spec and its mechanism. **Raises** `PrivacyError` for one without pate."""
    from sltcore.registry import default_registry
    from sltcore.spec.load import load_spec
    from sltcore.train.start import build_privacy

    registry = default_registry()
    spec = load_spec(source, overrides=overrides, registry=registry, kind="train")
    part = None if spec.model.privacy is None else build_privacy(spec.model, registry)
    if not isinstance(part, Pate):
        raise PrivacyError(
            f"{source} has privacy {type(part).__name__ if part is not None else 'left out'}; expected privacy: pate, which has "
            f"teachers"
        )
    return registry, spec, part


def _planned(spec: Spec[TrainSpec], part: Pate) -> list[Ahead]:
    """The models that the run makes before it asks, in its order."""
    from sltcore.data.examples import read_examples

    data = spec.model.data
    private, public, dev = (read_examples(one) if one else [] for one in (data.private, data.public, data.dev))
    shards = part.shards_of(private, public, dev)
    spoken = [row for row in public if text_of(row)]
    rows: list[tuple[list[Any], bool]] = []
    if part.asked.needs_model and part.asked.public_model is None and spoken:
        rows.append((spoken, False))
    rows += [(list(shard), True) for shard in shards.rows if shard]
    return [Ahead(number, *each) for number, each in enumerate(rows)]


def _train_one(order: _Order) -> int:
    """One model, in a process of its own."""
    import torch

    from sltcore.data.examples import read_examples
    from sltcore.train import folder as places
    from sltcore.train.fitting import make_accelerator
    from sltcore.train.progress import Progress
    from sltcore.train.run import Job, train_model

    torch.set_num_threads(order.threads)
    registry, spec, part = _read(order.source, order.overrides)
    rows = _planned(spec, part)[order.number].rows
    dev, calibration = (
        read_examples(entries) if entries else [] for entries in (spec.model.data.dev, spec.model.calibration)
    )
    accelerator = make_accelerator(spec.model.precision)
    job = Job(spec.model, spec.filled(), registry, accelerator, Progress(quiet=True, main=True), dev, calibration)
    train_model(job, rows, Path(order.out) / places.MODELS / f"{order.number:02d}", restart=True)
    return order.number


def _on_this_machine(orders: Sequence[_Order], workers: int) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = [pool.submit(_train_one, order) for order in orders]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            for left in waiting:
                left.cancel()


def _on_ray(orders: Sequence[_Order], workers: int) -> Iterator[int]:
    from sltcore.cluster.session import joined

    threads = orders[0].threads
    with joined(cpus=workers, threads=threads) as here:
        settings = {"num_cpus": 1, "num_gpus": 1 if here.gpus else 0, "max_calls": 1}
        remote = here.ray.remote(**settings, runtime_env=here.runtime_env(threads))(_train_one)
        left = list(orders)
        running: list[Any] = []
        while left or running:
            while left and len(running) < workers:
                running.append(remote.remote(left.pop(0)))
            finished, running = here.ray.wait(running, num_returns=1)
            yield here.ray.get(finished[0])
