"""The table of commands, global options, and the one place where errors become lines and exit codes.

Exit codes: 0 all done; 1 some inputs failed and the rest is done; 2 the call, spec, plugin, bundle or data is wrong and
the line says how to mend it; 3 an error nobody foresaw, with the traceback under `--debug`; 130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any, NamedTuple

import typer

from sltcore.cli.console import Console, set_up
from sltcore.errors import SltError, did_you_mean

EXIT_PARTLY, EXIT_WRONG, EXIT_UNFORESEEN, EXIT_INTERRUPTED = 1, 2, 3, 130
USAGE_ERROR: Any = typer.BadParameter.__bases__[0]  # click's UsageError, wherever this typer keeps its click


class Lazy(NamedTuple):
    """Where a command lives and what it says about itself before it is imported."""

    impl: str
    summary: str


COMMANDS = {
    "run": Lazy("sltcore.cli.run:app", "run a spec or bundle on recordings, folders or manifests"),
    "align": Lazy("sltcore.cli.align:align", "find when each word of a known text was said"),
    "train": Lazy("sltcore.cli.train:train", "train what a spec describes, safe against crashes"),
    "check": Lazy("sltcore.cli.specs:check", "say everything that is wrong with a spec"),
    "fill": Lazy("sltcore.cli.specs:fill", "print a spec with every default written out"),
    "diff": Lazy("sltcore.cli.specs:diff", "print where two specs differ once filled"),
    "schema": Lazy("sltcore.cli.specs:schema", "write the JSON Schema of the installed plugins"),
    "migrate": Lazy("sltcore.cli.specs:migrate", "bring an old spec to the newest version"),
    "plugins": Lazy("sltcore.cli.plugins:plugins", "list plugins, or what is wrong with them"),
    "doctor": Lazy("sltcore.cli.plugins:doctor", "compare two readers of the installed plugins and name what is stale"),
    "explain": Lazy("sltcore.cli.explain:explain", "tell where a component comes from and what its fields mean"),
    "pack": Lazy("sltcore.cli.bundles:pack", "save a spec with its weights as a bundle"),
    "show": Lazy("sltcore.cli.bundles:show", "print what a bundle holds, without loading it"),
    "push": Lazy("sltcore.cli.bundles:push", "upload a bundle to a Hugging Face hub repository"),
    "pull": Lazy("sltcore.cli.bundles:pull", "download a bundle from a Hugging Face hub repository"),
    "data": Lazy("sltcore.cli.data:app", "list, fetch and show corpora"),
    "reproduce": Lazy("sltcore.cli.reproduce:reproduce", "run a plugin's experiment and decide its claims"),
    "report": Lazy("sltcore.cli.report:report", "write the page of an experiment or a training run, or compare two"),
    "vocabulary": Lazy("sltcore.cli.vocabulary:app", "train the labels a decoder writes with"),
    "new-plugin": Lazy("sltcore.cli.plugins:new_plugin", "write a complete plugin to start from"),
}


def application(words: list[str]) -> typer.Typer:
    """The typer application for a call: only the command that is called is imported, the others lend their summaries.

    A name that is not ours is looked for in the plugins, which are loaded in a child process. **Raises** `SltError` when
    nobody has it.
    """
    app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
    app.callback(help="Speech and language techniques as plugins, composed by specs.")(options)
    name = _command_name(words)
    commands = COMMANDS if name in COMMANDS else {**COMMANDS, **_plugin_commands()}
    if name is not None and name not in commands:
        raise SltError(f"no command is named '{name}'; commands: {', '.join(commands)}.{did_you_mean(name, commands)}")
    for other, lazy in commands.items():
        if other == name:
            _add(app, other, lazy)
        else:
            app.command(other, help=lazy.summary)(_not_imported)
    return app


def _command_name(words: list[str]) -> str | None:
    """The first word that is neither a global option nor the value of one."""
    rest = iter(words)
    for word in rest:
        if word == "--log-format":
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return None


def _add(app: typer.Typer, name: str, lazy: Lazy) -> None:
    module, _, attribute = lazy.impl.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=name, help=lazy.summary)
    else:
        app.command(name)(found)


def _not_imported() -> None:
    """Stands for a command that another word of the call names."""


def _plugin_commands() -> dict[str, Lazy]:
    """Commands that plugins add, found by loading plugins in a child process."""
    from sltcore.registry import probe

    return {name: Lazy(impl, summary) for row in probe() if row.usable for name, impl, summary in row.commands}


def options(
    verbose: int = typer.Option(0, "--verbose", "-v", count=True, help="say more; -vv says everything"),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="say only results and errors"),
    log_format: str = typer.Option(
        "text", "--log-format", metavar="FORMAT", help="text, or json: one JSON object a line on standard error"
    ),
    debug: bool = typer.Option(False, "--debug", help="show tracebacks"),
) -> None:
    """Global options, before the command."""
    set_up(verbose=verbose, quiet=quiet, log_format=log_format, debug=debug)
    logging.captureWarnings(True)  # what libraries warn about obeys the same options


def run(arguments: list[str] | None = None) -> None:
    """Run the command line; errors become one line each and an exit code."""
    console = Console()
    Console.quiet = Console.json = Console.debug = False
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        _invoke(application(words), list(words))
        sys.exit(0)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except typer.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group of commands called alone: its message is the help
            console.result(error.format_message())
            sys.exit(0)
        console.error(_usage(error))
        sys.exit(EXIT_WRONG)
    except SltError as error:
        if console.debug:
            raise
        console.error(str(error))
        sys.exit(EXIT_WRONG)
    except BrokenPipeError:  # whoever read the results has seen enough
        _forget_output()
        sys.exit(0)
    except KeyboardInterrupt:
        console.error("interrupted; what was finished is kept")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if console.debug:
            raise
        console.error(
            f"unforeseen {type(error).__name__}: {' '.join(str(error).split())}; run `slt --debug …` for the traceback and report it"
        )
        sys.exit(EXIT_UNFORESEEN)


def _invoke(app: typer.Typer, words: list[str]) -> None:
    """Call without click's own main, which would turn an interrupt and a closed pipe into exit codes of its own."""
    command: Any = typer.main.get_command(app)
    with command.make_context("slt", words) as context:
        command.invoke(context)


def _forget_output() -> None:
    """Let what is still in the buffer go nowhere, so that Python does not complain about it at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # standard output was replaced by something that is no file
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "slt"
    return f"{error.format_message()} ({where} --help)"
