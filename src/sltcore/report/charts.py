"""Charts as inline SVG, each drawn for a wide and for a narrow screen, and the table of what they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from sltcore.report.document import MARK, Cell, Chart, Column, Point, Series, Table, Verdict
from sltcore.report.lines import lines
from sltcore.report.numbers import decimals_of, interval, number, place
from sltcore.report.scales import Scale, fitted
from sltcore.report.svg import CHARACTER, centred, colour, element, label, marker, pattern, shortened

WIDE, NARROW = 490.0, 300.0
ROW, BAR, GAP, FONT = 22.0, 13.0, 8.0, 13.0
MOST_GUTTER = 0.36  # of the width, for names beside their rows
MOST_DESCRIBED = 8
__all__ = ["NARROW", "WIDE", "claimed", "description", "drawing", "forest", "values"]


class Region(NamedTuple):
    """A stretch of the value axis with a name; None is the end of the axis."""

    low: float | None
    high: float | None
    name: str


def drawing(chart: Chart, width: float, name: str, regions: Sequence[Region] = ()) -> Markup:
    """The chart as an SVG element of a width in pixels, with title and description; ids begin with `name`."""
    if chart.kind == "lines":
        height, parts = lines(chart, width)
    else:
        height, parts = _rows(chart, width, name, regions)
    return element(
        "svg",
        element("title", chart.title, id=f"{name}-title"),
        element("desc", chart.alt or description(chart), id=f"{name}-desc"),
        *parts,
        class_="wide" if width == WIDE else "narrow",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


class _Place(NamedTuple):
    """A row: which series, which point, the label before it, and where its middle is."""

    series: int
    point: Point
    heading: str
    y: float


def _rows(chart: Chart, width: float, name: str, regions: Sequence[Region]) -> tuple[float, list[Markup]]:
    """Bars or intervals along a horizontal axis, a row for each point; bars on a logarithmic axis become points."""
    numbers = [value for point in _points(chart) for value in (point.y, point.low, point.high) if value is not None]
    numbers += [] if chart.reference is None else [chart.reference]
    numbers += [edge for region in regions for edge in (region.low, region.high) if edge is not None]
    log = chart.y_scale == "log"
    bars = chart.kind == "bars" and not log
    widths = [(p.high - p.low) / 2 for p in _points(chart) if p.low is not None and p.high is not None]
    decimals = decimals_of([point.y for point in _points(chart)], widths)
    signed = chart.kind == "intervals" and chart.reference == 0
    texts = [number(point.y, decimals, sign=signed) for point in _points(chart)]
    right = max([3, *map(len, texts)]) * FONT * CHARACTER + 14.0
    gutter = max([0, *(len(_heading(point)) for point in _points(chart))]) * FONT * CHARACTER + 14.0
    gutter = gutter if gutter <= MOST_GUTTER * width else 0.0  # long names stand above their rows instead
    scale = fitted(numbers, start=gutter + 6.0, end=width - right, log=log, zero=bars)
    top = 24.0 if regions else 8.0
    places, bottom = _places(chart, top, above=gutter == 0.0)
    parts = [*_regions(regions, scale, top, bottom), *_value_axis(chart, scale, top, bottom, width)]
    if bars:
        parts += [element("defs", *(pattern(index, f"{name}-p{index}") for index in range(len(chart.series))))]
    for spot in places:
        if spot.heading and gutter:
            parts.append(label(spot.heading, gutter - 8.0, spot.y + 4.5, anchor="end", class_="name"))
        elif spot.heading:
            parts.append(label(shortened(spot.heading, width - 12.0), 12.0, spot.y - ROW + 6.0, class_="name"))
        parts += _bar(spot, scale, f"{name}-p{spot.series}") if bars else _dot(spot, scale)
        parts.append(
            label(number(spot.point.y, decimals, sign=signed), width - 2.0, spot.y + 4.5, anchor="end", class_="value")
        )
    return bottom + 44.0, parts


def _places(chart: Chart, top: float, *, above: bool) -> tuple[list[_Place], float]:
    """Where each point goes, those of one category together, and where the rows end."""
    categories = dict.fromkeys(str(point.x) for point in _points(chart))
    places, y = [], top
    for category in categories:
        rows = [(i, p) for i, series in enumerate(chart.series) for p in series.points if str(p.x) == category]
        y += ROW - 4.0 if above else 0.0
        for number_in, (index, point) in enumerate(rows):
            places.append(_Place(index, point, _heading(point) if not number_in else "", y + ROW / 2))
            y += ROW
        y += GAP if len(rows) > 1 or above else 0.0
    return places, max(y, top + ROW)


def _heading(point: Point) -> str:
    return f"{place(point.x)} ({point.mark})" if point.mark else place(point.x)


def _told(spot: _Place) -> str:
    point = spot.point
    limits = interval(point.low, point.high)
    return " ".join(filter(None, [f"{place(point.x)}: {number(point.y)}", limits, point.mark and f"({point.mark})"]))


def _bar(spot: _Place, scale: Scale, filling: str) -> list[Markup]:
    point = spot.point
    if point.y is None:
        return []
    start, end = sorted((scale(0.0), scale(point.y)))
    drawn = element(
        "rect",
        element("title", _told(spot)),
        class_=f"bar {colour(spot.series)}{' hollow' if point.mark else ''}",
        x=start,
        y=spot.y - BAR / 2,
        width=max(1.0, end - start),
        height=BAR,
        fill=None if point.mark else f"url(#{filling})",
    )
    return [drawn, *_whisker(point, spot.y, scale, "over")]


def _dot(spot: _Place, scale: Scale) -> list[Markup]:
    point = spot.point
    if point.y is None or (scale.log and point.y <= 0):
        return []
    drawn = marker(spot.series, scale(point.y), spot.y, 4.5, hollow=bool(point.mark), title=_told(spot))
    return [*_whisker(point, spot.y, scale, colour(spot.series)), drawn]


def _whisker(point: Point, y: float, scale: Scale, classes: str) -> list[Markup]:
    if point.low is None or point.high is None:
        return []
    low, high = scale(point.low), scale(point.high)
    path = f"M{low:.1f} {y:.1f} H{high:.1f} M{low:.1f} {y - 4:.1f} V{y + 4:.1f} M{high:.1f} {y - 4:.1f} V{y + 4:.1f}"
    return [element("path", class_=f"whisker {classes}", d=path)]


def _value_axis(chart: Chart, scale: Scale, top: float, bottom: float, width: float) -> list[Markup]:
    parts = []
    for value, text in scale.ticks(max(2, int((scale.end - scale.start) / 70))):
        x = scale(value)
        parts += [element("path", class_="grid", d=f"M{x:.1f} {top:.1f} V{bottom:.1f}")]
        parts += [label(text, x, bottom + 16.0, anchor="middle")]
    marked = 0.0 if chart.reference is None and chart.kind == "bars" else chart.reference
    if marked is not None and scale.low <= marked <= scale.high:
        parts.append(element("path", class_="reference", d=f"M{scale(marked):.1f} {top:.1f} V{bottom + 4:.1f}"))
    parts.append(centred(chart.y_label, (scale.start + scale.end) / 2, bottom + 36.0, width))
    return parts


def _regions(regions: Sequence[Region], scale: Scale, top: float, bottom: float) -> list[Markup]:
    parts = []
    for region in regions:
        low = scale.start if region.low is None else scale(region.low)
        high = scale.end if region.high is None else scale(region.high)
        parts.append(element("rect", class_="region", x=low, y=top, width=max(0.0, high - low), height=bottom - top))
        text, anchor, edge = f"← {region.name}", "end", high - 2.0
        if region.low is not None:
            text, anchor, edge = f"{region.name} →", "start", low + 2.0
        if high - low < len(text) * 12.0 * CHARACTER:  # no room within: begin or end where the axis does
            anchor, edge = ("start", scale.start) if region.low is None else ("end", scale.end)
        parts.append(label(text, edge, top - 6.0, anchor=anchor, class_="region-name"))
    return parts


def _points(chart: Chart) -> list[Point]:
    return [point for series in chart.series for point in series.points]


def claimed(verdict: Verdict) -> list[Region]:
    """Where the interval must lie for the claim to hold; nothing where it is not known which side is better."""
    margin = verdict.margin
    if verdict.direction == "different":
        return [Region(None, -margin, "claimed side"), Region(margin, None, "claimed side")]
    if not verdict.better:
        return []
    edge = margin if verdict.direction == "not-worse" else -margin
    return [Region(None, edge, "claimed side") if verdict.better == "lower" else Region(-edge, None, "claimed side")]


def forest(verdict: Verdict, unit: str, mean: str) -> Chart:
    """The mean difference with its interval, and every seed's below it."""
    seeds = [Point(x="no seed" if seed.seed is None else f"seed {seed.seed}", y=seed.effect) for seed in verdict.seeds]
    whole = Point(x=mean, y=verdict.effect, low=verdict.low, high=verdict.high)
    return Chart(
        title=f"Difference {verdict.arm} − {verdict.versus} in {verdict.value}",
        kind="intervals",
        x_label="what",
        y_label=f"difference, {unit}" if unit else "difference",
        series=[
            Series(name=mean, points=[whole]),
            *([Series(name="each seed", points=seeds)] if len(seeds) > 1 else []),
        ],
        reference=0.0,
    )


def description(chart: Chart) -> str:
    """What the chart shows, in words, for those who do not see it."""
    said = []
    for series in chart.series:
        points = [point for point in series.points if point.y is not None]
        name = f"{series.name}: " if series.name and len(chart.series) > 1 else ""
        if not points:
            said.append(f"{name}no values")
        elif chart.kind == "lines":
            numbers = [point.y for point in points if point.y is not None and math.isfinite(point.y)]
            said.append(
                f"{name}from {number(points[0].y)} at {place(points[0].x)} to {number(points[-1].y)} at {place(points[-1].x)}, "
                f"lowest {number(min(numbers, default=None))}, highest {number(max(numbers, default=None))}"
            )
        else:
            told = [f"{place(point.x)} {number(point.y)} {interval(point.low, point.high)}".strip() for point in points]
            more = len(told) - MOST_DESCRIBED
            said.append(name + ", ".join(told[:MOST_DESCRIBED]) + (f" and {more} more" if more > 0 else ""))
    over = f"{chart.y_label} over {chart.x_label}" if chart.kind == "lines" else chart.y_label
    return f"{over}. {'; '.join(said) or 'no values'}."


def values(chart: Chart, most: int) -> Table:
    """The chart as a table of at most `most` rows, spread evenly."""
    several = len(chart.series) > 1
    limits = any(point.low is not None for point in _points(chart))
    marks = any(point.mark for point in _points(chart))
    columns = [Column(key="series", label="series")] if several else []
    columns += [Column(key="x", label=chart.x_label or "x"), Column(key="y", label=chart.y_label or "y")]
    columns += [Column(key="low", label="from"), Column(key="high", label="to")] if limits else []
    rows: list[dict[str, Cell]] = []
    for series in chart.series:
        for point in series.points:
            row: dict[str, Cell] = {"x": point.x, "y": point.y}
            row |= {"series": series.name} if several else {}
            row |= {"low": point.low, "high": point.high} if limits else {}
            rows.append(row | ({MARK: point.mark} if marks and point.mark else {}))
    every = max(1, math.ceil(len(rows) / most))
    caption = f"one in {every} of {len(rows):,} values; report.json has all" if every > 1 else ""
    return Table(title=f"Values of {chart.title}", caption=caption, columns=columns, rows=rows[::every])
