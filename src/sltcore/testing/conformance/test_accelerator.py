"""The promises of the plugins named by `--slt-plugin`, kind accelerator."""

from __future__ import annotations

from sltcore.testing.promises.accelerator import AcceleratorPromises


class TestAccelerator(AcceleratorPromises):
    """Each component in turn."""
