"""Elements of SVG as escaped text, and the shapes that tell series apart without colour."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup, escape

COLOURS = 6  # classes s1 … s6 of the style sheet
SHAPES = 6
CHARACTER = 0.56  # mean width of a letter in the page's fonts, in font sizes


def element(name: str, *children: str, **attributes: Any) -> Markup:
    """An element; texts and attributes are escaped, children that are markup already are not.

    `_` in the name of an attribute stands for `-`, and a last one is left out (`class_`).

    >>> element("text", "a < b", class_="tick", text_anchor="end", x=1.25)
    Markup('<text class="tick" text-anchor="end" x="1.2">a &lt; b</text>')
    """
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{''.join(parts)}>{inside}</{name}>")


def _number(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def colour(index: int) -> str:
    """The class of the colour of a series."""
    return f"s{index % COLOURS + 1}"


def shape(index: int) -> int:
    """Which shape, dash and pattern a series has; another one once the colours come again."""
    return (index + index // COLOURS) % SHAPES


def marker(index: int, x: float, y: float, size: float = 4.0, *, hollow: bool = False, title: str = "") -> Markup:
    """Circle, square, triangle, diamond, cross or star of a series around a place."""
    a, kind = size, shape(index)
    children = (element("title", title),) if title else ()
    classes = f"marker {colour(index)}{' hollow' if hollow else ''}"
    if kind == 0:
        return element("circle", *children, class_=classes, cx=x, cy=y, r=a)
    b, c, d = 1.3 * a, 0.6 * a, 0.7 * a
    outlines = {
        1: [(-a, -a), (a, -a), (a, a), (-a, a)],
        2: [(0, -1.2 * a), (1.2 * a, a), (-1.2 * a, a)],
        3: [(0, -1.35 * a), (1.35 * a, 0), (0, 1.35 * a), (-1.35 * a, 0)],
        4: [(-b, -c), (-c, -b), (0, -d), (c, -b), (b, -c), (d, 0), (b, c), (c, b), (0, d), (-c, b), (-b, c), (-d, 0)],
        5: [(0, 1.2 * a), (1.2 * a, -a), (-1.2 * a, -a)],
    }
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in outlines[kind])
    return element("polygon", *children, class_=classes, points=points)


def pattern(index: int, name: str) -> Markup:
    """The filling of the bars of a series, under an id that no other chart has."""
    ground = element("rect", class_=f"ground {colour(index)}", width=8, height=8)
    strokes = {
        0: "",
        1: "M0 8 L8 0 M-2 2 L2 -2 M6 10 L10 6",
        2: "M0 4 H8",
        3: "M4 0 V8",
        4: "M0 0 L8 8 M8 0 L0 8",
        5: "M0 0 L8 8 M-2 6 L2 10 M6 -2 L10 2",
    }[shape(index)]
    drawn = element("path", class_=f"hatch {colour(index)}", d=strokes) if strokes else ""
    return element("pattern", ground, drawn, id=name, width=8, height=8, patternUnits="userSpaceOnUse")


def label(text: str, x: float, y: float, *, anchor: str = "start", class_: str = "tick") -> Markup:
    """Text at a place; `anchor` is start, middle or end."""
    return element("text", text, class_=class_, x=x, y=y, text_anchor=anchor)


def shortened(text: str, width: float, font: float = 13.0) -> str:
    """Text that fits a width, cut with an ellipsis where it is longer.

    >>> shortened("a long label", 40.0)
    'a lo…'
    """
    most = max(2, int(width / (font * CHARACTER)))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def centred(text: str, x: float, y: float, width: float) -> Markup:
    """The name of an axis around a place, moved or cut so that it stays within the width."""
    shown = shortened(text, width - 8.0)
    half = len(shown) * 13.0 * CHARACTER / 2
    return label(shown, min(max(x, half + 4.0), max(width / 2, width - half - 4.0)), y, anchor="middle", class_="axis")
