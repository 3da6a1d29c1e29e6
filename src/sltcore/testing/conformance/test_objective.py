"""The promises of the plugins named by `--slt-plugin`, kind objective."""

from __future__ import annotations

from sltcore.testing.promises.objective import ObjectivePromises


class TestObjective(ObjectivePromises):
    """Each component in turn."""
