"""Fixtures of the core's tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that tests can import their helpers, which no package holds

from fake_plugins import Site, Slt, write_demo


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's shell reaches a test."""
    for name in ("SLT_PLUGINS", "SLT_DISABLE", "SLT_STRICT", "SLT_PLUGIN_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty folder of installed distributions."""
    return Site(tmp_path / "site")


@pytest.fixture
def slt() -> Slt:
    """Runs the command line in a child process."""
    return Slt()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The demonstration plugin with nested slots, references and lists, installed and importable here."""
    folder = Site(tmp_path_factory.mktemp("demo"))
    write_demo(folder)
    sys.path.insert(0, str(folder.folder))
    yield folder
    sys.path.remove(str(folder.folder))


@pytest.fixture(scope="session")
def demo_registry(demo: Site) -> object:
    """A registry of the demonstration plugin alone."""
    from sltcore.registry import Registry

    return Registry(path=[str(demo.folder)])


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a spec and gives its path."""

    def writer(text: str, name: str = "spec.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return writer
