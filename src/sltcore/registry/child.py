"""The child process of `probe`: loads plugins one by one and reports on the pipe it was given as standard output."""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import replace
from typing import Any

from sltcore.registry.load import load_plugin, new_manager
from sltcore.registry.rows import Row
from sltcore.registry.scan import Found


def main() -> None:
    """Read the order from standard input, load, report; what plugins print goes nowhere."""
    order = json.loads(sys.stdin.read())
    pipe = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)

    def say(**message: Any) -> None:
        os.write(pipe, json.dumps(message).encode() + b"\n")

    sys.path[:0] = order["path"]
    manager = new_manager()
    wanted = set(order["configs"])
    for item in order["found"]:
        found = Found(**{**item, "shadowed": tuple(item["shadowed"])})
        say(on=found.key)
        row = load_plugin(found, manager)
        if wanted and row.usable:
            row = _try_configs(row, wanted)
        say(row=row.to_dict())
    say(done=True)
    os._exit(0)


def _try_configs(row: Row, wanted: set[str]) -> Row:
    for component in row.components:
        if component.name not in wanted:
            continue
        module, _, attribute = component.config.partition(":")
        try:
            getattr(importlib.import_module(module), attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            text = " ".join(str(error).split())
            return replace(
                row,
                status="broken",
                problem=f"the config of {component.kind} '{component.name}' failed to load: {type(error).__name__}: {text}",
                remedy=f"mend or update it (pip install -U {row.distribution})",
            )
    return row


if __name__ == "__main__":
    main()
