"""Which tables, columns and cells a question names."""

from slt_sql_rerank.linking.index import HOW, Link, LinkIndex

__all__ = ["HOW", "Link", "LinkIndex"]
