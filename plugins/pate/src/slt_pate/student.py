"""The student: it hears public recordings and reads released labels, and never meets private data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from slt_pate.rows import readings, text_of, with_text
from sltcore.errors import PrivacyError


def train_student(
    fit: Callable[[Any], Any],
    spoken: Sequence[Any],
    asked: Sequence[tuple[Any, str | None]],
    others: Sequence[Any],
    *,
    rounds: int,
    say: Callable[[str], None],
) -> Any:
    """The model of the last `fit`, on public rows with texts, `asked` rows with released labels, and, in `rounds` further
    trainings, the rest with what the student before reads in them.

    Later rounds are post-processing of the released labels and cost nothing. `others` were never asked about. Rows without
    a text, released or read, take no part. **Raises** `PrivacyError` where no row has a text.
    """
    labelled = [with_text(row, text) for row, text in asked if text]
    unlabelled = [row for row, text in asked if not text] + list(others)
    rows = [*spoken, *labelled]
    say(
        f"student: {len(labelled):,} of {len(asked):,} utterances have released labels, {len(spoken):,} public ones had texts"
    )
    if not rows:
        raise PrivacyError(
            f"none of {len(asked)} utterances got a label, and no public one had a text; there is nothing to train a student on. "
            f"Next: a lower threshold, less noise at a larger epsilon, more teachers, or unsure: public"
        )
    student = fit(rows)
    for number in range(rounds):
        if not unlabelled:
            break
        read = [
            with_text(row, nbest.text) for row, nbest in zip(unlabelled, readings(student, unlabelled), strict=True)
        ]
        heard = [row for row in read if text_of(row)]
        say(f"student, round {number + 1}: reads {len(heard):,} utterances without labels by itself")
        student = fit([*rows, *heard])
    return student
