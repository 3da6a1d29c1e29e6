"""What a chip's description promises: the shipped ones load, and a wrong one says where and what."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slt_nna.chip import Chip, Table, chip_file, chip_names, load_chip
from slt_nna.perturb import PERTURBATIONS, perturbed
from sltcore.errors import PluginError, SpecError

MINIMAL = {"name": "mine", "description": "a chip"}


def chip(**fields: Any) -> Chip:
    return load_chip({**MINIMAL, **fields})


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", chip_names())
def test_shipped_chips_load_under_their_own_name_and_give_reasons(name: str) -> None:
    found = load_chip(name)
    assert found.name == name
    assert len(found.description) > 100
    assert found.is_ideal == (name == "ideal")


def test_every_shipped_file_is_listed() -> None:
    assert {path.stem for path in chip_file("ideal").parent.glob("*.yaml")} == set(chip_names())


def test_the_shipped_chips_get_harsher_in_their_order() -> None:
    generous, mixed, harsh = (load_chip(name) for name in chip_names()[1:])
    for word in type(harsh.words).model_fields:
        sizes = [getattr(each.words, word) for each in (generous, mixed, harsh)]
        assert sizes == sorted(sizes, reverse=True), word
    for function in type(harsh.tables).model_fields:
        tables = [getattr(each.tables, function) for each in (generous, mixed, harsh)]
        assert [table.entries for table in tables] == sorted((t.entries for t in tables), reverse=True)
        assert tables[2].range <= tables[1].range
    assert harsh.host == ()


def test_a_chip_is_the_same_by_name_by_path_and_as_a_mapping(tmp_path: Path) -> None:
    by_name = load_chip("harsh")
    copied = written(tmp_path, chip_file("harsh").read_text(encoding="utf-8"))
    assert (
        load_chip(copied) == load_chip(str(copied)) == load_chip(by_name.model_dump()) == load_chip(by_name) == by_name
    )


def test_every_field_has_a_description() -> None:
    def check(model: Any) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation)

    check(Chip)
    check(Table)


def test_an_unknown_name_lists_the_shipped_chips_and_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"no chip is named 'harhs'; shipped: ideal, generous-8bit, mixed-8-16, harsh; .*"
                       r"Did you mean 'harsh'\?"):  # fmt: skip
        load_chip("harhs")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"chip file .*nowhere\.yaml cannot be read: No such file"):
        load_chip(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"mine\.yaml:1:1: the chip file is empty; begin with a copy of `slt nna chip mixed-8-16`"),
        ("- 1\n", r"mine\.yaml:1:1: expected the fields of a chip, got \[1\]"),
        ("name: x\n", r"mine\.yaml:1:1: description: needs a value here: field 'description' is required"),
        (
            "name: x\ndescription: y\nwords:\n  weight: 40\n",
            r"mine\.yaml:4:3: words\.weight: expected less than or equal to 32, got 40",
        ),
        (
            "name: x\ndescription: y\nwords:\n  weight: 8.0\n",
            r"mine\.yaml:4:3: words\.weight: expected .*integer, got 8\.0",
        ),
        (
            "name: x\ndescription: y\nwords:\n  wieght: 8\n",
            r"mine\.yaml:4:3: words\.wieght: has no field 'wieght'; fields: weight, .*\. Did you mean 'weight'\?",
        ),
        ("name: x\ndescription: y\nhost: [linaer]\n", r"mine\.yaml:3:8: host\[0\]: expected 'linear', .*got 'linaer'"),
        ("name: x\ndescription: y: z\n", r"mine\.yaml:2:15: not YAML"),
        ("name: x\ndescription: y\nrounding: up\n", r"mine\.yaml:3:1: rounding: expected 'half_up', .*got 'up'"),
    ],
)
def test_a_broken_file_says_line_field_and_what_was_expected(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        load_chip(written(tmp_path, text))


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "name: x\ndescription: y\nwords: {weight: 1}\nscales: none\nhost: [x]\n")
    with pytest.raises(SpecError) as caught:
        load_chip(path)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["words.weight", "scales", "host[0]"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"words": {"weight": 20}}, r"words\.weight: expected 2 to 16 bits, or 32 in all words for float, got 20"),
        ({"words": {"weight": 32}}, r"words\.state: expected 32 as in words\.weight, got 16"),
        (
            {"words": {"bias": 12}, "accumulator": {"bits": 12}},
            r"accumulator\.bits: expected at least 16, got 12: the product of a 8-bit and a 8-bit number",
        ),
        ({"accumulator": {"bits": 20}}, r"words\.bias: expected at most the 20 bits of the accumulator.*got 32"),
        (
            {"accumulator": {"bits": 40}, "scales": "free"},
            r"multiplier_bits: expected at most 22 beside an accumulator of 40 bits, got 24",
        ),
        (
            {"words": {"weight": 16}, "scales": "free", "multiplier_bits": 30},
            r"multiplier_bits: expected at most 28 beside weights of 16 bits, got 30",
        ),
        (
            {"tables": {"sigmoid": {"entries": 100}}},
            r"tables\.sigmoid\.entries: expected a power of two such as 256, got 100",
        ),
        (
            {"tables": {"exp": {"entries": 256}}},
            r"tables\.exp\.entries: expected a power of two and one such as 257, got 256",
        ),
        ({"tables": {"tanh": {"range": 3.0}}}, r"tables\.tanh\.range: expected a power of two such as 8, got 3"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        chip(**fields)


def test_fields_that_do_not_fit_are_found_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"mine\.yaml:5:5: tables\.tanh\.range: expected a power of two"):
        load_chip(written(tmp_path, "name: x\ndescription: y\ntables:\n  tanh:\n    range: 3.0\n"))


def test_free_scales_take_any_table_and_a_table_may_be_missing() -> None:
    found = chip(scales="free", tables={"sigmoid": {"entries": 100, "range": 3.0}, "phi": None})
    assert found.tables.sigmoid == Table(entries=100, range=3.0)
    assert found.tables.phi is None


def test_a_chip_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_chip("harsh").name = "soft"  # type: ignore[misc]


def test_a_perturbed_chip_differs_in_nothing_but_the_perturbation() -> None:
    harsh = load_chip("harsh")
    for kind in PERTURBATIONS:
        other = perturbed(harsh, kind, seed=3)
        assert load_chip(other.model_dump()) == other, "it is a valid chip"
        changed = {name for name in type(harsh).model_fields if getattr(harsh, name) != getattr(other, name)}
        assert changed == {"name", "rounding" if kind == "rounding" else "tables"}
        for function in type(harsh.tables).model_fields:
            before, after = getattr(harsh.tables, function), getattr(other.tables, function)
            assert after.model_copy(update={"gain": 1.0}) == before
            assert 0.9 <= after.gain <= 1.1 + 1e-12


def test_perturbed_tables_follow_the_seed() -> None:
    harsh = load_chip("harsh")
    assert perturbed(harsh, "tables", seed=1) == perturbed(harsh, "tables", seed=1)
    assert perturbed(harsh, "tables", seed=1) != perturbed(harsh, "tables", seed=2)


def test_perturbing_the_other_way_is_refused() -> None:
    with pytest.raises(
        PluginError, match=r"cannot be perturbed by 'roundign'; kinds: rounding, .* Did you mean 'rounding'\?"
    ):
        perturbed(load_chip("harsh"), "roundign")  # type: ignore[arg-type]
    with pytest.raises(PluginError, match="chip 'ideal' is float"):
        perturbed(load_chip("ideal"), "rounding")


def test_reading_a_chip_imports_nothing_heavy() -> None:
    code = "import sys, slt_nna.chip as c; c.load_chip('harsh'); print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
