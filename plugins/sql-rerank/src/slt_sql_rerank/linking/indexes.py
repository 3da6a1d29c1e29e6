"""Indexes by database, each built once."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from slt_sql_rerank import databases
from slt_sql_rerank.databases import Sandboxes, schema_of
from slt_sql_rerank.linking.index import LinkIndex, read_cells
from slt_sql_rerank.schema import Schema
from sltcore.errors import ContextError

LOG = logging.getLogger(__name__)
MOST_KEPT = 256


class Indexes:
    """The index of each database that was asked about; a file that changed is read anew."""

    def __init__(self, sandboxes: Sandboxes, *, cells: bool = True, most: int = 5000) -> None:
        """`cells`: whether cells are read, at most `most` of each column."""
        self.sandboxes, self.cells, self.most = sandboxes, cells, most
        self._kept: OrderedDict[Any, LinkIndex] = OrderedDict()

    def of(self, database: Any) -> LinkIndex:
        """The index of a context value. **Raises** `ContextError` for none, `DataError` where it cannot be read."""
        schema = schema_of(database)
        if schema is None:
            raise ContextError("the call gives no context 'database' to link a question to")
        key = _key(database)
        if key not in self._kept:
            began = time.perf_counter()
            self._kept[key] = LinkIndex(schema, self._cells(database, schema))
            size = len(self._kept[key].postings)
            LOG.info("index of %s: %d keys in %.2f s", schema.name, size, time.perf_counter() - began)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _cells(self, database: Any, schema: Schema) -> dict[tuple[str, str], list[str]]:
        if not self.cells or not databases.has_rows(database):
            return {}
        return read_cells(self.sandboxes.of(database), schema, most=self.most)


def _key(database: Any) -> Any:
    if isinstance(database, Schema):
        return database
    path = Path(str(database))
    return (str(database), path.stat().st_mtime_ns) if path.is_file() else str(database)
