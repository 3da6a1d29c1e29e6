"""A report is plain data: it goes through JSON unchanged, and what does not belong there is refused by name."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_sample import sample

from sltcore.errors import DataError
from sltcore.report.document import (
    AudioRow,
    Chart,
    Column,
    Point,
    Report,
    SeedEffect,
    Series,
    Table,
    UnitRow,
    Verdict,
)

TEXT = st.text(max_size=12)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
MAYBE = st.none() | NUMBER
CELL = st.one_of(
    st.none(),
    TEXT,
    NUMBER,
    st.integers(-(2**60), 2**60),
    st.fixed_dictionaries({"value": MAYBE, "low": MAYBE, "high": MAYBE}),
    st.fixed_dictionaries(
        {
            "value": NUMBER,
            "seeds": st.lists(st.fixed_dictionaries({"seed": st.integers(0, 9), "value": MAYBE}), max_size=2),
        }
    ),
)
FEW = {"max_size": 2}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    keys = draw(st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), unique=True, max_size=3))
    better = st.sampled_from(["lower", "higher", ""])
    columns = [Column(key=key, label=draw(TEXT), unit=draw(TEXT), better=draw(better)) for key in keys]  # type: ignore[arg-type]
    rows = [{key: draw(CELL) for key in [*keys, "_mark"]} for _ in range(draw(st.integers(0, 2)))]
    rows = [{**row, "_mark": draw(TEXT)} for row in rows]
    return Table(title=draw(TEXT), caption=draw(TEXT), columns=columns, rows=rows)


SEEDS = st.lists(st.builds(SeedEffect, seed=st.none() | st.integers(0), effect=MAYBE), **FEW)
POINTS = st.lists(st.builds(Point, x=NUMBER | TEXT, y=MAYBE, low=MAYBE, high=MAYBE, mark=TEXT), **FEW)
PARTS = {
    "title": TEXT,
    "kind": st.sampled_from(["experiment", "train", "run", "comparison"]),
    "created": TEXT,
    "command": TEXT,
    "versions": st.dictionaries(TEXT, TEXT, **FEW),
    "machine": st.dictionaries(TEXT, TEXT, **FEW),
    "description": TEXT,
    "limits": TEXT,
    "facts": st.dictionaries(TEXT, st.none() | TEXT | NUMBER | st.integers(), **FEW),
    "verdicts": st.lists(st.builds(Verdict, effect=MAYBE, low=MAYBE, high=MAYBE, p=MAYBE, seeds=SEEDS), **FEW),
    "tables": st.lists(tables(), **FEW),
    "charts": st.lists(
        st.builds(Chart, series=st.lists(st.builds(Series, points=POINTS), **FEW), reference=MAYBE), **FEW
    ),
    "audio": st.lists(st.builds(AudioRow, src=st.just("data:audio/wav;base64,AAAA")), **FEW),
    "units": st.lists(st.builds(UnitRow, seed=st.none() | st.integers(0), seconds=MAYBE), **FEW),
    "problems": st.lists(TEXT, **FEW),
    "spec_yaml": TEXT,
}


def test_every_field_of_a_report_has_values_to_try() -> None:
    assert list(PARTS) == [field.name for field in fields(Report)]


@pytest.mark.parametrize("part", PARTS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_report_goes_through_json_unchanged(part: str, data: st.DataObject) -> None:
    report = replace(sample(), **{part: data.draw(PARTS[part])})
    assert Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report


def test_the_sample_goes_through_json_unchanged() -> None:
    assert Report.from_dict(json.loads(json.dumps(sample().to_dict()))) == sample()


def test_what_json_cannot_write_becomes_null_or_a_sign() -> None:
    table = Table(
        title="t",
        columns=[Column(key="a", label="a")],
        rows=[
            {"a": math.inf},
            {"a": -math.inf},
            {"a": math.nan},
            {"a": {"value": math.inf, "low": math.nan, "high": None}},
        ],
    )
    report = Report(
        title="t",
        kind="run",
        created="",
        tables=[table],
        charts=[
            Chart(
                title="",
                kind="lines",
                x_label="",
                y_label="",
                series=[Series(name="", points=[Point(x=1, y=math.inf)])],
            )
        ],
    )
    back = Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))
    assert [row["a"] for row in back.tables[0].rows] == ["∞", "-∞", None, {"value": "∞", "low": None, "high": None}]
    assert back.charts[0].series[0].points[0].y is None


def test_numbers_of_numpy_are_numbers() -> None:
    import numpy as np

    rows = [{"a": np.int64(3)}, {"a": np.float32(0.5)}, {"a": {"value": np.float64(2.5), "low": np.float32(np.nan)}}]
    report = Report(
        title="t", kind="run", created="", tables=[Table(title="t", columns=[Column(key="a", label="a")], rows=rows)]
    )
    back = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert [row["a"] for row in back.tables[0].rows] == [3, 0.5, {"value": 2.5, "low": None}]


def test_what_is_not_given_has_a_default() -> None:
    report = Report.from_dict({"schema": 1, "title": "t", "kind": "run", "created": ""})
    assert report == Report(title="t", kind="run", created="")


def edited(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(sample().to_dict())), **changes}


WRONG = [
    ([], "report.json: is no report of sltcore"),
    ({"title": "t"}, "report.json: is no report of sltcore: it has no 'schema'"),
    (edited(schema=2), "has schema 2, this version of sltcore reads 1; upgrade"),
    (edited(titel="x"), "has no field 'titel'. Did you mean 'title'?"),
    (edited(title=3), "report.json: title: expected a text, got 3"),
    (edited(kind="thing"), "kind: expected one of: 'experiment', 'train', 'run', 'comparison', got 'thing'"),
    (edited(verdicts={}), "verdicts: expected a list, got dict"),
    (edited(verdicts=[3]), r"verdicts\[0\]: expected a map, got 3"),
    (edited(verdicts=[{"text": "a"}]), r"verdicts\[0\].measure is missing; expected a text"),
    (edited(units=[{"stage": "a", "state": "lost"}]), r"units\[0\].state: expected one of: 'done'"),
    (edited(units=[{"stage": "a", "state": "done", "seed": 0.5}]), r"seed: expected a whole number or null, got 0.5"),
    (edited(facts={"a": True}), "facts.a: expected a text or a whole number or a number or null, got True"),
    (edited(versions={"a": 1}), "versions.a: expected a text, got 1"),
    (edited(tables=[{"title": "t", "columns": [], "rows": [{"b": 1}]}]), r"tables\[0\].rows\[0\] has no column 'b'; columns: _mark"),
    (edited(audio=[{"title": "", "label": "", "src": "https://example.org/a.wav"}]), r"audio\[0\].src is not a recording"),
    (edited(audio=[{"title": "", "label": "", "src": "data:text/html,<script>"}]), r"audio\[0\].src is not a recording"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_what_does_not_belong_is_named_with_its_place(values: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Report.from_dict(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"value": 1, "colour": "red"}, "a cell is a number, a text, or a map of value, low, high and seeds; got the keys value, colour"),
        ({"low": 1}, "a: a cell is a number"),
        ({"value": 1, "low": "x"}, "a.low: expected a number or null, got 'x'"),
        ({"value": [1]}, "a.value: expected a text or a whole number or a number or null, got list"),
        ({"value": 1, "seeds": [{"seed": 1}]}, r"a.seeds\[0\]: expected the keys seed and value, got seed"),
        (True, "a: expected a text or a whole number or a number or a map or null, got True"),
    ],
)  # fmt: skip
def test_cells_are_checked(cell: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Report.from_dict(
            edited(tables=[{"title": "t", "columns": [{"key": "a", "label": "a"}], "rows": [{"a": cell}]}])
        )


def test_the_documentation_lists_every_field() -> None:
    text = (Path(__file__).parent.parent / "docs" / "reports.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| ", text.split("| field | holds |")[1], re.MULTILINE) == list(PARTS)
