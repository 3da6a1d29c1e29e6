"""`slt phrases check`: what a list does in a pipeline, as a table, as JSON, and as an exit code."""

from __future__ import annotations

import json

import pytest

from sltcore.cli import app
from sltcore.cli.console import Console

SPEC = "slt: 1\nkind: pipeline\nencoder: hama-conformer\ndecoder: {use: DECODER}\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sltcore.cli.app._plugin_commands", plugin_commands)
    for name in ("ctc-beam", "ctc-greedy-boost", "ctc-spotter", "ctc-greedy"):
        (tmp_path / f"{name}.yaml").write_text(SPEC.replace("DECODER", name))
    (tmp_path / "good.csv").write_text('text,weight,spellings\nMetoprolol,2,\nNguyen,,"nugent; win yen"\n')
    (tmp_path / "mixed.txt").write_text("# names\nMetoprolol\n★\nQueen\nMetoprolol\n")
    (tmp_path / "words.txt").write_text("metaphor\nqueen\n")
    return tmp_path


def plugin_commands():
    """The commands of this plugin, without a child process."""
    from slt_ctc_personalization.plugin import slt_commands

    return {command.name: app.Lazy(command.impl, command.summary) for command in slt_commands()}


def slt(capsys, *words):
    Console.quiet = Console.json = Console.debug = False
    with pytest.raises(SystemExit) as end:
        app.run(["phrases", "check", *words])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.mark.parametrize("decoder", ["ctc-beam", "ctc-greedy-boost", "ctc-spotter"])
def test_a_list_with_an_effect_ends_with_code_0(place, capsys, decoder):
    code, out, _ = slt(capsys, f"{decoder}.yaml", "good.csv", "--words", "words.txt")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["status", "phrase", "bonus", "labels", "remarks"]
    assert lines[1].startswith("good    Metoprolol")
    assert "m ɛ t ʌ p ɹ" in lines[1]
    assert "(+" in lines[2]
    assert lines[3].startswith("2 phrases: 0 without effect, 0 with warnings; ready in ")


def test_a_phrase_without_effect_ends_with_code_1_and_stands_first(place, capsys):
    code, out, _ = slt(capsys, "ctc-beam.yaml", "mixed.txt", "--words", "words.txt", "--limit", "2")
    lines = out.splitlines()
    assert code == 1
    assert lines[1].split()[:3] == ["no", "effect", "★"]
    assert "'★' has no pronunciation" in lines[1]
    assert "stands 2 times in the list; one is enough" in lines[2]
    assert lines[3] == "and 1 more; see them with --limit or --json"
    assert "3 phrases: 1 without effect, 2 with warnings" in lines[4]
    code, out, _ = slt(capsys, "ctc-beam.yaml", "mixed.txt", "--limit", "0", "--words", "words.txt")
    assert (code, len(out.splitlines())) == (1, 2)


def test_json_holds_every_phrase_with_its_paths_and_findings(place, capsys):
    code, out, _ = slt(capsys, "ctc-beam.yaml", "mixed.txt", "--json", "--limit", "1", "--words", "words.txt")
    found = json.loads(out)
    assert code == 1
    assert [phrase["text"] for phrase in found["phrases"]] == ["Metoprolol", "★", "Queen"]
    assert found["phrases"][2]["paths"] == ["k w i n"]
    assert found["phrases"][2]["findings"][0] == {
        "level": "warning",
        "kind": "misfire",
        "remark": "is an everyday word: it will be written where another is said; lower its weight",
    }
    assert found["bytes"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ctc-greedy.yaml", "good.csv"], "phrases are read by no component of this pipeline (encoder 'hama-conformer', decoder 'ctc-greedy'), so the list would have no effect; use decoders ctc-beam"),
        (["ctc-beam.yaml", "none.csv"], "none.csv: cannot be read: No such file"),
        (["ctc-beam.yaml", "good.csv", "--language", "xx"], "language 'xx'"),
        (["ctc-beam.yaml", "good.csv", "--language", "en", "--words", "words.txt"], "--language and --words both name the everyday words; give one of them"),
        (["ctc-beam.yaml", "good.csv", "--words", "none.txt"], "none.txt cannot be read: No such file"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_one_line_and_code_2(place, capsys, words, message):
    code, out, err = slt(capsys, *words)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert message in err


def test_a_bonus_of_zero_is_never_silent(place, capsys):
    code, out, _ = slt(capsys, "ctc-beam.yaml", "good.csv", "--set", "decoder.phrase_bonus=0", "--words", "words.txt")
    assert code == 1
    assert "its bonus is 0; raise its weight or bonus, or the decoder's phrase_bonus" in out
