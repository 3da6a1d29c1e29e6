"""The learning rate over a run, as a share of the highest."""

from __future__ import annotations

import math

from sltcore.spec.training import ScheduleConfig

HELD = 0.8  # hold-decay: the share of the run before the rate falls


def warmup_of(schedule: ScheduleConfig, total: int) -> int:
    """Steps of linear warm-up of a run of `total` steps: those of the schedule, at most a tenth of the run."""
    return min(schedule.warmup_steps, total // 10)


def rate(schedule: ScheduleConfig, step: int, total: int) -> float:
    """The share of the highest learning rate that step `step` = 0 … `total` - 1 uses.

    With w steps of warm-up: (step + 1) / w while step < w. Afterwards, with p = (step - w) / (total - w) from 0 to 1 and
    f = `final`: constant 1; linear 1 - (1 - f) p; cosine f + (1 - f) (1 + cos πp) / 2; noam max(f, √(w / (step + 1)));
    hold-decay 1 until 4/5 of the run, then linear to f. `final` is what the step after the last one would use, so that no
    step is spent on a rate of zero.
    """
    warmup = warmup_of(schedule, total)
    if step < warmup:
        return (step + 1) / warmup
    final = schedule.final
    done = (step - warmup) / max(1, total - warmup)
    if schedule.shape == "linear":
        return 1.0 - (1.0 - final) * done
    if schedule.shape == "cosine":
        return final + (1.0 - final) * (1.0 + math.cos(math.pi * done)) / 2.0
    if schedule.shape == "noam":
        return max(final, math.sqrt(max(1, warmup) / (step + 1)))
    if schedule.shape == "hold-decay":
        held = max(warmup, HELD * total)
        return 1.0 if step < held else 1.0 - (1.0 - final) * (step - held) / max(1.0, total - held)
    return 1.0
