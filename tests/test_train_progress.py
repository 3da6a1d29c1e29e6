"""Promises of the bar that a person watches: loss, the value that decides, utterances a second, steps and time left."""

from __future__ import annotations

import io
import re
import sys

import pytest

from sltcore.train.progress import Progress


class Terminal(io.StringIO):
    """Standard error of a person's terminal."""

    def isatty(self) -> bool:
        return True


def watched(progress: Progress, place: io.StringIO) -> str:
    """What stands there after five of ten steps; pytest gives each phase of a test its own standard error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", place)
        patch.setenv("COLUMNS", "200")
        patch.setenv("TERM", "xterm")
        with progress.steps(10, 2):
            for number in range(3, 6):
                progress.step(number)
                progress.measured(number, 10, epoch=0.5, loss=1.25, utterances_per_s=34.56)
            progress.evaluated(5, "cer.cer", 12.345, "loss 2, cer.cer 12.35 %")
            progress.say("a [line] that stays")
    return place.getvalue()


def test_a_terminal_shows_a_bar_with_the_figures_and_the_time_left() -> None:
    shown = watched(Progress(), Terminal())
    last = next(line for line in reversed(shown.splitlines()) if "train" in line)
    for part in ("5/10", "loss 1.25", "cer.cer 12.35", "34.6 utterances/s"):
        assert part in last
    assert re.search(r"utterances/s .*(\d|-):(\d|-)", last)
    assert "step 5: loss 2, cer.cer 12.35 %" in shown
    assert "a [line] that stays" in shown


def test_elsewhere_lines_stand_in_for_the_bar() -> None:
    assert watched(Progress(), io.StringIO()).splitlines() == [
        "step 3 of 10, epoch 0.50: loss 1.25, 34.6 utterances/s",  # the next one comes seconds later
        "step 5: loss 2, cer.cer 12.35 %",
        "a [line] that stays",
    ]


@pytest.mark.parametrize("progress", [Progress(quiet=True), Progress(main=False)])
def test_quiet_ones_and_other_processes_say_nothing(progress: Progress) -> None:
    assert watched(progress, Terminal()) == ""
