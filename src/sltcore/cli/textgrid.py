"""Tiers of intervals as a Praat TextGrid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Interval = tuple[float, float, str]


def textgrid(tiers: Mapping[str, Sequence[Interval]], duration_s: float) -> str:
    """The long text form that Praat writes; `tiers` hold (start in s, end in s, text) in order.

    Praat wants intervals without gaps: empty ones stand where nothing is said. Intervals without length are left out.

    **Source**: Boersma and Weenink, Praat manual, "TextGrid file formats".
    """
    end = max([duration_s, *(interval[1] for tier in tiers.values() for interval in tier)])
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {_number(end)}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        filled = without_gaps(intervals, end)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{_quoted(name)}"',
            "        xmin = 0",
            f"        xmax = {_number(end)}",
            f"        intervals: size = {len(filled)}",
        ]
        for place, (start, stop, text) in enumerate(filled, 1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {_number(start)}",
                f"            xmax = {_number(stop)}",
                f'            text = "{_quoted(text)}"',
            ]
    return "\n".join(lines) + "\n"


def without_gaps(intervals: Sequence[Interval], end_s: float) -> list[Interval]:
    """Intervals from 0 to `end_s`, one after the other; empty ones where there was nothing.

    >>> without_gaps([(0.5, 1.0, "yes")], 2.0)
    [(0.0, 0.5, ''), (0.5, 1.0, 'yes'), (1.0, 2.0, '')]
    """
    filled: list[Interval] = []
    at = 0.0
    for start, stop, text in intervals:
        if stop <= start:
            continue
        if start > at:
            filled.append((at, start, ""))
        filled.append((max(start, at), stop, text))
        at = stop
    if at < end_s or not filled:
        filled.append((at, end_s, ""))
    return filled


def _number(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    return text.replace('"', '""')
