"""`slt check` of a chip's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from slt_nna.chip import check_file, chip_file, chip_names, load_chip
from slt_nna.plugin import slt_commands
from sltcore.cli import app
from sltcore.errors import SpecError


def test_slt_check_says_what_is_wrong_with_a_chip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("kind: chip\nname: mine\ndescription: ours\n", encoding="utf-8")
    bad.write_text("kind: chip\nname: mine\ndescription: ours\nrounding: up\n", encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        app.run(["check", str(good), str(bad)])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"{good}: good",
        f"error: {bad}:4:1: rounding: expected 'half_up', 'half_even', 'half_away' or 'truncate', got 'up'",
    ]


@pytest.mark.parametrize("name", chip_names())
def test_shipped_chips_say_what_they_are_and_pass(name: str) -> None:
    assert chip_file(name).read_text(encoding="utf-8").startswith("kind: chip\n")
    check_file(chip_file(name))


def test_a_file_without_a_kind_is_a_chip_and_one_of_another_kind_is_not() -> None:
    assert load_chip({"name": "mine", "description": "ours"}) == load_chip(
        {"kind": "chip", "name": "mine", "description": "ours"}
    )
    with pytest.raises(SpecError, match=r"^chip: kind: expected chip, got 'pipeline'$"):
        load_chip({"kind": "pipeline", "name": "mine", "description": "ours"})


def test_the_check_is_announced() -> None:
    assert [command.checks for command in slt_commands()] == [{"chip": "slt_nna.chip:check_file"}]
