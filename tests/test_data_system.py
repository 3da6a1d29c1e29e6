"""The real corpora, fetched by the real apt-get: counts, minutes and splits against what was measured before.

Run by `make test-system`; the packages (about 390 MB) stay in the cache. SLT_CACHE chooses another one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sltcore.audio import read_audio
from sltcore.data import CORPORA, Row, fetch, load, rows, show
from sltcore.data.demo_recording import CARRIERS, Carrier, _carried, demo_recording

PACKAGED = [name for name, entry in CORPORA.items() if entry.packages]

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt-get"),
]


@pytest.fixture(scope="module", autouse=True)
def real_sources() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SLT_DATA", raising=False)
        yield


def seconds(found: list[Row]) -> float:
    return sum(row.seconds for row in found)


@pytest.mark.parametrize("name", [name for name in PACKAGED if not name.startswith("tuxpaint-")])
def test_the_descriptor_says_what_is_there(name: str) -> None:
    entry = CORPORA[name]
    found = rows(name)
    assert len(found) == entry.utterances
    assert seconds(found) / 60 == pytest.approx(entry.minutes, abs=0.01)
    assert len({row.speaker for row in found}) == entry.speakers
    assert len({row.id for row in found}) == len(found)
    assert {row.language for row in found} <= set(entry.languages)


@pytest.mark.parametrize(
    ("name", "utterances", "minutes", "tolerance"),
    [  # counts of an independent pass over the same packages; where ours may differ, by so many
        ("asterisk-en", 551, 24.26, 0),
        ("asterisk-es", 479, 28.99, 2),  # not traced
        ("asterisk-fr", 513, 24.13, 4),  # not traced
        ("asterisk-it", 580, 22.54, 2),  # two texts that begin with a bracket but hold words
        ("asterisk-ru", 555, 23.49, 1),  # not traced
        ("fillets-cs", 1813, 103.0, 12),  # we read every dialogs_cs.lua
        ("fillets-nl", 1615, 95.8, 0),
        ("fillets-en", 30, 1.6, 0),
        ("flight-of-the-amazon-queen", 3977, 171.8, 6),
        ("tuxpaint", 6400, 155.8, 1),
    ],
)
def test_counts_agree_with_an_independent_pass(name: str, utterances: int, minutes: float, tolerance: int) -> None:
    found = rows(name)
    assert abs(len(found) - utterances) <= tolerance
    assert seconds(found) / 60 == pytest.approx(minutes, rel=0.015, abs=0.06)


def test_the_english_prompts_split_as_published() -> None:
    found = rows("asterisk-en")
    parts = Counter(row.split for row in found)
    assert parts == {"train": 461, "test": 82, "unused": 8}
    test = [row for row in found if row.split == "test"]
    train = [row for row in found if row.split == "train"]
    assert sum(len(row.text.split()) for row in test) == 497
    assert seconds(test) / 60 == pytest.approx(3.73, abs=0.01)
    assert seconds(train) / 60 == pytest.approx(16.75, abs=0.01)
    assert sum(len(row.text.split()) <= 3 for row in test) == 43


def test_the_hero_of_the_talkie_speaks_for_51_minutes() -> None:
    joe = [row for row in rows("fotaq") if row.speaker == "joe"]
    assert len(joe) == 1366
    assert seconds(joe) / 60 == pytest.approx(50.74, abs=0.01)


@pytest.mark.parametrize("name", PACKAGED)
def test_parts_share_no_text_and_where_stated_no_speaker(name: str) -> None:
    table = load(name)
    test, train = load(name, "test"), load(name, "train")
    assert len(table) == len(test) + len(train)
    assert not {*zip(test["text"], test["language"], strict=True)} & {
        *zip(train["text"], train["language"], strict=True)
    }
    if CORPORA[name].split_rule == "speaker-and-text":
        assert not set(test["speaker"]) & set(train["speaker"])
    assert show(name)["total"]["utterances"] == CORPORA[name].utterances


@pytest.mark.parametrize("name", [name for name in PACKAGED if not name.startswith("tuxpaint-")])
def test_every_tenth_recording_is_read_and_lasts_as_long_as_stated(name: str) -> None:
    table = load(name)
    for row in table.select(range(0, len(table), 10)):
        recording = read_audio(row["audio"])
        assert recording.duration_s == pytest.approx(row["seconds"], abs=0.06)
        assert np.abs(recording.samples).max() > 0.01


def test_the_demonstration_recording_is_a_prompt() -> None:
    found = demo_recording()
    assert found.source == "asterisk-en"
    assert read_audio(found.path).duration_s == pytest.approx(10.5, abs=0.1)
    assert {phrase.lower() for phrase in found.phrases} <= set(found.text.split())


@pytest.mark.parametrize("carrier", CARRIERS, ids=lambda carrier: carrier.requirement)
def test_each_package_carries_its_recording(carrier: Carrier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLT_CACHE", str(tmp_path))
    path = _carried(carrier, print)
    assert 5 < read_audio(path).duration_s < 60


def test_a_second_fetch_does_nothing() -> None:
    fetch("asterisk-en")
    told: list[str] = []
    fetch("asterisk-en", progress=told.append)
    assert told == []
