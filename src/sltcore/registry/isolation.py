"""Loading plugins in a child process: one that hangs, exits or crashes costs itself alone.

The child says what it is on before it begins; the parent kills it, and whatever it started, after `SLT_PLUGIN_TIMEOUT`
seconds (5) of silence, makes a row of the culprit, and starts another child for the rest.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from sltcore.errors import PluginError
from sltcore.registry.announcements import is_strict, scan, selected, settings_problems
from sltcore.registry.found import Found
from sltcore.registry.load import disabled_row, row_of
from sltcore.registry.rows import Row, refuse_problems

TIMEOUT_S = 5.0
START_S = 30.0
SLICE_S = 0.1
# The parent's own search path, so that both see the same modules; `-P` keeps the working folder out of it.
START = "import sys; sys.path[:] = sys.argv[1:]; from sltcore.registry.child import main; main()"


def timeout_s() -> float:
    """Seconds a plugin may take, from `SLT_PLUGIN_TIMEOUT`."""
    value = os.environ.get("SLT_PLUGIN_TIMEOUT", "")
    try:
        seconds = float(value) if value else TIMEOUT_S
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise PluginError(f"SLT_PLUGIN_TIMEOUT is {value!r}, expected a number of seconds above 0, such as 5")
    return seconds


def probe(path: Sequence[str] | None = None, *, configs: Iterable[str] | None = ()) -> list[Row]:
    """One row for each announced plugin, none of them imported in this process.

    `path` restricts the scan to folders. `configs` are names of components whose config classes are imported too (None:
    of all), so that a config that fails, hangs or crashes is known as well, and costs that component alone.

    **Raises** `PluginError` when a setting of the environment cannot be read, and with SLT_STRICT=1 for any problem.
    """
    from sltcore.registry.registry import mark_collisions

    strict, limit = is_strict(), timeout_s()
    announced = scan(path)
    rows: dict[str, Row] = {}
    pending: list[Found] = []
    for found in announced:
        setting = selected(found)
        if setting is None:
            pending.append(found)
        else:
            rows[found.key] = disabled_row(found, setting)
    work = _Work(pending, None if configs is None else sorted(set(configs)), list(path or ()), rows)
    while work.pending:
        stopped = _run_child(work, limit)
        if stopped is None:
            break
        _blame(work, stopped, limit)
    marked = mark_collisions([rows[key] for key in sorted(rows)])
    if strict:
        refuse_problems(marked, settings_problems(announced))
    return marked


@dataclass
class _Work:
    """What is still to be loaded, and what is known."""

    pending: list[Found]
    configs: list[str] | None
    path: list[str]
    rows: dict[str, Row]
    tried: list[tuple[str, str]] = field(default_factory=list)

    def order(self) -> bytes:
        found = [vars(item) for item in self.pending]
        return json.dumps({"found": found, "configs": self.configs, "skip": self.tried}).encode() + b"\n"

    def finish(self, key: str) -> None:
        self.pending = [found for found in self.pending if found.key != key]


@dataclass
class _Child:
    """What a child is on, a plugin's key and perhaps the component whose config it tries, and how it ended."""

    first: str
    on: str = ""
    config: str = ""
    why: str = ""


def _blame(work: _Work, child: _Child, limit: float) -> None:
    """Make a row, or a fault of a component, of whatever stopped the child.

    A crash may be the late deed of a plugin that was loaded before in the same process, so its victim is tried once
    more, first in a fresh one, before it is blamed.
    """
    found = next((found for found in work.pending if found.key == child.on), None)
    if found is None:
        raise PluginError(
            f"the process that loads plugins ended before it began ({child.why}); is {sys.executable} whole?"
        )
    hung = child.why == "hung"
    if not hung and child.on != child.first:
        work.finish(found.key)
        work.pending.insert(0, found)
        return
    what = "loading its config" if child.config else "loading it"
    problem = (
        f"{what} took longer than {limit:g} s and was stopped" if hung else f"{what} ended the process ({child.why})"
    )
    remedy = f"set SLT_DISABLE={found.plugin}, or " + (
        "SLT_PLUGIN_TIMEOUT to more seconds" if hung else f"mend or update it (pip install -U {found.distribution})"
    )
    if child.config:
        row = work.rows[found.key]
        kind, _, name = child.config.partition("/")
        fault = f"{kind} '{name}' is declared by {row.distribution} {row.version}, but {problem}. Next: {remedy}"
        work.rows[found.key] = replace(row, faults={**row.faults, child.config: fault})
        work.tried.append((found.key, child.config))
    else:
        status = "hung" if hung else "exited"
        work.rows[found.key] = replace(row_of(found), status=status, problem=problem, remedy=remedy)
        work.finish(found.key)


def _run_child(work: _Work, limit: float) -> _Child | None:
    """Load what is pending in a child process; None when it got to the end, else what stopped it."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", START, *work.path, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    child = _Child(first=work.pending[0].key)
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(work.order())
            process.stdin.flush()  # and stays open: the child ends itself when this process is gone
        buffer = b""
        deadline = time.monotonic() + limit + START_S
        while True:
            # In slices, because a process that a plugin forked may hold the pipe open after the child's end.
            ended = process.poll() is not None
            ready, _, _ = select.select([process.stdout], [], [], 0.0 if ended else SLICE_S)
            if not ready and not ended and time.monotonic() < deadline:
                continue
            data = os.read(process.stdout.fileno(), 65536) if ready else b""
            if not data:
                child.why = _ending(process) if ready or ended else "hung"
                return child
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                deadline = time.monotonic() + limit
                try:
                    done = _heard(work, child, json.loads(line))
                except (ValueError, TypeError, KeyError):
                    child.why = "it wrote into the pipe that rows come through"
                    return child
                if done:
                    return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.close()


def _heard(work: _Work, child: _Child, message: dict[str, Any]) -> bool:
    """Take in one message; whether it was the last."""
    if "on" in message:
        child.on, child.config = message["on"], message.get("config", "")
    elif "row" in message:
        row = Row.from_dict(message["row"])
        known = work.rows.get(row.key)
        work.rows[row.key] = replace(row, faults=known.faults) if known is not None else row
    elif "tried" in message:
        if message["fault"]:
            row = work.rows[child.on]
            work.rows[child.on] = replace(row, faults={**row.faults, message["tried"]: message["fault"]})
    elif "finished" in message:
        work.finish(message["finished"])
        child.on = child.config = ""
    return "done" in message


def _ending(process: subprocess.Popen[bytes]) -> str:
    """How a process ended whose pipe is closed; one that closed its pipe and runs on is as good as gone."""
    try:
        code = process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        return "it closed the pipe that rows come through"
    return f"signal {-code}, {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
