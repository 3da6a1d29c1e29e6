"""The promises of the plugins named by `--slt-plugin`, kind decoder."""

from __future__ import annotations

from sltcore.testing.promises.decoder import DecoderPromises


class TestDecoder(DecoderPromises):
    """Each component in turn."""
