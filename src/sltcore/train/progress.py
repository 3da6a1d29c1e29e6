"""What a person sees while training runs: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PLAIN_S = 15.0  # without a terminal, seconds between lines about the loss

Say = Callable[[str], None]


class Progress:
    """Tells how a run goes. `say` takes lines in place of standard error; only the main process speaks."""

    def __init__(self, *, quiet: bool = False, main: bool = True, say: Say | None = None) -> None:
        self.silent = quiet or not main
        self._say = say
        self._bar: Any = None
        self._task: Any = None
        self._spoke = 0.0
        self._figures = {"loss": "", "dev": "", "speed": ""}

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.silent:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif self._say is not None:
            self._say(line)
        else:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    @contextmanager
    def steps(self, total: int, done: int) -> Iterator[None]:
        """Around the steps of a run: a bar where a person watches."""
        if self.silent or self._say is not None or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        with RichProgress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]} {task.fields[dev]} {task.fields[speed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        ) as self._bar:
            self._task = self._bar.add_task("train", total=total, completed=done, **self._figures)
            try:
                yield
            finally:
                self._bar = None

    def step(self, number: int) -> None:
        """So many steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=number)

    def measured(self, number: int, total: int, *, epoch: float, loss: float, utterances_per_s: float) -> None:
        """New figures of the training data."""
        figures = {"loss": f"loss {loss:.4g}", "speed": f"{utterances_per_s:.1f} utterances/s"}
        if self._bar is not None:
            self._bar.update(self._task, **figures)
        elif time.monotonic() - self._spoke > PLAIN_S or number == total:
            self._spoke = time.monotonic()
            self.say(f"step {number} of {total}, epoch {epoch:.2f}: {figures['loss']}, {figures['speed']}")

    def evaluated(self, number: int, name: str, value: float, line: str) -> None:
        """New figures of the development data; the one that decides is shown beside the bar."""
        if self._bar is not None:
            self._bar.update(self._task, dev=f"{name} {value:.4g}")
        self.say(f"step {number}: {line}")
