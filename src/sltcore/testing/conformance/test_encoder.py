"""The promises of the plugins named by `--slt-plugin`, kind encoder."""

from __future__ import annotations

from sltcore.testing.promises.encoder import EncoderPromises


class TestEncoder(EncoderPromises):
    """Each component in turn."""
