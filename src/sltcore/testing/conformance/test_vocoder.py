"""The promises of the plugins named by `--slt-plugin`, kind vocoder."""

from __future__ import annotations

from sltcore.testing.promises.vocoder import VocoderPromises


class TestVocoder(VocoderPromises):
    """Each component in turn."""
