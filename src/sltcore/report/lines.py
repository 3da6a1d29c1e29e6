"""Line charts: curves over a number, with bands, dashes and markers."""

from __future__ import annotations

import math
from itertools import groupby

from markupsafe import Markup

from sltcore.report.document import Chart, Point
from sltcore.report.numbers import interval, number, place
from sltcore.report.scales import Scale, fitted
from sltcore.report.svg import centred, colour, element, label, marker, shape, shortened

MOST_DRAWN = 240  # points of a series; more are thinned, extremes kept
MOST_MARKED = 30  # markers on a series; on longer ones they are spread out
FONT = 13.0


def lines(chart: Chart, width: float) -> tuple[float, list[Markup]]:
    """Height in pixels, and the parts of a line chart."""
    height = 320.0 if width > 500 else 280.0
    points = [point for series in chart.series for point in series.points]
    named = list(dict.fromkeys(str(point.x) for point in points)) if any(isinstance(p.x, str) for p in points) else []
    numbers = [value for p in points for value in (p.y, p.low, p.high) if value is not None]
    numbers += [] if chart.reference is None else [chart.reference]
    y = fitted(numbers, start=height - 46.0, end=30.0, log=chart.y_scale == "log")
    ticks = y.ticks(6)
    left = max(len(text) for _, text in ticks) * FONT * 0.58 + 12.0
    places = [float(index) for index in range(len(named))] or [float(p.x) for p in points if not isinstance(p.x, str)]
    x = _exact(places, left + 4.0, width - 12.0, log=chart.x_scale == "log" and not named)
    parts = [label(shortened(chart.y_label, width - 8.0), 2.0, 16.0, class_="axis")]
    for value, text in ticks:
        parts += [element("path", class_="grid", d=f"M{left:.1f} {y(value):.1f} H{width - 8:.1f}")]
        parts += [label(text, left - 6.0, y(value) + 4.5, anchor="end")]
    parts += _x_axis(chart, x, named, height)
    if chart.reference is not None:
        parts.append(element("path", class_="reference", d=f"M{left:.1f} {y(chart.reference):.1f} H{width - 8:.1f}"))
    for index, series in enumerate(chart.series):
        drawn = [(float(named.index(str(p.x))) if named else float(p.x), p) for p in thinned(series.points)]
        parts += _series(index, [(at, p) for at, p in drawn if not (x.log and at <= 0)], x, y)
    return height, parts


def _exact(places: list[float], start: float, end: float, *, log: bool) -> Scale:
    """From the first to the last value, without room beside them."""
    loose = fitted(places, start=start, end=end, log=log)
    found = [place for place in places if place > 0 or not log]
    if not found or min(found) == max(found):
        return loose
    return Scale(min(found), max(found), start, end, log=log)


def _x_axis(chart: Chart, x: Scale, named: list[str], height: float) -> list[Markup]:
    most = max(2, int((x.end - x.start) / 80))
    if named:
        every = max(1, math.ceil(len(named) / most))
        ticks = [(float(index), shortened(text, 78.0)) for index, text in enumerate(named)][::every]
    else:
        whole = all(float(p.x).is_integer() for s in chart.series for p in s.points if not isinstance(p.x, str))
        ticks = x.ticks(most, whole=whole)
    parts = [element("path", class_="frame", d=f"M{x.start - 4:.1f} {height - 46:.1f} H{x.end + 4:.1f}")]
    for value, text in ticks:
        spot = x(value)
        anchor = "end" if spot > x.end - 14 else "start" if spot < x.start + 6 and len(text) > 4 else "middle"
        parts.append(element("path", class_="frame", d=f"M{spot:.1f} {height - 46:.1f} V{height - 42:.1f}"))
        parts.append(label(text, spot + (6 if anchor == "end" else 0), height - 28.0, anchor=anchor))
    parts.append(centred(chart.x_label, (x.start + x.end) / 2, height - 8.0, x.end + 12.0))
    return parts


def _series(index: int, drawn: list[tuple[float, Point]], x: Scale, y: Scale) -> list[Markup]:
    parts = []
    seen = [(at, p) for at, p in drawn if p.y is None or not (y.log and p.y <= 0)]
    for there, group in groupby(seen, key=lambda pair: pair[1].y is not None):
        piece = list(group)
        if not there:
            continue
        banded = [(at, p.low, p.high) for at, p in piece if p.low is not None and p.high is not None]
        if len(banded) > 1:
            outline = [f"{x(at):.1f},{y(high):.1f}" for at, _, high in banded]
            outline += [f"{x(at):.1f},{y(low):.1f}" for at, low, _ in reversed(banded)]
            parts.append(element("polygon", class_=f"band {colour(index)}", points=" ".join(outline)))
        path = " ".join(f"{x(at):.1f},{y(p.y or 0.0):.1f}" for at, p in piece)
        parts.append(element("polyline", class_=f"line {colour(index)} d{shape(index)}", points=path))
    marked = [(at, p) for at, p in seen if p.y is not None]
    every = 1 if len(marked) <= MOST_MARKED else math.ceil(len(marked) / 8)
    start = 0 if every == 1 else (index * every // 3) % every  # of series on one another, markers lie beside each other
    for at, p in marked[start::every]:
        told = " ".join(filter(None, [f"{place(p.x)}: {number(p.y)}", interval(p.low, p.high), p.mark]))
        parts.append(marker(index, x(at), y(p.y or 0.0), 3.5, hollow=bool(p.mark), title=told))
    return parts


def thinned(points: list[Point], most: int = MOST_DRAWN) -> list[Point]:
    """At most about `most` points: of each stretch the first, the lowest and the highest, and the very last."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most // 3))
    kept: list[int] = []
    for start in range(0, len(points), size):
        stretch = [i for i in range(start, min(start + size, len(points))) if points[i].y is not None]
        if not stretch:
            kept.append(start)  # a gap stays a gap
            continue
        lowest = min(stretch, key=lambda i: points[i].y or 0.0)
        highest = max(stretch, key=lambda i: points[i].y or 0.0)
        kept += sorted({stretch[0], lowest, highest})
    return [points[i] for i in sorted({*kept, len(points) - 1})]
