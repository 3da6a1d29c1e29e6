"""The promises of the plugins named by `--slt-plugin`, kind privacy."""

from __future__ import annotations

from sltcore.testing.promises.privacy import PrivacyPromises


class TestPrivacy(PrivacyPromises):
    """Each component in turn."""
