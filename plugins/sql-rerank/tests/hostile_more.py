"""Statements that reach by other names, swell inside one call, unfold while they are compiled, or look harmless."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

COUNT = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {}) "


def by_other_names(outside: Path) -> Iterator[str]:
    """Files, extensions, PRAGMAs and the schema, by aliases, arguments, table-valued functions and names of files."""
    yield from (
        "SELECT * FROM pragma_cache_size(1000000000)",
        "SELECT * FROM pragma_mmap_size(1000000000)",
        "SELECT * FROM pragma_hard_heap_limit(1)",
        "SELECT * FROM pragma_user_version, pragma_application_id",
        f"SELECT * FROM pragma_temp_store_directory('{outside}')",
        "SELECT * FROM pragma_wal_checkpoint('TRUNCATE')",
        "SELECT * FROM pragma_table_xinfo('sqlite_master')",
        "SELECT s.name FROM singer s, pragma_index_list(s.name)",
        "SELECT (SELECT file FROM pragma_database_list)",
        "SELECT name FROM singer WHERE name IN pragma_database_list",
        "SELECT * FROM main.pragma_database_list",
        'SELECT * FROM "pragma_table_info"("singer")',
        "SELECT * FROM dbstat('main')",
        "SELECT sum(pgsize) FROM dbstat WHERE aggregate = 1",
        "SELECT name FROM singer WHERE id IN (SELECT pageno FROM dbstat)",
        "SELECT data FROM sqlite_dbpage('main') WHERE pgno = 1",
        "SELECT sql FROM main.sqlite_schema AS singer",
        "SELECT singer.sql FROM sqlite_master singer JOIN singer s ON 1",
        "SELECT * FROM singer WHERE id = (SELECT max(rootpage) FROM sqlite_temp_schema)",
        "WITH RECURSIVE c(x) AS (SELECT rootpage FROM sqlite_master UNION SELECT x FROM c) SELECT x FROM c",
        "SELECT sum(rootpage) OVER () FROM sqlite_master",
        "SELECT * FROM (singer NATURAL JOIN sqlite_master)",
        "SELECT 1 FROM singer ORDER BY (SELECT sql FROM sqlite_master LIMIT 1)",
        "SELECT fts5(), fts5_locale('x', 'y')",
        "SELECT fts3_tokenizer('simple', x'0000000000000000')",
        "SELECT matchinfo(words), offsets(words), optimize(words) FROM words",
        "SELECT * FROM fts5vocab('words', 'row')",
        "SELECT rtreecheck('singer')",
        "SELECT rtreenode(2, x'00'), rtreedepth(x'00')",
        "SELECT load_extension(name) FROM singer",
        "SELECT group_concat(load_extension('x')) OVER (ORDER BY id) FROM singer",
        "SELECT iif(0, load_extension('x'), 1)",
        "SELECT coalesce(1, writefile('x', 'y'))",
        "SELECT name FROM singer ORDER BY load_extension('x') IS NULL LIMIT 0",
        "SELECT json_extract('[1]', '$[' || load_extension('x') || ']')",
        "SELECT * FROM json_each(readfile('/etc/passwd'))",
        "SELECT '[1]' -> readfile('/etc/passwd')",
        f"ATTACH 'file:{outside}/a.db?mode=memory&cache=shared' AS other",
        f"ATTACH 'file:{outside}/a.db?vfs=unix-none' AS other",
        f"ATTACH DATABASE char(47) || '{outside}'||'/a.db' AS \"main\"",
        "ATTACH '/dev/stdin' AS other",
        "EXPLAIN ATTACH 'x' AS y",
        "VACUUM INTO (SELECT name FROM singer)",
        f"VACUUM main INTO (SELECT '{outside}/v.db')",
        f"/* SELECT */ VACUUM INTO (VALUES ('{outside}/v.db'))",
        f"-- WITH x\nvacuum/**/into (WITH x AS (SELECT '{outside}/v.db') SELECT * FROM x)",
        f"VACUUM INTO 'file:{outside}/v.db?mode=rwc'",
        "CREATE VIRTUAL TABLE temp.v USING fts5vocab('main', 'words', 'row')",
        "CREATE VIRTUAL TABLE v USING rtree(a, b, c)",
        "CREATE TEMP TABLE t (a COLLATE evil)",
        "SELECT name FROM singer ORDER BY name COLLATE nosuch",
        "SELECT name FROM singer WHERE name = 'x' COLLATE \"load_extension\"",
        "SELECT * FROM singer WHERE name REGEXP load_extension('x')",
        "INSERT INTO logged SELECT name FROM singer ON CONFLICT DO NOTHING",
        "INSERT INTO known VALUES ('x')",
        "INSERT INTO words (words) VALUES ('optimize')",
        "UPDATE singer SET twice = 5",
        "UPDATE swollen SET a = 1 RETURNING b",
        "DELETE FROM concert ORDER BY id LIMIT 1",
        "SELECT 1 RETURNING 2",
        "EXPLAIN WITH x AS (SELECT 1) DELETE FROM singer",
    )


def swelling() -> Iterator[str]:
    """One call, one aggregate or one window that grows, or takes long over little."""
    yield from (
        "SELECT length(printf('%.1000000000f', 1.5))",
        "SELECT printf('%!.99999999g', 1e300), printf('%,.9999999d', 1)",
        "SELECT printf('%.999999999q', 'x'), printf('%999999999s', name) FROM singer",
        "SELECT format('%*.*f', 2147483647, 2147483647, 1.0)",
        "SELECT printf('%-*s', -2147483648, 'x')",
        "SELECT printf('" + "%900000d" * 2000 + "')",
        "SELECT length(printf('" + "%s" * 200 + "'," + ",".join(["note"] * 30) + ")) FROM singer",
        "SELECT hex(hex(hex(hex(printf('%.*c', 250000, 'x')))))",
        "SELECT quote(quote(quote(printf('%.*c', 990000, ''''))))",
        "SELECT replace(replace(replace('aaaaaaaa','a',note),'x',note),'x',note) FROM singer ORDER BY id DESC",
        "SELECT replace(printf('%.*c', 2000, 'a'), 'a', printf('%.*c', 2000, 'a'))",
        "SELECT upper(lower(upper(printf('%.*c', 3999999, 'x')))) FROM singer, concert",
        "SELECT count(*) FROM singer, concert WHERE instr(printf('%.*c', 400000, 'a'), printf('%.*c', 200000, 'a') || 'b')",
        "SELECT printf('%.*c', 49, 'a') LIKE '" + "%a" * 24 + "b' FROM singer, concert",
        "SELECT printf('%.*c', 60000, 'a') GLOB '" + "*[a-z]" * 30 + "b'",
        "SELECT printf('%.*c', 60000, 'a') GLOB '" + "*?a" * 60 + "b'",
        "SELECT printf('%.*c', 60000, 'a') LIKE '" + "%_a" * 60 + "b' ESCAPE '!'",
        "SELECT name FROM singer WHERE note LIKE printf('%.*c', 100000, '%')",
        "SELECT soundex(printf('%.*c', 3999999, 'b')), trim(printf('%.*c', 3999999, ' ')) FROM singer",
        "SELECT strftime('" + "%Y-%m-%dT%H:%M:%f" * 1000 + "', 'now') FROM singer, concert",
        "SELECT date('now', printf('+%.*c days', 100000, '9'))",
        "SELECT CAST(printf('%.*c', 3999999, '9') AS INTEGER), CAST(printf('%.*c', 3999999, '9') AS REAL) FROM singer",
        "SELECT unhex(printf('%.*c', 3999998, 'a')) FROM singer",
        "SELECT json_group_object(a.id || b.id, a.note) FROM singer a, singer b, singer c",
        "SELECT json(json_array(" + ",".join(["note"] * 30) + ")) FROM singer",
        "SELECT count(*) FROM json_each('[" + "1," * 4000 + "1]') a, json_each('[" + "1," * 4000 + "1]') b",
        "SELECT count(*) FROM json_tree('[" + "[1]," * 3000 + "1]') a, json_tree(a.json) b, json_tree(b.json) c",
        "SELECT json_extract('[" + "1," * 9000 + "1]', '$[#-" + "9" * 900 + "]')",
        "SELECT json_extract(printf('%.*c', 3999998, ' ') || '{}', '$.a') FROM singer, concert",
        "SELECT json_valid('" + '{"a":[' * 1500 + "1" + "]}" * 1500 + "')",
        "SELECT json_quote(printf('%.*c', 3999000, char(1)))",
        "SELECT json_object('a', printf('%.*c', 3999000, '\"')) FROM singer",
        "SELECT '{\"a\":1}' ->> printf('$%.*c', 100000, '.')",
        "SELECT group_concat(a.note, b.note) OVER (ORDER BY a.id, b.id) FROM singer a, singer b",
        "SELECT sum(a.id) OVER (ORDER BY b.id, a.id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE TIES) "
        "FROM singer a, singer b, singer c",
        "SELECT nth_value(a.note, 9223372036854775807) OVER (ORDER BY b.note) FROM singer a, singer b, singer c",
        "SELECT ntile(9223372036854775807) OVER (ORDER BY a.id) FROM singer a, singer b, singer c",
        "SELECT lag(a.note, -9223372036854775808) OVER (ORDER BY a.id) FROM singer a, singer b, singer c",
        "SELECT min(a.note) OVER (ORDER BY a.id GROUPS BETWEEN 9 PRECEDING AND 9223372036854775807 FOLLOWING) "
        "FROM singer a, singer b, concert c",
        "SELECT "
        + ",".join(f"sum(id) OVER (ORDER BY id % {i} ROWS {i} PRECEDING)" for i in range(1, 150))
        + " FROM singer",
        COUNT.format(-1) + "SELECT x FROM c ORDER BY x DESC LIMIT 1",
        COUNT.format(10**12) + "SELECT total(x), avg(x) FROM c",
        COUNT.format(10**9) + "SELECT count(DISTINCT x || printf('%.*c', 9999, 'x')) FROM c",
        COUNT.format(-1) + "SELECT json_group_array(x) FROM c",
        COUNT.format(-1) + "SELECT 1 WHERE EXISTS (SELECT 1 FROM c WHERE x < 0)",
        COUNT.format(-1) + "SELECT a.x FROM c a, c b WHERE a.x = -b.x",
        "WITH RECURSIVE c(x) AS (VALUES ('') UNION SELECT x || char(97 + abs(id) % 26) FROM c, singer) SELECT x FROM c",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c UNION ALL SELECT x + 1 FROM c ORDER BY 1 DESC) SELECT x FROM c",
        "WITH RECURSIVE c(x) AS (SELECT printf('%.*c', 900000, 'x') UNION ALL SELECT x || x.x FROM c AS x) SELECT count(*) FROM c",
        "VALUES " + ",".join("(printf('%.*c', 999999, 'x'))" for _ in range(600)),
        "SELECT " + ",".join("printf('%.*c', 999999, 'x')" for _ in range(600)),
        "SELECT max(printf('%.*c', 3999999, 'a') || id), min(printf('%.*c', 3999999, 'b') || id) FROM singer",
        "SELECT DISTINCT printf('%.*c', 3999990, 'a') || id FROM singer",
        "SELECT a.id FROM singer a, singer b GROUP BY printf('%.*c', 900000, 'a') || a.id || b.id",
        "SELECT 1 FROM singer WHERE printf('%.*c', 3999990, 'a') IN (SELECT printf('%.*c', 3999990, 'a') || id FROM singer)",
    )


def full_text() -> Iterator[str]:
    """What only reads a full-text table."""
    yield from (
        "SELECT * FROM words('insert')",
        "SELECT * FROM words('" + "(" * 60 + "tea" + ")" * 60 + "')",
        "SELECT count(*) FROM words('tea* OR " + "NEAR(tea time, 9) OR " * 400 + "time')",
        "SELECT a.body FROM words a, words b, singer c, singer d WHERE a.body > b.body OR c.id > d.id",
        "SELECT * FROM words_data a, words_idx b, words_docsize c",
        "SELECT rank, rowid, words FROM words",
    )


def unfolding() -> Iterator[str]:
    """Little text that is much once it is compiled: the progress handler is not asked while it is."""
    for depth in (12, 20, 40, 150):
        yield (
            "WITH t0(a) AS (SELECT 1)"
            + "".join(f", t{i + 1}(a) AS (SELECT l.a FROM t{i} l, t{i} r)" for i in range(depth))
            + f" SELECT count(*) FROM t{depth}"
        )
        yield (
            "WITH t0(a) AS (SELECT name FROM singer)"
            + "".join(f", t{i + 1}(a) AS (SELECT a || a FROM t{i})" for i in range(depth))
            + f" SELECT a FROM t{depth}"
        )
        yield (
            "WITH t0(a) AS (SELECT id FROM singer)"
            + "".join(f", t{i + 1}(a) AS (SELECT a + a FROM t{i})" for i in range(depth))
            + f" SELECT a FROM t{depth} WHERE a > 1"
        )
        yield (
            "WITH t0(a) AS (SELECT id FROM singer)"
            + "".join(f", t{i + 1}(a) AS (SELECT a FROM t{i} UNION ALL SELECT a FROM t{i})" for i in range(depth))
            + f" SELECT count(*) FROM t{depth}"
        )
        yield (
            "SELECT * FROM singer WHERE "
            + " AND ".join(f"EXISTS (SELECT 1 FROM singer s{i} WHERE s{i}.id = singer.id + {i})" for i in range(depth))
        )
    for count in (30, 64):
        yield "SELECT count(*) FROM " + " NATURAL JOIN ".join(
            ["singer"] + [f"(SELECT * FROM singer) s{i}" for i in range(count)]
        )
        yield "SELECT * FROM singer s0 " + " ".join(
            f"FULL JOIN singer s{i} USING (id, name, note)" for i in range(1, count)
        )
        yield (
            "SELECT 1 FROM "
            + ",".join(f"singer s{i}" for i in range(count))
            + " WHERE "
            + " AND ".join(
                f"(s{i}.id = s{(i * 7 + 1) % count}.id OR s{i}.name = s{(i * 5 + 2) % count}.name)"
                for i in range(count)
            )
        )
    yield "SELECT 1 WHERE " + " OR ".join(f"(id IN (SELECT id FROM singer WHERE id = {i}))" for i in range(350))
    yield "SELECT 1 FROM singer WHERE " + " OR ".join(f"(id = {i} AND name = 'n{i}')" for i in range(600))
    yield "SELECT name FROM singer WHERE (id, name, note) IN (SELECT id, name, note FROM singer UNION ALL SELECT *, 1, 2 FROM endless)"
    yield "SELECT " + ",".join(f"(SELECT max(id) FROM concert WHERE id < {i})" for i in range(400)) + " FROM singer"
    yield "SELECT CASE " + " ".join(f"WHEN id = {i} THEN (SELECT {i})" for i in range(500)) + " END FROM singer"


def more(outside: Path) -> Iterator[str]:
    """All of them."""
    yield from by_other_names(outside)
    yield from swelling()
    yield from full_text()
    yield from unfolding()
