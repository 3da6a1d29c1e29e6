"""The promises of the plugins named by `--slt-plugin`, kind quantizer."""

from __future__ import annotations

from sltcore.testing.promises.quantizer import QuantizerPromises


class TestQuantizer(QuantizerPromises):
    """Each component in turn."""
