"""The JSON Schema completes and flags what the installed plugins take (Draft 2020-12, judged by the jsonschema library)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import Site, Slt, write_demo
from jsonschema import Draft202012Validator, ValidationError

from sltcore.registry import Registry
from sltcore.spec import fill, load_spec, parse_document
from sltcore.spec.schema import json_schema


@pytest.fixture(scope="module")
def schema(demo_registry: Registry) -> dict[str, Any]:
    return json_schema(demo_registry)


def leaves(error: ValidationError) -> Iterator[ValidationError]:
    """The errors at the bottom, which an editor underlines."""
    if not error.context:
        yield error
    for inner in error.context or ():
        yield from leaves(inner)


def flagged(schema: dict[str, Any], spec: dict[str, Any]) -> set[tuple[str | int, ...]]:
    return {
        tuple(leaf.absolute_path) for error in Draft202012Validator(schema).iter_errors(spec) for leaf in leaves(error)
    }


def spec_of(text: str) -> dict[str, Any]:
    data: dict[str, Any] = parse_document("slt: 1\nkind: pipeline\n" + text).data
    return data


def test_the_schema_is_a_schema(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_reference_leads_somewhere_and_no_mark_is_left(schema: dict[str, Any]) -> None:
    def walk(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            yield node
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    for node in walk(schema):
        assert "x-slot" not in node
        reference = node.get("$ref")
        if isinstance(reference, str):
            assert reference.removeprefix("#/$defs/") in schema["$defs"], reference


GOOD = [
    "encoder: frames",
    "encoder: {use: frames}",
    "encoder: {use: sltcore-demo/frames, bands: 3}",
    "encoder: encoder/frames",
    "encoder: {use: encoder/sltcore-demo/stack, base: frames, layers: [1, 2], scale: big}",
    "encoder: {use: stack, base: {use: stack, base: {use: frames, window: hamming}}, flow: {ref: encoder.base}}",
    "encoder: {use: chorus, voices: [frames, {use: stack}], weights: {a: 1, b: 2.5}}",
    "decoder: {use: search, lm: {use: counter, path: x}, pruning: {extra: {use: search}}, head: null, lexicon: null}",
    "decoder: search\nreranker: {use: order, path: p}\ntransforms: [bits, adapter/low-rank, {use: bits, bits: 8}]\nmetrics: [rate]",
    "encoder: frames\nbatch: {size: 3}\nsegment: {longest_s: 20}\nseed: 5\nname: x\ndescription: y",
    "decoder: null\nencoder: frames",
]


@pytest.mark.parametrize("text", GOOD)
def test_good_specs_pass_written_and_filled(schema: dict[str, Any], demo_registry: Registry, text: str) -> None:
    spec = spec_of(text)
    model = load_spec(spec, registry=demo_registry).model
    assert flagged(schema, spec) == set()
    assert flagged(schema, fill(model)) == set()


BAD = [
    ("encoder: nope", ("encoder",)),
    ("encoder: search", ("encoder",)),
    ("encoder: 3", ("encoder",)),
    ("encoder: {use: nope}", ("encoder", "use")),
    ("encoder: {bands: 3}", ("encoder",)),
    ("encoder: {use: frames, bnds: 3}", ("encoder",)),
    ("encoder: {use: frames, bands: 0}", ("encoder", "bands")),
    ("encoder: {use: sltcore-demo/frames, bands: x}", ("encoder", "bands")),
    ("encoder: {use: frames, dither: 'yes'}", ("encoder", "dither")),
    ("encoder: {use: frames, window: hat}", ("encoder", "window")),
    ("encoder: {use: stack, base: {use: stack, base: {use: frames, bands: []}}}", ("encoder", "base", "base", "bands")),
    ("encoder: {use: stack, base: {use: stack, base: nope}}", ("encoder", "base", "base")),
    ("encoder: {use: stack, flow: frames}", ("encoder", "flow")),
    ("encoder: {use: stack, flow: {ref: 3}}", ("encoder", "flow", "ref")),
    ("encoder: {use: chorus}", ("encoder",)),
    ("encoder: {use: chorus, voices: [frames, nope]}", ("encoder", "voices", 1)),
    ("encoder: {use: chorus, voices: [frames], weights: {a: b}}", ("encoder", "weights", "a")),
    ("decoder: {use: search, pruning: {extra: {use: counter}}}", ("decoder", "pruning", "extra")),
    ("decoder: {use: search, pruning: {most: 1.5}}", ("decoder", "pruning", "most")),
    ("decoder: {use: search, head: {ref: encoder.x, y: 1}}", ("decoder", "head")),
    ("encoder: frames\ntransforms: [frames]", ("transforms", 0)),
    ("encoder: frames\ntransforms: [bits, {use: bits, bits: 3}]", ("transforms", 1, "bits")),
    ("encoder: frames\ntransforms: [{use: bits, bits: true}]", ("transforms", 0, "bits")),
    ("encoder: frames\nmetrics: rate", ("metrics",)),
    ("encoder: frames\nbatch: {size: 0}", ("batch", "size")),
    ("encoder: frames\ncolour: red", ()),
    ("encoder: frames\nseed: -1", ("seed",)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path"), BAD)
def test_bad_specs_are_flagged_at_the_place(schema: dict[str, Any], text: str, path: tuple[str | int, ...]) -> None:
    assert path in flagged(schema, spec_of(text))


@pytest.mark.parametrize(
    "head", ["kind: pipeline", "slt: 1", "slt: 2\nkind: pipeline", "slt: 1\nkind: train", "slt: true\nkind: pipeline"]
)
def test_a_wrong_head_is_flagged(schema: dict[str, Any], head: str) -> None:
    assert flagged(schema, parse_document(f"{head}\nencoder: frames").data)


def test_an_editor_finds_descriptions_defaults_and_names(schema: dict[str, Any]) -> None:
    frames = schema["$defs"]["encoder.sltcore-demo.frames"]
    assert frames["description"] == "sound to frames"
    assert frames["properties"]["bands"] == {
        "default": 80, "description": "numbers in a frame", "maximum": 256, "minimum": 1, "title": "Bands", "type": "integer",
    }  # fmt: skip
    assert set(frames["properties"]) == {"use", "bands", "shift_s", "window", "dither"}
    slot = schema["$defs"]["slot.encoder"]["then"]["else"]["properties"]["use"]
    assert slot["description"] == "the encoder to use"
    assert slot["anyOf"][0] == {"enum": ["chorus", "frames", "stack"]}
    assert schema["properties"]["encoder"]["description"] == "from a recording, text or features to frames"
    for key, definition in schema["$defs"].items():
        if "properties" in definition and not key.startswith("slot."):
            for name, field in definition["properties"].items():
                assert field.get("description"), f"{key}.{name}"
    for name, field in schema["properties"].items():
        assert field.get("description"), name


def test_colliding_names_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path)
    site.add("one", component="same", package="slt_collide_one")
    site.add("two", component="same", package="slt_collide_two")
    monkeypatch.syspath_prepend(str(tmp_path))
    schema = json_schema(Registry(path=[str(tmp_path)]))
    assert flagged(schema, spec_of("decoder: same"))
    assert flagged(schema, spec_of("decoder: sltcore-one/same")) == set()
    assert flagged(schema, spec_of("decoder: {use: sltcore-two/same, size: 65}")) == {("decoder", "size")}


def test_a_broken_plugin_never_spoils_the_schema(site: Site, slt: Slt) -> None:
    write_demo(site)
    site.add("broken", "raise ValueError")
    site.add("lame", files={"config.py": "raise ValueError('lame')"})
    site.add("gone", files={"config.py": "import os; os._exit(1)"})
    done = slt("schema", site=site, SLT_PLUGINS="demo,broken,lame,gone")
    assert done.returncode == 0, done.stderr
    import json

    schema = json.loads(done.stdout)
    Draft202012Validator.check_schema(schema)
    for text in GOOD:
        assert flagged(schema, spec_of(text)) == set()
    assert flagged(schema, spec_of("decoder: lame"))


def test_without_plugins_the_schema_still_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    schema = json_schema(Registry(path=[str(tmp_path)]))
    Draft202012Validator.check_schema(schema)
    assert flagged(schema, spec_of("encoder: frames"))
    assert flagged(schema, spec_of("encoder: {ref: decoder.x}")) == set()


def test_a_config_in_this_process_that_fails_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path)
    site.add("poor", files={"config.py": "raise ValueError('poor')"})
    monkeypatch.syspath_prepend(str(tmp_path))
    schema = json_schema(Registry(path=[str(tmp_path)]))
    Draft202012Validator.check_schema(schema)
    description = schema["$defs"]["decoder.sltcore-poor.poor"]["description"]
    assert description.startswith(
        "dummy poor (not usable: decoder 'poor' is declared by sltcore-poor 1.0, whose config"
    )
