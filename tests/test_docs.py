"""The documentation says what the code does: every block of every page runs, and nothing that exists is left out.

Conventions of the pages, which `tests/docs_page.py` carries out:

- a block with `title="FILE"` is also written to that file, so that later blocks can use it;
- `yaml` that is a spec is validated; `python` is executed, one namespace for each page, and a `text` block titled
  "output" right after it is what it prints; in `console` each line after `$ ` is run and what is shown is compared,
  where `...` stands for anything.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sltcore.errors
from sltcore.cli import app
from sltcore.interfaces import INTERFACES
from sltcore.plugin import Hooks

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path[:0] = [str(DOCS), str(ROOT / "tests")]

from docs_page import NOT_RUN, Page, recording  # noqa: E402
from generation import blocks  # noqa: E402
from generation.blocks import blocks_of, commands_of  # noqa: E402
from generation.commands import command_tree  # noqa: E402
from generation.excerpts import EXCERPT, refreshed  # noqa: E402
from generation.pages import generated_pages  # noqa: E402

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.glob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
    *sorted((ROOT / "changelog").glob("*.md")),
]
IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return generated_pages()


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording for the pages that need one."""
    return recording(tmp_path_factory.mktemp("recording") / "call.wav")


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_every_block_runs(path: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Page(path, tmp_path, speech, monkeypatch).run()


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_links_lead_somewhere(path: Path, generated: dict[str, str]) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            virtual = path.parent == DOCS and target in generated
            assert virtual or (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_excerpts_are_those_of_the_package(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("<!-- excerpt:") == len(EXCERPT.findall(text)), f"{path.name}: an excerpt has no end"
    assert refreshed(text) == text, (
        f"{path.name} differs from the package; run `python -m generation.excerpts` in docs/"
    )


def test_shown_and_printed_output_are_compared_as_the_pages_assume() -> None:
    assert doctest.testmod(blocks).attempted >= 3
    assert doctest.testmod(blocks).failed == 0


def test_no_command_is_excused_for_nothing() -> None:
    used = [
        command.text
        for path in PAGES
        for block in blocks_of(path.read_text(encoding="utf-8"))
        if block.language == "console"
        for command in commands_of(block)
    ]
    for prefix in NOT_RUN:
        assert any(text.startswith(prefix) for text in used), f"no page shows `{prefix}`; remove it from NOT_RUN"


def test_every_hook_has_a_heading_with_its_arguments() -> None:
    text = (DOCS / "hooks.md").read_text(encoding="utf-8")
    expected = {
        f"{name}({', '.join(list(inspect.signature(hook).parameters)[1:])})"
        for name, hook in vars(Hooks).items()
        if name.startswith("slt_")
    }
    assert set(re.findall(r"^## `(slt_.*)`$", text, re.MULTILINE)) == expected


def error_classes() -> Iterator[type]:
    for found in vars(sltcore.errors).values():
        if isinstance(found, type) and issubclass(found, sltcore.errors.SltError):
            yield found


def test_every_error_class_has_a_row() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert rows == {cls.__name__ for cls in error_classes()}


def test_every_exit_code_has_a_row() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    codes = {0, app.EXIT_PARTLY, app.EXIT_WRONG, app.EXIT_UNFORESEEN, app.EXIT_INTERRUPTED}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == codes


def test_every_environment_variable_has_a_row() -> None:
    read = set()
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                read |= {node.value} if re.fullmatch(r"SLT_[A-Z_]+", node.value) else set()
    text = (DOCS / "environment.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(SLT_\w+)` \|", text, re.MULTILINE)) == read - {"SLT_API"}  # an attribute of plugins


def test_every_command_and_option_is_in_the_reference(generated: dict[str, str]) -> None:
    page = generated["reference/commands.md"]
    sections = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", page, re.MULTILINE))
    for name, command in command_tree():
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else []:
                assert option == "--help" or f"`{option}`" in sections[f"slt {name}"], f"slt {name} {option}"
    for option in ("--verbose", "-v", "--quiet", "-q", "--log-format", "--debug"):
        assert f"`{option}`" in sections["Global options"]
    assert {name.split()[0] for name, _ in command_tree()} == set(app.COMMANDS)


def test_every_promise_of_every_kind_is_in_the_reference(generated: dict[str, str]) -> None:
    page = generated["reference/interfaces.md"]
    sections = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", page, re.MULTILINE))
    for kind, interface in INTERFACES.items():
        for name, sentence in interface.promises.items():
            assert f"| `{name}` | {sentence} |" in sections[kind], f"{kind}: {name}"


def test_every_component_and_field_is_in_the_reference(generated: dict[str, str]) -> None:
    from sltcore.registry import default_registry

    page = generated["reference/components.md"]
    for entry in default_registry().entries:
        section = page.partition(f"{{#{entry.component.kind}-{entry.component.name}}}")[2].partition("\n### ")[0]
        for name in entry.load_config().model_fields:
            assert f"| `{name}` |" in section, f"{entry.label}: {name}"
        assert f"[{entry.component.name}](components.md#" in generated["reference/plugins.md"]


def test_generated_pages_are_the_same_twice_and_name_no_place_on_this_machine(generated: dict[str, str]) -> None:
    assert generated_pages() == generated
    for path, text in generated.items():
        assert str(ROOT) not in text, path
        assert str(Path.home()) not in text, path


def test_the_walkthrough_needs_at_most_sixty_lines_of_ones_own() -> None:
    blocks = blocks_of((DOCS / "write-a-plugin.md").read_text(encoding="utf-8"))
    own = [block for block in blocks if block.title.startswith("src/") and block.title.endswith(".py")]
    assert len(own) >= 3
    lines = [line for block in own for line in block.text.splitlines() if line.strip()]
    assert len(lines) <= 60, f"{len(lines)} lines in {', '.join(block.title for block in own)}"


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        outside = re.findall(r'(?:src|<link[^>]*href)="(https?://[^"]*)', page.read_text(encoding="utf-8"))
        assert not outside, f"{page.name} loads {outside[0]} from the network"
