"""Rerankers together: one after the other, or as a weighted sum that is learned."""
