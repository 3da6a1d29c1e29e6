"""Promises of the corpus librispeech-mini: read from its parquet files without decoding; on the real one where SLT_DATA is."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from sltcore.audio import read_audio
from sltcore.data import corpus, load, rows, show
from sltcore.data.examples import read_examples
from sltcore.data.librispeech_mini import COLUMNS
from sltcore.errors import DataError
from sltcore.pipeline.inputs import read_item
from sltcore.spec.training import DataConfig

SLT_DATA = os.environ.get("SLT_DATA")
NAME = "librispeech-mini"


def flac(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.sin(np.arange(round(16000 * seconds)) / 9), 16000, format="FLAC")
    return file.getvalue()


def row(index: int, seconds: float = 1.0, **changes: Any) -> dict[str, Any]:
    name = f"{index}-1-0000"
    return {
        "id": name,
        "audio": {"bytes": flac(seconds), "path": f"{name}.flac"},
        "text": f"line number {'x' * (index + 1)}",
        "speaker": str(index),
        "gender": "FM"[index % 2],
        "seconds": seconds,
        "rare_words": "anon harshly",
        "biasing_list_100": "anon harshly kuei",
        **changes,
    }


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data with a corpus of three and one utterances, one longer than other corpora allow."""
    folder = tmp_path / "data/librispeech_mini/transcribed"
    folder.mkdir(parents=True)
    parts = {"train": [row(0), row(1, 21.0), row(2, text="dial 500")], "test": [row(3)]}
    for part, content in parts.items():
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), folder / f"{part}.parquet")
    monkeypatch.setenv("SLT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SLT_CACHE", str(tmp_path / "cache"))
    return folder


def test_the_files_are_the_split(home: Path) -> None:
    table = load(NAME)
    assert tuple(table.column_names) == corpus(NAME).columns
    assert dict(zip(table["id"], table["split"], strict=True)) == {
        "0-1-0000": "train",
        "1-1-0000": "train",
        "3-1-0000": "test",
    }
    assert load(NAME, "unused")["note"] == ["a number that the rule does not spell out"]
    first = table[0]
    assert (first["speaker"], first["gender"], first["text"]) == ("0", "F", "line number x")
    assert (first["rare_words"], first["biasing_list"]) == (["anon", "harshly"], ["anon", "harshly", "kuei"])
    assert read_audio(first["audio"]).duration_s == 1.0
    assert show(NAME)["parts"]["train"]["utterances"] == 2


def test_examples_read_bytes_when_they_are_asked_for(home: Path) -> None:
    train = read_examples([DataConfig(corpus=NAME, split="train", where={"gender": ["M"]})])
    assert [(e.item.id, e.seconds) for e in train] == [("1-1-0000", 21.0)]
    assert read_item(train[0].item, 16000).duration_s == 21.0


@pytest.mark.parametrize("place", ["data/librispeech_mini", "data"])
def test_it_is_found_in_slt_data_and_below(home: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("SLT_DATA", str(home.parents[2] / place))
    assert len(rows(NAME)) == 4


def test_it_comes_from_nowhere_else(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLT_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match=f"corpus {NAME} has no source on this machine; unpack it into a folder and set"
    ):
        load(NAME)


def test_damaged_files_are_refused(home: Path) -> None:
    (home / "test.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"test\.parquet cannot be read as parquet: .*; copy it again"):
        rows(NAME)
    short = [{name: value for name, value in row(0).items() if name != "speaker"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(short), home / "test.parquet")
    with pytest.raises(DataError, match=rf"test\.parquet has no column 'speaker'; expected {', '.join(COLUMNS)}; copy"):
        rows(NAME)


@pytest.mark.skipif(
    not SLT_DATA or not (Path(SLT_DATA) / "librispeech_mini").is_dir(), reason="SLT_DATA holds no librispeech_mini"
)
def test_the_real_corpus_is_what_the_descriptor_says() -> None:
    entry, found = corpus(NAME), rows(NAME)
    assert len(found) == entry.utterances
    assert sum(one.seconds for one in found) / 60 == pytest.approx(entry.minutes, abs=0.01)
    assert len({one.speaker for one in found}) == entry.speakers
    parts = {part: [one for one in found if one.split == part] for part in ("train", "test")}
    assert {part: len(part_rows) for part, part_rows in parts.items()} == {"train": 50, "test": 20}
    assert not {one.speaker for one in parts["train"]} & {one.speaker for one in parts["test"]}
    for one in (parts["train"][0], parts["test"][-1]):
        sound = read_audio({"bytes": one.data, "path": one.path})
        assert sound.duration_s == pytest.approx(one.seconds, abs=1e-3)
        assert set(one.extra["rare_words"]) <= set(one.extra["biasing_list"])
