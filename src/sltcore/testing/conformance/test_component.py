"""The promises of every component, whatever its kind, for the plugins named by `--slt-plugin`."""

from __future__ import annotations

from sltcore.testing.promises.component import ComponentPromises


class TestComponent(ComponentPromises):
    """Each component in turn."""
