"""Promises of `slt align`: its inputs, its forms, and what it says when it cannot."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import yaml
from alignment_toys import letters_registry, said
from fake_plugins import Site

from sltcore.cli.app import run
from sltcore.cli.textgrid import textgrid, without_gaps

SPEC = {"slt": 1, "kind": "pipeline", "encoder": "letters", "decoder": "writes"}
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def slt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], site: Site) -> Call:
    """`slt` in this process, in a folder with a spec and recordings that say what is in them."""
    monkeypatch.syspath_prepend(str(site.folder))
    registry = letters_registry(site)
    for user in ("sltcore.pipeline.build", "sltcore.bundle.open", "sltcore.bundle.bundle", "sltcore.registry"):
        monkeypatch.setattr(f"{user}.default_registry", lambda: registry)
    monkeypatch.chdir(tmp_path)
    Path("asr.yaml").write_text(yaml.safe_dump(SPEC))
    Path("calls").mkdir()
    for name, path in (("one", "__a_b b__"), ("two", "_cc__"), ("three", "_a_")):
        soundfile.write(f"calls/{name}.wav", said(path), 16000, subtype="FLOAT")
    Path("calls/one.txt").write_text("Ab b\n")
    Path("calls/two.lab").write_text("c")
    Path("calls.csv").write_text('audio,text\ncalls/one.wav,"ab, b"\ncalls/two.wav,c\n')

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run(list(words))
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


def test_one_text_by_hand(slt: Call) -> None:
    code, out, err = slt("align", "asr.yaml", "calls/one.wav", "--text", "ab b")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)
    assert [(word["word"], word["start_s"], word["end_s"]) for word in row["words"]] == [
        ("ab", 0.02, 0.05),
        ("b", 0.06, 0.07),
    ]
    assert "labels" not in row
    assert (row["id"], row["text"], row["duration_s"], row["frames"]) == ("calls/one.wav", "ab b", 0.09, 9)


def test_texts_of_a_manifest_as_json_lines(slt: Call) -> None:
    code, out, _ = slt("align", "asr.yaml", "calls.csv", "--format", "jsonl", "--level", "label")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["id"] for row in rows] == ["calls/one.wav", "calls/two.wav"]
    assert [label["label"] for label in rows[0]["labels"]] == ["a", "b", " ", "b"]
    assert [word["word"] for word in rows[0]["words"]] == ["ab,", "b"]


def test_texts_beside_the_recordings_of_a_folder(slt: Call) -> None:
    """The third recording has none: it is named, the others are done, and the exit code says so."""
    code, out, err = slt("align", "asr.yaml", "calls", "--format", "ctm")
    assert code == 1
    assert out.splitlines() == ["one 1 0.020 0.030 Ab 1.000", "one 1 0.060 0.010 b 1.000", "two 1 0.010 0.020 c 1.000"]
    assert "error: input 'three.wav' has no text to align; give --text" in err
    assert "1 of 3 inputs failed, the rest is done" in err


def test_ctm_of_labels_leaves_word_boundaries_out(slt: Call) -> None:
    _, out, _ = slt("align", "asr.yaml", "calls.csv", "--format", "ctm", "--level", "label")
    assert [line.split()[4] for line in out.splitlines()] == ["a", "b", "b", "c"]


def intervals(text: str) -> list[tuple[float, float, str]]:
    """What a TextGrid's intervals say, by Praat's own layout."""
    found = re.findall(r'xmin = ([\d.]+)\s+xmax = ([\d.]+)\s+text = "(.*)"', text)
    return [(float(start), float(end), said) for start, end, said in found]


def test_textgrids_have_a_file_each(slt: Call) -> None:
    code, _, err = slt("align", "asr.yaml", "calls.csv", "--format", "textgrid", "--level", "label", "--out", "grids")
    assert code == 0
    assert "wrote grids/calls/one.TextGrid" in err
    text = Path("grids/calls/one.TextGrid").read_text()
    words, labels = (intervals(part) for part in text.split("item [2]"))
    assert words == [(0, 0.02, ""), (0.02, 0.05, "ab,"), (0.05, 0.06, ""), (0.06, 0.07, "b"), (0.07, 0.09, "")]
    assert [label for _, _, label in labels if label] == ["a", "b", "b"]
    assert "intervals: size = 5" in text


@pytest.mark.parametrize(("form", "first"), [("srt", "1\n00:00:00,020 --> "), ("vtt", "WEBVTT\n\n00:00:00.020 --> ")])
def test_subtitles(slt: Call, form: str, first: str) -> None:
    code, out, _ = slt("align", "asr.yaml", "calls/one.wav", "--format", form)
    assert code == 0
    assert out.startswith(first)
    assert out.rstrip().endswith("Ab b")
    assert slt("align", "asr.yaml", "calls.csv", "--format", form)[2] == (
        f"error: --format {form} with 2 inputs writes one file for each; say where with --out FOLDER\n"
    )


def test_results_go_to_a_file(slt: Call) -> None:
    code, out, err = slt("align", "asr.yaml", "calls.csv", "--out", "new/words.json")
    assert (code, out, err) == (0, "", "wrote new/words.json\n")
    assert len(json.loads(Path("new/words.json").read_text())) == 2


def test_what_cannot_be_is_said_in_one_line(slt: Call) -> None:
    cases = {
        ("calls.csv", "--text", "a"): "error: --text is what is said in one recording, but 2 are given; put the texts",
        ("calls/one.wav", "--text", "x"): "error: input 'calls/one.wav': word 'x' cannot be spelled: ",
        (
            "calls/two.wav",
            "--text",
            "abcabc",
        ): "error: utterance 'calls/two.wav': its 6 labels need 6 frames, but it has 5",
        ("calls/none.wav", "--text", "a"): "error: no input calls/none.wav",
        ("calls/one.wav", "--out", "asr.yaml/x.json"): "error: asr.yaml/x.json cannot be written: ",
    }
    for words, line in cases.items():
        code, _, err = slt("align", "asr.yaml", *words)
        assert code in (1, 2), words
        assert err.startswith(line), err
    Path("encoder.yaml").write_text("slt: 1\nkind: pipeline\nencoder: letters\n")
    code, _, err = slt("align", "encoder.yaml", "calls.csv")
    assert code == 2
    assert err.startswith("error: alignment needs an encoder and a CTC decoder")


def test_words_without_a_boundary_are_refused_in_forms_of_words(slt: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sltcore.alignment.words.Spellings._words", lambda *_: None)
    code, out, err = slt("align", "asr.yaml", "calls/two.wav", "--format", "ctm")
    assert (code, out) == (1, "")
    assert "nothing tells which labels make a word, since the vocabulary has no word boundary; use --level label" in err
    code, out, _ = slt("align", "asr.yaml", "calls/two.wav")
    assert code == 0
    assert json.loads(out)[0]["labels"][0]["label"] == "c"


def test_intervals_fill_a_tier() -> None:
    filled = without_gaps([(0.0, 1.0, 'say "a"'), (1.0, 1.0, "nothing"), (2.5, 3.0, "b")], 4.0)
    assert filled == [(0.0, 1.0, 'say "a"'), (1.0, 2.5, ""), (2.5, 3.0, "b"), (3.0, 4.0, "")]
    text = textgrid({"words": filled}, 4.0)
    assert 'text = "say ""a"""' in text
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 4\n')


def test_the_command_loads_nothing_heavy_before_it_is_called() -> None:
    import subprocess

    code = "import sys\nimport sltcore.cli.align\nprint(*sorted({'torch', 'numpy', 'numba', 'datasets'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
