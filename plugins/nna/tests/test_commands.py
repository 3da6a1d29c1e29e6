"""`slt nna`: chips as a list and as YAML, an audit and a cost of a pipeline, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sltcore.cli import app
from sltcore.cli.console import Console

SPEC = """\
slt: 1
kind: pipeline
encoder: {use: lstm, hidden: 12, layers: 1, dropout: 0}
decoder: {use: ctc-greedy, characters: abc}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sltcore.cli.app._plugin_commands", plugin_commands)
    (tmp_path / "asr.yaml").write_text(SPEC)
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    soundfile.write(tmp_path / "one.wav", 0.1 * noise, 16000)
    soundfile.write(tmp_path / "two.wav", 0.1 * noise[:8000], 16000)
    return tmp_path


def plugin_commands() -> dict[str, app.Lazy]:
    """The commands of this plugin, without a child process."""
    from slt_nna.plugin import slt_commands

    return {command.name: app.Lazy(command.impl, command.summary) for command in slt_commands()}


def slt(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    Console.quiet = Console.json = Console.debug = False
    with pytest.raises(SystemExit) as end:
        app.run(["nna", *words])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_chips_are_listed_with_what_tells_them_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = slt(capsys, "chips")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert [line[0] for line in lines] == ["chip", "ideal", "generous-8bit", "mixed-8-16", "harsh"]
    assert "float" in lines[1]
    assert " ".join(lines[4]) == "harsh 8 bits 6 bits 6 bits 64 nearest 20 bits / 64 power_of_two half_up"


def test_a_printed_chip_is_a_chip_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from slt_nna.chip import load_chip

    code, out, _ = slt(capsys, "chip", "harsh")
    assert code == 0
    (place / "copy.yaml").write_text(out)
    assert load_chip("copy.yaml") == load_chip("harsh")
    assert slt(capsys, "chip", "copy.yaml")[1] == out


def test_a_wrong_chip_ends_with_code_2_and_the_place(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mine.yaml").write_text("name: mine\ndescription: x\nwords: {weight: 33}\n")
    code, _, err = slt(capsys, "chip", "mine.yaml")
    assert code == 2
    assert "mine.yaml:3:9: words.weight: expected less than or equal to 32, got 33" in err
    code, _, err = slt(capsys, "audit", "asr.yaml", "harhs", "one.wav")
    assert (code, "Did you mean 'harsh'?" in err) == (2, True)


def test_an_audit_prints_the_worst_first_and_writes_json_and_a_page(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = slt(
        capsys, "audit", "asr.yaml", "harsh", "one.wav", "two.wav", "--json", "a.json", "--html", "a.html", "--all"
    )
    assert code == 0, err
    found = json.loads((place / "a.json").read_text())
    assert out.splitlines()[0] == f"harsh: {found['whole_db']:.1f} dB with everything on the chip (2 utterances)"
    ratios = [row["output_db"] for row in found["operators"]]
    assert ratios == sorted(ratios, key=lambda db: float("inf") if db is None else db)
    assert "lstm" in found["kinds"]
    for row in found["operators"]:
        assert row["site"] in out
    page = (place / "a.html").read_text()
    assert "<svg" in page
    assert "slt nna audit asr.yaml harsh one.wav two.wav" in page
    assert "runs of the model" in err


def test_kinds_leave_out_the_single_operators(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = slt(capsys, "audit", "asr.yaml", "mixed-8-16", "one.wav", "--kinds")
    assert code == 0
    assert "every lstm" in out
    assert "alone" not in out


def test_a_cost_counts_what_a_closed_form_counts_and_prints_its_assumptions(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = slt(capsys, "cost", "asr.yaml", "harsh", "one.wav", "--json", "c.json", "--all")
    assert code == 0, err
    (call,) = json.loads((place / "c.json").read_text())["calls"]
    kinds = {row["operator"]: row for row in call["operators"]}
    frames = kinds["linear"]["macs"] // (12 * 5)
    assert kinds["linear"]["macs"] == frames * 12 * 5, "12 features to blank, space and 3 letters"
    assert kinds["lstm"]["macs"] == frames * 4 * 12 * (240 + 12), "three frames of 80 features are stacked"
    assert call["audio_s"] == 1.0
    assert call["per_second"] == call["total"]
    assert "harsh for 1.00 s of sound" in out
    for assumption in call["assumptions"]:
        assert f"- {assumption}" in out


def test_where_nothing_can_be_written_is_said_before_the_work(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = slt(capsys, "audit", "asr.yaml", "harsh", "one.wav", "--html", "no/a.html")
    assert (code, out) == (2, "")
    assert "no/a.html cannot be written: there is no folder no; make it, or choose another" in err


def test_a_recording_that_is_not_there_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = slt(capsys, "cost", "asr.yaml", "harsh", "nowhere.wav")
    assert code == 2
    assert "nowhere.wav" in err
