"""Promises of the cluster that need no Ray: what travels, what is written, what is refused."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from sltcore.audio import Recording
from sltcore.cluster import read_results, run_dataset
from sltcore.cluster.parts import Store, counts, encoded, form_of, row_of, schema
from sltcore.cluster.session import import_ray, joined, places
from sltcore.cluster.shards import Shard, cut, described, divided, items_per_part
from sltcore.cluster.worker import HASTY, Ledger
from sltcore.errors import AudioError, ContextError, DataError, PluginError, SltError
from sltcore.pipeline import Item, Output
from sltcore.types import ContextKey, Hypothesis, NBest, Port

KEYS = {
    "phrases": ContextKey("phrases", "texts", "phrases"),
    "voice": ContextKey("voice", "waveform", "a voice"),
    "bonus": ContextKey("bonus", "number", "a number"),
}


def items(count: int) -> list[Item]:
    return [Item(f"{index:03d}.wav", f"/data/{index:03d}.wav", text=f"text {index}") for index in range(count)]


def test_shards_hold_every_input_once_and_in_order():
    shards = cut(items(10), {"bonus": list(range(10))}, KEYS, size=4, mark="m")
    assert [shard.part for shard in shards] == [0, 1, 2]
    assert [item for shard in shards for item in shard.items] == items(10)
    assert [value for shard in shards for value in shard.context["bonus"]] == list(range(10))


def test_a_packed_shard_comes_back_and_is_small():
    shard = cut(items(256), {}, KEYS, size=256, mark="m")[0]
    data = shard.packed()
    assert Shard.unpacked(data) == shard
    assert len(data) / 256 < 40  # bytes for an input whose name, path and text have 46 characters
    strange = Shard(0, (Item("caf\udce9.wav", "/caf\udce9.wav"),), {}, "d")
    assert Shard.unpacked(strange.packed()) == strange


def test_a_digest_changes_with_all_that_decides_a_part_and_with_nothing_else(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"1234")
    item = Item("a.wav", str(path), "hello", channel=0, extra={"column": 1})

    def digest(item: Item = item, mark: str = "m", bonus: float = 1.0) -> str:
        return cut([item], {"bonus": [bonus]}, KEYS, size=8, mark=mark)[0].digest

    first = digest()
    assert digest(item._replace(extra={})) == first
    others = [
        digest(mark="n"),
        digest(bonus=2.0),
        *(digest(item._replace(**{name: "x"})) for name in ("id", "source", "text", "speaker", "channel")),
    ]
    path.write_bytes(b"12345")
    others.append(digest())
    path.unlink()
    others.append(digest())
    assert len({first, *others}) == len(others) + 1


@pytest.mark.parametrize(("count", "form", "size"), [(1, "text", 8), (82, "text", 8), (10_000, "text", 40)])
def test_a_run_has_some_hundreds_of_parts_unless_it_is_small(count, form, size):
    assert items_per_part(count, form) == size
    assert items_per_part(10**6, "text") == 256
    assert items_per_part(10**6, "audio") == 32


def test_places_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [Item("a", "a.wav"), Item("b", Path("b.wav")), Item("c", {"path": "c.wav", "bytes": None})]
    assert [item.source for item in described(given, reads_text=False)] == [
        str(tmp_path / name) for name in ("a.wav", "b.wav", "c.wav")
    ]
    assert [item.source for item in described([Item("t", "a.wav")], reads_text=True)] == ["a.wav"]
    shared, single = divided({"voice": "v.wav", "bonus": 2.0}, KEYS)
    assert shared == {"voice": str(tmp_path / "v.wav"), "bonus": 2.0}
    shared, single = divided({"voice": [Path("v.wav"), None, Item("r", "r.wav", channel=1)]}, KEYS)
    assert shared == {}
    assert single["voice"] == [str(tmp_path / "v.wav"), None, Item("r", str(tmp_path / "r.wav"), channel=1)]


def test_what_lies_in_memory_is_refused_in_one_line():
    for source in (np.zeros(10), b"RIFF", {"path": "a.wav", "bytes": b"RIFF"}, Recording(np.zeros(4, "f4"), 16000)):
        with pytest.raises(DataError, match="input 'a': a .* in memory does not travel to workers; write it to a file"):
            list(described([Item("a", source)], reads_text=False))
    with pytest.raises(DataError, match="input 'a' was given twice"):
        list(described([Item("a", "1.wav"), Item("a", "2.wav")], reads_text=False))
    with pytest.raises(ContextError, match="several workers: each would draw the same numbers"):
        divided({"generator": object()}, KEYS)
    with pytest.raises(ContextError, match="context 'phrases' of input 1: a object in memory does not travel"):
        divided({"phrases": [object(), None]}, KEYS)
    with pytest.raises(ContextError, match="context 'voice' of input 1: a ndarray in memory"):
        divided({"voice": [np.zeros(4), None]}, KEYS)


def output(value, item=Item("a", "/a.wav", "said"), error=None) -> Output:
    return Output(item, value, 1.5 if error is None else None, error)


def written(outputs: list[Output], form: str, folder: Path) -> list[dict]:
    shard = Shard(0, tuple(output.item for output in outputs), {}, "digest")
    (folder / "part-00000.parquet").write_bytes(encoded([row_of(output, form) for output in outputs], form, shard))
    table = read_results(folder)
    assert table.schema.names == schema(form).names
    return table.to_pylist()


def test_texts_keep_readings_words_and_times(tmp_path):
    words = NBest(
        [Hypothesis("a b", -1.0, times=((0.0, 0.5), (0.5, 1.0)), extra={"words": ["a", "b"]}), Hypothesis("c", -2)]
    )
    labels = NBest([Hypothesis("x", -1.0, tokens=(7,), times=((0.25, 0.5),))])
    bare = NBest([Hypothesis("y")])
    assert form_of(Port("Hypotheses")) == "text"
    found = written([output(words), output(labels), output(bare), output("plain")], "text", tmp_path)
    assert found[0] == {
        "id": "a",
        "text": "a b",
        "nbest": [{"text": "a b", "score": -1.0}, {"text": "c", "score": -2.0}],
        "words": [{"word": "a", "start_s": 0.0, "end_s": 0.5}, {"word": "b", "start_s": 0.5, "end_s": 1.0}],
        "times": None,
        "reference": "said",
        "seconds": 1.5,
        "error": None,
    }
    assert found[1]["times"] == [{"token": 7, "start_s": 0.25, "end_s": 0.5}]
    assert found[1]["words"] is None
    assert found[2]["words"] is None
    assert found[2]["times"] is None
    assert (found[3]["text"], found[3]["nbest"]) == ("plain", None)


def test_sound_is_flac_and_arrays_keep_their_shape(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, 2000).astype(np.float32)
    row = written([output(Recording(samples, 22050))], "audio", tmp_path)[0]
    read, rate = soundfile.read(io.BytesIO(row["audio"]), dtype="float32")
    assert rate == row["sample_rate_hz"] == 22050
    assert np.abs(read - samples).max() <= 2**-23  # one step of 24 bits
    assert form_of(Port("Waveform")) == "audio"
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    row = written([output(values)], "array", tmp_path)[0]
    assert np.array_equal(np.array(row["array"], np.float32).reshape(row["shape"]), values)
    assert form_of(Port("Encoded", {"d": 2})) == "array"


def test_an_error_is_a_row_with_its_text(tmp_path):
    failing = output(None, error=AudioError("a.wav\nis   empty"))
    strange = output(np.zeros(3), Item("caf\udce9", "/nowhere/b.wav"))
    found = written([failing, strange, output(NBest([Hypothesis("fine")]))], "text", tmp_path)
    assert [row["error"] for row in found] == [
        "a.wav is empty",
        "the pipeline gave a ndarray where its last stage promises text",
        None,
    ]
    assert found[1]["id"] == "caf\\udce9"
    assert counts(found) == {"rows": 3, "failed": 2, "audio_s": 1.5}
    there = row_of(failing._replace(item=Item("a", "/nowhere/a.wav")), "text", host="node7")["error"]
    assert there == "a.wav is empty; looked for on node7: does every worker see that folder?"


def filled_store(folder: Path, mark: str = "m") -> tuple[Store, list[Shard]]:
    store = Store(folder, mark, resume=True)
    shards = cut(items(6), {}, KEYS, size=2, mark=mark)
    for shard in shards[:2]:
        rows = [row_of(output("said", item), "text") for item in shard.items]
        store.add(shard.part, encoded(rows, "text", shard))
    store.record({"items_per_part": 2})
    return store, shards


def test_only_whole_parts_of_the_same_inputs_count_as_done(tmp_path):
    _, shards = filled_store(tmp_path)
    again = Store(tmp_path, "m", resume=True)
    assert set(again.done(shards)) == {0, 1}
    assert again.done(shards)[0] == {"part": 0, "digest": shards[0].digest, "rows": 2, "failed": 0, "audio_s": 3.0}
    part = tmp_path / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-20])  # as no rename leaves it
    assert set(again.done(shards)) == {0}
    assert set(again.done([shards[0]._replace(digest="other"), *shards[1:]])) == set()
    assert not list(tmp_path.glob(".*")), "work files stay behind"


def test_parts_that_no_input_has_any_more_are_removed_and_strange_files_are_not(tmp_path):
    store, shards = filled_store(tmp_path)
    assert set(store.done(shards[:1])) == {0}
    assert [path.name for path in sorted(tmp_path.glob("*.parquet"))] == ["part-00000.parquet"]
    (tmp_path / "part-00009.parquet").write_bytes(b"mine")
    with pytest.raises(DataError, match="part-00009.parquet was not written by slt run, so it is not replaced"):
        store.done(shards)


def test_folders_of_others_are_refused(tmp_path):
    filled_store(tmp_path / "one")
    with pytest.raises(DataError, match="was written with another spec or other side information; .* --force"):
        Store(tmp_path / "one", "other", resume=True)
    Store(tmp_path / "one", "other", resume=False)
    assert not list((tmp_path / "one").glob("*.parquet"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "part-00000.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="holds parts without run.json, so nobody knows whose"):
        Store(tmp_path / "two", "m", resume=True)
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "run.json").write_text("[]")
    with pytest.raises(DataError, match="run.json is no record of a run with --engine ray"):
        Store(tmp_path / "three", "m", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made: File exists; with --engine ray it is a folder"):
        Store(tmp_path / "file", "m", resume=True)
    with pytest.raises(DataError, match="holds no parts of a run"):
        read_results(tmp_path / "three")


def test_a_full_disk_keeps_what_is_there(tmp_path, monkeypatch):
    store, shards = filled_store(tmp_path)

    def full(number: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="part-00002.parquet cannot be written: No space left on device; finished"):
        store.add(2, b"data")
    monkeypatch.undo()
    assert set(store.done(shards)) == {0, 1}
    assert not list(tmp_path.glob(".*"))


def test_the_ledger_takes_a_part_carefully_after_two_deaths_and_names_the_recording():
    ledger = Ledger(2)
    for number in range(1, HASTY + 1):
        assert ledger.begin(5, "h", 1) == (number, False, {})
    assert ledger.begin(5, "h", 1) == (3, True, {})
    ledger.at(5, 0)
    ledger.at(5, 1)
    assert ledger.begin(5, "h", 1) == (4, True, {1: 3})  # the worker died at the second recording, the third death
    ledger.at(5, 2)
    ledger.end(5)
    assert ledger.begin(6, "h", 1) == (1, False, {})
    assert ledger.report() == {"workers": [], "begun_again": 3, "fatal": 1}


def test_the_ledger_counts_deaths_while_loading_since_the_last_worker_was_ready():
    ledger = Ledger(2)
    assert [ledger.load() for _ in range(4)] == [0, 0, 1, 2]
    for _ in range(3):
        ledger.arrive("h", 1, "python", 0.5)
    assert ledger.load() == 0


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name.partition(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PluginError, match=r"needs the package ray.*Next: pip install 'sltcore-lib\[ray\]'$"):
        import_ray()


def test_a_clients_address_is_refused(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    expected = "RAY_ADDRESS is ray://head:10001: a client's address cannot carry data"
    with pytest.raises(DataError, match=expected), joined():
        raise AssertionError("joined")


def test_numbers_of_workers_begin_at_one():
    with pytest.raises(SltError, match="0 workers with 1 threads each"):
        places(None, workers=0, threads=1)


SPEC = {
    "slt": 1,
    "kind": "pipeline",
    "encoder": {"use": "lstm", "hidden": 24, "layers": 1, "frontend": {"use": "log-mel", "n_mels": 20}},
    "decoder": {"use": "ctc-greedy", "characters": "abcdefgh"},
}


def test_a_run_is_marked_by_the_content_of_the_files_that_its_spec_names(tmp_path):
    import sltcore
    from sltcore.cluster.fingerprint import fingerprint
    from sltcore.vocabulary import Vocabulary

    path = tmp_path / "letters.json"
    spec = {**SPEC, "decoder": {"use": "ctc-greedy", "vocabulary": str(path)}}

    def mark(letters: str) -> str:
        path.write_text(json.dumps(Vocabulary(["<blank>", *letters]).to_dict()), encoding="utf-8")
        return fingerprint(spec, sltcore.load(spec), {})

    first = mark("abcdefgh")
    assert mark("abcdefgh") == first
    assert mark("bacdefgh") != first


def test_wrong_calls_end_before_ray_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("sltcore.cluster.session.import_ray", lambda: pytest.fail("Ray was asked for"))
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(DataError, match="no input was given"):
        run_dataset(SPEC, [Item("a", "a.wav")][:0], tmp_path / "out")
    with pytest.raises(ContextError, match="context 'frases' is read by no component"):
        run_dataset(SPEC, [str(tmp_path)], tmp_path / "out", context={"frases": ["a"]})
    with pytest.raises(SltError, match="items_per_part is 0"):
        run_dataset(SPEC, [str(tmp_path / "a.wav")], tmp_path / "out", items_per_part=0)
    with pytest.raises(DataError, match="input '0': a ndarray in memory does not travel"):
        run_dataset(SPEC, [np.zeros(100, np.float32)], tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "rey"], "--engine is 'rey', expected one of: local, ray. Did you mean 'ray'?"),
        (["--workers", "2"], "--workers needs --engine ray; a run on this machine has --threads"),
        (["--engine", "ray"], "--engine ray writes parquet files; say where with --out FOLDER"),
        (["--engine", "ray", "--srt", "--out", "o"], "--srt does not go with --engine ray, which writes parquet files"),
        (["--engine", "ray", "--json", "--out", "o"], "--json does not go with --engine ray"),
    ],
)
def test_options_that_do_not_fit_get_one_line(words, said, capsys, tmp_path, monkeypatch):
    from sltcore.cli.app import run

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(["run", "asr.yaml", "a.wav", *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1


def test_a_job_is_told_in_few_bytes():
    from sltcore.cluster.worker import Job

    job = Job(SPEC, (), None, {}, "text", 1, None, False)
    assert pickle.loads(pickle.dumps(job)) == job
    assert len(json.dumps(SPEC)) < len(pickle.dumps(job)) + 200 < 1000


def test_parts_hold_their_facts_in_the_file_itself(tmp_path):
    filled_store(tmp_path)
    facts = json.loads(pq.read_metadata(tmp_path / "part-00001.parquet").metadata[b"sltcore"])
    assert facts["part"] == 1
    assert facts["rows"] == 2
