"""What a fresh process has loaded after the cheap commands."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from fake_plugins import Site, write_demo

import sltcore

HEAVY = ("torch", "datasets", "numpy", "transformers", "scipy", "pandas", "numba", "pyarrow", "soundfile", "av")
REPORT = (
    "import json, sys\nsys.stderr.write('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
)
COMMAND = "import atexit\n@atexit.register\ndef report():\n    " + REPORT.replace("\n", "\n    ").rstrip() + (
    "\nfrom sltcore.cli import main\nmain()\n"
)  # fmt: skip


def loaded(code: str, *arguments: str, site: Site | None = None) -> set[str]:
    """Top-level modules of a fresh process that ran `code`."""
    environment = site.environment() if site is not None else None
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.rpartition("\n")[2]))


def test_import_sltcore_loads_the_standard_library_alone() -> None:
    found = loaded("import sltcore\n" + REPORT)
    assert (
        found - set(sys.stdlib_module_names) <= {"sltcore", "__main__", "sitecustomize", "usercustomize"} | _from_site()
    )


def _from_site() -> set[str]:
    """What an empty process of this environment loads already (hooks of editable installations, for one)."""
    return loaded(REPORT)


def test_public_names_come_when_asked() -> None:
    assert "pluggy" in loaded("from sltcore import Component\n" + REPORT)
    with pytest.raises(AttributeError) as caught:
        sltcore.nothing  # noqa: B018
    assert str(caught.value).startswith("module 'sltcore' has no attribute 'nothing'; public names: Component, ")


@pytest.mark.parametrize("words", [["--help"], ["plugins"], ["doctor"]])
def test_listing_loads_nothing_heavy(words: list[str]) -> None:
    code = COMMAND.replace(
        "main()\n", "try:\n    main()\nexcept SystemExit as done:\n    assert done.code in (0, None, 1)\n"
    )
    found = loaded(code, *words)
    assert not found & set(HEAVY)  # typer itself may load pydantic


def test_check_loads_pydantic_but_no_torch(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    write_demo(site)
    spec = tmp_path / "s.yaml"
    spec.write_text("slt: 1\nkind: pipeline\nencoder: {use: stack, base: frames}\ndecoder: search\n")
    code = COMMAND.replace(
        "main()\n", "try:\n    main()\nexcept SystemExit as done:\n    assert done.code in (0, None)\n"
    )
    found = loaded(code, "check", str(spec), site=site)
    assert "pydantic" in found
    assert not found & set(HEAVY)


def installed() -> list[tuple[str, Path]]:
    """The plugin module of every installed plugin of ours, as a file."""
    import importlib.util

    found = []
    for point in metadata.entry_points(group="sltcore"):
        package = importlib.util.find_spec(point.value.partition(".")[0])
        assert package is not None
        assert package.submodule_search_locations
        found.append((point.value, Path(next(iter(package.submodule_search_locations)))))
    return found


def imported_modules(file: Path) -> set[str]:
    """Top-level imports of a source file, those under TYPE_CHECKING aside."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in tree.body:
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def test_plugins_declare_themselves_with_next_to_nothing() -> None:
    """plugin.py and every config module import sltcore, the standard library, and pydantic in configs only."""
    code = (
        "import json, sys\n"
        "from sltcore.registry import Registry\n"
        "registry = Registry()\n"
        "first = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "configs = sorted({entry.component.config.partition(':')[0] for entry in registry.entries})\n"
        "for entry in registry.entries:\n    entry.load_config()\n"
        "second = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "print(json.dumps([first, second, configs, [row.status + ' ' + row.plugin for row in registry.rows]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second, configs, rows = json.loads(done.stdout.splitlines()[-1])
    assert all(row.startswith(("ok ", "slow ")) for row in rows), rows
    assert not set(first) & {*HEAVY, "pydantic"}
    assert not set(second) & set(HEAVY)
    assert not rows or "pydantic" in second
    for module, package in installed():
        own = package.name
        declared = {module, *(name for name in configs if name.startswith(f"{own}."))}
        for name in declared:
            file = package.joinpath(*name.split(".")[1:]).with_suffix(".py")
            allowed = {"sltcore", own, *sys.stdlib_module_names} | ({"pydantic"} if name != module else set())
            outside = {found for found in imported_modules(file) if found.partition(".")[0] not in allowed}
            assert not outside, f"{file} imports {', '.join(sorted(outside))}"
