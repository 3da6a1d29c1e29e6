"""`slt new-plugin`: a complete distribution to start from, one small real technique for each kind.

The files lie beside this one, `shared/` for all kinds and `kinds/KIND/` for one, with `new-name`, `new_name` and
`NewName` where the name goes.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from sltcore.errors import PluginError, did_you_mean
from sltcore.plugin import KINDS

FOLDER = Path(__file__).parent
SUFFIX = ".txt"
TAKEN = ("sltcore", "test", "tests", "plugin", "config", "build")
KIND_CLASSES = {kind: f"{kind.capitalize()}Promises" for kind in KINDS}
SPEC_USE = "A spec that uses it (`slt check examples/new-name.yaml` tells what else it needs):"
PROGRAM_USE = "A program that uses it (`python examples/new_name.py`):"


def new_plugin(name: str, kind: str, folder: Path) -> list[Path]:
    """Write a plugin named `name` with one component of `kind` into `folder/name`; returns the files written.

    **Raises** `PluginError` when the name is not lower-case words joined by hyphens, the kind is unknown, `folder` does
    not exist, or `folder/name` does.
    """
    check_name(name)
    if kind not in KINDS:
        raise PluginError(f"no kind is named '{kind}'; kinds: {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
    folder = Path(folder)
    if not folder.is_dir():
        raise PluginError(f"folder '{folder}' does not exist; create it, or name another one with --dir")
    root = folder / name
    if root.exists():
        raise PluginError(f"'{root}' exists already, and nothing was written; choose another name, or remove it first")
    files = rendered(name, kind)
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return [root / path for path in files]


def check_name(name: str) -> None:
    """**Raises** `PluginError` for a name that cannot become a distribution, a package and a component."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 60:
        raise PluginError(
            f"'{name}' cannot name a plugin; use lower-case words joined by hyphens, such as 'whisper-bias'"
        )
    if name in TAKEN or keyword.iskeyword(name):
        raise PluginError(f"'{name}' cannot name a plugin, it has a meaning already; add a word, such as '{name}-two'")


def rendered(name: str, kind: str) -> dict[Path, str]:
    """Every file of the plugin, by its path inside the plugin's folder."""
    package = Path("src") / f"slt_{name.replace('-', '_')}"
    own = {
        path.name.removesuffix(SUFFIX): path.read_text(encoding="utf-8")
        for path in (FOLDER / "kinds" / kind).glob("*" + SUFFIX)
    }
    shared = {
        path.name.removesuffix(SUFFIX): path.read_text(encoding="utf-8")
        for path in (FOLDER / "shared").glob("*" + SUFFIX)
    }
    example = next(file for file in own if file.startswith("example."))
    module = next(file for file in own if file not in (example, "plugin.py", "config.py", "build.py"))
    language = example.rpartition(".")[2]
    fields = {
        "KIND_IMPORTS": ", ".join(sorted(("ComponentPromises", KIND_CLASSES[kind]))),
        "KIND_CLASS": KIND_CLASSES[kind],
        "KIND_ARTICLE": "An" if kind[0] in "aeiou" else "A",
        "KIND_NAME": kind,
        "MODULE_NAME": module.removesuffix(".py"),
        "SUMMARY_LINE": quoted("summary", own["plugin.py"]),
        "SOURCE_LINE": quoted("source", own["plugin.py"]),
        "EXAMPLE_USE": SPEC_USE if language == "yaml" else PROGRAM_USE,
        "EXAMPLE_LANGUAGE": {"py": "python"}.get(language, language),
        "EXAMPLE_TEXT": own[example].rstrip(),
        "new-name": name,
        "new_name": name.replace("-", "_"),
        "NewName": "".join(word.capitalize() for word in name.split("-")),
    }
    places = {
        Path("pyproject.toml"): shared["pyproject.toml"],
        Path("README.md"): shared["README.md"],
        package / "__init__.py": capitalised(shared["init.py"]),
        package / "py.typed": "",
        package / "plugin.py": own["plugin.py"],
        package / "config.py": own["config.py"],
        package / "build.py": own["build.py"],
        package / module: own[module],
        Path("tests") / "test_conformance.py": shared["test_conformance.py"],
        Path("examples") / (f"{name}.yaml" if language == "yaml" else f"{name.replace('-', '_')}.py"): own[example],
    }
    taken = "\n".join([*own.values(), *KIND_CLASSES.values(), "TestComponent ComponentPromises"])
    if re.search(rf"\b(Test)?{fields['NewName']}\b", taken):
        raise PluginError(
            f"'{name}' cannot name a plugin of kind {kind}: its class would be called {fields['NewName']}, as something "
            f"it uses is; add a word, such as '{name}-two'"
        )
    return {path: filled(text, fields) for path, text in places.items()}


def filled(text: str, fields: dict[str, str]) -> str:
    """The text with every field in place; values may hold later fields."""
    for field, value in fields.items():
        text = text.replace(field, value)
    return text


def quoted(field: str, plugin: str) -> str:
    """A quoted argument of the Component in plugin.py."""
    found = re.search(rf'{field}="([^"]*)"', plugin)
    assert found is not None, f"the template's plugin.py states no {field}"
    return found.group(1)


def capitalised(text: str) -> str:
    """The package's docstring as a sentence: flit takes the distribution's description from it."""
    return text.replace('"""SUMMARY_LINE"""', '"""new-name: SUMMARY_LINE."""')
