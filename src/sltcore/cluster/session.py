"""A Ray to work on: the cluster that RAY_ADDRESS names, else one started on this machine and stopped at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sltcore.errors import DataError, PluginError, SltError

ADDRESS = "RAY_ADDRESS"
OBJECT_STORE_BYTES = 500_000_000  # descriptions and finished parts only; what does not fit is spilled to disk
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
QUIET: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # a worker that dies is told by the ledger, not by lines on standard output
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_LOGGING_CONFIG": str(Path(__file__).with_name("ray_data_logging.yaml")),
}
"""What Ray reads when it is imported or started; a variable that is set already stays as it is."""


class Joined(NamedTuple):
    """A connected Ray: the module, whether others may use it too, and what it has.

    `runtime_env` is what a worker with `threads` threads needs; None where all workers have it from their start.
    """

    ray: Any
    is_cluster: bool
    cpus: int
    gpus: int
    runtime_env: Callable[[int], dict[str, Any] | None]


@contextmanager
def joined(*, cpus: int | None = None, threads: int = 1) -> Iterator[Joined]:
    """Connect to Ray: the one this process is connected to, else the cluster of `RAY_ADDRESS`, else a local one with at
    least `cpus` places for work and workers of `threads` threads, which ends with the block.

    **Raises** `PluginError` when ray is not installed, `DataError` when the cluster cannot be joined.
    """
    with _environment(QUIET):
        ray = import_ray()
        address = os.environ.get(ADDRESS, "").strip()
        own = not ray.is_initialized()
        is_local = own and address in ("", "local")
        if is_local:
            _start(ray, cpus, threads)
        elif own:
            _join(ray, address)
        try:
            has = ray.cluster_resources()
            runtime_env = _nothing if is_local else _environment_of_worker
            yield Joined(ray, not is_local, int(has.get("CPU", 0)), int(has.get("GPU", 0)), runtime_env)
        finally:
            if own:
                ray.shutdown()


def import_ray() -> Any:
    """The module `ray` with its part for data. **Raises** `PluginError` when it is not installed."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise PluginError(
            f"--engine ray needs the package ray, which cannot be imported ({error}). Next: pip install 'sltcore-lib[ray]'"
        ) from None
    return ray


def _start(ray: Any, cpus: int | None, threads: int) -> None:
    """A Ray of this machine; its workers inherit the environment, so that the first ones are ready at once."""
    try:
        with _environment(_threads(threads), is_forced=True), _muffled():
            ray.init(
                "local",
                num_cpus=max(cpus or 1, processors()),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level="error",
                log_to_driver=False,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise DataError(f"Ray cannot be started on this machine: {_line(error)}") from None


def _join(ray: Any, address: str) -> None:
    if address.startswith("ray://"):
        raise DataError(
            f"{ADDRESS} is {address}: a client's address cannot carry data; run on a node of the cluster with "
            f"{ADDRESS}=HOST:6379, or submit the command with ray job submit"
        )
    try:
        with _muffled():
            ray.init(address, logging_level="error", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise DataError(
            f"{ADDRESS} is {address}: that cluster cannot be joined ({_line(error)}); check `ray status` there, its "
            f"token (RAY_AUTH_MODE, RAY_AUTH_TOKEN), and that it has the same versions of ray and Python as this process, or "
            f"unset {ADDRESS} to work on this machine"
        ) from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(threads: int) -> dict[str, str]:
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def _nothing(threads: int) -> None:
    return None


def _environment_of_worker(threads: int) -> dict[str, Any]:
    """A worker's threads, and this process's settings of sltcore, which another machine does not have."""
    own = {name: value for name, value in os.environ.items() if name.startswith("SLT_")}
    return {"env_vars": {**own, **_threads(threads), "RAY_USAGE_STATS_ENABLED": "0"}}


def places(here: Joined, *, workers: int | None, threads: int) -> int:
    """Workers to run: those asked for, else as many as find room. **Raises** `SltError` for a number below 1."""
    if threads < 1 or (workers is not None and workers < 1):
        raise SltError(f"{workers} workers with {threads} threads each: both numbers begin at 1")
    return workers if workers is not None else max(1, here.cpus // threads)


@contextmanager
def _muffled() -> Iterator[None]:
    """Without file descriptor 2: while it starts, Ray's compiled half writes there what no setting turns off."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _environment(wanted: Mapping[str, str], *, is_forced: bool = False) -> Iterator[None]:
    """Set variables, those that are set already only where `is_forced`; as it was afterwards."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if is_forced or before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
