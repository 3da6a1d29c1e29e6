"""Specs: every error at once with its place, overrides, filling, differences, references, files, environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sltcore.errors import SpecError
from sltcore.registry import Registry
from sltcore.spec import MISSING, diff, dump_document, fill, load_spec, path_text, references
from sltcore.spec.overrides import apply_overrides, parse_path

Write = Callable[..., Path]
HEAD = "slt: 1\nkind: pipeline\n"


def problems(registry: Registry, source: Any, *overrides: str) -> list[str]:
    """The lines of the error that a spec raises, without the folder of its file."""
    with pytest.raises(SpecError) as caught:
        load_spec(source, overrides=overrides, registry=registry)
    text = str(caught.value)
    return (text.replace(f"{source.parent}/", "") if isinstance(source, Path) else text).split("\n")


def test_every_problem_is_told_at_once_in_the_order_of_the_text(demo_registry: Registry, write: Write) -> None:
    path = write(
        HEAD
        + "encoder:\n"
        + "  use: stack\n"
        + "  base: {use: frames, bands: 0, windw: hann}\n"
        + "  scale: [1]\n"
        + "decoder:\n"
        + "  use: search\n"
        + "  beam: '8'\n"
        + "  pruning: {threshold: -1, extra: {use: serch}}\n"
        + "  phrases: one\n"
        + "metrics:\n"
        + "- rate\n"
        + "- {use: rate, low: 3, high: 2}\n"
        + "colour: red\n"
    )
    assert problems(demo_registry, path) == [
        "spec.yaml:5:23: encoder.base.bands: encoder/frames expected greater than or equal to 1, got 0 (slt explain "
        "encoder/frames)",
        "spec.yaml:5:33: encoder.base.windw: encoder/frames has no field 'windw'; fields: bands, shift_s, window, dither. "
        "Did you mean 'window'? (slt explain encoder/frames)",
        "spec.yaml:6:3: encoder.scale: encoder/stack expected a valid integer or a valid string, got [1] (slt explain "
        "encoder/stack)",
        "spec.yaml:9:3: decoder.beam: decoder/search expected a valid integer, got '8' (slt explain decoder/search)",
        "spec.yaml:10:13: decoder.pruning.threshold: decoder/search expected greater than or equal to 0, got -1 (slt explain "
        "decoder/search)",
        "spec.yaml:10:36: decoder.pruning.extra.use: no decoder is named 'serch'; installed: counter, search. Did you mean "
        "'search'?",
        "spec.yaml:11:3: decoder.phrases: decoder/search expected a valid list, got 'one' (slt explain decoder/search)",
        "spec.yaml:14:3: metrics[1]: metric/rate low 3.0 lies above high 2.0; exchange them, got {'low': 3, 'high': 2} "
        "(slt explain metric/rate)",
        "spec.yaml:15:1: colour: has no field 'colour'; fields: slt, kind, name, description, encoder, decoder, reranker, "
        "vocoder, transforms, metrics, seed, batch, segment.",
    ]


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("encoder: 3", "3:1: encoder: expected an encoder, as {use: NAME} or a bare name, got 3"),
        ("encoder: {bands: 3}", "3:1: encoder: this encoder has no 'use'; write use: NAME, installed: chorus, frames, stack, got {'bands': 3}"),
        ("encoder: {use: [x]}", "3:11: encoder.use: expected a component's name, got ['x']"),
        ("encoder: {use: search}", "3:11: encoder.use: no encoder is named 'search'; installed: chorus, frames, stack. There is a decoder of that name."),
        ("encoder: {use: chorus, voices: []}", "3:24: encoder.voices: encoder/chorus list should have at least 1 item after validation, not 0, got [] (slt explain encoder/chorus)"),
        ("encoder: chorus", "3:1: encoder.voices: encoder/chorus needs a value here: field 'voices' is required (slt explain encoder/chorus)"),
        ("encoder: {use: chorus, voices: [frames, {use: stack, base: nope}]}", "3:54: encoder.voices[1].base.use: no encoder is named 'nope'; installed: chorus, frames, stack."),
        ("encoder: {use: chorus, voices: [frames], weights: {a b: x}}", "3:52: encoder.weights[\"a b\"]: encoder/chorus expected a valid number, got 'x' (slt explain encoder/chorus)"),
        ("decoder: {use: search, head: frames}", "3:24: decoder.head: expected {ref: PATH}, got 'frames'"),
        ("decoder: {use: search, head: {ref: 3}}", "3:31: decoder.head.ref: expected the path of another place of this spec, such as encoder.head, got 3"),
        ("decoder: {use: search, head: {ref: encoder.x, y: 1}}", "3:47: decoder.head.y: nothing may stand beside 'ref', got 1"),
        ("decoder: {use: search, head: {ref: encoder.x}}", "3:31: decoder.head.ref: there is no 'encoder' in this spec to refer to; it has: decoder. Did you mean 'decoder'?"),
        ("encoder: {use: stack, flow: {ref: decoder.x}}\ndecoder: search", "3:30: encoder.flow.ref: 'decoder.x' is built after encoder; a reference points at an earlier stage"),
        ("encoder: frames\ntransforms: [frames]", "4:14: transforms[0].use: no quantizer or accelerator or adapter is named 'frames'; installed: bits, low-rank. There is an encoder of that name."),
        ("encoder: frames\ntransforms: bits", "4:1: transforms: expected a valid list, got 'bits'"),
        ("encoder: frames\ntransforms: [{use: bits, bits: 3}]", "4:26: transforms[0].bits: quantizer/bits expected 1, 2, 4 or 8, got 3 (slt explain quantizer/bits)"),
        ("encoder: frames\ntransforms: [{use: bits, bits: true}]", "4:26: transforms[0].bits: quantizer/bits expected another type than a boolean, got True (slt explain quantizer/bits)"),
        ("metrics: [rate]", "1:1: a pipeline needs an encoder, a decoder or a vocoder, got {'slt': 1, 'kind': 'pipeline', 'metrics': ['rate']}"),
        ("decoder: {use: ctc-beam, beam: 3}", "3:11: decoder.use: decoder 'ctc-beam' is not installed; it comes with sltcore-ctc-personalization. Next: pip install sltcore-ctc-personalization"),
        ("encoder: {use: frames, dither: yes}", "3:24: encoder.dither: encoder/frames expected a valid boolean, got 'yes' (slt explain encoder/frames)"),
        ("encoder: {use: frames, bands: 8.0}", "3:24: encoder.bands: encoder/frames expected a valid integer, got 8.0 (slt explain encoder/frames)"),
        ("encoder: {use: frames, shift_s: .nan}", "3:24: encoder.shift_s: encoder/frames expected a finite number, got nan (slt explain encoder/frames)"),
        ("decoder: {use: counter, path: ''}", "3:25: decoder.path: decoder/counter expected the path of a file, got '' (slt explain decoder/counter)"),
        ("decoder: {use: counter, path: [x]}", "3:25: decoder.path: decoder/counter expected the path of a file, got ['x'] (slt explain decoder/counter)"),
        ("decoder: {use: counter, path: ~nobody-of-this-name/x}", "3:25: decoder.path: decoder/counter expected a path whose ~user exists here, got '~nobody-of-this-name/x' (slt explain decoder/counter)"),
        ("decoder: {use: search, token: '${env:SLT_TEST_NOT_SET}'}", "3:24: decoder.token: decoder/search environment variable SLT_TEST_NOT_SET is not set; set it or write the value, got '${env:SLT_TEST_NOT_SET}' (slt explain decoder/search)"),
    ],
)  # fmt: skip
def test_a_problem_is_one_exact_line(demo_registry: Registry, write: Write, spec: str, line: str) -> None:
    assert problems(demo_registry, write(f"{HEAD}{spec}\n")) == [f"spec.yaml:{line}"]


@pytest.mark.parametrize(
    ("spec", "lines"),
    [
        ("- a\n", ["1:1: a spec is a map that begins with `slt: 1`, got ['a']"]),
        ("encoder: frames\n", ["1:1: the spec's version is missing; begin with `slt: 1`.", "1:1: the spec's kind is missing; write kind: pipeline or train or experiment"]),
        ("stl: 1\nkind: pipeline\n", ["1:1: stl: the spec's version is missing; begin with `slt: 1`. Did you mean 'slt' by 'stl'?"]),
        ("slt: 2\nkind: pipeline\n", ["1:1: slt: version 2 is newer than this sltcore reads (1). Next: pip install -U sltcore-lib"]),
        ("slt: '1'\nkind: pipeline\n", ["1:1: slt: expected the version number 1, got '1'"]),
        ("slt: true\nkind: pipeline\n", ["1:1: slt: expected the version number 1, got True"]),
        ("slt: 0\nkind: pipeline\nencoder: frames\n", ["1:1: slt: there is no version 0; write slt: 1"]),
        ("slt: 1\nkind: pipelin\n", ["2:1: kind: expected one of: pipeline, train, experiment, got 'pipelin'. Did you mean 'pipeline'?"]),
        ("slt: 1\nkind: [x]\n", ["2:1: kind: expected one of: pipeline, train, experiment, got ['x']."]),
    ],
)  # fmt: skip
def test_the_head_decides_first(demo_registry: Registry, write: Write, spec: str, lines: list[str]) -> None:
    assert problems(demo_registry, write(spec)) == [f"spec.yaml:{line}" for line in lines]


def test_more_problems_than_anyone_reads_are_counted(demo_registry: Registry, write: Write) -> None:
    path = write(HEAD + "encoder: frames\n" + "".join(f"x{i}: 1\n" for i in range(60)))
    lines = problems(demo_registry, path)
    assert len(lines) == 51
    assert lines[-1] == "spec.yaml:1:1: and 10 more problems"


def test_the_printed_path_is_what_set_takes(demo_registry: Registry, write: Write) -> None:
    path = write(
        HEAD
        + "encoder: {use: chorus, voices: [frames, {use: frames, bands: 0}], weights: {'a \"b\" ü': x, 'c\\d': y, 'e\tf': z}}\n"
        + "transforms: [{use: bits, bits: 3}, {use: low-rank, rank: 0}]\n"
    )
    lines = problems(demo_registry, path)
    assert len(lines) == 6
    settings = [line.split(": ")[1] + "=1" for line in lines]
    assert """encoder.weights["a \\"b\\" ü"]=1""" in settings
    assert """encoder.weights["e\\tf"]=1""" in settings
    load_spec(path, overrides=settings, registry=demo_registry)


@pytest.mark.parametrize(
    "path",
    [("a",), ("a", 0, "b"), ("a b",), ("a", "", "1"), ("x.y", "[0]", '"', "\\", "\n", "=", "ü"), ("ünder", 3, "_-x")],
)
def test_paths_read_back(path: tuple[str | int, ...]) -> None:
    assert parse_path(path_text(path)) == path
    assert apply_overrides({}, [])[0] == {}


def test_a_problem_under_an_override_names_the_override(demo_registry: Registry, write: Write) -> None:
    path = write(HEAD + "encoder: frames\ndecoder: search\n")
    assert problems(demo_registry, path, "decoder.beam=0", "encoder.bands=4", "decoder.lm={use: nope}") == [
        "--set decoder.beam=0: decoder.beam: decoder/search expected greater than or equal to 1, got 0 (slt explain "
        "decoder/search)",
        "--set decoder.lm={use: nope}: decoder.lm.use: no decoder is named 'nope'; installed: counter, search.",
    ]


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("decoder.beam=32", ("decoder", "beam"), 32),
        (" decoder.alpha = 1e-4", ("decoder", "alpha"), 1e-4),
        ("encoder.dither=true", ("encoder", "dither"), True),
        ("name=no", ("name",), "no"),
        ("name=", ("name",), ""),
        ("name='7'", ("name",), "7"),
        ("name=a=b", ("name",), "a=b"),
        ("decoder.phrases=[a b, c]", ("decoder", "phrases"), ["a b", "c"]),
        ("decoder.phrases[1]=x", ("decoder", "phrases", 1), "x"),
        ("decoder.phrases.0=x", ("decoder", "phrases", 0), "x"),
        ("decoder.lm={use: counter, path: /x}", ("decoder", "lm", "path"), "/x"),
        ("encoder.bands=20", ("encoder", "bands"), 20),
        ("transforms[0].bits=8", ("transforms", 0, "bits"), 8),
        ("metrics[0]=rate", ("metrics", 0, "use"), "rate"),
        ("transforms[1]=low-rank", ("transforms", 1, "use"), "low-rank"),
        ("encoder=stack", ("encoder", "use"), "stack"),
        ("reranker={use: order, path: /y}", ("reranker", "order"), 3),
        ("batch.size=3", ("batch", "size"), 3),
    ],
)
def test_set_replaces_one_place(
    demo_registry: Registry, write: Write, setting: str, place: tuple[str | int, ...], value: Any
) -> None:
    path = write(HEAD + "encoder: frames\ndecoder: {use: search, phrases: [p]}\ntransforms: [bits]\n")
    spec = load_spec(path, overrides=[setting], registry=demo_registry)
    found: Any = spec.filled()
    for part in place:
        found = found[part]
    assert found == value
    assert type(found) is type(value)
    assert spec.overrides == (setting,)


def test_later_overrides_see_earlier_ones(demo_registry: Registry) -> None:
    spec = {"slt": 1, "kind": "pipeline", "encoder": "frames"}
    loaded = load_spec(
        spec, overrides=["encoder=stack", "encoder.base=frames", "encoder.base.bands=10"], registry=demo_registry
    )
    assert loaded.filled()["encoder"]["base"]["bands"] == 10
    assert spec == {"slt": 1, "kind": "pipeline", "encoder": "frames"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("beam", "--set beam: expected PATH=VALUE, such as decoder.beam=32"),
        ("=3", "--set =3: the path is empty; write PATH=VALUE, such as decoder.beam=32"),
        ("a..b=3", "--set a..b: not a path; write names joined by dots and list places in brackets, as decoder.beam or transforms[0].bits"),
        ("a[0]b=3", "--set a[0]b: not a path; write names joined by dots and list places in brackets, as decoder.beam or transforms[0].bits"),
        ("a[x]=3", "--set a[x]: not a path; write names joined by dots and list places in brackets, as decoder.beam or transforms[0].bits"),
        (".a=3", "--set .a: not a path; write names joined by dots and list places in brackets, as decoder.beam or transforms[0].bits"),
        ("[0]=3", "--set [0]=3: the spec is no list, so it has no place [0]"),
        ("encoder[0]=3", "--set encoder[0]=3: encoder is no list, so it has no place [0]"),
        ("transforms[2]=bits", "--set transforms[2]=bits: transforms has 1 entries, there is no [2]"),
        ("transforms[1].bits=3", "--set transforms[1].bits=3: transforms has 1 entries, there is no [1]"),
        ("slt.x=3", "--set slt.x=3: slt is 1, so it has no field 'x'"),
        ("transforms.x=3", "--set transforms.x=3: transforms is ['bits'], so it has no field 'x'"),
        ("name={a: 1", "--set name={a: 1:1:6: not YAML: expected ',' or '}', but got '<stream end>'"),
        ("name=&a [*a]", "--set name=&a [*a]:1:5: alias *a stands inside its own anchor"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_one_line(demo_registry: Registry, write: Write, setting: str, message: str) -> None:
    path = write(HEAD + "encoder: frames\ntransforms: [bits]\n")
    assert problems(demo_registry, path, setting) == [message]


def test_set_at_one_alias_leaves_the_other(demo_registry: Registry, write: Write) -> None:
    path = write(HEAD + "encoder: {use: chorus, voices: [&v {use: frames, bands: 7}, *v]}\n")
    voices = load_spec(path, overrides=["encoder.voices[1].bands=9"], registry=demo_registry).filled()["encoder"][
        "voices"
    ]
    assert [voice["bands"] for voice in voices] == [7, 9]


def test_filling_is_idempotent_and_writes_every_default(demo_registry: Registry, write: Write) -> None:
    spec = load_spec(write(HEAD + "encoder: stack\ndecoder: search\n"), registry=demo_registry)
    filled = spec.filled()
    assert filled == {
        "slt": 1,
        "kind": "pipeline",
        "name": "",
        "description": "",
        "encoder": {
            "use": "stack",
            "base": {"use": "frames", "bands": 80, "shift_s": 0.01, "window": "hann", "dither": False},
            "flow": None,
            "layers": [],
            "scale": None,
        },
        "decoder": {
            "use": "search",
            "beam": 8,
            "head": None,
            "lm": None,
            "pruning": {"threshold": 10.0, "most": 16, "extra": None},
            "lexicon": None,
            "token": "",
            "phrases": [],
            "alpha": 0.5,
        },
        "transforms": [],
        "metrics": [],
        "seed": 0,
        "batch": {"size": 16, "seconds": 120.0},
        "segment": {"above_s": 60.0, "longest_s": 30.0, "pause_s": 0.4},
    }
    again = load_spec(filled, registry=demo_registry)
    assert again.model == spec.model
    assert fill(again.model) == filled


def test_difference_names_each_place_once() -> None:
    left = {"a": {"b": 1, "c": [1, 2]}, "d": {}, "same": "x"}
    right = {"a": {"b": 2, "c": [1]}, "d": {"e": None}, "same": "x"}
    assert diff(left, right) == [
        (("a", "b"), 1, 2),
        (("a", "c", 1), 2, MISSING),
        (("d",), {}, MISSING),
        (("d", "e"), MISSING, None),
    ]
    assert diff(left, left) == []


def test_references_are_found_wherever_they_stand(demo_registry: Registry) -> None:
    spec = {
        "slt": 1,
        "kind": "pipeline",
        "encoder": {"use": "chorus", "voices": [{"use": "stack", "flow": {"ref": "encoder.a"}}]},
        "decoder": {"use": "search", "pruning": {"extra": {"use": "search", "head": {"ref": "encoder.b"}}}},
    }
    found = [(path_text(path), ref.ref) for path, ref in references(load_spec(spec, registry=demo_registry).model)]
    assert found == [("encoder.voices[0].flow", "encoder.a"), ("decoder.pruning.extra.head", "encoder.b")]


def test_files_stand_beside_the_spec_that_names_them(demo_registry: Registry, write: Write, tmp_path: Path) -> None:
    path = write(HEAD + "decoder: {use: counter, path: words/a.arpa}\n")
    relative = os.path.relpath(path)
    for source in (path, str(path), relative):
        config = load_spec(source, registry=demo_registry).model.decoder.config  # type: ignore[union-attr]
        assert config.path == tmp_path / "words" / "a.arpa"
    spec = {"slt": 1, "kind": "pipeline", "decoder": {"use": "counter", "path": Path("words/a.arpa")}}
    assert load_spec(spec, registry=demo_registry).filled()["decoder"]["path"] == "words/a.arpa"
    model = load_spec(spec, registry=demo_registry, folder=tmp_path).model
    assert fill(model)["decoder"]["path"] == str(tmp_path / "words" / "a.arpa")
    assert fill(model, portable=True)["decoder"]["path"] == "a.arpa"
    home = load_spec({**spec, "decoder": {"use": "counter", "path": "~/a"}}, registry=demo_registry)
    assert home.filled()["decoder"]["path"] == str(Path.home() / "a")


def test_the_environment_reaches_only_fields_that_allow_it(
    demo_registry: Registry, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLT_TEST_TOKEN", "secret")
    path = write(HEAD + "name: '${env:SLT_TEST_TOKEN}'\ndecoder: {use: search, token: 'a-${env:SLT_TEST_TOKEN}-b'}\n")
    spec = load_spec(path, registry=demo_registry)
    assert spec.model.name == "${env:SLT_TEST_TOKEN}"
    assert spec.model.decoder.config.token == "a-secret-b"  # type: ignore[union-attr]
    text = dump_document(spec.filled())
    assert "secret" not in text
    assert load_spec(text, registry=demo_registry).model == spec.model


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"slt": 1, "x": object}, "<dict>:1:1: a spec holds plain values only: <class 'object'> is a type"),
        ({"slt": 1, "kind": "pipeline", "encoder": "nope"}, "<dict>:1:1: encoder.use: no encoder is named 'nope'; installed: chorus, frames, stack."),
    ],
)  # fmt: skip
def test_a_dict_is_checked_like_a_file(demo_registry: Registry, spec: dict[str, Any], message: str) -> None:
    assert problems(demo_registry, spec) == [message]


def test_a_dict_that_holds_itself_or_is_too_deep_is_refused(demo_registry: Registry) -> None:
    spec: dict[str, Any] = {"slt": 1, "kind": "pipeline"}
    spec["encoder"] = spec
    assert problems(demo_registry, spec) == ["<dict>:1:1: a spec holds plain values only: Circular reference detected"]
    for depth in (100, 100_000):
        deep: Any = "frames"
        for _ in range(depth):
            deep = [deep]
        (line,) = problems(demo_registry, {"slt": 1, "kind": "pipeline", "encoder": deep})
        assert line.startswith("<dict>:1:1: ")


def test_a_config_of_the_wrong_class_is_the_plugins_fault(demo_registry: Registry, tmp_path: Path) -> None:
    from fake_plugins import Site

    site = Site(tmp_path)
    site.add("wrong", files={"config.py": "class Made: pass\n"})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        registry = Registry(path=[str(tmp_path)])
        assert problems(registry, {"slt": 1, "kind": "pipeline", "decoder": "wrong"}) == [
            "<dict>:1:1: decoder.use: decoder 'wrong' of sltcore-wrong 1.0: config slt_wrong.config:Made is no subclass of "
            "sltcore.spec.Config; let it inherit from it"
        ]


def test_a_slot_of_an_unknown_kind_is_refused() -> None:
    from sltcore.errors import PluginError
    from sltcore.spec import Slot

    with pytest.raises(PluginError) as caught:
        Slot("encodr")
    assert str(caught.value) == (
        "Slot('encodr'): no kind is named 'encodr'; kinds: encoder, decoder, quantizer, accelerator, adapter, privacy, "
        "reranker, vocoder, objective, augmentation, metric"
    )


def test_a_config_made_in_python_is_as_strict() -> None:
    from pydantic import Field, ValidationError

    from sltcore.spec import Config

    class Sizes(Config):
        sizes: tuple[int, ...] = Field((1,), description="sizes")
        scale: float = Field(1.0, description="scale")

    assert Sizes(sizes=[1, 2]).sizes == (1, 2)  # type: ignore[arg-type]
    assert Sizes(scale=2).scale == 2.0
    for wrong in ({"sizes": ["1"]}, {"scale": "2"}, {"scale": True}, {"scale": float("inf")}, {"other": 1}):
        with pytest.raises(ValidationError):
            Sizes(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Sizes().scale = 3.0  # type: ignore[misc]


def test_the_tag_of_a_union_is_no_part_of_a_path() -> None:
    """pydantic writes many.0.b.n for many[0].n."""
    from typing import Annotated, Literal

    from pydantic import Field, ValidationError

    from sltcore.spec import Config
    from sltcore.spec.problems import problems_of

    class A(Config):
        do: Literal["a"] = Field("a", description="which")
        n: int = Field(1, description="number")

    class B(Config):
        do: Literal["b", "bb"] = Field("b", description="which")
        m: int = Field(1, description="number")

    class Holder(Config):
        one: A | B = Field(default_factory=A, discriminator="do", description="one")
        two: Annotated[A | B, Field(discriminator="do")] | None = Field(None, description="perhaps")
        many: list[Annotated[A | B, Field(discriminator="do")]] = Field(default_factory=list, description="many")

    def found(data: dict[str, Any]) -> list[str]:
        with pytest.raises(ValidationError) as caught:
            Holder.model_validate(data)
        return [f"{path_text(p.path)}: {p.message}" for p in problems_of(caught.value, Holder, data=data)]

    assert found({"one": {"do": "a", "n": "x"}, "two": {"do": "bb", "m": "x", "k": 1}}) == [
        "one.n: expected a valid integer, got 'x'",
        "two.m: expected a valid integer, got 'x'",
        "two.k: has no field 'k'; fields: do, m.",
    ]
    assert found({"one": {"do": "c"}, "two": {}, "many": [{"do": "b", "n": 1}, {"do": [1]}]}) == [
        "one.do: expected one of: a, b, bb, got 'c'.",
        "two: field 'do' is missing; write do: a or b or bb",
        "many[0].n: has no field 'n'; fields: do, m.",
        "many[1].do: expected one of: a, b, bb, got [1].",
    ]
