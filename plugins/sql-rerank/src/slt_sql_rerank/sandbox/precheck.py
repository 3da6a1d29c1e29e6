"""Caps that hold before any parser sees a text."""

from __future__ import annotations

import re

from slt_sql_rerank.sandbox.limits import Limits
from slt_sql_rerank.sandbox.outcome import Verdict

HIDDEN = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.DOTALL)
STEPS = re.compile(r"[(\[]|[)\]]|\bcase\b|\bend\b|(?:(?:\bnot\b|[-+~])\s*)+", re.IGNORECASE)
SIGNS = re.compile(r"\bnot\b|[-+~]", re.IGNORECASE)


def refusal(sql: str, limits: Limits) -> Verdict | None:
    """Why a text is not even parsed, or None.

    Too long in UTF-8, not writable in it, holding NUL or nothing, or nested too deep (parentheses, CASEs and rows of signs,
    those in quotes and comments not counted).
    """
    if not isinstance(sql, str):
        return Verdict(False, "text", f"a candidate is {type(sql).__name__}; expected a string")
    if len(sql) > limits.sql_bytes:
        return Verdict(False, "text", f"the text has {len(sql)} characters; at most {limits.sql_bytes} bytes are read")
    try:
        size = len(sql.encode())
    except UnicodeEncodeError as error:
        return Verdict(False, "text", f"character {error.start} is half a surrogate pair, which no text holds")
    if size > limits.sql_bytes:
        return Verdict(False, "text", f"the text has {size} bytes; at most {limits.sql_bytes} are read")
    if "\0" in sql:
        return Verdict(False, "text", f"character {sql.index(chr(0))} is NUL")
    if not sql.strip().strip(";").strip():
        return Verdict(False, "text", "the text is empty")
    deepest = depth(sql)
    if deepest > limits.depth:
        return Verdict(False, "text", f"the text is nested {deepest} deep; at most {limits.depth} is read")
    return None


def depth(sql: str) -> int:
    """How deep a text nests, by brackets, CASEs and rows of signs.

    >>> depth("SELECT (1 + (2)) FROM t WHERE NOT - 3"), depth("SELECT '((('")
    (2, 0)
    """
    now = deepest = 0
    for found in STEPS.finditer(HIDDEN.sub("''", sql)):
        step = found.group().lower()
        if step in ("(", "[", "case"):
            now += 1
        elif step in (")", "]", "end"):
            now = max(0, now - 1)
        else:
            signs = len(SIGNS.findall(step))
            deepest = max(deepest, now + (signs if signs > 2 else 0))
        deepest = max(deepest, now)
    return deepest
