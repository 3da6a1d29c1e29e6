"""The child process of `probe`: loads plugins one by one and reports on the pipe it was given as standard output."""

from __future__ import annotations

import _thread
import importlib
import json
import os
import signal
from typing import Any

from sltcore.plugin import Component
from sltcore.registry.found import Found
from sltcore.registry.load import load_plugin, new_manager
from sltcore.registry.rows import Row, load_failure


def main() -> None:
    """Read the order from standard input, load, report; what plugins print goes nowhere, what they read is empty."""
    pipe, parent = os.dup(1), os.dup(0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # its loader stops at the first malformed entry point
    order = json.loads(_first_line(parent))
    _thread.start_new_thread(_die_with_parent, (parent,))

    def say(**message: Any) -> None:
        os.write(pipe, json.dumps(message).encode() + b"\n")

    manager = new_manager()
    for item in order["found"]:
        found = Found(**{**item, "shadowed": tuple(item["shadowed"])})
        say(on=found.key)
        row = load_plugin(found, manager)
        say(row=row.to_dict())
        for component in row.components if row.usable else ():
            name = f"{component.kind}/{component.name}"
            wanted = order["configs"] is None or component.name in order["configs"]
            if wanted and [found.key, name] not in order["skip"]:
                say(on=found.key, config=name)
                say(tried=name, fault=_fault(row, component))
        say(finished=found.key)
    say(done=True)
    os._exit(0)


def _first_line(descriptor: int) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(descriptor, 65536)
        if not more:
            os._exit(1)
        data += more
    return data


def _die_with_parent(descriptor: int) -> None:
    """The parent holds the other end open; when it is gone, this process and what plugins started end too."""
    while os.read(descriptor, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def _fault(row: Row, component: Component) -> str:
    """What is wrong with a component's config, or nothing."""
    module, _, attribute = component.config.partition(":")
    try:
        getattr(importlib.import_module(module), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return load_failure(component, "config", f"{row.distribution} {row.version}", error)
    return ""
