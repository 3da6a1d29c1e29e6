"""The promises of the plugins named by `--slt-plugin`, kind augmentation."""

from __future__ import annotations

from sltcore.testing.promises.augmentation import AugmentationPromises


class TestAugmentation(AugmentationPromises):
    """Each component in turn."""
