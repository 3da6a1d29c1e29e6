"""The promises of the plugins named by `--slt-plugin`, kind reranker."""

from __future__ import annotations

from sltcore.testing.promises.reranker import RerankerPromises


class TestReranker(RerankerPromises):
    """Each component in turn."""
