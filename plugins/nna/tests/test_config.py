"""A chip in a spec: its file lies beside the spec, and what is wrong with it is told once, in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from slt_nna.chip import load_chip
from slt_nna.config import NnaConfig
from sltcore.errors import SpecError
from sltcore.spec import load_spec

SPEC = """slt: 1
kind: pipeline
encoder: {{use: lstm, hidden: 8, layers: 1}}
decoder: {{use: ctc-greedy, characters: "ab"}}
transforms:
  - use: nna
    chip: {chip}
"""


@pytest.fixture(autouse=True)
def speech() -> None:
    pytest.importorskip("slt_speech")


def spec(folder: Path, chip: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(SPEC.format(chip=chip), encoding="utf-8")
    return path


def chip_of(path: Path) -> Any:
    (block,) = load_spec(path).model.transforms
    return block.config.chip


@pytest.mark.parametrize("written", ["mine.yaml", "./mine.yaml", "chips/mine.yaml"])
def test_a_chip_file_lies_beside_the_spec_wherever_one_stands(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "specs" / "chips").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "specs" / written).write_text("name: mine\ndescription: ours\nrounding: half_up\n", encoding="utf-8")
    chip = chip_of(spec(tmp_path / "specs", written))
    assert (chip.name, chip.rounding) == ("mine", "half_up")
    assert chip_of(spec(tmp_path / "specs", str(tmp_path / "specs" / written))) == chip


def test_a_chip_file_that_is_not_beside_the_spec_is_looked_for_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "specs").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: here\ndescription: ours\n", encoding="utf-8")
    assert chip_of(spec(tmp_path / "specs", "mine.yaml")).name == "here"
    (tmp_path / "specs" / "mine.yaml").write_text("name: beside\ndescription: ours\n", encoding="utf-8")
    assert chip_of(spec(tmp_path / "specs", "mine.yaml")).name == "beside"


def test_a_name_is_a_shipped_chip_even_beside_a_file_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "harsh").write_text("name: mine\ndescription: ours\n", encoding="utf-8")
    assert chip_of(spec(tmp_path, "harsh")) == load_chip("harsh")


@pytest.mark.parametrize("given", ["true", "7", "[harsh]", "null"])
def test_a_chip_that_is_none_is_refused_with_what_is_one(given: str, tmp_path: Path) -> None:
    shown = {"true": "True", "7": "7", "[harsh]": r"\['harsh'\]", "null": "None"}[given]
    with pytest.raises(
        SpecError,
        match=rf"spec.yaml:7:5: transforms\[0\].chip: accelerator/nna expected a shipped chip \(ideal, .*harsh\), the path of "
        rf"a YAML file, or the fields of a chip, got {shown} ",
    ):
        chip_of(spec(tmp_path, given))


def test_what_is_wrong_in_a_chip_file_is_told_with_its_place_and_once(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\ndescription: ours\nrounding: up\n", encoding="utf-8")
    with pytest.raises(SpecError) as refused:
        chip_of(spec(tmp_path, "mine.yaml"))
    (line,) = str(refused.value).splitlines()
    assert re.search(r"transforms\[0\].chip: .*mine.yaml:3:1: rounding: expected 'half_up'.*, got 'up'$", line)
    with pytest.raises(
        SpecError, match=rf"chip file {re.escape(str(tmp_path / 'other.yaml'))} cannot be read: No such file"
    ):
        chip_of(spec(tmp_path, "other.yaml"))
    with pytest.raises(SpecError, match="no chip is named 'harhs'.*Did you mean 'harsh'"):
        chip_of(spec(tmp_path, "harhs"))


def test_fields_and_names_need_no_spec() -> None:
    assert NnaConfig(chip="harsh").chip == load_chip("harsh")  # type: ignore[arg-type]
    assert NnaConfig(chip={"name": "a", "description": "b"}).chip.name == "a"  # type: ignore[arg-type]
