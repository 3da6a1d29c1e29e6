"""YAML 1.2 scalars, the place of every key, and limits that no text exceeds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sltcore.errors import SpecError
from sltcore.spec import Mark, dump_document, parse_document, read_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("N", "N"), ("NO", "NO"),
        ("true", True), ("True", True), ("TRUE", True), ("false", False), ("tRUE", "tRUE"),
        ("1e-4", 1e-4), ("1E5", 1e5), ("-1.5e+3", -1500.0), (".5", 0.5), ("5.", 5.0), ("+.5", 0.5), ("1.0", 1.0), (".", "."), ("1e", "1e"), ("e1", "e1"),
        ("12", 12), ("012", 12), ("-7", -7), ("+7", 7), ("0o17", 15), ("0x1F", 31), ("0b11", "0b11"), ("1_000", "1_000"), ("0o9", "0o9"), ("1:30", "1:30"),
        (".inf", math.inf), ("-.INF", -math.inf), ("+.Inf", math.inf),
        ("~", None), ("null", None), ("Null", None), ("NULL", None), ("", None), ("nULL", "nULL"),
        ("'no'", "no"), ('"1"', "1"), ("'~'", "~"), ("''", ""), ('"\\u00e9"', "é"), ("! 12", "12"),
        ("2001-01-01", "2001-01-01"), ("=", "="), ("<<", "<<"), ("|\n  12\n", "12\n"), (">-\n  a\n  b\n", "a b"),
        ("9" * 300, int("9" * 300)), ("x" * 5000, "x" * 5000), ("1" + "-" * 400, "1" + "-" * 400),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_document(f"key: {text}\n").data["key"]
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_read() -> None:
    assert all(math.isnan(value) for value in parse_document("[.nan, .NaN, .NAN]").data)


def test_json_is_a_subset() -> None:
    import json

    data = {"a": [1, -2.5e-3, True, None, 'é\n"x"'], "b": {"c d": {}}}
    for indent in (None, 2):
        assert parse_document(json.dumps(data, indent=indent)).data == data


def test_keys_and_list_items_know_their_place() -> None:
    document = parse_document("a: 1\nb:\n  - x\n  -   y: 2\n      z: [3,\n         4]\n")
    assert document.data == {"a": 1, "b": ["x", {"y": 2, "z": [3, 4]}]}
    assert document.marks[("a",)] == Mark(1, 1)
    assert document.marks[("b", 0)] == Mark(3, 5)
    assert document.marks[("b", 1)] == Mark(4, 7)
    assert document.marks[("b", 1, "z")] == Mark(5, 7)
    assert document.marks[("b", 1, "z", 1)] == Mark(6, 10)
    assert document.mark(("b", 1, "z", 7, "nothing")) == Mark(5, 7)
    assert document.mark(("nothing",)) == Mark(1, 1)


def test_what_stands_under_an_alias_is_found_at_the_alias() -> None:
    document = parse_document("a: &x {k: 1}\nb: *x\n")
    assert document.data["b"] == {"k": 1}
    assert document.mark(("b", "k")) == Mark(2, 1)
    assert document.data["a"] is not document.data["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: the spec is empty; begin with `slt: 1` and `kind: pipeline`"),
        ("# nothing\n", "1:1: the spec is empty; begin with `slt: 1` and `kind: pipeline`"),
        ("a: 1\nb: 2\na: 3\n", "3:1: key 'a' stands here and on line 1; keep one"),
        ("a: {b: 1, 'b': 2}", "1:11: key 'b' stands here and on line 1; keep one"),
        ("a:\n\tb: 1\n", "2:1: not YAML: a tab stands where YAML wants spaces; indent with spaces"),
        ("a: 1\n---\nb: 2\n", "2:1: a second document begins here; a spec is one document, remove the `---`"),
        ("a: !!python/object/apply:os.system [x]", "1:4: tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed; a spec holds plain values only"),
        ("a: !!str 1", "1:4: tag 'tag:yaml.org,2002:str' is not allowed; a spec holds plain values only"),
        ("!!str a: 1", "1:1: tag 'tag:yaml.org,2002:str' is not allowed; a spec holds plain values only"),
        ("1: a", "1:1: key '1' is read as a number; quote it or write a name"),
        ("null: a", "1:1: key 'null' is read as a null; quote it or write a name"),
        ("true: a", "1:1: key 'true' is read as a boolean; quote it or write a name"),
        ("? [a]\n: b", "1:3: a key must be a name, not a list, map or alias"),
        ("a: &a b\n*a : c", "2:1: a key must be a name, not a list, map or alias"),
        ("k" * 201 + ": 1", "1:1: a key of 201 characters; at most 200"),
        ("a: *b", "1:4: alias *b has no anchor &b above it"),
        ("a: &b [*b]", "1:8: alias *b stands inside its own anchor"),
        ("a: " + "9" * 301, "1:4: a number of 301 digits; at most 300"),
        ("a: 0x" + "f" * 300, "1:4: a number of 302 digits; at most 300"),
        ("a: '\x07'", "1:5: character #x0007 is not allowed in YAML"),
        ("a: 1\nb: \0", "2:4: character #x0000 is not allowed in YAML"),
        ('a: "\\ud800"', "1:4: '\\ud800' holds half of a surrogate pair, which is no character"),
        ("a: [1, 2", "1:9: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: b: c", "1:5: not YAML: mapping values are not allowed here"),
        ("a: @x", "1:4: not YAML: found character '@' that cannot start any token"),
        (b"a: \xff", "1:4: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("ä: é\nb: ".encode() + b"\xe9", "2:4: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("a: é".encode("latin-1"), "1:4: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("a: b".encode("utf-16") + b"x", "1:5: byte 0x78 is not UTF-16; save the file as UTF-8"),
        ("a: " + "[" * 10_000, "1:44: nested deeper than 40 levels"),
        ("- " * 10_000, "1:83: nested deeper than 40 levels"),
        ("a: " + "{a: " * 10_000, "1:164: nested deeper than 40 levels"),
    ],
)  # fmt: skip
def test_what_is_refused_has_its_place(text: str | bytes, message: str) -> None:
    start = time.process_time()
    with pytest.raises(SpecError) as caught:
        parse_document(text, "spec.yaml")
    assert str(caught.value) == f"spec.yaml:{message}"
    assert time.process_time() - start < 2.0


def test_broken_escapes_and_directives_are_refused() -> None:
    for text in ('a: "\\U00110000"', "%YAML " + "9" * 5000 + ".1\n---\na: 1\n", "%YAML 3.0\n---\na: 1\n"):
        with pytest.raises(SpecError, match=r"^spec\.yaml:1:\d+: not YAML"):
            parse_document(text, "spec.yaml")


def test_bombs_are_refused_at_once() -> None:
    laughs = "a0: &a0 lol\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    start = time.process_time()
    with pytest.raises(
        SpecError, match=r"^spec\.yaml:6:\d+: the spec has more than 100,000 values once its aliases are written out$"
    ):
        parse_document(laughs, "spec.yaml")
    tower = "t0: &t0 x\n" + "".join(f"t{i}: &t{i} {'[' * 15}*t{i - 1}{']' * 15}\n" for i in range(1, 90))
    with pytest.raises(SpecError, match=r"^spec\.yaml:4:\d+: nested deeper than 40 levels$"):
        parse_document(tower, "spec.yaml")
    assert time.process_time() - start < 3.0


def test_an_anchor_may_be_used_within_the_limits() -> None:
    data = parse_document("a: &a [1, &b {x: 2}]\nc: [*a, *b]\nd: &a 5\ne: *a\n").data
    assert data == {"a": [1, {"x": 2}], "c": [[1, {"x": 2}], {"x": 2}], "d": 5, "e": 5}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes("name: Grüße\r\nb: 2\r\n".encode(encoding))
    assert read_document(path).data == {"name": "Grüße", "b": 2}
    assert read_document(path).marks[("b",)] == Mark(2, 1)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    for name in ("asr.yaml", "tts.yml", "notes.txt", "x.json"):
        (tmp_path / name).write_text("a: 1")
    for path, message in (
        (
            tmp_path / "asr.yml",
            f"there is no such spec file; {tmp_path} holds asr.yaml, tts.yml, x.json. Did you mean 'asr.yaml'?",
        ),
        (tmp_path / "no" / "asr.yaml", f"there is no such spec file; there is no folder {tmp_path / 'no'} either"),
        (tmp_path, "this is a folder, expected a spec file"),
        (tmp_path / "asr.yaml" / "b", "cannot be read: Not a directory"),
    ):
        with pytest.raises(SpecError) as caught:
            read_document(path)
        assert str(caught.value) == f"{path}:1:1: {message}"
    with pytest.raises(SpecError, match="1:1: cannot be read: embedded null byte$"):
        read_document("a\0b")


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        parse_document("# " + "x" * 4_000_000, "spec.yaml")
    assert str(caught.value) == "spec.yaml:1:1: the text has 4,000,002 characters, at most 4,000,000 are read"


@pytest.mark.parametrize(
    "value",
    ["1e-4", "0o17", "012", "no", "null", "~", "", "a\x85b", "a\u2028b", "\ufeff", " x ", "a: b", "# x", "'", '"', "tab\t", "multi\nline\n", ".inf",
     "é", "x" * 500, "-", "?", "[", "true", 1e-5, 1e22, -0.0, 10**40, True, None, [], {}, [[]], {"1e3": [None, "~"]}],
)  # fmt: skip
def test_what_is_dumped_reads_back_equal(value: Any, write: Callable[[str], Path]) -> None:
    data = {"key": value, "list": [value]}
    found = read_document(write(dump_document(data))).data
    assert found == data
    assert type(found["key"]) is type(value)
