"""Broken specs of `kind: train` and `kind: experiment`: never a traceback, always a line with its place; what is
accepted says the same after a round trip, and the JSON Schema agrees."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import Site
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from learning_plugin import write_learning
from test_experiment_spec import EXPERIMENT
from test_spec_mutations import MUTATIONS, PLACE, TREES, Outcome, _deep, outcomes_of

from sltcore.errors import SpecError
from sltcore.registry import Registry
from sltcore.spec import dump_document, fill, load_spec, parse_document
from sltcore.spec.schema import json_schema

TRAIN = """\
slt: 1
kind: train
name: letters
pipeline:
  encoder: {use: stack, base: {use: frames, bands: 40}, layers: [1, 2]}
  decoder: {use: search, beam: 4, head: {ref: encoder.head}}
  metrics: [rate]
set:
  decoder.beam: 8
  transforms[0]: {use: bits, bits: 8}
data:
  train:
  - {corpus: asterisk-en, split: train, part: [0, 0.9]}
  - {manifest: mine.csv, weight: 2, where: {speaker: [1, b]}, columns: {text: words}}
  dev: [{corpus: asterisk-en, part: [0.9, 1.0], limit: 5}]
objective: {use: distance, to: {ref: encoder.head}}
auxiliary: [{objective: distance, weight: 0.5}]
augment: [{use: noise, snr_db: 10}]
trainable: ["*", "!encoder.*"]
copy_rows: [{rows: {a: b, c: {label: d, bias: -1}}}]
optimizer: {name: sgd, learning_rate: 1e-3, groups: [{match: ["encoder.*"], weight_decay: 0}], clip_norm: ~}
schedule: {shape: linear, warmup_steps: 5}
budget: {epochs: 2}
evaluate: {best: rate.rate, patience: 3}
"""
GRID = """\
slt: 1
kind: experiment
name: grid
claims: [{measure: scores, value: rate.rate, arm: out/2, versus: out/1, direction: different, relative: true}]
stages:
  base:
    do: train
    pipeline: {encoder: frames}
    data: {private: [{dataset: "a/b", config: c}], public: [{corpus: d}]}
    privacy: {use: clip, epsilon: 3}
    grid: {privacy.epsilon: [1, 2.5], set.encoder.bands: [20]}
  out: {do: decode, from: base, set: {vocoder: {use: phase, path: {stage: base}}}, data: [{corpus: e}], audio: 2}
  scores: {do: measure, of: [out], metrics: [{use: rate, low: 0.1}], cost: [bytes]}
arms: {out/1: {role: baseline, label: one}, out/2: {role: technique}}
published: [{arm: theirs, value: WER, figure: 4.2, data: other, source: Table 2}]
sizes: {smoke: {stages.base.grid: {}, arms: {}}}
"""
BASES = (TRAIN, EXPERIMENT, GRID.replace("sizes: {smoke: {stages.base.grid: {}, arms: {}}}\n", ""))
COUNT = 600


@pytest.fixture(scope="module")
def registry(demo: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The demonstration plugin and the one that learns."""
    site = write_learning(tmp_path_factory.mktemp("learning"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site.folder))
        yield Registry(path=[str(demo.folder), str(site.folder)])


def mutants() -> list[bytes]:
    """Fewer deep ones than a pipeline's, for those test the reader and not the grammar."""
    chance = random.Random(20261122)
    changes = [*[each for each in MUTATIONS if each is not _deep], *MUTATIONS[:5], *MUTATIONS[:5]]
    made = []
    for index in range(COUNT):
        data = BASES[index % len(BASES)].encode()
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            data = chance.choice(changes)(data, chance)
        made.append(data)
    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutants") / "spec.yaml"


@pytest.fixture(scope="module")
def outcomes(registry: Registry, path: Path) -> list[Outcome]:
    return outcomes_of(mutants(), path, registry)


def test_the_bases_are_good(registry: Registry) -> None:
    for base in BASES:
        load_spec(base, registry=registry)
    with pytest.raises(SpecError, match=r"sizes\.smoke\.arms: arms: dictionary should have at least 1 item"):
        load_spec(GRID, registry=registry)


def test_every_problem_of_a_mutant_names_its_line(outcomes: list[Outcome], path: Path) -> None:
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
    assert sum(bool(outcome.problems) for outcome in outcomes) > COUNT // 2
    said = "\n".join(problem for outcome in outcomes for problem in outcome.problems)
    for sentence in (
        "has no field", "is required", "is named", "expected a valid number", "name one source", "no stage is named",
        "expected one of: train, transform, decode, measure", "string should match pattern",
    ):  # fmt: skip
        assert sentence in said, sentence


def test_no_problem_shows_the_tag_of_a_stage(outcomes: list[Outcome]) -> None:
    """pydantic writes stages.base.train.budget for stages.base.budget."""
    for outcome in outcomes:
        for problem in outcome.problems:
            found = re.search(r": stages\.[a-z]+\.(train|transform|decode|measure)\b", problem)
            assert found is None or "has no field" in problem, problem


def test_accepted_mutants_survive_a_round_trip(outcomes: list[Outcome], registry: Registry, path: Path) -> None:
    accepted = [outcome.model for outcome in outcomes if outcome.model is not None]
    assert len(accepted) > COUNT // 20
    for model in accepted:
        filled = fill(model)
        path.write_text(dump_document(filled), encoding="utf-8")
        again = load_spec(path, registry=registry).model
        assert again == model, filled
        assert fill(again) == filled
        assert json.loads(json.dumps(filled)) == filled


BEYOND = re.compile(
    r"lies above high|a reference points at|to refer to; it has|needs an encoder, a decoder|valid integer, got -?\d+\.0\b|valid number, got \d{40}|"
    r"expected the path of|~user exists|expected the path of another place|is not set|name one (source|start)|one of the two|"
    r"(no|measure) stage is named|no arm is named|in a circle|becomes: |does not measure|measures no|compared with itself|"
    r"an arm is a|stands twice|\['?\"?[^:]*\]: |privacy|data\.train, a list|needs a pipeline|part goes|config and revision|"
    r"there is no such|no bundle|, which leaves|a measure stage has no|not for a|a stage's name|set\.|sizes\.|grid\."
)
"""Rules between fields and places, and what a string or a map of settings holds."""


def test_the_schema_agrees_with_the_check(outcomes: list[Outcome], registry: Registry) -> None:
    validators = {kind: Draft202012Validator(json_schema(registry, kind)) for kind in ("train", "experiment")}
    refused = 0
    for text, data, problems, model in outcomes:
        if model is not None:
            assert not list(validators[model.kind].iter_errors(data)), text
            assert not list(validators[model.kind].iter_errors(fill(model))), text
        elif isinstance(data, dict) and not any(BEYOND.search(problem) for problem in problems):
            refused += 1
            for validator in validators.values():
                assert list(validator.iter_errors(data)), (text, problems)
    assert refused > COUNT // 20


KEYS = st.sampled_from(
    ["pipeline", "set", "data", "train", "stages", "base", "do", "from", "grid", "of", "arms", "claims", "sizes", "smoke",
     "metrics", "stages.base.set.x", "encoder", "use", "objective", "evaluate", "best", "privacy", "copy_rows"]
) | st.text(max_size=4)  # fmt: skip
INNER = st.recursive(
    TREES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@pytest.mark.parametrize("base", BASES, ids=["train", "experiment", "grid"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(tree=st.dictionaries(KEYS, INNER, max_size=4), inside=st.booleans())
def test_no_dict_makes_a_traceback(base: str, tree: dict[str, Any], inside: bool, registry: Registry) -> None:
    data = parse_document(base).data
    place = data["stages"]["base"] if inside and "stages" in data else data
    place.update(tree)
    try:
        model = load_spec(data, registry=registry).model
    except SpecError as error:
        assert all(line.startswith("<dict>:1:1: ") and line.isprintable() for line in str(error).split("\n"))
        return
    assert load_spec(fill(model), registry=registry).model == model
