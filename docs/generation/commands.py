"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from generation.tables import code, table
from sltcore.cli.app import COMMANDS, application

HEAD = """# Commands

Taken from the commands' own help; `slt COMMAND --help` prints it. Results go to standard output, everything else to
standard error. The exit codes are on the page about [errors](../errors.md)."""

GLOBAL = """## Global options

They stand before the command: `slt --quiet run asr.yaml call.wav`."""


def commands_page() -> str:
    """Global options, then one section for each command and sub-command."""
    parts = [HEAD, GLOBAL, _parameters(_group("run"))]
    for name, command in command_tree():
        parts.append(f"## slt {name}")
        parts.append(f"```text\n{usage(name, command)}\n```")
        parts.append(inspect.cleandoc(command.help or ""))
        parts.append(_parameters(command))
    return "\n\n".join(part for part in parts if part) + "\n"


def _group(name: str) -> Any:
    return typer.main.get_command(application([name]))


def command_tree() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by the words that call it: `run`, `data fetch`."""
    for name in COMMANDS:
        command = _group(name).commands[name]
        if hasattr(command, "commands"):
            for inner in command.commands:
                yield f"{name} {inner}", command.commands[inner]
        else:
            yield name, command


def usage(name: str, command: Any) -> str:
    """The call in one line: `slt run [OPTIONS] SPEC INPUT...`."""
    arguments = [_shown(p) for p in command.params if p.param_type_name == "argument"]
    return " ".join(["slt", name, "[OPTIONS]", *arguments])


def _shown(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def _parameters(command: Any) -> str:
    rows = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            rows.append([code(parameter.metavar or parameter.name.upper()), _meaning(parameter)])
        elif parameter.name not in ("help", "install_completion", "show_completion"):
            names = ", ".join(code(option) for option in parameter.opts)
            rows.append([f"{names} {parameter.metavar or ''}".strip(), _meaning(parameter)])
    return table(["", ""], rows) if rows else ""


def _meaning(parameter: Any) -> str:
    default = parameter.default
    shown = isinstance(default, int | str) and not isinstance(default, bool) and default not in ("", 0)
    return f"{parameter.help or ''}{f' ({default})' if shown else ''}"
