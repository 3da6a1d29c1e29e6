"""`kind: train`: every problem at its place, those of the pipeline inside too; filled, read back, overridden."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import Site, Slt
from jsonschema import Draft202012Validator
from learning_plugin import write_learning

from sltcore.errors import SpecError
from sltcore.registry import Registry
from sltcore.spec import PipelineSpec, TrainSpec, dump_document, load_spec, pipeline_source, spec_of_fields
from sltcore.spec.overrides import apply_overrides
from sltcore.spec.schema import json_schema

Write = Callable[..., Path]
SPECS = Path(__file__).parent / "specs"
HEAD = "slt: 1\nkind: train\n"
PIPELINE = "pipeline: {encoder: frames, decoder: search}\n"
DATA = "data: {train: [{corpus: asterisk-en}]}\n"
GOOD = HEAD + PIPELINE + DATA


@pytest.fixture(scope="module")
def registry(demo: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The demonstration plugin and the one that learns."""
    site = write_learning(tmp_path_factory.mktemp("learning"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site.folder))
        yield Registry(path=[str(demo.folder), str(site.folder)])


def problems(registry: Registry, source: Any, *overrides: str, **more: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_spec(source, overrides=overrides, registry=registry, **more)
    text = str(caught.value)
    return (text.replace(f"{source.parent}/", "") if isinstance(source, Path) else text).split("\n")


def test_every_problem_is_told_at_once_with_the_place_inside_the_pipeline(registry: Registry, write: Write) -> None:
    path = write(
        HEAD
        + "pipeline:\n"
        + "  encoder:\n"
        + "    use: stack\n"
        + "    base: {use: frames, bands: 0}\n"
        + "  decodr: search\n"
        + "data:\n"
        + "  train:\n"
        + "  - {corpus: a, manifest: b}\n"
        + "  - {corpus: a, weigth: 2}\n"
        + "objective: {use: distance, power: 9}\n"
        + "augment: [{use: noize}]\n"
        + "copy_rows:\n"
        + "- rows: {a: {label: ''}}\n"
        + "optimizer: {name: adagrad, betas: [0.9, 1.0]}\n"
        + "budget: {steps: 1, epochs: 2}\n"
        + "evaluate: {best: wer}\n"
        + "seed: -1\n"
    )
    assert problems(registry, path) == [
        "spec.yaml:6:25: pipeline.encoder.base.bands: encoder/frames expected greater than or equal to 1, got 0 (slt explain encoder/frames)",
        "spec.yaml:7:3: pipeline.decodr: has no field 'decodr'; fields: name, description, encoder, decoder, reranker, vocoder, transforms, metrics, seed, batch, segment. Did you mean 'decoder'?",
        "spec.yaml:10:5: data.train[0]: name one source: corpus, manifest, dataset or stage; given: corpus, manifest, got {'corpus': 'a', 'manifest': 'b'}",
        "spec.yaml:11:17: data.train[1].weigth: has no field 'weigth'; fields: corpus, manifest, dataset, stage, config, revision, split, part, where, with_words, without_words, columns, limit, max_seconds, weight, optional. Did you mean 'weight'?",
        "spec.yaml:12:28: objective.power: objective/distance expected less than or equal to 8, got 9 (slt explain objective/distance)",
        "spec.yaml:13:12: augment[0].use: no augmentation is named 'noize'; installed: noise. Did you mean 'noise'?",
        "spec.yaml:15:14: copy_rows[0].rows.a.label: string should have at least 1 character, got ''",
        "spec.yaml:16:13: optimizer.name: expected 'adamw', 'adam' or 'sgd', got 'adagrad'",
        "spec.yaml:16:41: optimizer.betas[1]: expected less than 1, got 1.0",
        "spec.yaml:17:1: budget: give steps or epochs, one of the two, got {'steps': 1, 'epochs': 2}",
        "spec.yaml:18:12: evaluate.best: string should match pattern '^(auto|loss|[a-z0-9-]+\\.[A-Za-z0-9_ .-]+)$', got 'wer'",
        "spec.yaml:19:1: seed: expected greater than or equal to 0, got -1",
    ]


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (DATA, "1:1: a training run needs a pipeline: its fields, a spec file, or a bundle, got {"),
        (PIPELINE, "1:1: training needs data.train, a list of data, got {"),
        (PIPELINE + "data: {train: [{corpus: a}], public: [{corpus: b}]}", "1:1: data.private and data.public are for a run with privacy; without one, write data.train, got {"),
        (PIPELINE + DATA + "privacy: clip", "1:1: training with privacy needs data.private, a list of data, got {"),
        (PIPELINE + "privacy: clip\ndata: {train: [{corpus: a}], private: [{corpus: a}]}", "1:1: a run with privacy learns from data.private and data.public, not from data.train; move it there, got {"),
        (PIPELINE + "data: {train: [{}]}", "4:16: data.train[0]: name one source: corpus, manifest, dataset or stage; given: none of them, got {}"),
        (PIPELINE + "data: {train: [{corpus: a, config: b}]}", "4:16: data.train[0]: config and revision are those of a dataset, and this is a corpus, got {'corpus': 'a', 'config': 'b'}"),
        (PIPELINE + "data: {train: [{corpus: a, part: [1.0, 0.5]}]}", "4:16: data.train[0]: part goes from a share to a larger one, as [0.9, 1.0], got {'corpus': 'a', 'part': [1.0, 0.5]}"),
        (PIPELINE + "data: {train: [{corpus: a, part: [0, 2]}]}", "4:38: data.train[0].part[1]: expected less than or equal to 1, got 2"),
        (PIPELINE + DATA + "evaluate: {best: rate.rate}", "5:12: evaluate.best: the pipeline measures no 'rate'; its metrics: none."),
        (PIPELINE + DATA + "set: {metrics: [rate]}\nevaluate: {best: rat.x}", "6:12: evaluate.best: the pipeline measures no 'rat'; its metrics: rate. Did you mean 'rate'?"),
        (PIPELINE + DATA + "objective: {use: distance, to: {ref: vocoder.x}}", "5:33: objective.to.ref: there is no 'vocoder' in this spec to refer to; it has: encoder, decoder. Did you mean 'encoder'?"),
        (PIPELINE + DATA + "auxiliary: [{objective: {use: distance, to: {ref: encodr.x}}}]", "5:46: auxiliary[0].objective.to.ref: there is no 'encodr' in this spec to refer to; it has: encoder, decoder. Did you mean 'encoder'?"),
        (DATA + "pipeline: {encoder: {use: stack, flow: {ref: decoder.x}}, decoder: search}", "4:41: pipeline.encoder.flow.ref: 'decoder.x' is built after encoder; a reference points at an earlier stage"),
        (DATA + "pipeline: {metrics: [rate]}", "4:1: pipeline: a pipeline needs an encoder, a decoder or a vocoder, got {'metrics': ['rate']}"),
        (DATA + "pipeline: 3", "4:1: pipeline: expected the fields of a pipeline, or the path of a spec or bundle, got 3"),
        (DATA + "pipeline: ''", "4:1: pipeline: expected the path of a file, got ''"),
        (PIPELINE + DATA + "set: {encoder.bands: 0}", "5:7: set[\"encoder.bands\"]: encoder.bands: encoder/frames expected greater than or equal to 1, got 0 (slt explain encoder/frames)"),
        (PIPELINE + DATA + "set: {decoder.head: {ref: encodr.x}}", "5:7: set[\"decoder.head\"]: decoder.head.ref: there is no 'encodr' in this spec to refer to; it has: encoder, decoder. Did you mean 'encoder'?"),
        (PIPELINE + DATA + "set: {a b: 1}", "5:7: set[\"a b\"]: a b: not a path; write names joined by dots and list places in brackets, as decoder.beam or transforms[0].bits"),
        (PIPELINE + DATA + "set: {encodr.bands: 1}", "5:7: set[\"encodr.bands\"]: a pipeline has no field 'encodr'; fields: name, description, encoder, decoder, reranker, vocoder, transforms, metrics, seed, batch, segment. Did you mean 'encoder'?"),
        (PIPELINE + DATA + "set: {'transforms[1]': bits}", "5:7: set[\"transforms[1]\"]: transforms[1]: transforms has 0 entries, there is no [1]"),
        (PIPELINE + DATA + "trainable: []", "5:1: trainable: list should have at least 1 item after validation, not 0, got []"),
        (PIPELINE + DATA + "batch: {seconds: 0}", "5:9: batch.seconds: expected greater than 0, got 0"),
        (PIPELINE + DATA + "precision: fp16", "5:1: precision: expected 'float32', 'bfloat16' or 'float16', got 'fp16'"),
        (PIPELINE + DATA + "learning_rate: 1", "5:1: learning_rate: has no field 'learning_rate'; fields: slt, kind, name, description, pipeline, set, data, "),
    ],
)  # fmt: skip
def test_a_problem_is_one_exact_line(registry: Registry, write: Write, spec: str, line: str) -> None:
    (found,) = problems(registry, write(f"{HEAD}{spec}\n"))
    assert found == f"spec.yaml:{line}" or (line[-1] in "{ " and found.startswith(f"spec.yaml:{line}"))


def test_a_problem_under_an_override_names_the_override(registry: Registry, write: Write) -> None:
    path = write(GOOD)
    assert problems(registry, path, "pipeline.encoder.bands=0", "set.decoder.beam=0", "data.train[1]={limit: 0}") == [
        "--set pipeline.encoder.bands=0: pipeline.encoder.bands: encoder/frames expected greater than or equal to 1, got 0 "
        "(slt explain encoder/frames)",
        "--set data.train[1]={limit: 0}: data.train[1].limit: expected greater than or equal to 1, got 0",
    ]
    assert problems(registry, path, "set.decoder.beam=0", "objective={use: distance, to: {ref: x}}") == [
        "--set objective={use: distance, to: {ref: x}}: objective.to.ref: there is no 'x' in this spec to refer to; it has: "
        "encoder, decoder, reranker, vocoder.",
        '--set set.decoder.beam=0: set["decoder.beam"]: decoder.beam: decoder/search expected greater than or equal to 1, got 0 '
        "(slt explain decoder/search)",
    ]


def test_set_of_set_is_one_key_of_it(registry: Registry) -> None:
    settings = ["set.decoder.beam=4", "set.transforms[0]=bits", 'set["encoder.bands"]=9', "set.seed=3"]
    spec = load_spec(GOOD, overrides=settings, registry=registry)
    assert spec.model.set == {"decoder.beam": 4, "transforms[0]": "bits", "encoder.bands": 9, "seed": 3}


def test_filling_begins_with_the_head_and_reads_back_equal(registry: Registry) -> None:
    text = GOOD + "optimizer: {clip_norm: null}\nset: {decoder.lm: null}\nobjective: distance\naugment: [noise]\n"
    spec = load_spec(text, registry=registry)
    assert isinstance(spec.model, TrainSpec)
    filled = spec.filled()
    assert list(filled)[:3] == ["slt", "kind", "name"]
    assert filled["pipeline"]["encoder"] == {
        "use": "frames",
        "bands": 80,
        "shift_s": 0.01,
        "window": "hann",
        "dither": False,
    }
    assert filled["data"]["train"] == [
        {
            "corpus": "asterisk-en",
            "where": {},
            "with_words": [],
            "without_words": [],
            "columns": {},
            "weight": 1.0,
            "optional": False,
        }
    ]
    assert filled["optimizer"]["clip_norm"] is None  # null is no default here: it means no clipping
    assert filled["set"] == {"decoder.lm": None}
    assert filled["objective"] == {"use": "distance", "power": 2.0, "to": None}
    assert filled["budget"] == {"steps": 1000}
    for source in (filled, dump_document(filled)):
        again = load_spec(source, registry=registry)
        assert again.model == spec.model
        assert again.filled() == filled


def test_files_stand_beside_the_spec_that_names_them(registry: Registry, write: Write, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write("slt: 1\nkind: pipeline\ndecoder: {use: counter, path: a.arpa}\n", "sub/base.yaml")
    path = write(HEAD + "pipeline: sub/base.yaml\ndata: {train: [{manifest: calls.csv}]}\nset: {decoder.order: 4}\n")
    model = load_spec(path, registry=registry, kind="train").model
    assert model.pipeline == tmp_path / "sub" / "base.yaml"
    assert model.data.train[0].manifest == tmp_path / "calls.csv"
    source, overrides = pipeline_source(model.pipeline, model.set)
    found = load_spec(source, overrides=overrides, registry=registry, kind="pipeline").model
    assert found.decoder is not None
    assert (found.decoder.config.path, found.decoder.config.order) == (tmp_path / "sub" / "a.arpa", 4)  # type: ignore[attr-defined]


def test_a_spec_file_is_looked_at_unless_told_otherwise(registry: Registry, write: Write, tmp_path: Path) -> None:
    path = write(HEAD + "pipeline: base.yaml\n" + DATA + "set: {decoder.beam: 0}\n")
    (line,) = problems(registry, path)
    assert line.startswith("spec.yaml:3:1: pipeline: base.yaml:1:1: there is no such spec file; "), line
    assert load_spec(path, registry=registry, sources=False).model.pipeline == tmp_path / "base.yaml"
    write("slt: 1\nkind: pipeline\nencoder:\n  use: frames\n  bands: 0\ndecoder: search\n", "base.yaml")
    assert problems(registry, path) == [
        "spec.yaml:3:1: pipeline: base.yaml:5:3: encoder.bands: encoder/frames expected greater than or equal to 1, got 0 "
        "(slt explain encoder/frames)",
        'spec.yaml:5:7: set["decoder.beam"]: decoder.beam: decoder/search expected greater than or equal to 1, got 0 '
        "(slt explain decoder/search)",
    ]
    write(GOOD, "base.yaml")
    assert problems(registry, path) == [
        "spec.yaml:3:1: pipeline: base.yaml:2:1: kind: this is a spec of kind 'train', expected kind 'pipeline'. "
        "Next: slt train base.yaml"
    ]
    (tmp_path / "base.yaml").unlink()
    (tmp_path / "base.yaml").mkdir()
    assert problems(registry, path) == [
        "spec.yaml:3:1: pipeline: the folder base.yaml is no bundle, for it holds no spec.yaml"
    ]
    write("slt: 1\nkind: pipeline\nencoder: {use: frames, old_name: 3}\ndecoder: search\n", "base.yaml/spec.yaml")
    (line,) = problems(registry, path)  # fields of an older version are what loading the bundle brings up to date
    assert line.startswith('spec.yaml:5:7: set["decoder.beam"]: decoder.beam: ')


def test_another_kind_is_refused_with_the_command_that_takes_it(registry: Registry, write: Write) -> None:
    path = write(GOOD)
    assert problems(registry, path, kind="pipeline") == [
        "spec.yaml:2:1: kind: this is a spec of kind 'train', expected kind 'pipeline'. Next: slt train spec.yaml"
    ]
    assert problems(registry, path, "kind=pipeline", kind="experiment") == [
        "--set kind=pipeline: kind: this is a spec of kind 'pipeline', expected kind 'experiment'. Next: slt run spec.yaml"
    ]
    assert problems(registry, GOOD, kind="pipeline")[0].endswith("Next: slt train SPEC")
    assert problems(registry, path, size="smoke") == [
        "spec.yaml:1:1: sizes: this spec has no size 'smoke'; its sizes: none."
    ]
    assert isinstance(load_spec("slt: 1\nkind: pipeline\nencoder: frames", registry=registry).model, PipelineSpec)


@pytest.mark.parametrize(
    "value",
    [1, 2.5, 1e-5, True, None, "x", "1e-4", "no", "multi\nline", "a\x85b", "😀", "é: #", "", [], {}, ["a", {"b": [1, None]}], {"use": "bits", "only": ["encoder.*"]}],
)  # fmt: skip
def test_what_is_set_reaches_the_pipeline_as_it_is(value: Any) -> None:
    _, overrides = pipeline_source(Path("x"), {"decoder.a": value, 'transforms[0]["odd key"]': value})
    assert all("\n" not in text for text in overrides)
    data, _ = apply_overrides({"decoder": {}, "transforms": [{}]}, overrides)
    assert data == {"decoder": {"a": value}, "transforms": [{"odd key": value}]}


def test_fields_of_a_pipeline_are_a_spec_of_their_own(registry: Registry) -> None:
    model = load_spec(GOOD, registry=registry, kind="train").model
    spec = spec_of_fields(model.pipeline)  # type: ignore[arg-type]
    assert list(spec)[:2] == ["slt", "kind"]
    assert load_spec(spec, registry=registry).filled() == spec


def test_a_published_training_spec_loads_forever(registry: Registry) -> None:
    filled = load_spec(SPECS / "train-v1.yaml", registry=registry, kind="train").filled()
    assert filled["name"] == "version one"
    assert filled["set"] == {"decoder.beam": 8, "transforms[0]": {"use": "bits", "bits": 8}}
    assert [entry["weight"] for entry in filled["data"]["train"]] == [1.0, 2.0, 1.0]
    assert filled["copy_rows"][0]["rows"]["c"] == {"label": "d", "scale": 2.0, "bias": -1.0}
    assert filled["optimizer"]["clip_norm"] is None
    assert filled["budget"] == {"epochs": 2.5}
    assert filled["objective"]["to"] == {"ref": "encoder.head"}


GOOD_SPECS = [
    GOOD,
    GOOD + "budget: {epochs: 2.5}\noptimizer: {groups: [{match: ['encoder.*'], learning_rate: 1e-4}]}\n",
    HEAD + PIPELINE + "data: {private: [{manifest: a.csv}], public: [{dataset: '${env:HOME}/x', config: en}]}\nprivacy: clip\n",
    HEAD + DATA + "pipeline: some/bundle\ncopy_rows: [{rows: {a: b, c: {label: d, scale: 0.5}}}]\ncalibration: [{corpus: a}]\n",
    GOOD + "objective: {use: distance, to: {ref: encoder.head}}\nauxiliary: [{objective: distance, weight: 0.1}]\naugment: [noise]\n",
]  # fmt: skip
BAD_SPECS = [
    (HEAD + DATA + "pipeline: {encoder: {use: frames, bands: 0}}\n", ("pipeline", "encoder", "bands")),
    (HEAD + DATA + "pipeline: {encoder: nope}\n", ("pipeline", "encoder")),
    (HEAD + DATA + "pipeline: {colour: red, encoder: frames}\n", ("pipeline",)),
    (HEAD + DATA + "pipeline: 3\n", ("pipeline",)),
    (GOOD + "objective: search\n", ("objective",)),
    (GOOD + "augment: [noise, {use: noise, snr_db: 99}]\n", ("augment", 1, "snr_db")),
    (GOOD + "optimizer: {groups: [{match: []}]}\n", ("optimizer", "groups", 0, "match")),
    (GOOD + "colour: red\n", ()),
    (HEAD + PIPELINE + "data: {train: [{corpus: a, weight: 0}]}\n", ("data", "train", 0, "weight")),
]


def test_the_schema_takes_what_the_check_takes_and_flags_places(registry: Registry) -> None:
    from test_schema import flagged

    from sltcore.spec import parse_document

    schema = json_schema(registry, "train")
    Draft202012Validator.check_schema(schema)
    for text in GOOD_SPECS:
        model = load_spec(text, registry=registry, sources=False)
        assert flagged(schema, parse_document(text).data) == set(), text
        assert flagged(schema, model.filled()) == set(), text
    for text, path in BAD_SPECS:
        with pytest.raises(SpecError):
            load_spec(text, registry=registry, sources=False)
        assert path in flagged(schema, parse_document(text).data), text
    assert list(schema["properties"])[:2] == ["slt", "kind"]
    for mark in ("x-slot", "x-start", "discriminator"):
        assert mark not in json.dumps(schema)


def test_the_commands_take_a_train_spec(slt: Slt, demo: Site, tmp_path: Path) -> None:
    path, base = tmp_path / "t.yaml", tmp_path / "base.yaml"
    base.write_text("slt: 1\nkind: pipeline\nencoder: frames\ndecoder: {use: search, beam: 3}\n", encoding="utf-8")
    path.write_text(HEAD + "pipeline: base.yaml\n" + DATA + "set: {decoder.beam: 4}\n", encoding="utf-8")
    results = slt.several(
        [
            ["check", path, base],
            ["fill", path],
            ["explain", path, "data.train[0].weight"],
            ["schema", "--kind", "train"],
            ["schema", "--kind", "trian"],
            ["migrate", path],
            ["diff", path, base],
            ["run", path, "x.wav"],
        ],
        site=demo,
    )
    codes, outputs, errors = zip(*results, strict=True)
    assert codes == (0, 0, 0, 0, 2, 0, 1, 2)
    assert errors[0] == f"{path}: good\n{base}: good\n"
    assert outputs[1].startswith(f'slt: 1\nkind: train\nname: ""\ndescription: ""\npipeline: {base}\n')
    assert outputs[2].startswith(f"data.train[0].weight = 1.0\ndefault, not written in {path}\n")
    assert json.loads(outputs[3])["properties"]["kind"]["const"] == "train"
    assert errors[4] == (
        "error: --kind trian: there is no such kind of spec; kinds: pipeline, train, experiment. Did you mean 'train'?\n"
    )
    assert outputs[5] == path.read_text(encoding="utf-8")
    assert outputs[6].startswith('kind: "train" -> "pipeline"\n')
    assert errors[7] == (
        f"error: {path}:2:1: kind: this is a spec of kind 'train', expected kind 'pipeline'. Next: slt train {path}\n"
    )
