"""N-best reranking for text-to-SQL: schemas, a sandbox for candidates, metrics, and rerankers."""

__version__ = "0.1.0"
