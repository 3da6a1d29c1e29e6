"""Promises of `slt run` about inputs, names, results files, playback channels, interruptions and logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from fake_plugins import Site
from toy_components import toy_registry

from sltcore.cli.app import run
from sltcore.cli.results import Rows, Targets, json_line, shown
from sltcore.cli.run import _Writer, read_phrases
from sltcore.errors import DataError
from sltcore.types import Item

SPEC = {
    "slt": 1,
    "kind": "pipeline",
    "encoder": {"use": "lstm", "hidden": 24, "layers": 1, "frontend": {"use": "log-mel", "n_mels": 20}},
    "decoder": {"use": "ctc-greedy", "characters": "abcdefgh"},
    "metrics": ["wer"],
}
TOY = {"slt": 1, "kind": "pipeline", "encoder": "echo", "decoder": "tally"}
LINES = {"slt": 1, "kind": "pipeline", "decoder": "lines"}


def write(path: Path, count: int = 1600, *, channels: int = 1) -> None:
    """Channel c holds c + 1 parts of 128 in every sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.stack([np.full(count, (c + 1) / 128, np.float32) for c in range(channels)], 1)
    with path.open("wb") as file:
        soundfile.write(file, samples, 16000, subtype="FLOAT", format="WAV")


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, spec in (("asr.yaml", SPEC), ("toy.yaml", TOY), ("lines.yaml", LINES)):
        (tmp_path / name).write_text(yaml.safe_dump(spec))
    for index, name in enumerate(["one/a.wav", "one/b.wav", "two/a.wav"]):
        write(tmp_path / name, 1600 + 160 * index)
    return tmp_path


@pytest.fixture
def toys(tmp_path: Path, monkeypatch) -> Iterator[None]:
    import sltcore.bundle.open as door
    import sltcore.registry

    site = Site(tmp_path / "toy-site")
    monkeypatch.syspath_prepend(str(site.folder))
    registry = toy_registry(site)
    monkeypatch.setattr(door, "default_registry", lambda: registry)
    monkeypatch.setattr(sltcore.registry, "default_registry", lambda: registry)
    yield
    sys.modules.pop("slt_toys.plugin", None), sys.modules.pop("slt_toys", None)


def slt(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(list(words))
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_equal_names_in_two_folders_are_two_inputs(place, capsys):
    code, out, _ = slt(capsys, "-q", "run", "asr.yaml", "one", "two", "--out", "r.jsonl")
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["a.wav", "b.wav", "two/a.wav"]
    found = rows(place / "r.jsonl")
    assert [row["id"] for row in found] == ["a.wav", "b.wav", "two/a.wav"]
    assert [row["duration_s"] for row in found] == pytest.approx([0.1, 0.11, 0.12])
    code, _, err = slt(capsys, "run", "asr.yaml", "one", "two", "--out", "r.jsonl")
    assert (code, "3 of 3 are done already" in err) == (0, True)


def test_one_recording_given_twice_is_done_once(place, capsys):
    _, out, _ = slt(capsys, "-q", "run", "asr.yaml", "one/a.wav", "one/a.wav", "one/b.wav")
    assert len(out.splitlines()) == 2


def test_an_id_that_now_means_another_recording_is_never_taken_as_done(place, capsys):
    slt(capsys, "run", "asr.yaml", "one", "--out", "r.jsonl")
    before = (place / "r.jsonl").read_bytes()
    code, _, err = slt(capsys, "run", "asr.yaml", "two", "--out", "r.jsonl")
    assert code == 2
    assert "'a.wav' was a recording of" in err
    assert "choose another file, or --force to start it anew" in err
    assert (place / "r.jsonl").read_bytes() == before


def test_results_are_continued_from_another_folder_and_with_other_batches(place, capsys, monkeypatch):
    slt(capsys, "run", "asr.yaml", "one", "--out", "r.jsonl")
    monkeypatch.chdir(place / "two")
    code, _, err = slt(capsys, "run", "../asr.yaml", str(place / "one"), "--out", "../r.jsonl", "--set", "batch.size=1")
    assert (code, "2 of 2 are done already" in err) == (0, True)


def test_a_wrong_call_leaves_the_results_alone(place, capsys):
    slt(capsys, "run", "asr.yaml", "one", "--out", "r.jsonl")
    before = (place / "r.jsonl").read_bytes()
    for words in (
        ["--context", "language=en"],
        ["--reference", "1"],
        ["--phrases", "none.txt"],
        ["--set", "decoder.x=1"],
    ):
        code, _, _ = slt(capsys, "run", "asr.yaml", "one", "--out", "r.jsonl", "--force", *words)
        assert code == 2
        assert (place / "r.jsonl").read_bytes() == before
        slt(capsys, "run", "asr.yaml", "one", "--out", "new.jsonl", *words)
        assert not (place / "new.jsonl").exists()


def test_force_never_empties_a_file_that_is_no_results_file(place, capsys):
    for name, text in (("thesis.txt", "years of work\n"), ("data.json", '{"id": 1}\n'), ("short", "no end of line")):
        (place / name).write_text(text)
        code, _, err = slt(capsys, "run", "asr.yaml", "one", "--out", name, "--force")
        assert (code, "line 1 is no result of slt run" in err) == (2, True)
        assert (place / name).read_text() == text


def test_a_place_that_cannot_be_written_is_one_line(place, capsys):
    for target, reason in (("one", "Is a directory"), ("asr.yaml/r.jsonl", "Not a directory|File exists")):
        code, out, err = slt(capsys, "run", "asr.yaml", "two/a.wav", "--out", target)
        assert (code, out) == (2, "")
        assert any(part in err for part in reason.split("|"))
        assert len(err.strip().splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_code_2(place, capsys, monkeypatch):
    inner = Rows.add

    def on_a_full_disk(self, item, row):
        if len(self.texts) == 1:
            self.path = Path("/dev/full")
        inner(self, item, row)

    monkeypatch.setattr(Rows, "add", on_a_full_disk)
    code, _, err = slt(capsys, "run", "asr.yaml", "one", "--out", "r.jsonl")
    assert code == 2
    assert "error: --out /dev/full: cannot be written: No space left on device; what was finished is kept" in err
    assert [row["id"] for row in rows(place / "r.jsonl")] == ["a.wav"]


@pytest.mark.parametrize(
    "name",
    ["-dash.wav", "ü ñ 漢字.wav", "two\nlines.wav", "tab\there.wav", "quote'\".wav", os.fsdecode(b"\xff\xfe.wav")],
)
def test_unusual_names_stay_one_line_each_and_resume(place, capsys, name):
    write(place / "odd" / name)
    write(place / "odd" / "plain.wav")
    code, out, _ = slt(capsys, "run", "asr.yaml", "odd", "--out", "r.jsonl", "--vtt")
    assert code == 0
    assert sorted(row["id"] for row in rows(place / "r.jsonl")) == sorted([name, "plain.wav"])
    assert (place / name).with_suffix(".vtt").exists()
    code, _, err = slt(capsys, "run", "asr.yaml", "odd", "--out", "r.jsonl")
    assert (code, "2 of 2 are done already" in err) == (0, True)
    code, out, _ = slt(capsys, "-q", "run", "asr.yaml", "odd")
    assert len(out.splitlines()) == 2
    assert all(line.count("\t") == 1 for line in out.splitlines())
    (place / "odd" / name).write_bytes(b"broken")
    code, _, err = slt(capsys, "run", "asr.yaml", "odd")
    assert code == 1
    assert sum(line.startswith("error: ") for line in err.splitlines()) == 1


def test_a_leading_dash_follows_two_dashes(place, capsys):
    write(place / "-dash.wav")
    code, out, _ = slt(capsys, "-q", "run", "asr.yaml", "--", "-dash.wav")
    assert (code, len(out.splitlines())) == (0, 1)


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["a.wav", "b.wav"], ["a.srt", "b.srt"]),
        (["a.wav", "a.mp3"], ["a.wav.srt", "a.mp3.srt"]),
        (["call.1", "call.2"], ["call.1.srt", "call.2.srt"]),
        (["/x/a.wav", "/y/a.wav"], ["x/a.srt", "y/a.srt"]),
        (["/x/a.wav"], ["a.srt"]),
        (["../a.wav", "../../b.wav"], ["a.srt", "b.srt"]),
        (["..", "."], ["input.srt", "input.srt"]),
    ],
)
def test_files_beside_the_results_never_leave_the_folder_or_share_a_name(tmp_path: Path, ids, names):
    items = [Item(name, name) for name in ids]
    targets = Targets(items, tmp_path / "out" / "r.jsonl")
    assert [targets.path(item, ".srt").relative_to(tmp_path / "out").as_posix() for item in items] == names


def test_names_are_shown_on_one_line():
    assert shown("ü 漢.wav") == "ü 漢.wav"
    assert shown("a\nb\t\x1b[31m") == r"a\nb\t\x1b[31m"
    assert shown(os.fsdecode(b"\xff")) == r"\udcff"
    assert json.loads(json_line({"id": os.fsdecode(b"\xff")})) == {"id": "\udcff"}


@pytest.mark.usefixtures("toys")
def test_a_channel_of_the_input_is_the_reference_and_the_other_the_input(place, capsys):
    write(place / "stereo.wav", 1280, channels=2)
    for channel, expected in (("1", "10.00 20.00"), ("0", "20.00 10.00")):
        code, out, _ = slt(capsys, "-q", "run", "toy.yaml", "stereo.wav", "--reference", channel)
        assert code == 0
        assert out.startswith(expected)
    (place / "m.csv").write_text("audio,channel\nstereo.wav,1\n")
    code, out, _ = slt(capsys, "-q", "run", "toy.yaml", "m.csv", "--reference", "0")
    assert out.startswith("20.00 10.00")
    code, _, err = slt(capsys, "run", "toy.yaml", "stereo.wav", "--reference", "5")
    assert code == 1
    assert "no channel 5; expected 0 to 1" in err


@pytest.mark.usefixtures("toys")
def test_one_recording_can_be_the_reference_of_all(place, capsys):
    write(place / "far.wav", 320)
    code, out, _ = slt(capsys, "-q", "run", "toy.yaml", "one", "--reference", "far.wav", "--context", "language=de")
    assert code == 0
    assert [line.split()[1:] for line in out.splitlines()] == [
        ["12.50", "2.50", "-", "de"],
        ["13.75", "2.50", "-", "de"],
    ]
    code, _, err = slt(capsys, "run", "toy.yaml", "one", "--reference", "gone.wav")
    assert (code, err.count("no file gone.wav")) == (1, 2)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("language=3", "context 'language' expects a string, got int 3"),
        ("phrases=abc", "context 'phrases' expects a list of strings, got str 'abc'"),
        ("phrases={a: 1}", "context 'phrases' expects a list of strings, got dict"),
        ("voice=1.5", "context 'voice' expects a recording"),
    ],
)
def test_side_information_of_the_wrong_type_is_one_line(place, capsys, pair, message):
    code, _, err = slt(capsys, "run", "toy.yaml", "one/a.wav", "--context", pair)
    assert (code, message in err, len(err.strip().splitlines())) == (2, True, 1)


@pytest.mark.usefixtures("toys")
def test_texts_come_from_arguments_and_from_files(place, capsys):
    (place / "texts.txt").write_text("first line\n\nsecond\n")
    code, out, _ = slt(capsys, "-q", "run", "lines.yaml", "texts.txt", "third one")
    assert (code, out.splitlines()) == (0, ["0\tfirst line", "1\tsecond", "2\tthird one"])
    (place / "latin.txt").write_bytes(b"\xfc\n")
    code, _, err = slt(capsys, "run", "lines.yaml", "latin.txt")
    assert (code, "latin.txt is not UTF-8 text" in err) == (2, True)


def test_phrases_may_carry_their_bonus(tmp_path: Path):
    (tmp_path / "p.jsonl").write_text('"Anna"\n{"text": "Amazon Queen", "bonus": 3}\n')
    assert read_phrases(tmp_path / "p.jsonl") == ["Anna", {"text": "Amazon Queen", "bonus": 3}]
    for line in ("Anna", "3", "[1]"):
        (tmp_path / "p.jsonl").write_text(line + "\n")
        with pytest.raises(DataError, match="is no JSON text or map, such as"):
            read_phrases(tmp_path / "p.jsonl")


def test_measures_stay_out_of_machine_readable_output(place, capsys):
    (place / "m.tsv").write_text("audio\ttext\none/a.wav\tx\none/b.wav\ty\n")
    _, out, _ = slt(capsys, "-q", "run", "asr.yaml", "m.tsv", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert {"metric", "value", "low", "high", "unit", "inputs"} <= set(found[-1])
    _, out, err = slt(capsys, "run", "asr.yaml", "m.tsv", "--ctm")
    assert "wer" in err
    assert "wer" not in out


def test_ctm_names_have_no_spaces_and_differ(place, capsys):
    write(place / "odd" / "my call.wav", 16000)
    targets = Targets([Item("x/my call.wav", ""), Item("y/my call.wav", "")], None)
    assert [targets.name(Item(f"{f}/my call.wav", "")) for f in "xy"] == ["x/my_call", "y/my_call"]


def test_nothing_is_kept_of_a_result_that_cannot_be_written_as_asked(place, capsys):
    (place / "mel.yaml").write_text(
        yaml.safe_dump({"slt": 1, "kind": "pipeline", "encoder": {"use": "log-mel", "n_mels": 20}})
    )
    code, _, err = slt(capsys, "run", "mel.yaml", "one/a.wav", "--srt", "--out", "r.jsonl")
    assert (code, "--srt needs a pipeline that gives text, this one gives ndarray" in err) == (2, True)
    assert (place / "r.jsonl").read_text() == ""
    code, _, _ = slt(capsys, "run", "mel.yaml", "one", "--out", "out/r.jsonl")
    assert code == 0
    assert np.load(place / "out" / "a.npy").shape[1] == 20


def test_an_interrupt_says_what_is_kept_and_ends_with_130(place, capsys, monkeypatch):
    def interrupted(self, output):
        raise KeyboardInterrupt

    monkeypatch.setattr(_Writer, "write", interrupted)
    code, _, err = slt(capsys, "run", "asr.yaml", "one")
    assert (code, "interrupted; what was finished is kept" in err) == (130, True)


@pytest.mark.slow
def test_a_real_interrupt_leaves_whole_lines_and_the_next_run_goes_on(place):
    inputs = 1500  # enough that a busy machine sends the interrupt before the last one
    write(place / "many" / "0000.wav", 16000)
    for index in range(1, inputs):
        (place / "many" / f"{index:04}.wav").hardlink_to(place / "many" / "0000.wav")
    command = [
        sys.executable,
        "-c",
        "from sltcore.cli import main; main()",
        "run",
        "asr.yaml",
        "many",
        "--out",
        "r.jsonl",
        "--batch-size",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while time.monotonic() < until and not ((place / "r.jsonl").exists() and (place / "r.jsonl").stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; what was finished is kept" in err
    assert "Traceback" not in err
    kept = rows(place / "r.jsonl")
    assert 0 < len(kept) < inputs
    subprocess.run(command, check=True, capture_output=True)
    assert sorted(row["id"] for row in rows(place / "r.jsonl")) == [f"{index:04}.wav" for index in range(inputs)]


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_the_run_quietly(place):
    for index in range(40):
        write(place / "many" / f"{index:03}.wav", 1600)
    command = f"{sys.executable} -c 'from sltcore.cli import main; main()' run asr.yaml many --batch-size 1 | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("000.wav")
    assert done.stdout.splitlines()[1] == "0"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_warnings_and_log_records_are_json_lines_too(place):
    code = (
        "import warnings\n"
        "from sltcore.cli import main\n"
        "from sltcore.cli.run import _Writer\n"
        "inner = _Writer.write\n"
        "def noisy(self, output):\n"
        "    warnings.warn('two\\nlines')\n"
        "    inner(self, output)\n"
        "_Writer.write = noisy\n"
        "main()\n"
    )
    command = [
        sys.executable,
        "-W",
        "always",
        "-c",
        code,
        "--log-format",
        "json",
        "-vv",
        "run",
        "asr.yaml",
        "one/a.wav",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"py.warnings", "sltcore.pipeline.pipeline"} <= {entry.get("logger") for entry in found}
    assert any("encoder: 1 in" in entry["message"] for entry in found)


def test_no_bar_where_nobody_watches(place, capsys):
    _, _, err = slt(capsys, "run", "asr.yaml", "one")
    assert "\r" not in err
    assert "\x1b" not in err
    _, _, err = slt(capsys, "-q", "run", "asr.yaml", "one")
    assert err == ""


def test_a_group_called_alone_shows_its_commands(capsys):
    code, out, err = slt(capsys, "data")
    assert (code, err) == (0, "")
    assert "fetch" in out


def test_finished_rows_are_not_held_in_memory(place):
    kept = Rows(place / "r.jsonl", "x", force=False)
    kept.add(Item("a", np.zeros(1)), {"id": "a", "text": "t", "words": [{"word": "t"}] * 1000})
    assert kept.texts == {"a": "t"}
