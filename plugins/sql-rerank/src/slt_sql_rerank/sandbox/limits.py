"""What a candidate may use."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from sltcore.errors import SpecError

NAMES = """
    abs acos acosh asin asinh atan atan2 atanh avg ceil ceiling char coalesce concat concat_ws cos cosh count cume_dist
    current_date current_time current_timestamp date datetime degrees dense_rank exp first_value floor format glob
    group_concat hex if ifnull iif instr json json_array json_array_length json_extract json_group_array
    json_group_object json_object json_quote json_type json_valid julianday lag last_value lead length like likelihood
    likely ln log log10 log2 lower ltrim max min mod nth_value ntile nullif octet_length percent_rank pi pow power printf
    quote radians rank replace round row_number rtrim sign sin sinh soundex sqrt strftime string_agg substr substring
    sum tan tanh time timediff total trim trunc typeof unhex unicode unixepoch unlikely upper -> ->>
"""
FUNCTIONS = frozenset(NAMES.split())
"""SQLite functions that read no file, load no code, draw nothing at random, and know of the machine only its clock."""


@dataclass(frozen=True)
class Limits:
    """Caps on one statement and on the process that runs it.

    `functions` and `table_functions` are the only ones a statement may call; tables are those of the database.
    """

    sql_bytes: int = 20_000
    depth: int = 64
    """Of nested parentheses, CASEs and signs, before any parser sees the text."""
    seconds: float = 2.0
    check_seconds: float = 0.25
    rows: int = 10_000
    cells: int = 100_000
    result_bytes: int = 2_000_000
    value_bytes: int = 4_000_000
    memory_bytes: int = 256 << 20
    operations: int = 100_000
    """Instructions of a compiled statement."""
    functions: frozenset[str] = FUNCTIONS
    table_functions: frozenset[str] = frozenset(("json_each", "json_tree"))

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, frozenset):
                continue
            if not value > 0:
                raise SpecError(f"limit '{field.name}' is {value}; expected a number above 0")

    def message(self) -> dict[str, Any]:
        """As values that JSON knows."""
        return {key: sorted(value) if isinstance(value, frozenset) else value for key, value in asdict(self).items()}
