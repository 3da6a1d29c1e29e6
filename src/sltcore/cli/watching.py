"""Watching the units of an experiment: a line for each, and a bar where a person looks on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TimeElapsedColumn,
)
from rich.text import Text

from sltcore.cli.console import Console

if TYPE_CHECKING:
    from sltcore.experiment import Unit, UnitResult

TAIL_BYTES = 4096


class Lines:
    """One line for each unit, as it is settled."""

    def __init__(self) -> None:
        self.total = self.count = 0

    def say(self, line: str) -> None:
        """A remark."""
        Console().say(line)

    def begin(self, units: Sequence[Unit]) -> None:
        """Know how many there are."""
        self.total = len(units)

    def started(self, unit: Unit) -> None:
        """Nothing to say yet."""

    def settled(self, unit: Unit, result: UnitResult) -> None:
        """What became of a unit."""
        self.count += 1
        took = f" in {result.seconds:.1f} s" if result.state == "done" else ""
        why = f": {result.error}" if result.error else ""
        self.say(f"[{self.count}/{self.total}] {unit.do} {unit.label}: {result.state}{took}{why}")

    def end(self) -> None:
        """Nothing follows."""


class Watched(Lines):
    """The lines above a bar, which says what is running in the folder `units` and how far a training is."""

    def __init__(self, units: Path) -> None:
        super().__init__()
        self.running: dict[str, Unit] = {}
        self.bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _Doing(units, self.running),
            console=RichConsole(stderr=True),
            transient=True,
        )
        self.task: Any = None

    def say(self, line: str) -> None:
        """A remark above the bar."""
        self.bar.console.print(line, markup=False, highlight=False)

    def begin(self, units: Sequence[Unit]) -> None:
        """Show the bar."""
        super().begin(units)
        self.bar.start()
        self.task = self.bar.add_task("units", total=len(units))

    def started(self, unit: Unit) -> None:
        """Show what is running."""
        self.running[unit.key] = unit

    def settled(self, unit: Unit, result: UnitResult) -> None:
        """A line, and one step of the bar."""
        self.running.pop(unit.key, None)
        super().settled(unit, result)
        self.bar.advance(self.task)

    def end(self) -> None:
        """Take the bar away."""
        self.bar.stop()


class _Doing(ProgressColumn):
    """What is running, and the step at which a training is, looked up once a second."""

    max_refresh = 1.0

    def __init__(self, units: Path, running: dict[str, Unit]) -> None:
        super().__init__()
        self.units = units
        self.running = running

    def render(self, task: Task) -> Text:
        """The running units with the last line of their metrics.jsonl."""
        return Text(", ".join(map(self._doing, list(self.running.values()))))

    def _doing(self, unit: Unit) -> str:
        try:
            last = (self.units / unit.folder / "metrics.jsonl").read_bytes()[-TAIL_BYTES:].splitlines()[-1]
            return f"{unit.label} (step {json.loads(last)['step']})"
        except (OSError, ValueError, IndexError, KeyError, TypeError):  # not begun, or half a line
            return unit.label
