"""The promises of the plugins named by `--slt-plugin`, kind metric."""

from __future__ import annotations

from sltcore.testing.promises.metric import MetricPromises


class TestMetric(MetricPromises):
    """Each component in turn."""
