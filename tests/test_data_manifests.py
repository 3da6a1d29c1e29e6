"""Promises of manifests and of the stream of inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sltcore.data import iter_inputs, read_manifest
from sltcore.errors import DataError
from sltcore.types import Item


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "wav" / "deep").mkdir(parents=True)
    for name in ("b.wav", "a.WAV", "deep/c.g722", "notes.txt"):
        (tmp_path / "wav" / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", 'audio,text,id,speaker,channel,topic\nwav/b.wav,"hello, ""Joe""",u1,s1,1,x\n\nwav/a.WAV,,,,,y\n'),
        (
            "m.tsv",
            'path\ttranscript\tid\tspeaker\tchannel\ttopic\r\nwav/b.wav\thello, "Joe"\tu1\ts1\t1\tx\r\nwav/a.WAV\t\t\t\t\ty\r\n',
        ),
        (
            "m.jsonl",
            '{"audio_filepath": "wav/b.wav", "text": "hello, \\"Joe\\"", "id": "u1", "speaker": "s1", "channel": 1, "topic": "x"}\n'
            '\n{"audio": {"path": "wav/a.WAV"}, "text": "", "topic": "y"}\n',
        ),
    ],
)
def test_the_three_kinds_of_manifest_say_the_same(folder: Path, name: str, content: str) -> None:
    (folder / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    first, second = read_manifest(folder / name)
    assert first == Item("u1", str(folder / "wav/b.wav"), 'hello, "Joe"', "s1", 1, {"topic": "x"})
    assert (second.id, second.text, second.speaker, second.channel) == ("wav/a.WAV", "", None, None)
    assert second.extra == {"topic": "y"}


def test_every_bad_row_is_reported_with_its_line(folder: Path) -> None:
    rows = [
        '{"audio": "wav/b.wav", "id": "u"}',
        "{broken",
        '["list"]',
        '{"text": "no audio"}',
        '{"audio": "gone.wav"}',
        '{"audio": "wav"}',
        '{"audio": "wav/b.wav", "channel": "left"}',
        '{"audio": "wav/b.wav", "id": "u"}',
        "[" * 100000,
    ]
    (folder / "m.jsonl").write_text("\n".join(rows))
    with pytest.raises(DataError) as caught:
        read_manifest(folder / "m.jsonl")
    text = str(caught.value)
    assert "\n" not in text
    for part in (
        "line 2: no JSON",
        'line 3: expected an object such as {"audio": "a.wav"}',
        "line 4: no recording; expected a path in audio, path",
        "line 7: channel 'left'; expected a number from 0, or mix",
        "line 8: id 'u' was given in line 1; ids must differ",
        "line 9: JSON nested too deep",
    ):
        assert part in text


def test_many_bad_rows_are_counted(folder: Path) -> None:
    (folder / "m.csv").write_text("audio,id\n" + ",x\n" * 50)
    with pytest.raises(DataError, match=r"line 21: no recording.*; and 30 more$"):
        read_manifest(folder / "m.csv")


def test_a_missing_recording_is_left_to_the_run(folder: Path) -> None:
    """The run reports it and finishes the rest; refusing the whole manifest would lose the others."""
    (folder / "m.csv").write_text("audio\nwav/b.wav\ngone.wav\n")
    assert [Path(item.source).name for item in read_manifest(folder / "m.csv")] == ["b.wav", "gone.wav"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "m.csv",
            b"sound,text\na.wav,x\n",
            r"line 1: no column holds the recordings; expected one named audio.*sound, text",
        ),
        ("m.csv", b"audio,text\nwav/b.wav\n", r"line 2: 1 cells, the header has 2"),
        ("m.csv", b"", r"m\.csv lists no recording; expected one row for each"),
        ("m.csv", b"audio\n\xff\n", r"m\.csv is not UTF-8 \(byte 6\); save it as UTF-8"),
        ("m.txt", b"audio\n", r"m\.txt is no manifest; expected one that ends in \.csv, \.tsv, \.jsonl"),
    ],
)
def test_a_bad_manifest_is_refused(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_manifest(folder / name)


def test_a_missing_manifest_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no manifest .*none\.csv; check the name"):
        read_manifest(folder / "none.csv")
    with pytest.raises(DataError, match=r"wav cannot be read: Is a directory"):
        read_manifest(folder / "wav")


def test_two_channels_of_one_file_have_two_ids(folder: Path) -> None:
    (folder / "m.csv").write_text("audio,channel\nwav/b.wav,0\nwav/b.wav,1\nwav/b.wav,mix\n")
    assert [(item.id, item.channel) for item in read_manifest(folder / "m.csv")] == [
        ("wav/b.wav#0", 0),
        ("wav/b.wav#1", 1),
        ("wav/b.wav#mix", "mix"),
    ]


def test_files_folders_and_manifests_become_one_stream(folder: Path) -> None:
    (folder / "m.jsonl").write_text(json.dumps({"audio": "wav/b.wav", "id": "u", "text": "t"}))
    single = folder / "wav" / "b.wav"
    found = [(item.id, item.source) for item in iter_inputs([single, folder / "wav", folder / "m.jsonl"])]
    assert found == [
        (str(single), str(single)),
        ("a.WAV", str(folder / "wav/a.WAV")),
        ("b.wav", str(single)),
        ("deep/c.g722", str(folder / "wav/deep/c.g722")),
        ("u", str(single)),
    ]


def test_bad_inputs_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="no input was given; name a recording, a folder or a manifest"):
        list(iter_inputs([]))
    with pytest.raises(DataError, match=r"no input .*b\.wave; check the name. Did you mean 'b\.wav'\?"):
        list(iter_inputs([folder / "wav" / "b.wave"]))
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"no recording lies in .*empty \(wav, flac, mp3.*\); name another folder"):
        list(iter_inputs([folder / "empty"]))
