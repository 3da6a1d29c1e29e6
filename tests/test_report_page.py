"""The page holds everything the report says, in order, escaped, in one file, and nothing of any other place."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import xml.etree.ElementTree as ET
import zipfile
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_sample import PUBLISHED, sample, tone

from sltcore.errors import DataError
from sltcore.report import compare, write
from sltcore.report.document import AudioRow, Chart, Column, Point, Report, Series, Table, UnitRow
from sltcore.report.layout import headline
from sltcore.report.page import MOST_BYTES, render

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "rect", "circle", "polygon", "polyline"}


class Reader(HTMLParser):
    """Elements in order with attributes and text, and whether every one is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID - {"path", "rect", "circle", "polygon", "polyline"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts.append(data)
        elif data.strip():
            self.texts.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture(scope="module")
def page() -> str:
    return render(sample())


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    return Reader(page)


def test_the_verdict_comes_first_with_everything_it_rests_on(reader: Reader) -> None:
    assert reader.text.index("3 claims: 1 supported, 1 not supported, 1 undecided") < reader.text.index("Verdict")
    order = [
        "Verdict",
        "Problems",
        "Results",
        "Charts",
        "Listen",
        "What this cannot show",
        "Units of work",
        "How it was made",
    ]
    texts = reader.texts[reader.texts.index("How it was made") + 1 :]  # after the list of sections
    places = [texts.index(title) for title in order]
    assert places == sorted(places)
    for said in (
        "supported", "−31.4", "percentage points", "[−34.9, −27.8]", "−30.2", "−33.0", "−31.7", "−29.9", "−32.2",
        "2 percentage points", "95 %, of the difference pretrained − random", "0.0001, adjusted for all claims 0.0003",
        "wer.wer of errors, lower is better", "pretrained better than random, by more than the margin",
        "random-long not worse than pretrained, within the margin", "5 % of random-lm",
        "About 640 utterances instead of 212, or 9 seeds instead of 2, would settle it at the size seen here.",
    ):  # fmt: skip
        assert said in reader.texts, said


def test_everything_of_the_report_is_on_the_page(reader: Reader) -> None:
    report = sample()
    said = [report.title, report.description, report.limits, report.command, *report.problems]
    said += [*report.versions, *report.versions.values(), *report.machine, *report.machine.values(), *report.facts]
    said += (
        [row.text for row in report.audio] + [row.label for row in report.audio] + [unit.error for unit in report.units]
    )
    said += [unit.stage for unit in report.units] + ["✓ done", "↺ reused", "✕ failed", "– skipped"]
    said += ["1 done, 1 reused, 1 failed, 1 skipped; 8 min 6 s of work", "22 November 2026, 13:10 UTC"]
    for text in filter(None, said):
        assert str(text) in reader.text, text
    assert "seeds: [0, 1, 2, 3, 4]" in reader.text


def test_cells_have_their_interval_every_seed_and_a_key_to_sort_by(page: str) -> None:
    row = re.search(r'<tr><th scope="row">pretrained</th>.*?</tr>', page.replace("\n", ""))
    assert row is not None
    assert 'class="number" data-sort="23.9">23.9 <span class="interval">[21.5, 26.6]</span>' in row[0]
    assert "22.8 · 24.3 · 24.8 · 23.3 · 24.3" in row[0]
    assert ">5,312,204<" in row[0]  # cost beside gain


def test_published_rows_stand_apart_and_are_marked(page: str) -> None:
    body = re.search(r'<tbody class="apart">.*?</tbody>', page, re.DOTALL)
    assert body is not None
    assert PUBLISHED in body[0]
    assert "Conformer (S), test-clean" in body[0]
    assert 'scope="rowgroup"' in body[0]
    assert "Conformer (S), test-clean" not in page.replace(body[0], "")


def test_published_figures_keep_their_digits() -> None:
    rows = [
        {"arm": "ours", "wer": {"value": 85.0634, "low": 67.1, "high": 100.0}},
        {"arm": "theirs", "wer": 2.13, "_mark": PUBLISHED},
    ]
    table = Table(
        title="t", columns=[Column(key="arm", label="arm"), Column(key="wer", label="WER", unit="%")], rows=rows
    )
    reader = Reader(render(replace(sample(), tables=[table])))
    assert "85.1" in reader.texts
    assert "[67.1, 100.0]" in reader.texts
    assert "2.13" in reader.texts


def test_charts_have_text_alternatives_and_tables(reader: Reader, page: str) -> None:
    pictures = [attributes for attributes in reader.all("svg") if attributes.get("role") == "img"]
    assert len(pictures) == 2 * (3 + 4)  # of each claim and chart one for a wide and one for a narrow screen
    ids = {attributes.get("id") for _, attributes in reader.elements}
    for attributes in pictures:
        assert set((attributes["aria-labelledby"] or "").split()) <= ids
    assert len(reader.all("details")) == 7 + 1  # values of each, and the spec
    for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(text)


def test_ids_are_unique_and_references_lead_somewhere(reader: Reader) -> None:
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in reader.elements:
        if tag == "a":
            assert (attributes["href"] or "")[1:] in ids
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids


def test_headings_never_skip_a_level(reader: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_nothing_is_asked_of_any_other_place(page: str, reader: Reader) -> None:
    for _, attributes in reader.elements:
        for key in ("src", "href", "xlink:href", "poster", "action", "srcset"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:")), value
        assert not any(key.startswith("on") or key == "style" for key in attributes)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "//" not in re.sub(r"data:[^\"]*", "", page.split("<style>")[0])


def test_only_our_style_and_script_may_run(reader: Reader) -> None:
    policy = reader.all("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none'")
    assert len(reader.scripts) == 2
    for text in reader.scripts:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


EVIL = "</script></style></title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}{% raw %}&amp;"


def poisoned(value: Any) -> Any:
    """The same report with every free text replaced."""
    keep = {"kind", "verdict", "better", "direction", "state", "x_scale", "y_scale", "src", "created"}
    if is_dataclass(value) and not isinstance(value, type):
        changes = {e.name: poisoned(getattr(value, e.name)) for e in fields(value) if e.name not in keep}
        return replace(value, **changes)
    if isinstance(value, str):
        return EVIL
    if isinstance(value, list):
        return [poisoned(entry) for entry in value]
    if isinstance(value, dict):
        if {"low", "high"} & set(value):
            return value
        return {f"{EVIL}{number}": poisoned(entry) for number, entry in enumerate(value.values())}
    return value


def test_texts_are_never_markup() -> None:
    report = replace(poisoned(replace(sample(), tables=[])), created=EVIL)
    table = Table(
        title=EVIL,
        caption=EVIL,
        columns=[Column(key="a", label=EVIL, unit=EVIL)],
        rows=[{"a": EVIL}, {"a": EVIL, "_mark": EVIL}],
    )
    reader = Reader(render(replace(report, tables=[table])))
    assert len(reader.all("script")) == 1
    assert len(reader.all("style")) == 1
    assert reader.all("img") == []
    assert len(reader.scripts) == 2
    assert reader.texts.count(EVIL) >= 20
    assert "49" not in [text.strip("<>") for text in reader.texts]


def test_a_report_with_nothing_but_a_title_is_a_page() -> None:
    reader = Reader(render(Report(title="Empty", kind="run", created="")))
    assert reader.all("section")[0]["id"] == "made"
    assert [attributes["href"] for attributes in reader.all("a")] == ["#content", "#made"]


def test_empty_parts_are_drawn_as_such() -> None:
    report = Report(
        title="t", kind="run", created="yesterday",
        tables=[Table(title="none", columns=[]), Table(title="no rows", columns=[Column(key="a", label="a")])],
        charts=[Chart(title="c", kind="lines", x_label="x", y_label="y"), Chart(title="d", kind="bars", x_label="x", y_label="y")],
        units=[UnitRow(stage="a", state="failed")],
    )  # fmt: skip
    assert "yesterday" in Reader(render(report)).text


def test_a_claim_without_a_figure_says_so() -> None:
    verdict = replace(sample().verdicts[2], effect=None, low=None, high=None, seeds=[], note="three units failed")
    reader = Reader(render(replace(sample(), verdicts=[verdict], charts=[])))
    assert "no figure" in reader.texts
    assert "three units failed" in reader.texts
    assert "The claim is undecided" in reader.texts
    assert [a for a in reader.all("svg") if a.get("role") == "img"] == []


def test_the_page_stays_below_two_megabytes() -> None:
    heavy = "data:audio/wav;base64," + "A" * 300_000
    rows = [AudioRow(title="long", label=f"recording {i}", src=heavy) for i in range(10)]
    page = render(replace(sample(), audio=rows))
    assert len(page.encode()) <= MOST_BYTES
    assert page.count("<audio") == 6
    assert "4 of 10 recordings are not in this page" in Reader(page).text


def test_the_last_charts_are_left_out_where_the_page_would_be_too_large() -> None:
    first = sample().charts[0]
    many = replace(sample(), charts=[replace(first, title=f"chart {i} " + "x" * 12_000) for i in range(60)])
    page = render(many)
    assert len(page.encode()) <= MOST_BYTES
    text = Reader(page).text
    assert "36 of 60 charts are not in this page" in text
    assert "chart 23 x" in text
    assert "chart 24 x" not in text


def test_long_tables_are_cut_and_say_so() -> None:
    columns = [Column(key="a", label="a"), Column(key="b", label="b")]
    table = Table(title="many", columns=columns, rows=[{"a": "ä" * 300, "b": i} for i in range(10_000)])
    page = render(replace(sample(), tables=[table]))
    assert len(page.encode()) <= MOST_BYTES
    assert "8000 more rows are in report.json." in Reader(page).text
    wider = Table(title="many", columns=columns, rows=[{"a": "ä" * 3000, "b": i} for i in range(10_000)])
    page = render(replace(sample(), tables=[wider]))
    assert len(page.encode()) <= MOST_BYTES
    with pytest.raises(
        DataError, match="would be larger than 2 MB even without recordings; report.json has everything"
    ):
        render(replace(sample(), description="ä" * 2_000_000))


def test_both_files_are_written_whole(tmp_path: Path) -> None:
    data, page = write(sample(), tmp_path / "new" / "folder")
    assert (data.name, page.name) == ("report.json", "report.html")
    assert Report.from_dict(json.loads(data.read_text(encoding="utf-8"))) == sample()
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in data.parent.iterdir()) == ["report.html", "report.json"]
    before = page.read_bytes()
    write(sample(), data.parent)
    assert page.read_bytes() == before  # the same report is the same page


def test_a_lone_surrogate_does_not_lose_the_report(tmp_path: Path) -> None:
    data, page = write(replace(sample(), title="bad \ud800 name"), tmp_path)
    assert json.loads(data.read_text(encoding="utf-8"))["title"] == "bad \ud800 name"
    assert "bad \\ud800 name" in page.read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: the report cannot be written: .*; choose another folder with --out"):
        write(sample(), tmp_path / "file")


def test_what_is_no_report_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report: audio\[0\].src is not a recording"):
        write(replace(sample(), audio=[AudioRow(title="", label="", src="javascript:alert(1)")]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_holds_template_style_and_script(tmp_path: Path) -> None:
    wheel = pytest.importorskip("flit_core.wheel")
    with (tmp_path / "it.whl").open("w+b") as file:
        wheel.WheelBuilder.from_ini_path(Path(__file__).parent.parent / "pyproject.toml", file).build()
    names = zipfile.ZipFile(tmp_path / "it.whl").namelist()
    assert {f"sltcore/report/{name}" for name in ("report.html", "style.css", "sorting.js")} <= set(names)


def test_headlines_count_words() -> None:
    found = sample().verdicts
    assert headline([]) == ""
    assert headline(found[:1]) == "The claim is supported"
    assert headline(found[:1] * 2) == "Both claims are supported"
    assert headline(found[:1] * 3) == "All 3 claims are supported"
    assert headline([found[0], found[0], found[2]]) == "3 claims: 2 supported, 1 undecided"


def changed() -> Report:
    """The sample, run again: one arm better, another claim word, one more arm, another torch."""
    report = sample()
    rows = [dict(row) for row in report.tables[0].rows]
    rows[1]["wer"] = {"value": 20.0, "low": 18.0, "high": 21.0}
    rows[0]["wer"] = {"value": 60.0, "low": 57.0, "high": 63.0}
    rows.append({"arm": "frozen", "role": "control", "wer": 44.0})
    return replace(
        report,
        tables=[replace(report.tables[0], rows=rows)],
        verdicts=[replace(report.verdicts[0], verdict="undecided", effect=-40.0), *report.verdicts[1:]],
        versions={**report.versions, "torch": "2.14.0"},
        spec_yaml=report.spec_yaml.replace("seeds: [0, 1, 2, 3, 4]", "seeds: [0, 1]"),
        problems=[],
    )


def test_a_comparison_has_both_sides_of_every_value() -> None:
    found = compare(changed(), sample(), names=("new", "old"))
    claims, arms, made = found.tables
    assert claims.rows[0]["word0"] == "undecided"
    assert claims.rows[0]["word1"] == "supported"
    assert claims.rows[0]["effect0"] == {"value": -40.0, "low": -34.9, "high": -27.8}
    by_key = {(row["row"], row["value"]): row for row in arms.rows}
    better = by_key["pretrained", "WER,\xa0%"]
    assert better["difference"] == pytest.approx(20.0 - 23.9)
    assert better["percent"] == pytest.approx(-100 * 3.9 / 23.9)
    assert (better["side"], better["intervals"]) == ("better", "apart")
    worse = by_key["random", "WER,\xa0%"]
    assert (worse["side"], worse["intervals"]) == ("worse", "overlap")
    assert by_key["pretrained", "bundle,\xa0bytes"]["side"] == "equal"
    assert (by_key["frozen", "WER,\xa0%"]["a"], by_key["frozen", "WER,\xa0%"]["b"]) == (44.0, None)
    assert "difference" not in by_key["frozen", "WER,\xa0%"]
    assert by_key["Conformer (S), test-clean", "WER,\xa0%"]["_mark"] == PUBLISHED
    assert made.rows == [{"what": "version of torch", "side0": "2.14.0", "side1": "2.13.0"}]
    assert "-seeds: [0, 1, 2, 3, 4]\n+seeds: [0, 1]" in found.spec_yaml
    assert found.problems == ["old: decode, seed 1: out of memory: 2 GB asked for"]
    assert [series.name for series in found.charts[1].series] == ["difference, new", "difference, old"]
    assert "are not paired, so the difference has no interval" in arms.caption
    assert Report.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    Reader(render(found))


def test_a_report_compared_with_itself_differs_in_nothing() -> None:
    found = compare(sample(), sample())
    assert [table.title for table in found.tables] == ["Claims", "Arms"]
    assert {row.get("difference") for row in found.tables[1].rows} == {0}
    assert {row.get("side") for row in found.tables[1].rows if "_mark" not in row} == {"equal"}
    assert found.spec_yaml == ""


def test_rows_of_one_name_are_matched_in_their_order() -> None:
    def report(*values: float) -> Report:
        columns = [Column(key="a", label="arm"), Column(key="v", label="v")]
        return Report(
            title="t",
            kind="run",
            created="",
            tables=[Table(title="T", columns=columns, rows=[{"a": "x", "v": v} for v in values])],
        )

    found = compare(report(5, 7), report(1, 2, 3))
    assert [row.get("difference") for row in found.tables[0].rows] == [4, 5, None]


def test_recordings_are_data_of_the_page(reader: Reader) -> None:
    assert [attributes["src"] for attributes in reader.all("audio")] == [tone(), tone(0.2, 220.0)]
    assert all("aria-label" in attributes and "controls" in attributes for attributes in reader.all("audio"))


def test_one_point_is_enough_for_a_chart() -> None:
    chart = Chart(
        title="c", kind="lines", x_label="x", y_label="y", series=[Series(name="a", points=[Point(x=3, y=1.5)])]
    )
    assert "from 1.5 at 3 to 1.5 at 3" in Reader(render(Report(title="t", kind="run", created="", charts=[chart]))).text
