"""Loading plugins in a child process: one that hangs, exits or crashes costs itself alone.

The child says which plugin it is on before it begins; the parent kills it after `SLT_PLUGIN_TIMEOUT` seconds (5) of
silence, makes a row of the culprit, and starts another child for the rest.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

from sltcore.errors import PluginError
from sltcore.registry.rows import Row
from sltcore.registry.scan import Found, scan, selected

TIMEOUT_S = 5.0


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


def probe(path: Sequence[str] | None = None, *, configs: Iterable[str] = ()) -> list[Row]:
    """One row for each announced plugin, none of them imported in this process.

    `path` restricts the scan to folders. `configs` are component names whose config classes are imported too, so that a
    config that hangs is caught as well.
    """
    from sltcore.registry.registry import mark_collisions

    limit = timeout_s()
    rows: dict[str, Row] = {}
    pending: list[Found] = []
    for found in scan(path):
        setting = selected(found)
        if setting is None:
            pending.append(found)
        else:
            rows[found.key] = disabled_row(found, setting)
    wanted = sorted(set(configs))
    while pending:
        done, culprit, why = _run_child(pending, path, wanted, limit)
        rows.update({f"{row.distribution}/{row.plugin}": row for row in done})
        finished = {f"{row.distribution}/{row.plugin}" for row in done}
        pending = [found for found in pending if found.key not in finished]
        if culprit is None:
            if why and pending:
                raise PluginError(f"the process that loads plugins could not start: {why}")
            break
        found = next(found for found in pending if found.key == culprit)
        pending.remove(found)
        rows[culprit] = _culprit_row(found, why, limit)
    return mark_collisions([rows[key] for key in sorted(rows)])


def disabled_row(found: Found, setting: str) -> Row:
    """The row of a plugin that a setting keeps out."""
    return Row(
        plugin=found.plugin,
        distribution=found.distribution,
        version=found.version,
        module=found.value,
        location=found.location,
        status="disabled",
        problem=f"kept out by {setting}={os.environ.get(setting, '')!r}",
        remedy=f"change or unset {setting}",
        shadowed=found.shadowed,
    )


def _culprit_row(found: Found, why: str, limit: float) -> Row:
    hung = why == "hung"
    return Row(
        plugin=found.plugin,
        distribution=found.distribution,
        version=found.version,
        module=found.value,
        location=found.location,
        status="hung" if hung else "exited",
        problem=f"loading it took longer than {limit:g} s and was stopped"
        if hung
        else f"loading it ended the process ({why})",
        remedy=(
            f"set SLT_DISABLE={found.plugin}, or SLT_PLUGIN_TIMEOUT to more seconds"
            if hung
            else f"set SLT_DISABLE={found.plugin}, or mend its import"
        ),
        shadowed=found.shadowed,
    )


def _run_child(
    pending: list[Found], path: Sequence[str] | None, configs: list[str], limit: float
) -> tuple[list[Row], str | None, str]:
    """Rows done, the key of the plugin that stopped the child (None when none did), and how."""
    order = json.dumps({"found": [vars(found) for found in pending], "path": list(path or ()), "configs": configs})
    child = subprocess.Popen(
        [sys.executable, "-m", "sltcore.registry.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    rows: list[Row] = []
    current: str | None = None
    try:
        child.stdin.write(order.encode())
        child.stdin.close()
        buffer = b""
        deadline = time.monotonic() + limit + TIMEOUT_S
        while True:
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return rows, current, "hung"
            data = os.read(child.stdout.fileno(), 65536)
            if not data:
                code = child.wait()
                return rows, current, f"signal {-code}" if code < 0 else f"exit code {code}"
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                message = json.loads(line)
                deadline = time.monotonic() + limit
                if "on" in message:
                    current = message["on"]
                elif "row" in message:
                    rows.append(Row.from_dict(message["row"]))
                    current = None
                elif "done" in message:
                    return rows, None, ""
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
