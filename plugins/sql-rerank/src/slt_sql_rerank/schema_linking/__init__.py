"""Reranker `schema-linking`: candidates that use what the question names come first."""
