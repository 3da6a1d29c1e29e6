"""Promises of `slt run`: files, folders, manifests; resuming; bad inputs; formats; exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from sltcore.cli.app import run
from sltcore.cli.subtitles import clock, ctm, cues, srt, vtt
from sltcore.errors import SltError
from sltcore.types import Hypothesis

SPEC = {
    "slt": 1,
    "kind": "pipeline",
    "encoder": {"use": "lstm", "hidden": 24, "layers": 1, "frontend": {"use": "log-mel", "n_mels": 20}},
    "decoder": {"use": "ctc-greedy", "characters": "abcdefgh"},
    "metrics": ["wer"],
}


def noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16000)).astype(np.float32)


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asr.yaml").write_text(yaml.safe_dump(SPEC))
    (tmp_path / "calls" / "deep").mkdir(parents=True)
    for index, name in enumerate(["calls/a.wav", "calls/b.wav", "calls/deep/c.wav"]):
        soundfile.write(tmp_path / name, noise(0.4 + 0.1 * index, index), 16000, subtype="FLOAT")
    return tmp_path


def slt(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(list(words))
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_file_prints_its_text_alone(place, capsys):
    code, out, err = slt(capsys, "run", "asr.yaml", "calls/a.wav")
    assert code == 0
    assert out.count("\n") == 1
    assert "\t" not in out
    assert "1 of 1 inputs" in err


def test_a_folder_gives_one_line_for_each_recording_below_it(place, capsys):
    code, out, _ = slt(capsys, "-q", "run", "asr.yaml", "calls")
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["a.wav", "b.wav", "deep/c.wav"]


def test_results_are_kept_and_a_second_run_does_only_what_is_missing(place, capsys):
    slt(capsys, "run", "asr.yaml", "calls/a.wav", "--out", "out/r.jsonl")
    first = rows(place / "out/r.jsonl")
    code, _, err = slt(capsys, "run", "asr.yaml", "calls/a.wav", "calls/b.wav", "--out", "out/r.jsonl")
    assert code == 0
    assert "1 of 2 are done already" in err
    both = rows(place / "out/r.jsonl")
    assert both[0] == first[0]
    assert [row["id"] for row in both] == ["calls/a.wav", "calls/b.wav"]


def test_a_line_cut_by_a_kill_is_written_again(place, capsys):
    slt(capsys, "run", "asr.yaml", "calls", "--out", "r.jsonl")
    whole = (place / "r.jsonl").read_bytes()
    for cut in (len(whole) - 1, len(whole) - 20, 5):
        (place / "r.jsonl").write_bytes(whole[:cut])
        code, _, _ = slt(capsys, "run", "asr.yaml", "calls", "--out", "r.jsonl")
        assert code == 0
        assert sorted(row["id"] for row in rows(place / "r.jsonl")) == ["a.wav", "b.wav", "deep/c.wav"]


def test_results_of_another_spec_are_never_mixed(place, capsys):
    slt(capsys, "run", "asr.yaml", "calls", "--out", "r.jsonl")
    before = (place / "r.jsonl").read_bytes()
    code, _, err = slt(capsys, "run", "asr.yaml", "calls", "--out", "r.jsonl", "--set", "seed=1")
    assert code == 2
    assert "r.jsonl: was written with another spec or other side information; choose another file, or --force" in err
    assert (place / "r.jsonl").read_bytes() == before
    code, _, _ = slt(capsys, "run", "asr.yaml", "calls", "--out", "r.jsonl", "--set", "seed=1", "--force")
    assert code == 0
    (place / "notes.txt").write_text("dear diary\n")
    code, _, err = slt(capsys, "run", "asr.yaml", "calls", "--out", "notes.txt")
    assert (code, "line 1 is no result of slt run" in err) == (2, True)
    assert (place / "notes.txt").read_text() == "dear diary\n"


def test_one_bad_file_is_reported_the_rest_is_finished_and_the_code_is_1(place, capsys):
    (place / "calls" / "bad.wav").write_bytes(b"RIFF....")
    code, out, err = slt(capsys, "run", "asr.yaml", "calls", "--out", "r.jsonl")
    assert code == 1
    assert len(out.splitlines()) == 3
    assert "bad.wav" in err
    assert "1 of 4 inputs failed, the rest is done" in err
    assert "Traceback" not in err
    code, _, err = slt(capsys, "run", "asr.yaml", "calls", "--out", "r.jsonl")
    assert "3 of 4 are done already" in err
    assert code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["asr.yaml", "missing.wav"], "missing.wav"),
        (["no.yaml", "calls/a.wav"], "no.yaml:1:1: there is no such spec file; . holds asr.yaml"),
        (["asr.yaml", "calls/a.wav", "--srt", "--json"], "choose one of --json, --srt, --vtt, --ctm; got srt and json"),
        (["asr.yaml", "calls/a.wav", "--phrases", "none.txt"], "--phrases none.txt: cannot be read: No such file"),
        (["asr.yaml", "calls/a.wav", "--context", "language"], "--context language: expected KEY=VALUE"),
        (["asr.yaml", "calls/a.wav", "--context", "language=en"], "context 'language' is read by no component"),
        (["asr.yaml", "calls/a.wav", "--reference", "1"], "context 'reference' is read by no component"),
        (
            ["asr.yaml", "calls/a.wav", "--set", "decoder.bean=3"],
            "--set decoder.bean=3: decoder.bean: decoder/ctc-greedy has no field 'bean'",
        ),
        (["asr.yaml", "calls/a.wav", "--device", "cuda:9"], "device 'cuda:9' cannot be used"),
        (
            ["asr.yaml", "calls", "--srt"],
            "--srt with 3 inputs writes one file for each; say where with --out FOLDER/results.jsonl",
        ),
        (["asr.yaml", "calls/a.wav", "--batch-size", "0"], "--batch-size"),
        (["asr.yaml"], "INPUT"),
    ],
)
def test_a_wrong_call_is_one_line_and_code_2(place, capsys, words, message):
    code, out, err = slt(capsys, "run", *words)
    assert code == 2
    assert message in err
    assert out == ""
    assert len(err.strip().splitlines()) == 1


def test_an_empty_phrase_list_is_refused(place, capsys):
    (place / "p.txt").write_text("# only a remark\n\n")
    code, _, err = slt(capsys, "run", "asr.yaml", "calls/a.wav", "--phrases", "p.txt")
    assert (code, "holds no phrase; write one a line" in err) == (2, True)


def test_a_manifest_with_texts_is_measured_with_an_interval(place, capsys):
    _, out, _ = slt(capsys, "-q", "run", "asr.yaml", "calls/a.wav")
    said = out.strip() or "x"
    (place / "m.tsv").write_text(f"audio\ttext\ncalls/a.wav\t{said}\ncalls/b.wav\tnothing like it\n")
    code, out, _ = slt(capsys, "-q", "run", "asr.yaml", "m.tsv")
    assert code == 0
    assert "on 2 inputs" in out
    assert "wer: " in out


def test_json_lines_hold_text_score_duration_and_word_times(place, capsys):
    _, out, _ = slt(capsys, "-q", "run", "asr.yaml", "calls", "--json")
    first = json.loads(out.splitlines()[0])
    assert {"id", "text", "score", "duration_s"} <= set(first)
    assert first["duration_s"] == pytest.approx(0.4)
    for word in first.get("words", []):
        assert 0 <= word["start_s"] <= word["end_s"]


def test_errors_can_be_json_lines(place, capsys):
    code, _, err = slt(capsys, "--log-format", "json", "run", "no.yaml", "calls/a.wav")
    assert code == 2
    assert json.loads(err.splitlines()[-1])["level"] == "error"
    code, _, err = slt(capsys, "--log-format", "xml", "run", "no.yaml", "calls/a.wav")
    assert (code, "--log-format is 'xml', expected one of: text, json" in err) == (2, True)


def test_an_unforeseen_error_is_one_line_and_code_3(place, capsys, monkeypatch):
    import sltcore.bundle.open as door

    monkeypatch.setattr(door, "load_spec", lambda *a, **k: 1 / 0)
    code, _, err = slt(capsys, "run", "asr.yaml", "calls/a.wav")
    assert code == 3
    assert err.startswith("error: unforeseen ZeroDivisionError")


SPOKEN = Hypothesis(
    "one two three", 0.0, (), ((0.5, 0.9), (1.0, 1.25), (3.0, 3661.5)), {"words": ("one", "two", "three")}
)


def test_subtitles_and_ctm_follow_their_formats():
    assert srt(SPOKEN, "x") == (
        "1\n00:00:00,500 --> 00:00:01,250\none two\n\n2\n00:00:03,000 --> 01:01:01,500\nthree\n"
    )
    assert vtt(SPOKEN, "x").startswith("WEBVTT\n\n00:00:00.500 --> 00:00:01.250\none two\n")
    assert ctm(SPOKEN, "call") == "call 1 0.50 0.40 one\ncall 1 1.00 0.25 two\ncall 1 3.00 3658.50 three\n"


def test_cues_keep_to_the_width_and_lose_no_word():
    words = [("word" * (i % 3 + 1), i * 0.3, i * 0.3 + 0.2) for i in range(40)]
    groups = list(cues(words))
    assert [w for group in groups for w in group] == words
    assert all(len(" ".join(w for w, _, _ in group)) <= 42 for group in groups)


def test_clock_rounds_to_milliseconds():
    assert clock(0.0004, ".") == "00:00:00.000"
    assert clock(59.9996, ",") == "00:01:00,000"


def test_subtitles_without_times_are_refused():
    with pytest.raises(SltError, match="gave 0 times for 2 words"):
        srt(Hypothesis("a b"), "x")


def test_subtitles_go_beside_the_results(place, capsys):
    code, _, err = slt(capsys, "run", "asr.yaml", "calls", "--vtt", "--out", "subs/r.jsonl")
    assert code == 0
    assert sorted(p.relative_to(place / "subs").as_posix() for p in (place / "subs").rglob("*.*")) == [
        "a.vtt",
        "b.vtt",
        "deep/c.vtt",
        "r.jsonl",
    ]
