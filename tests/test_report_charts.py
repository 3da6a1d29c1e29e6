"""Charts show the values they are given, in words too, and no two series alike."""

from __future__ import annotations

import doctest
import itertools
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_sample import charts, verdicts

import sltcore.report
from sltcore.report import numbers, svg
from sltcore.report.charts import NARROW, WIDE, claimed, description, drawing, forest, values
from sltcore.report.document import Chart, Point, Series
from sltcore.report.lines import thinned
from sltcore.report.scales import fitted

STYLE = (Path(sltcore.report.__file__).parent / "style.css").read_text(encoding="utf-8")


def test_examples_of_the_docstrings() -> None:
    for module in (numbers, svg):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("chart", charts(), ids=lambda chart: chart.title)
def test_a_chart_is_well_formed_with_title_and_description(chart: Chart, width: float) -> None:
    root = ET.fromstring(drawing(chart, width, "c0"))
    title, desc = root[0], root[1]
    assert (title.tag, title.text) == ("title", chart.title)
    assert desc.tag == "desc"
    assert desc.text == (chart.alt or description(chart))
    assert root.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    assert root.get("role") == "img"


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("chart", charts(), ids=lambda chart: chart.title)
def test_everything_is_drawn_inside(chart: Chart, width: float) -> None:
    root = ET.fromstring(drawing(chart, width, "c0"))
    height = float(root.get("height") or 0)
    for entry in root.iter():
        for key, end in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            assert -0.1 <= float(entry.get(key) or 0.0) <= end
        for x, y in re.findall(r"([-\d.]+),([-\d.]+)", entry.get("points") or ""):
            assert -6 <= float(x) <= width + 6
            assert -6 <= float(y) <= height + 6


def test_bars_are_as_long_as_their_values() -> None:
    chart = Chart(
        title="t", kind="bars", x_label="arm", y_label="WER",
        series=[Series(name="", points=[Point(x="a", y=10.0), Point(x="b", y=40.0), Point(x="c", y=0.0), Point(x="d", y=None)])],
    )  # fmt: skip
    widths = [
        float(rect.get("width") or 0)
        for rect in ET.fromstring(drawing(chart, WIDE, "c")).iter("rect")
        if "bar" in (rect.get("class") or "")
    ]
    assert len(widths) == 3
    assert widths[1] == pytest.approx(4 * widths[0], rel=0.01)
    assert widths[2] == 1.0  # a hairline, so that zero is seen


def test_a_published_figure_is_hollow_and_says_so() -> None:
    text = str(drawing(charts()[0], WIDE, "c"))
    assert text.count('class="bar s1 hollow"') == 1
    assert "Conformer (S) (published, other data)" in text


def test_intervals_are_where_their_numbers_are() -> None:
    chart = charts()[1]
    root = ET.fromstring(drawing(chart, WIDE, "c"))
    ends = [
        tuple(map(float, re.findall(r"M([\d.]+) [\d.]+ H([\d.]+)", path.get("d") or "")[0]))
        for path in root.iter("path")
        if "whisker" in (path.get("class") or "")
    ]
    middles = [float(dot.get("cx") or 0) for dot in root.iter("circle")]
    points = chart.series[0].points
    (a, b), (c, _) = ends[0], ends[1]
    assert points[0].low is not None
    assert points[0].high is not None
    assert points[1].low is not None
    pixels = (b - a) / (points[0].high - points[0].low)  # one scale holds for all
    assert (c - a) / pixels == pytest.approx(points[1].low - points[0].low, abs=0.05)
    for middle, (low, high), point in zip(middles, ends, points, strict=True):
        assert low < middle < high
        assert (middle - a) / pixels == pytest.approx((point.y or 0.0) - points[0].low, abs=0.05)


def test_series_differ_in_more_than_colour() -> None:
    looks = [(svg.colour(index), svg.shape(index)) for index in range(36)]
    assert len(set(looks)) == 36
    for first, second in itertools.combinations(range(6), 2):
        assert svg.shape(first) != svg.shape(second)
    for index in range(1, 6):
        assert f".d{index} {{ stroke-dasharray" in STYLE
    assert len({str(svg.pattern(index, "p")).replace(f"s{index + 1}", "") for index in range(6)}) == 6


def test_a_chart_without_words_is_described() -> None:
    assert description(charts()[1]) == (
        "pretrained − random, percentage points. asterisk prompts −31.4 [−34.9, −27.8], "
        "flight of the amazon queen −12 [−18.2, −5.5], librispeech mini −3.1 [−8.8, 2.4]."
    )
    assert "seed 1: from 46.99 at 10 to" in description(charts()[3])
    empty = Chart(title="t", kind="bars", x_label="x", y_label="y")
    assert description(empty) == "y. no values."


def test_the_values_of_a_chart_are_a_table() -> None:
    table = values(charts()[0], 100)
    assert [column.label for column in table.columns] == ["series", "arm", "WER, %", "from", "to"]
    assert len(table.rows) == 7
    assert table.rows[3] == {
        "x": "Conformer (S)",
        "y": 2.7,
        "series": "greedy",
        "low": None,
        "high": None,
        "_mark": "published, other data",
    }
    short = values(charts()[2], 50)
    assert len(short.rows) <= 50
    assert short.caption == "one in 3 of 123 values; report.json has all"


@pytest.mark.parametrize("kind", ["bars", "intervals", "lines"])
@pytest.mark.parametrize(
    "numbers_",
    [[], [None], [0.0], [5.0], [-3.0, -3.0], [1e-12, 1e12], [-1e300, 1e300], [1e-300], [None, 2.0, None, 3.0]],
)
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_any_values_can_be_drawn(kind: str, numbers_: list[float | None], scale: str) -> None:
    points = [Point(x=float(i) if kind == "lines" else f"c{i}", y=y, low=y, high=y) for i, y in enumerate(numbers_)]
    chart = Chart(
        title="t", kind=kind, x_label="x", y_label="y", series=[Series(name="a", points=points)],
        y_scale=scale, x_scale=scale if kind == "lines" else "linear",  # type: ignore[arg-type]
    )  # fmt: skip
    text = str(drawing(chart, NARROW, "c"))
    ET.fromstring(text)
    assert "nan" not in text
    assert "inf" not in text


FINITE = st.floats(-1e12, 1e12)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FINITE, min_size=1, max_size=20), st.booleans(), st.integers(2, 12))
def test_scales_keep_the_order_and_have_round_ticks(places: list[float], zero: bool, most: int) -> None:
    scale = fitted(places, start=10.0, end=300.0, zero=zero)
    ordered = sorted(places)
    drawn = [scale(value) for value in ordered]
    assert drawn == sorted(drawn)
    assert all(10.0 <= place <= 300.0 for place in drawn)
    ticks = scale.ticks(most)
    assert 1 <= len(ticks) <= most
    assert all(scale.low - 1e-9 * abs(scale.low) <= value <= scale.high + 1e-9 * abs(scale.high) for value, _ in ticks)


def test_ticks_are_the_numbers_people_expect() -> None:
    assert [text for _, text in fitted([0.0, 100.0], start=0, end=1, zero=True).ticks(6)] == [
        "0",
        "20",
        "40",
        "60",
        "80",
        "100",
    ]
    assert [text for _, text in fitted([1, 1000], start=0, end=1, log=True).ticks(5)] == ["1", "10", "100", "1,000"]
    assert [text for _, text in fitted([-0.02, 0.03], start=0, end=1).ticks(6)] == [
        "−0.02",
        "−0.01",
        "0.00",
        "0.01",
        "0.02",
        "0.03",
    ]


def test_ticks_of_steps_are_whole() -> None:
    scale = fitted([10.0, 20.0], start=0, end=1)
    assert [text for _, text in scale.ticks(5)] == ["10.0", "12.5", "15.0", "17.5", "20.0"]
    assert [text for _, text in scale.ticks(5, whole=True)] == ["10", "15", "20"]
    assert [text for _, text in fitted([1.0, 3.0], start=0, end=1).ticks(6, whole=True)] == ["1", "2", "3"]


def test_thinning_keeps_the_ends_and_the_extremes() -> None:
    points = [Point(x=i, y=math.sin(i / 50)) for i in range(5000)]
    points[1234] = Point(x=1234, y=9.0)
    points[4321] = Point(x=4321, y=-9.0)
    kept = thinned(points)
    assert len(kept) <= 260
    assert {points[0], points[1234], points[4321], points[-1]} <= set(kept)
    assert [point.x for point in kept] == sorted(point.x for point in kept)  # type: ignore[type-var]
    assert thinned(points[:200]) == points[:200]


def test_a_gap_in_a_curve_stays_a_gap() -> None:
    points = [Point(x=i, y=None if i == 5 else 1.0) for i in range(10)]
    chart = Chart(title="t", kind="lines", x_label="x", y_label="y", series=[Series(name="a", points=points)])
    assert str(drawing(chart, WIDE, "c")).count("<polyline") == 2


def test_the_claimed_side_is_where_the_interval_must_lie() -> None:
    better, not_worse, relative = verdicts()
    assert [(region.low, region.high) for region in claimed(better)] == [(None, -2.0)]
    assert [(region.low, region.high) for region in claimed(not_worse)] == [(None, 2.0)]
    assert [(region.low, region.high) for region in claimed(relative)] == [(None, -5.0)]
    from dataclasses import replace

    assert [(r.low, r.high) for r in claimed(replace(better, better="higher"))] == [(2.0, None)]
    assert [(r.low, r.high) for r in claimed(replace(not_worse, better="higher"))] == [(-2.0, None)]
    assert [(r.low, r.high) for r in claimed(replace(better, direction="different"))] == [(None, -2.0), (2.0, None)]
    assert claimed(replace(better, better="")) == []


def test_the_picture_of_a_claim_has_every_seed() -> None:
    chart = forest(verdicts()[0], "percentage points", "mean, 95 %")
    assert [point.y for point in chart.series[1].points] == [-30.2, -33.0, -31.7, -29.9, -32.2]
    assert (chart.series[0].points[0].low, chart.series[0].points[0].high) == (-34.9, -27.8)
    text = str(drawing(chart, NARROW, "v", claimed(verdicts()[0])))
    assert all(f">seed {seed}<" in text for seed in range(5))
    assert "claimed side" in text


def colours(scheme: str) -> dict[str, str]:
    block = STYLE.split("@media (prefers-color-scheme: dark)")[1 if scheme == "dark" else 0].split("}")[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of sRGB."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # a pair that WebAIM gives


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_4_5_to_1_and_drawings_3_to_1(scheme: str) -> None:
    found = colours(scheme)
    grounds = ["ground", "panel", "good-panel", "bad-panel", "open-panel"]
    for ground in grounds:
        for text in ("text", "muted", "link"):
            assert contrast(found[text], found[ground]) >= 4.5, (scheme, text, ground)
        for drawn in ("s1", "s2", "s3", "s4", "s5", "s6", "strong-rule"):
            assert contrast(found[drawn], found[ground]) >= 3.0, (scheme, drawn, ground)
    for word in ("good", "bad", "open"):
        assert contrast(found[word], found[f"{word}-panel"]) >= 4.5, (scheme, word)
