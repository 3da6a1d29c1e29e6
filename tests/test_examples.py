"""Promises of examples: what is taken of a source, how long it lasts, and what is left out."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import recording

from sltcore.data.examples import Example, fingerprint, in_part, read_examples
from sltcore.data.table_source import Sound
from sltcore.errors import DataError
from sltcore.pipeline.inputs import read_item
from sltcore.spec.training import DataConfig
from sltcore.types import Item


def manifest(folder: Path, rows: list[dict[str, Any]], name: str = "data.jsonl") -> Path:
    path = folder / name
    if name.endswith(".csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def read(**entry: Any) -> Any:
    return read_examples([DataConfig.model_validate(entry)])


def table(folder: Path, count: int = 4, **columns: list[Any]) -> datasets.Dataset:
    """A table with embedded sounds of 0.2, 0.3, … s."""
    sounds = []
    for index in range(count):
        path = recording(folder / f"sound{index}.wav", 0.2 + 0.1 * index, seed=index)
        sounds.append({"bytes": path.read_bytes(), "path": f"sound{index}.wav"})
        path.unlink()
    values = {"audio": sounds, "text": [f"word {index}" for index in range(count)], **columns}
    return datasets.Dataset.from_dict(values)


def test_a_manifest_gives_items_columns_and_lengths(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 0.7)
    rows = [
        {"audio": "a.wav", "text": "one", "id": "a", "speaker": "s", "mood": "glad"},
        {"audio": "missing.wav", "text": "two", "id": "b", "speaker": "s", "mood": "sad", "duration": 2.5},
    ]
    found = read(manifest=str(manifest(tmp_path, rows)), weight=2)
    assert [example.item.id for example in found] == ["a", "b"]
    assert [example.seconds for example in found] == [
        0.7,
        2.5,
    ]  # of the header; of the column, without opening the file
    assert found[0].item == Item("a", str(tmp_path / "a.wav"), "one", "s", extra={"mood": "glad"})
    assert found[0].weight == 2


def test_what_cannot_be_read_is_left_out_by_name(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 0.7)
    (tmp_path / "b.wav").write_bytes(b"no sound")
    rows = [{"audio": name, "text": "x", "id": name} for name in ("a.wav", "b.wav", "c.wav")]
    said: list[str] = []
    found = read_examples([DataConfig(manifest=manifest(tmp_path, rows))], progress=said.append)
    assert [example.item.id for example in found] == ["a.wav"]
    assert sorted(found.skipped) == ["b.wav", "c.wav"]
    assert "no file" in found.skipped["c.wav"]
    assert said[-1].endswith("2 recordings cannot be read and are left out")
    with pytest.raises(
        DataError, match=r"no utterance is left after split, part, where, words, max_seconds and limit; all 2 were"
    ):
        read_examples([DataConfig(manifest=manifest(tmp_path, rows[1:], "bad.jsonl"))])


@pytest.mark.parametrize("value", ["long", -1, 0, 1e9])
def test_a_length_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    path = manifest(tmp_path, [{"audio": "a.wav", "text": "x", "id": "a", "seconds": value}])
    with pytest.raises(DataError, match=r"'a': column seconds is .*, expected a length in seconds above 0"):
        read(manifest=str(path))


def numbered(folder: Path, count: int = 60) -> Path:
    rows = [
        {"audio": f"{i}.wav", "text": f"text {i // 2}", "id": f"u{i}", "seconds": 1 + i % 7, "sex": "fm"[i % 2], "split": "train" if i % 3 else "test"}
        for i in range(count)
    ]  # fmt: skip
    return manifest(folder, rows, "many.csv")


def names(examples: list[Example]) -> set[str]:
    return {example.item.id for example in examples}


def test_parts_share_no_text_and_leave_none_out(tmp_path: Path) -> None:
    path = str(numbered(tmp_path))
    parts = [read(manifest=path, part=part) for part in ((0, 0.2), (0.2, 0.9), (0.9, 1))]
    assert sum(map(len, parts)) == 60
    texts = [{example.item.text for example in part} for part in parts]
    assert sum(map(len, texts)) == len(set().union(*texts))
    assert [len(part) for part in parts] == [12, 42, 6]


def test_filters_move_nothing_between_parts(tmp_path: Path) -> None:
    """Or the words of a filtered training part would turn up in a development part without the filter."""
    path = str(numbered(tmp_path))
    dev = {example.item.text for example in read(manifest=path, part=(0.8, 1))}
    for filters in ({"max_seconds": 3}, {"where": {"sex": ["f"]}}, {"limit": 10}):
        train = read(manifest=path, part=(0, 0.8), **filters)
        assert not dev & {example.item.text for example in train}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abc", max_size=3), min_size=1, max_size=40), st.lists(st.floats(0, 1), max_size=4))
def test_any_cuts_divide_all_by_their_key(texts: list[str], cuts: list[float]) -> None:
    borders = sorted({0.0, *cuts, 1.0})
    parts = [in_part(texts, part, key=str) for part in pairwise(borders)]
    assert sorted(text for part in parts for text in part) == sorted(texts)
    assert sum(len(set(part)) for part in parts) == len(set(texts))


def test_where_split_limit_and_length(tmp_path: Path) -> None:
    path = str(numbered(tmp_path))
    assert names(read(manifest=path, where={"sex": ["m"]})) == {f"u{i}" for i in range(1, 60, 2)}
    assert names(read(manifest=path, where={"seconds": [3.0], "sex": ["f"]})) == {f"u{i}" for i in range(2, 60, 14)}
    assert names(read(manifest=path, split="test")) == {f"u{i}" for i in range(0, 60, 3)}
    assert {example.seconds for example in read(manifest=path, max_seconds=3)} == {1.0, 2.0, 3.0}
    few, more = read(manifest=path, limit=5), read(manifest=path, limit=20)
    assert (len(few), len(more)) == (5, 20)
    assert names(few) < names(more)


def test_words_divide_a_source_whatever_their_case(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    texts = {"a": "Gods of fish", "b": "godsend", "c": "one fish", "d": "", "e": "no dogs"}
    path.write_text("".join(json.dumps({"audio": f"{name}.wav", "id": name, "text": text, "seconds": 1}) + "\n" for name, text in texts.items()))  # fmt: skip
    kept, left = (read(manifest=str(path), **{field: ["GODS", "fish"]}) for field in ("with_words", "without_words"))
    assert (names(kept), names(left)) == ({"a", "c"}, {"b", "d", "e"})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"with_words": ["gods"]}, r"no utterance is left after split, part, where, words, max_seconds and limit"),
        ({"split": "trian"}, r"many.csv has no split 'trian'; splits: test, train\. Did you mean 'train'\?"),
        ({"where": {"sexx": ["f"]}}, r"has no column 'sexx' \(where\); there are: .*Did you mean 'sex'\?"),
        ({"columns": {"text": "words"}}, r"has no column 'words' \(columns: text\); there are: "),
        ({"where": {"sex": ["x"]}}, r"no utterance is left after split, part, where, words, max_seconds and limit"),
    ],
)
def test_what_a_source_does_not_have_is_refused(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(manifest=str(numbered(tmp_path)), **entry)


def test_columns_are_called_as_the_entry_says(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 0.5)
    rows = [{"clip": "a.wav", "said": "hello", "who": 7, "n": "x1", "text": "raw"}]
    found = read(
        manifest=str(manifest(tmp_path, rows)),
        columns={"audio": "clip", "text": "said", "speaker": "who", "id": "n", "mood": "text"},
    )
    item = found[0].item
    assert (item.id, item.text, item.speaker, item.extra["mood"]) == ("x1", "hello", "7", "raw")
    assert found[0].seconds == 0.5


def test_ids_that_two_entries_share_are_told_apart(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    second.mkdir()
    rows = [{"audio": "a.wav", "text": "x", "id": "a", "seconds": 1}]
    entries = [DataConfig(manifest=manifest(folder, rows)) for folder in (first, second, second)]
    found = read_examples(entries)
    assert [e.item.id for e in found] == ["a", f"{second}/data.jsonl:a", f"{second}/data.jsonl:a#2"]


def test_a_saved_table_is_read_without_decoding(tmp_path: Path) -> None:
    made = table(tmp_path, speaker=["p", "p", "q", "q"], id=list("abcd"))
    made.save_to_disk(str(tmp_path / "saved"))
    found = read(dataset=str(tmp_path / "saved"), where={"speaker": ["q"]})
    assert [(e.item.id, e.item.text, round(e.seconds, 6)) for e in found] == [
        ("c", "word 2", 0.4),
        ("d", "word 3", 0.5),
    ]
    assert isinstance(found[0].item.source, Sound)
    assert read_item(found[0].item, 16000).duration_s == 0.4


def test_splits_of_a_saved_table(tmp_path: Path) -> None:
    made = table(tmp_path, seconds=[1.0, 2.0, 3.0, 4.0])
    parts = datasets.DatasetDict({"train": made.select([0, 1, 2]), "test": made.select([3])})
    parts.save_to_disk(str(tmp_path / "saved"))
    saved = str(tmp_path / "saved")
    assert [e.seconds for e in read(dataset=saved, split="test")] == [4.0]
    assert len(read(dataset=saved)) == 4
    assert [e.item.id for e in read(dataset=saved, split="train")] == ["sound0", "sound1", "sound2"]
    with pytest.raises(DataError, match=r"has no split 'dev'; splits: (test, train|train, test)\."):
        read(dataset=saved, split="dev")


def test_parquet_files_are_read_by_pattern_with_their_audio_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files as `datasets` writes them: the column is typed Audio, which would need torchcodec if it were decoded."""
    monkeypatch.setenv("SLT_CACHE", str(tmp_path / "cache"))
    made = table(tmp_path, sentence=["a", "b", "c", "d"])
    note = {"info": {"features": {"audio": {"_type": "Audio"}, "text": {"dtype": "string", "_type": "Value"}, "sentence": {"dtype": "string", "_type": "Value"}}}}  # fmt: skip
    for number, rows in enumerate(([0, 1], [2, 3])):
        arrow = made.select(rows).with_format("arrow")[:]
        arrow = arrow.replace_schema_metadata({"huggingface": json.dumps(note)})
        pyarrow.parquet.write_table(arrow, tmp_path / f"part-{number}.parquet")
    found = read(dataset=str(tmp_path / "part-*.parquet"), columns={"text": "sentence"})
    assert [e.item.text for e in found] == ["a", "b", "c", "d"]
    assert [round(e.seconds, 6) for e in found] == [0.2, 0.3, 0.4, 0.5]
    assert read_item(found[3].item, 16000).duration_s == 0.5
    with pytest.raises(DataError, match=r"no parquet file is called .*none-\*.parquet; check the path, or the pattern"):
        read(dataset=str(tmp_path / "none-*.parquet"))


def test_a_table_of_texts_lasts_no_time(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["hi", "there"], "intent": ["x", "y"]}).save_to_disk(str(tmp_path / "saved"))
    found = read(dataset=str(tmp_path / "saved"), columns={"label": "intent"})
    assert [(e.item.source, e.item.text, e.item.extra["label"], e.seconds) for e in found] == [
        ("hi", "hi", "x", 0.0),
        ("there", "there", "y", 0.0),
    ]


def test_a_table_with_neither_sound_nor_text_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"a": [1]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="has neither sound nor text among its columns a; name them"):
        read(dataset=str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"has no column 'b' \(columns\); there are: a"):
        read(dataset=str(tmp_path / "saved"), columns={"text": "b"})


def test_outputs_of_a_stage_are_a_source(tmp_path: Path) -> None:
    manifest(
        tmp_path, [{"audio": "a.wav", "text": "heard", "id": "a", "seconds": 1, "reference": "said"}], "outputs.jsonl"
    )
    entry = DataConfig(stage="decode", columns={"truth": "reference"})
    (found,) = read_examples([entry], outputs={"decode": tmp_path})
    assert (found.item.text, found.item.extra["truth"]) == ("heard", "said")
    with pytest.raises(
        DataError, match=r"data names stage 'decode', whose outputs are not here; stages with outputs: decod"
    ):
        read_examples([entry], outputs={"decod": tmp_path})


def test_a_corpus_gives_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data/asterisk-en"
    sounds, doc = root / "usr/share/asterisk/sounds/en_US_f_Allison", root / "usr/share/doc/asterisk-core-sounds-en"
    for folder in (sounds, doc):
        folder.mkdir(parents=True)
    (doc / "core-sounds-en.txt").write_text("\n".join(f"p{i}: word {'x' * i} end" for i in range(20)))
    for i in range(20):
        (sounds / f"p{i}.g722").write_bytes(bytes(8000))
    monkeypatch.setenv("SLT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SLT_CACHE", str(tmp_path / "cache"))
    train, test = read(corpus="asterisk-en", split="train"), read(corpus="asterisk-en", split="test")
    assert (len(train), len(test)) == (17, 3)
    assert {e.seconds for e in train} == {1.0}
    assert train[0].item.speaker == "en_US_f_Allison"
    assert train[0].item.extra["language"] == "en"
    assert isinstance(train[0].item.source, str)
    assert read_item(train[0].item, 16000).duration_s == 1.0
    with pytest.raises(DataError, match="corpus asterisk-en has no split 'trian'"):
        read(corpus="asterisk-en", split="trian")


def test_an_optional_source_that_is_not_at_hand_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLT_DATA", str(tmp_path))
    monkeypatch.setenv("SLT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sltcore.data.sources._SYSTEM", tmp_path / "system")
    entries = [
        {"corpus": "asterisk-en"},
        {"manifest": str(tmp_path / "none.csv")},
        {"dataset": str(tmp_path / "none.parquet")},
        {"stage": "decode"},
    ]
    said: list[str] = []
    found = read_examples(
        [DataConfig.model_validate({**entry, "optional": True}) for entry in entries], progress=said.append
    )
    assert found == []
    assert [name.split()[0] for name in found.absent] == ["corpus", "manifest", "dataset", "stage"]
    assert said[0] == "corpus asterisk-en is not at hand and is left out"
    path = manifest(tmp_path, [{"audio": "a.wav", "text": "x", "seconds": 1}])
    assert len(read(manifest=str(path), optional=True)) == 1
    with pytest.raises(DataError, match="no manifest"):
        read(**entries[1])


def test_the_fingerprint_knows_what_was_learned_from() -> None:
    base = [Example(Item("a", "a.wav", "x", "s"), 1.0), Example(Item("b", "b.wav", "y", "s"), 2.0)]
    one = fingerprint(base)
    assert one == fingerprint(base[::-1])
    assert one == fingerprint([base[0]._replace(item=base[0].item._replace(source="/elsewhere/a.wav")), base[1]])
    changed = [
        base[:1],
        [base[0]._replace(seconds=1.1), base[1]],
        [base[0]._replace(weight=2.0), base[1]],
        [base[0]._replace(origin="other"), base[1]],
        [base[0]._replace(item=base[0].item._replace(text="z")), base[1]],
        [base[0]._replace(item=base[0].item._replace(speaker="t")), base[1]],
        [base[0]._replace(item=base[0].item._replace(id="c")), base[1]],
    ]
    assert len({one, *map(fingerprint, changed)}) == 8
