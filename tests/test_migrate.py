"""Old specs keep loading: step by step, and a fixture of every version that was ever published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_plugins import Slt

from sltcore.errors import SpecError
from sltcore.migrate import CURRENT, MIGRATIONS, migrate
from sltcore.registry import Registry
from sltcore.spec import SPEC_VERSION, load_spec, parse_document

FOLDER = Path(__file__).parent / "specs"


def test_there_is_a_fixture_of_every_version() -> None:
    assert CURRENT == SPEC_VERSION
    assert sorted(path.name for path in FOLDER.glob("v*.yaml")) == [
        f"v{number}.yaml" for number in range(1, CURRENT + 1)
    ]
    assert set(MIGRATIONS) == set(range(1, CURRENT))


@pytest.mark.parametrize("version", range(1, CURRENT + 1))
def test_a_published_spec_loads_forever(demo_registry: Registry, version: int) -> None:
    filled = load_spec(FOLDER / f"v{version}.yaml", registry=demo_registry).filled()
    assert filled["name"] == "version one"
    assert filled["encoder"]["base"] == {
        "use": "frames",
        "bands": 40,
        "shift_s": 0.02,
        "window": "hann",
        "dither": False,
    }
    assert filled["decoder"]["phrases"] == ["no", "yes", "1e"]
    assert [block["use"] for block in filled["transforms"]] == ["bits", "adapter/low-rank"]
    assert filled["metrics"][1]["low"] == 0.1
    assert filled["segment"]["pause_s"] == 0.5


def one(data: dict[str, Any]) -> dict[str, Any]:
    """Version -1 called the decoder `search`."""
    return {("decoder" if key == "search" else key): value for key, value in data.items()}


def two(data: dict[str, Any]) -> dict[str, Any]:
    """Version 0 wrote the beam beside the decoder."""
    return {
        **{key: value for key, value in data.items() if key != "beam"},
        "decoder": {**data["decoder"], "beam": data["beam"]},
    }


OLD = "slt: -1\nkind: pipeline\nsearch: {use: search}\nbeam: 5\n"


def test_migrations_run_in_steps_and_leave_their_input() -> None:
    old = parse_document(OLD).data
    before = parse_document(OLD).data
    assert migrate(old, {-1: one, 0: two}) == {"slt": 1, "kind": "pipeline", "decoder": {"use": "search", "beam": 5}}
    assert old == before
    newest = {"slt": 1, "kind": "pipeline"}
    assert migrate(newest, {-1: one, 0: two}) is newest


def test_an_old_spec_loads_as_the_newest(
    demo_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    with pytest.raises(SpecError, match=r"old\.yaml:1:1: slt: there is no version -1; write slt: 1$"):
        load_spec(path, registry=demo_registry)
    monkeypatch.setitem(MIGRATIONS, -1, one)  # type: ignore[arg-type]
    monkeypatch.setitem(MIGRATIONS, 0, two)  # type: ignore[arg-type]
    filled = load_spec(path, registry=demo_registry).filled()
    assert (filled["slt"], filled["decoder"]["use"], filled["decoder"]["beam"]) == (1, "search", 5)
    path.write_text(OLD.replace("beam: 5\n", ""))
    with pytest.raises(SpecError) as caught:
        load_spec(path, registry=demo_registry)
    assert str(caught.value) == f"{path}:1:1: this spec of version -1 cannot be brought to version 1: KeyError: 'beam'"


def test_the_command_keeps_a_new_spec_as_it_is(slt: Slt, tmp_path: Path) -> None:
    source = FOLDER / "v1.yaml"
    done = slt("migrate", source)
    assert (done.returncode, done.stdout) == (0, source.read_text())
    assert done.stderr == f"{source} is of the newest version, 1\n"
    done = slt("migrate", source, "--out", tmp_path / "no" / "x.yaml")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'no' / 'x.yaml'} cannot be written: No such file or directory\n"
