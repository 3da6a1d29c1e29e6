"""What the commands print: results on standard output, everything else on standard error, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, ClassVar

from sltcore.errors import SltError

FORMATS = ("text", "json")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": round(record.created, 3),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
            },
            ensure_ascii=False,
        )


class Console:
    """One for the process; settings come from the global options."""

    quiet: ClassVar[bool] = False
    json: ClassVar[bool] = False
    debug: ClassVar[bool] = False

    def say(self, message: str) -> None:
        """A remark, unless quiet."""
        if not self.quiet:
            self._write("info", message)

    def warn(self, message: str) -> None:
        """Something the user should know."""
        self._write("warning", message)

    def error(self, message: str) -> None:
        """What went wrong; several lines when there are several problems."""
        self._write("error", message)

    def result(self, text: str) -> None:
        """A result, on standard output."""
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()

    def _write(self, level: str, message: str) -> None:
        for line in message.splitlines() or [""]:
            if self.json:
                text = json.dumps({"time": round(time.time(), 3), "level": level, "message": line}, ensure_ascii=False)
            else:
                text = line if level == "info" else f"{level}: {line}"
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def set_up(*, verbose: int, quiet: bool, log_format: str, debug: bool) -> None:
    """Apply the global options to the console and to the log of sltcore and its plugins."""
    if log_format not in FORMATS:
        raise SltError(f"--log-format is '{log_format}', expected one of: {', '.join(FORMATS)}")
    Console.quiet, Console.json, Console.debug = quiet, log_format == "json", debug
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if Console.json else logging.Formatter("%(message)s"))
    level = logging.ERROR if quiet else logging.DEBUG if verbose > 1 else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, handlers=[handler], force=True)


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """Rows as text in aligned columns; the last column is not padded."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max([len(title), *(len(row[index]) for row in cells)]) for index, title in enumerate(columns)]

    def line(row: list[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    return "\n".join([line(columns), *(line(row) for row in cells)])


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 plugin, 2 plugins."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
