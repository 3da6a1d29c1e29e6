"""Candidates from gold queries: small edits of the text, right and wrong, valid and not."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from slt_sql_rerank.schema import Schema

Edit = Callable[[str, Schema, random.Random], str]
WORD = re.compile(r"[A-Za-z_][\w]*")
CLAUSES = re.compile(r"\b(select|from|where|group by|having|order by|limit|union|intersect|except)\b", re.IGNORECASE)


def _pick(pattern: str, text: str, draw: random.Random) -> re.Match[str] | None:
    found = list(re.finditer(pattern, text, re.IGNORECASE))
    return draw.choice(found) if found else None


def _swap(pattern: str, choices: Sequence[str]) -> Edit:
    def edit(text: str, schema: Schema, draw: random.Random) -> str:
        found = _pick(pattern, text, draw)
        if found is None:
            return text
        others = [choice for choice in choices if choice.lower() != found.group().strip().lower()]
        return text[: found.start()] + draw.choice(others) + text[found.end() :]

    return edit


def _cut(pattern: str) -> Edit:
    return _swap(pattern, [" "])


def other_column(text: str, schema: Schema, draw: random.Random) -> str:
    """One column's name becomes another's, most often of the same table."""
    names = {c.name.lower(): c.table for c in schema.columns}
    found = [m for m in WORD.finditer(text) if m.group().lower() in names]
    if not found:
        return text
    place = draw.choice(found)
    table = schema.table(names[place.group().lower()]) if draw.random() < 0.8 else draw.choice(schema.tables)
    return text[: place.start()] + draw.choice(table.columns).name + text[place.end() :]


def other_table(text: str, schema: Schema, draw: random.Random) -> str:
    """One table's name becomes another's."""
    found = [m for m in WORD.finditer(text) if m.group() in schema]
    if not found:
        return text
    place = draw.choice(found)
    return text[: place.start()] + draw.choice(schema.tables).name + text[place.end() :]


def other_literal(text: str, schema: Schema, draw: random.Random) -> str:
    """A string or number becomes another."""
    return _swap(r"'[^']*'|\"[^\"]*\"|(?<![\w.])\d+(\.\d+)?", ["'zz'", '"value"', "77", "3.5", "-4"])(
        text, schema, draw
    )


def drop_clause(text: str, schema: Schema, draw: random.Random) -> str:
    """A clause goes, up to the next one."""
    found = list(CLAUSES.finditer(text))
    at = [i for i, m in enumerate(found) if m.group().lower() not in ("select", "from")]
    if not at:
        return text
    chosen = draw.choice(at)
    end = found[chosen + 1].start() if chosen + 1 < len(found) else len(text)
    return text[: found[chosen].start()] + text[end:]


def swap_select(text: str, schema: Schema, draw: random.Random) -> str:
    """The first two columns of SELECT change places."""
    found = re.match(r"(\s*select\s+)([^,()]+?)(\s*,\s*)([^,()]+?)(\s+from\b|\s*,)", text, re.IGNORECASE)
    if not found:
        return text
    return found[1] + found[4] + found[3] + found[2] + found[5] + text[found.end() :]


def swap_conditions(text: str, schema: Schema, draw: random.Random) -> str:
    """Two conditions around AND or OR change places."""
    found = re.search(
        r"(where|having)\s+([^()]+?)\s+(and|or)\s+([^()]+?)(?=\s+(?:group|order|limit)\b|$)", text, re.IGNORECASE
    )
    if not found:
        return text
    return f"{text[: found.start()]}{found[1]} {found[4]} {found[3]} {found[2]}{text[found.end() :]}"


def bracket_condition(text: str, schema: Schema, draw: random.Random) -> str:
    """The first condition comes in brackets."""
    return re.sub(
        r"(where|having)\s+([^()]+?)(?=\s+(?:and|or|group|order|limit)\b|$)",
        r"\1 (\2)",
        text,
        count=1,
        flags=re.IGNORECASE,
    )


def rename_aliases(text: str, schema: Schema, draw: random.Random) -> str:
    """T1 and T2 become a and b, or each other."""
    names = draw.choice([{"t1": "a", "t2": "b", "t3": "c"}, {"t1": "T2", "t2": "T1"}])
    return re.sub(r"\bT[123]\b", lambda m: names.get(m.group().lower(), m.group()), text, flags=re.IGNORECASE)


def list_of_values(text: str, schema: Schema, draw: random.Random) -> str:
    """An equality becomes IN with one or two values."""
    values = draw.choice([r"\1 IN (\2)", r"\1 IN (\2, \2)", r"\1 NOT IN (\2)"])
    return re.sub(r"([\w.]+)\s*=\s*('[^']*'|\"[^\"]*\"|\d+)", values, text, count=1)


def append(*tails: str) -> Edit:
    """Something is added at the end."""
    return lambda text, schema, draw: f"{text.rstrip().rstrip(';')} {draw.choice(tails)}"


def condition(*conditions: str) -> Edit:
    """A condition is added before the rest of WHERE, or as a WHERE before the next clause."""

    def edit(text: str, schema: Schema, draw: random.Random) -> str:
        column = draw.choice(draw.choice(schema.tables).columns).name
        added = draw.choice(conditions).format(column=column)
        if re.search(r"\bwhere\b", text, re.IGNORECASE):
            return re.sub(
                r"\bwhere\b",
                lambda m: f"WHERE {added} {draw.choice(['AND', 'OR'])}",
                text,
                count=1,
                flags=re.IGNORECASE,
            )
        found = re.search(r"\b(group|order|limit|union|intersect|except)\b|$", text, re.IGNORECASE)
        assert found is not None
        return f"{text[: found.start()]} WHERE {added} {text[found.start() :]}"

    return edit


EDITS: dict[str, Edit] = {
    "column": other_column,
    "column again": other_column,
    "table": other_table,
    "literal": other_literal,
    "aggregate": _swap(r"\b(count|max|min|sum|avg)\b(?=\s*\()", ["count", "max", "min", "sum", "avg", "abs", "total"]),
    "operator": _swap(r"(?<=\s)(=|>=|<=|!=|>|<)(?=\s)", ["=", ">", "<", ">=", "<=", "!=", "<>", "==", "LIKE"]),
    "glued operator": lambda t, s, d: re.sub(r"\s*(>=|<=|!=|=|>|<)\s*", d.choice([r"\1", r" \1", r"\1 "]), t, count=1),
    "direction": _swap(r"\b(asc|desc)\b", ["ASC", "DESC", ""]),
    "connector": _swap(r"(?<=\s)(and|or)(?=\s)", ["AND", "OR"]),
    "set operation": _swap(r"\b(union|intersect|except)\b", ["UNION", "INTERSECT", "EXCEPT", "UNION ALL"]),
    "join": _swap(r"\bjoin\b", ["INNER JOIN", "LEFT JOIN", "CROSS JOIN", "NATURAL JOIN", ","]),
    "no AS": _cut(r"\bas\b"),
    "no clause": drop_clause,
    "DISTINCT": lambda t, s, d: re.sub(r"select", "SELECT DISTINCT", t, count=1, flags=re.IGNORECASE),
    "no DISTINCT": _cut(r"\bdistinct\b"),
    "counted DISTINCT": lambda t, s, d: re.sub(
        r"count\s*\(\s*(?!\*|distinct)", "count(DISTINCT ", t, count=1, flags=re.IGNORECASE
    ),
    "LIMIT": append("LIMIT 1", "LIMIT 3", "LIMIT 2 OFFSET 1", "LIMIT 1, 2", "ORDER BY 1", ";", "; ;", "-- x"),
    "number of LIMIT": _swap(r"\blimit\s+\d+", ["LIMIT 5", "LIMIT 1", ""]),
    "order": append("ORDER BY count(*) DESC", "ORDER BY count(*)", "ORDER BY count(*) DESC LIMIT 1", "ORDER BY sum(1)"),
    "group": append("GROUP BY 1", "GROUP BY count(*)", "HAVING count(*) > 1"),
    "select order": swap_select,
    "condition order": swap_conditions,
    "brackets": bracket_condition,
    "aliases": rename_aliases,
    "list": list_of_values,
    "condition": condition(
        "{column} = 1", "{column} IS NOT NULL", "{column} IS NULL", "NOT {column} = 1", "{column} NOT LIKE 'x%'"
    ),
    "column as value": condition(
        "{column} = {column}", "{column} > {column}", "{column} BETWEEN 1 AND 3", "{column} = - 2", "{column} > -2"
    ),
    "exists": condition("EXISTS (SELECT 1)", "1 = 1", "{column} = (1)", "{column} + 1 > 2", "{column} = 1 + 1"),
    "case": lambda t, s, d: t.upper() if d.random() < 0.5 else t.lower(),
    "spaces": lambda t, s, d: re.sub(r"\s*([,()])\s*", r" \1 ", t),
    "backticks": lambda t, s, d: re.sub(r"(?<=[ .])([A-Za-z_]+)(?= *[,=])", r"`\1`", t, count=1),
    "same": lambda t, s, d: re.sub(r"\s+", " ", t),
    "star": lambda t, s, d: re.sub(r"count\s*\(\s*\*\s*\)", "count(1)", t, flags=re.IGNORECASE),
    "value": lambda t, s, d: t.replace("name", "value").replace("Name", "value"),
    "arithmetic": lambda t, s, d: re.sub(
        r"(max|min|avg)\s*\(([^()]*)\)", r"\1(\2) - \1(\2)", t, count=1, flags=re.IGNORECASE
    ),
    "broken": lambda t, s, d: t[: d.randrange(5, len(t))],
}


def candidates(
    gold: str, others: Sequence[str], schema: Schema, draw: random.Random, count: int
) -> list[tuple[str, str]]:
    """So many different (edit, candidate) of a gold query; some take two edits, some are the gold of another question."""
    found: dict[str, str] = {}
    for _ in range(40 * count):
        if len(found) == count:
            break
        name = draw.choice([*EDITS, "another question", "two edits"])
        if name == "another question":
            text = draw.choice(others)
        elif name == "two edits":
            text = draw.choice(list(EDITS.values()))(
                draw.choice(list(EDITS.values()))(gold, schema, draw) or " ", schema, draw
            )
        else:
            text = EDITS[name](gold, schema, draw)
        if text.strip() and (text != gold or name == "same"):
            found.setdefault(text, name)
    return [(name, text) for text, name in found.items()]
