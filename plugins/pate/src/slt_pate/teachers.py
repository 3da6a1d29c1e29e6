"""Teachers: one model for each shard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slt_pate.queries.sources import mark_private
from slt_pate.shards import Shards
from sltcore.errors import PrivacyError


def train_teachers(fit: Callable[[Any], Any], shards: Shards, *, say: Callable[[str], None]) -> list[Any | None]:
    """A model for each shard, in order, made by `fit(rows)`; None for an empty shard, whose teacher abstains.

    Every teacher is trained as the run's spec says, from the same public start, on its own shard and nothing else. What
    `fit` made is remembered as private, so that it is refused as a public source. **Raises** `PrivacyError` where `fit`
    gives the same object twice: two shards would share one vote.
    """
    teachers: list[Any | None] = []
    for number, rows in enumerate(shards.rows):
        if not rows:
            say(f"teacher {number}: its shard is empty, so it abstains")
            teachers.append(None)
            continue
        model = fit(list(rows))
        if any(model is other for other in teachers):
            raise PrivacyError(
                f"fit returned the same model for teacher {number} as for an earlier one; expected a new model at each call"
            )
        mark_private(model)
        teachers.append(model)
    return teachers
