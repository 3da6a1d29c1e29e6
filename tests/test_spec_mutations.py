"""Two thousand broken specs: never a traceback, always a line; and what is accepted says the same after a round trip."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sltcore.errors import SpecError
from sltcore.registry import Registry
from sltcore.spec import Document, dump_document, fill, load_spec, parse_document, read_document
from sltcore.spec.schema import json_schema

BASES = (
    """\
slt: 1
kind: pipeline
name: plain
encoder: frames
decoder: {use: search, beam: 4, phrases: [a b, c], alpha: 1e-1}
""",
    """\
slt: 1
kind: pipeline
encoder:
  use: stack
  base:
    use: stack
    base: {use: frames, bands: 40, shift_s: .02, window: hamming, dither: true}
    layers: [1, 2]
  scale: 3
decoder:
  use: search
  head: {ref: encoder.base.head}
  lm: {use: counter, order: 2, path: words.arpa}
  pruning:
    threshold: 12
    extra: {use: search, beam: 2}
reranker: {use: order, path: other.arpa}
transforms:
- {use: bits, bits: 8, only: [encoder, "decoder.head"]}
- low-rank
metrics: [rate, {use: rate, low: 0.25}]
batch: {size: 2, seconds: 20}
seed: 0x10
""",
    """\
slt: 1
kind: pipeline
description: "several voices"
encoder:
  use: chorus
  voices:
  - frames
  - &voice {use: stack, scale: big, base: sltcore-demo/frames}
  - *voice
  weights: {frames: 1, stack: 2.5, "odd key": 0o17}
vocoder: {use: phase, path: ~}
segment:
  above_s: 90
  longest_s: 20
""",
)
PLACE = re.compile(r"^(?P<file>spec\.yaml):(?P<line>\d+):(?P<column>\d+): \S")
COUNT = 2000


def mutate(text: str, random: random.Random) -> bytes:
    data = text.encode()
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice(MUTATIONS)(data, random)
    return data


def _lines(data: bytes, random: random.Random, change: Callable[[bytes], bytes]) -> bytes:
    lines = data.split(b"\n")
    index = random.randrange(len(lines))
    lines[index] = change(lines[index])
    return b"\n".join(lines)


def _misspell(data: bytes, random: random.Random) -> bytes:
    words = list(re.finditer(rb"[A-Za-z_]{2,}", data))
    if not words:
        return data
    word = random.choice(words)
    letters = bytearray(word.group())
    index = random.randrange(len(letters) - 1)
    letters[index], letters[index + 1] = letters[index + 1], letters[index]
    letters += random.choice((b"", b"s", b"-", b"_x", "ü".encode(), b" y"))
    return data[: word.start()] + bytes(letters) + data[word.end() :]


VALUES = [
    "5", '"5"', "-1", "0", "1e-4", "1e999", "-.inf", ".nan", "9" * 400, "0x" + "f" * 290, "1" * 290, "no", "yes", "on", "true", "null", "~",
    "[]", "{}", "[1, 2]", "{use: frames}", "{use: search, beam: x}", "{ref: encoder}", "{ref: encoder, x: 1}", "{use: x, ref: encoder}", "{ref: decoder.x}", "{ref: '..'}", "{use: 3}", "{use: [a]}",
    '"\\ud800"', '"a\\nb\\x85\\u2028c"', '"\\0"', '"\\U00110000"', "!!python/object:os.system {}", "!x y", "&a [*a]", "*nobody", "| \n text", "''",
    "~nobody/x", "frames", "stack", "chorus", "{use: stack, base: {use: stack, base: {use: stak}}}", "2001-01-01", "1_000", "012", "0o9", "=", "<<",
    "{? [a] : b}", "{1: 2}", "{a: 1, a: 2}", '{"b\\nc": 1}', '{"": 1}', "@x", "`x", "%x", "{use: bits, bits: true}", "{use: bits, bits: 3.0}",
]  # fmt: skip


def _value(data: bytes, random: random.Random) -> bytes:
    spots = list(re.finditer(rb"(?<=[:,\[] )[^\s,\[\]{}]+", data))
    if not spots:
        return data
    spot = random.choice(spots)
    return data[: spot.start()] + random.choice(VALUES).encode() + data[spot.end() :]


def _deep(data: bytes, random: random.Random) -> bytes:
    depth = random.choice((30, 30, 45, 45, 400, 400, 400, 10_000))
    kind = random.choice(("[", "{a: ", "- ", "{base: {use: stack, base: "))
    text = kind * depth + "x" + {"[": "]", "{a: ": "}", "- ": "", "{base: {use: stack, base: ": "}}"}[kind] * depth
    return (
        data + b"\nencoder2: " + text.encode() if random.random() < 0.5 else data.replace(b"frames", text.encode(), 1)
    )


def _bomb(data: bytes, random: random.Random) -> bytes:
    width, depth = random.choice(((2, 30), (10, 9), (40, 4)))
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join(lines).encode() + b"\n" + data


def _tall(data: bytes, random: random.Random) -> bytes:
    """Aliases that nest: each anchor twenty levels above the last, so that no text is deep but the data is."""
    lines = ["t0: &t0 x"] + [f"t{i}: &t{i} {'[' * 20}*t{i - 1}{']' * 20}" for i in range(1, random.choice((2, 3, 99)))]
    return "\n".join(lines).encode() + b"\n" + data


def _bytes(data: bytes, random: random.Random) -> bytes:
    edited = bytearray(data)
    for _ in range(random.choice((1, 2, 5))):
        index = random.randrange(len(edited) + 1)
        what = random.randrange(3)
        if what == 0:
            edited.insert(index, random.randrange(256))
        elif index < len(edited):
            if what == 1:
                edited[index] = random.randrange(256)
            else:
                del edited[index]
    return bytes(edited)


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    _misspell,
    _misspell,
    _value,
    _value,
    _value,
    _deep,
    _bomb,
    _tall,
    _bytes,
    lambda data, random: data[: random.randrange(len(data) + 1)],
    lambda data, random: _lines(data, random, lambda line: b"\t" + line),
    lambda data, random: _lines(data, random, lambda line: line + b"\n" + line),
    lambda data, random: _lines(data, random, lambda line: b""),
    lambda data, random: _lines(data, random, lambda line: b" " * random.randrange(4) + line.lstrip()),
    lambda data, random: _lines(data, random, lambda line: line.replace(b": ", b":", 1)),
    lambda data, random: _lines(data, random, lambda line: b"- " + line),
    lambda data, random: data + random.choice((b"\xff\xfe", b"\xc3", b"\0", b"\n---\n", b"\n...\nx", b"\xef\xbb\xbf")),
    lambda data, random: random.choice((b"\xef\xbb\xbf", b"%YAML 1.1\n---\n", b"%YAML " + b"9" * 5000 + b".1\n---\n")) + data,
    lambda data, random: data.decode("utf-8", "replace").encode(random.choice(("utf-16", "utf-32", "utf-16-be"))),
]  # fmt: skip


def mutants() -> list[bytes]:
    chance = random.Random(20240607)
    return [mutate(BASES[index % len(BASES)], chance) for index in range(COUNT)]


class Outcome(NamedTuple):
    """A mutant, what it reads as (None when it is not even YAML), its problems, and its model when it has none."""

    text: bytes
    data: Any
    problems: list[str]
    model: Any


def outcomes_of(texts: Iterable[bytes], path: Path, registry: Registry) -> list[Outcome]:
    """Each text, written to `path` and loaded."""
    read: list[Any] = []

    def remembered(file: Path) -> Document:
        document = read_document(file)
        read.append(document.data)
        return document

    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sltcore.spec.load.read_document", remembered)
        for text in texts:
            path.write_bytes(text)
            read.clear()
            try:
                model = load_spec(path, registry=registry).model
                results.append(Outcome(text, read[0], [], model))
            except SpecError as error:
                results.append(Outcome(text, read[0] if read else None, str(error).split("\n"), None))
    return results


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutants") / "spec.yaml"


@pytest.fixture(scope="module")
def outcomes(demo_registry: Registry, path: Path) -> list[Outcome]:
    return outcomes_of(mutants(), path, demo_registry)


def test_the_bases_are_good(demo_registry: Registry) -> None:
    for base in BASES[:2]:
        load_spec(base, registry=demo_registry)


def test_every_problem_of_2000_mutants_names_its_line(outcomes: list[Outcome], path: Path) -> None:
    assert len(outcomes) == COUNT
    for text, _, problems, _ in outcomes:
        lines = len(text.replace(b"\0", b"").decode("latin-1").splitlines())
        for problem in problems:
            assert problem.startswith(f"{path}:")
            match = PLACE.match(problem.removeprefix(f"{path.parent}/"))
            assert match, f"{problem!r} of {text!r}"
            assert problem.isprintable(), problem
            assert len(problem) < 1500, problem
            assert 1 <= int(match["line"]) <= lines + 1, (problem, text)


def test_the_mutants_are_broken_in_many_ways(outcomes: list[Outcome]) -> None:
    """The bar above means something only while most mutants are wrong, and not all in one way."""
    assert sum(bool(outcome.problems) for outcome in outcomes) > COUNT // 2
    said = "\n".join(problem for outcome in outcomes for problem in outcome.problems)
    for sentence in (
        "has no field", "is required", "is named", "expected a valid integer", "expected 'hann' or",
        "nested deeper than 40 levels", "once its aliases are written out", "has no anchor", "inside its own anchor", "is not UTF-8",
        "a tab stands where", "stands here and on line", "is not allowed", "a number of 400 digits", "is read as a", "a second document",
        "version is missing", "kind is missing", "the spec is empty", "half of a surrogate", "not YAML",
        "expected the path of a file",
    ):  # fmt: skip
        assert sentence in said, sentence


def test_accepted_mutants_survive_a_round_trip(outcomes: list[Outcome], demo_registry: Registry, path: Path) -> None:
    accepted = [outcome.model for outcome in outcomes if outcome.model is not None]
    assert len(accepted) > COUNT // 40
    for model in accepted:
        filled = fill(model)
        path.write_text(dump_document(filled), encoding="utf-8")
        again = load_spec(path, registry=demo_registry).model
        assert again == model, filled
        assert fill(again) == filled
        assert json.loads(json.dumps(filled)) == filled


def test_the_schema_accepts_what_the_check_accepts(outcomes: list[Outcome], demo_registry: Registry) -> None:
    validator = Draft202012Validator(json_schema(demo_registry))
    for outcome in outcomes:
        if outcome.model is not None:
            assert not list(validator.iter_errors(outcome.data)), outcome.text
            assert not list(validator.iter_errors(fill(outcome.model))), outcome.text


def test_the_schema_flags_what_the_check_refuses(outcomes: list[Outcome], demo_registry: Registry) -> None:
    """The other direction, with every exception: rules between fields and places, and what a string holds."""
    beyond = re.compile(
        r"lies above high|a reference points at|to refer to; it has|needs an encoder, a decoder|valid integer, got -?\d+\.0\b|"
        r"expected the path of a file|~user exists|expected the path of another place|is not set"
    )
    validator = Draft202012Validator(json_schema(demo_registry))
    seen = 0
    for text, data, problems, model in outcomes:
        if model is None and data is not None and not any(beyond.search(problem) for problem in problems):
            seen += 1
            assert list(validator.iter_errors(data)), (text, problems)
    assert seen > COUNT // 10


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["frames", "stack", "search", "bits", "pipeline", "encoder", "use", "ref"]),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(
        ["slt", "kind", "encoder", "decoder", "transforms", "use", "base", "beam", "ref", "voices", "batch"]
    ),
    st.text(max_size=6),
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(tree=st.dictionaries(KEYS, TREES, max_size=5))
def test_no_dict_makes_a_traceback(tree: dict[str, Any], demo_registry: Registry) -> None:
    spec = {"slt": 1, "kind": "pipeline", "encoder": "frames", **tree}
    try:
        model = load_spec(spec, registry=demo_registry).model
    except SpecError as error:
        assert all(line.startswith("<dict>:1:1: ") and line.isprintable() for line in str(error).split("\n"))
        return
    assert load_spec(fill(model), registry=demo_registry).model == model


@settings(max_examples=250, deadline=None, derandomize=True)
@given(text=st.text(alphabet=st.sampled_from("ab:-[]{},&*!|>'\"%@`#?~ \n\t\\0\ufeff\x85é"), max_size=40))
def test_no_text_makes_a_traceback(text: str) -> None:
    try:
        parse_document(text, "spec.yaml")
    except SpecError as error:
        assert PLACE.match(str(error))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.binary(max_size=60))
def test_no_bytes_make_a_traceback(data: bytes) -> None:
    try:
        parse_document(data, "spec.yaml")
    except SpecError as error:
        assert PLACE.match(str(error))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tree=TREES)
def test_yaml_of_pyyaml_reads_back_equal(tree: Any) -> None:
    """An independent writer: what PyYAML dumps with quoted texts has the same meaning here."""
    text = yaml.safe_dump({"top": tree}, allow_unicode=True, default_style='"' if isinstance(tree, str) else None)
    plain = json.loads(json.dumps({"top": tree}))
    ambiguous = re.search(r"(?m)(^|[\s\[{,])(0o?\d|[0-9_.eE+:-]+|[yYnN]|yes|no|on|off|=|<<)([\s,\]}:]|$)", text)
    try:
        found = parse_document(text, "spec.yaml").data
    except SpecError:
        return  # a key such as 1 or null, a lone surrogate: refused with a line, tested above
    if not ambiguous and "nan" not in text:
        assert found == plain
