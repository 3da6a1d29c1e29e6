"""The page in a real browser: opened from disk with the network off, on a desk and on a phone, light and dark.

Needs Debian's `chromium` and `chromium-driver`, and selenium, which speaks to them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_sample import sample

from sltcore.report import compare, write

pytestmark = pytest.mark.system

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
LONG = "a_very_long_name_without_any_place_to_break_it_" * 4


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium with the network off; what it logs is kept."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    hard = replace(
        sample(),
        title=LONG,
        problems=[LONG, "C:\\" + LONG],
        command=f"slt reproduce {LONG}",
        facts={LONG: LONG},
        verdicts=[replace(verdict, text=LONG, arm=LONG, versus=LONG, note=LONG) for verdict in sample().verdicts],
        charts=[replace(chart, title=LONG, y_label=LONG, x_label=LONG) for chart in sample().charts],
    )
    reports = {"sample": sample(), "long names": hard, "comparison": compare(sample(), sample(), names=("new", "old"))}
    return {name: write(report, folder / name)[1] for name, report in reports.items()}


def opened(browser: Any, page: Path, *, width: int = 1280, scheme: str = "light") -> Any:
    """The page at a width and in a scheme; nothing has been logged before."""
    browser.get_log("browser"), browser.get_log("performance")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    return browser


def requests(browser: Any) -> list[str]:
    import json

    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize("name", ["sample", "long names", "comparison"])
@pytest.mark.parametrize("width", [1280, 700, 360, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_offline_without_complaint_and_fits(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    opened(browser, pages[name], width=width, scheme=scheme)
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []
    asked = [url for url in requests(browser) if not url.startswith("data:")]
    assert asked == [pages[name].as_uri()]


def test_no_request_can_be_made_even_by_what_is_injected(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["sample"])
    browser.execute_script(
        "const image = new Image(); image.src = 'https://example.org/a.png'; document.body.append(image);"
        "const script = document.createElement('script'); script.textContent = 'window.ran = 1'; document.body.append(script);"
    )
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert any("img-src" in message for message in refused)
    assert browser.execute_script("return window.ran") is None


def test_charts_and_tables_are_there_and_seen(browser: Any, pages: dict[str, Path]) -> None:
    for width, kind in ((1280, "wide"), (360, "narrow")):
        opened(browser, pages["sample"], width=width)
        boxes = browser.execute_script(
            "return [...document.querySelectorAll('figure > svg')].filter(e => e.checkVisibility())"
            ".map(e => [e.getAttribute('class'), e.getBoundingClientRect().width, e.getBoundingClientRect().height])"
        )
        assert [box[0] for box in boxes] == [kind] * 7
        assert all(box[1] > 250 and box[2] > 60 for box in boxes)
    rows = browser.execute_script("return [...document.querySelectorAll('table')].map(t => t.tBodies[0].rows.length)")
    assert len(rows) == 9
    assert all(rows)


def test_nothing_in_a_chart_lies_outside_of_it(browser: Any, pages: dict[str, Path]) -> None:
    for width in (1280, 360):
        opened(browser, pages["sample"], width=width)
        outside = browser.execute_script(
            "return [...document.querySelectorAll('figure > svg')].filter(e => e.checkVisibility()).flatMap(svg => {"
            "  const box = svg.getBoundingClientRect();"
            "  return [...svg.querySelectorAll('text, rect, circle, polygon, polyline')].filter(e => !e.closest('defs'))"
            "    .map(e => [e.textContent, e.getBoundingClientRect()])"
            "    .filter(([, b]) => b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1 || b.bottom > box.bottom + 1)"
            "    .map(([text, b]) => `${text} ${b.left - box.left} ${b.right - box.right}`);"
            "})"
        )
        assert outside == []


def first_column(browser: Any, table: str = "t0") -> list[str]:
    script = (
        f"return [...document.getElementById('{table}').tBodies[0].rows].map(row => row.cells[0].textContent.trim())"
    )
    return list(browser.execute_script(script))


def sorting(browser: Any) -> list[str | None]:
    return list(
        browser.execute_script("return [...document.querySelectorAll('#t0 th[scope=col]')].map(h => h.ariaSort)")
    )


WRITTEN = ["random", "pretrained", "random, 4 times the steps", "never finished"]


def test_a_table_is_sorted_by_click(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["sample"])
    assert first_column(browser) == WRITTEN
    head = browser.find_elements("css selector", "#t0 th[scope=col] button")[2]
    head.click()
    assert first_column(browser) == ["pretrained", "random, 4 times the steps", "random", "never finished"]
    assert sorting(browser) == [None, None, "ascending", None, None]
    assert browser.find_element("id", "status").get_attribute("textContent") == "sorted by WER, ascending"
    head.click()
    assert first_column(browser) == ["random", "random, 4 times the steps", "pretrained", "never finished"]
    assert sorting(browser) == [None, None, "descending", None, None]
    published = "return document.querySelector('#t0 tbody.apart').rows[1].cells[0].textContent.trim()"
    assert browser.execute_script(published) == "Conformer (S), test-clean"
    assert browser.get_log("browser") == []


def test_a_table_is_sorted_by_keyboard_alone(browser: Any, pages: dict[str, Path]) -> None:
    keys = pytest.importorskip("selenium.webdriver").Keys
    opened(browser, pages["sample"])
    for _ in range(200):
        browser.switch_to.active_element.send_keys(keys.TAB)
        place = "const e = document.activeElement; return [e.tagName, e.closest('th')?.dataset.name, e.closest('table')?.id]"
        if browser.execute_script(place) == ["BUTTON", "arm", "t0"]:
            break
    else:
        pytest.fail("the header is never reached")
    browser.switch_to.active_element.send_keys(keys.ENTER)
    assert first_column(browser) == sorted(WRITTEN)
    browser.switch_to.active_element.send_keys(keys.SPACE)
    assert first_column(browser) == sorted(WRITTEN, reverse=True)
    assert sorting(browser)[0] == "descending"
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(outline) == "solid"


def test_the_skip_link_is_first_and_leads_to_the_content(browser: Any, pages: dict[str, Path]) -> None:
    keys = pytest.importorskip("selenium.webdriver").Keys
    opened(browser, pages["sample"])
    browser.find_element("tag name", "body").send_keys(keys.TAB)
    link = browser.switch_to.active_element
    assert link.text == "Skip to the content"
    assert link.location["y"] >= 0
    link.send_keys(keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "content"


@pytest.mark.parametrize(
    ("scheme", "ground", "text"), [("light", "#ffffff", "#1a1d21"), ("dark", "#14171a", "#e9ebee")]
)
def test_the_scheme_is_that_of_the_reader(
    browser: Any, pages: dict[str, Path], scheme: str, ground: str, text: str
) -> None:
    opened(browser, pages["sample"], scheme=scheme)
    style = browser.execute_script("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
    assert style == [f"rgb({', '.join(str(int(c[i : i + 2], 16)) for i in (1, 3, 5))})" for c in (ground, text)]


def test_recordings_can_be_played(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["sample"])
    length = browser.execute_async_script(
        "const done = arguments[0], audio = document.querySelector('audio');"
        "audio.onloadedmetadata = () => done(audio.duration); audio.onerror = () => done(-1); audio.load(); audio.preload = 'auto';"
    )
    assert length == pytest.approx(0.2, abs=0.01)


def test_values_of_charts_unfold_and_the_spec_is_printed(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["sample"])
    summary = browser.find_elements("css selector", "details.values summary")[3]
    summary.click()
    assert summary.find_element("xpath", "..").get_attribute("open") == "true"
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return document.querySelector('details.spec').open")
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script("return document.querySelectorAll('details[open]').length") == 1
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    assert len(pdf["data"]) > 50_000


def test_names_and_roles_reach_assistive_technology(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["sample"])
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
    images = [name for role, name in found if role == "image"]
    assert [name for name in images if name.startswith("Word error rate by arm ")] == [
        "Word error rate by arm Pretrained has the fewest word errors of the three arms, with and without a language model."
    ]
    assert len(images) == 7
    assert ("table", "Arms") in found
    assert {"banner", "main", "navigation", "contentinfo"} <= {role for role, _ in found}
    headings = [name for role, name in found if role == "heading"]
    assert headings[:2] == [sample().title, "Verdict"]
    players = [name for role, name in found if role == "Audio"]
    assert players == ["prompt 17: recording", "prompt 17: copy synthesis"]


def test_without_scripts_the_page_is_whole(browser: Any, pages: dict[str, Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(browser, pages["sample"])
        assert browser.find_elements("css selector", "th button") == []
        assert len(browser.find_elements("css selector", "#t0 tbody tr")) == 6
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
