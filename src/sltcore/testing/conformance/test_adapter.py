"""The promises of the plugins named by `--slt-plugin`, kind adapter."""

from __future__ import annotations

from sltcore.testing.promises.adapter import AdapterPromises


class TestAdapter(AdapterPromises):
    """Each component in turn."""
