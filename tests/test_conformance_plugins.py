"""Every component of the published plugins keeps the promises of its kind, by the command that plugin authors use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sltcore.registry import KNOWN_COMPONENTS, Registry


@pytest.mark.slow
@pytest.mark.parametrize("plugin", ["speech", "ctc-personalization"])
def test_a_published_plugin_passes_the_kit(plugin: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--pyargs", "sltcore.testing.conformance", "--slt-plugin", plugin]
    done = subprocess.run(
        [*command, "-q", "-p", "no:cacheprovider"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_the_table_of_published_components_is_the_plugins_own() -> None:
    brought: dict[str, set[str]] = {}
    for entry in Registry().entries:
        brought.setdefault(entry.distribution, set()).add(f"{entry.component.kind}/{entry.component.name}")
    for distribution, components in KNOWN_COMPONENTS.items():
        assert brought[distribution] == set(components)
