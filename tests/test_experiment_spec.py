"""`kind: experiment`: stages, grids, arms, claims and sizes fit each other, or a line says where they do not."""

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
from sltcore.spec import ExperimentSpec, dump_document, load_spec, parse_document
from sltcore.spec.schema import json_schema
from sltcore.spec.stages import names_of

Write = Callable[..., Path]
SPECS = Path(__file__).parent / "specs"
EXPERIMENT = """\
slt: 1
kind: experiment
name: window
claims:
- {measure: scores, value: rate.rate, arm: short, versus: long, margin: 0.5}
seeds: [0, 1]
stages:
  base:
    do: train
    pipeline: {encoder: frames, decoder: search, metrics: [rate]}
    data: {train: [{corpus: asterisk-en}]}
    budget: {steps: 50}
  tuned:
    do: train
    from: base
    set: {encoder.bands: 20}
    data: {train: [{corpus: asterisk-en}]}
  small:
    do: transform
    from: tuned
    set: {transforms: [bits]}
    calibration: [{corpus: asterisk-en}]
  short: {do: decode, from: small, data: [{corpus: asterisk-en, split: test}]}
  long: {do: decode, from: base, data: [{corpus: asterisk-en, split: test}]}
  scores: {do: measure, of: [short, long], metrics: [rate]}
arms:
  short: {role: technique}
  long: {role: baseline}
sizes:
  smoke: {stages.base.budget.steps: 2, seeds: [0], stages.tuned.set.encoder.bands: 10}
"""


@pytest.fixture(scope="module")
def registry(demo: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The demonstration plugin and the one that learns."""
    site = write_learning(tmp_path_factory.mktemp("learning"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site.folder))
        yield Registry(path=[str(demo.folder), str(site.folder)])


def experiment(old: str = "", new: str = "") -> str:
    assert EXPERIMENT.count(old) == 1 or not old, old
    return EXPERIMENT.replace(old, new)


def problems(registry: Registry, source: Any, *overrides: str, **more: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_spec(source, overrides=overrides, registry=registry, **more)
    return str(caught.value).replace("<spec>:", "").split("\n")


def test_the_example_is_good(registry: Registry) -> None:
    spec = load_spec(EXPERIMENT, registry=registry, kind="experiment")
    assert isinstance(spec.model, ExperimentSpec)
    assert [stage.do for stage in spec.model.stages.values()] == [
        "train",
        "train",
        "transform",
        "decode",
        "decode",
        "measure",
    ]
    assert names_of(spec.model) == {name: [name] for name in spec.model.stages}


def test_filling_begins_with_the_head_and_reads_back_equal(registry: Registry) -> None:
    spec = load_spec(EXPERIMENT, registry=registry)
    filled = spec.filled()
    assert list(filled)[:3] == ["slt", "kind", "name"]
    assert list(filled["stages"]["tuned"])[:2] == ["do", "from"]
    assert filled["stages"]["tuned"]["from"] == "base"
    assert "pipeline" not in filled["stages"]["tuned"]
    assert filled["stages"]["scores"] == {
        "do": "measure",
        "of": ["short", "long"],
        "metrics": [{"use": "rate", "lower": True, "low": 0.0, "high": 1.0}],
        "reference": "text",
        "where": {},
        "cost": ["bytes", "seconds", "parameters"],
    }
    for source in (filled, dump_document(filled)):
        again = load_spec(source, registry=registry)
        assert again.model == spec.model
        assert again.filled() == filled


def test_every_problem_is_told_at_once_without_the_tag_of_the_stage(registry: Registry) -> None:
    text = """\
slt: 1
kind: experiment
name: Window!
claims: []
stages:
  base:
    do: train
    pipeline: {encoder: {use: frames, bands: 0}}
    data: {train: [{corpus: a, limit: 0}]}
    train: 3
    from_: x
  tuned: {do: trian}
  small: {from: base}
  Odd: {do: decode, from: base, data: [{corpus: a}]}
  short: {do: decode, decode: 3, data: [{corpus: a, weight: 0}]}
  scores: {do: measure, of: [], metrics: [rte], cost: [money]}
  none: 3
arms: {short: {role: judge}}
"""
    assert problems(registry, text) == [
        "3:1: name: string should match pattern '^[a-z0-9][a-z0-9-]*$', got 'Window!'",
        "4:1: claims: list should have at least 1 item after validation, not 0, got []",
        "8:39: stages.base.pipeline.encoder.bands: encoder/frames expected greater than or equal to 1, got 0 (slt explain encoder/frames)",
        "9:32: stages.base.data.train[0].limit: expected greater than or equal to 1, got 0",
        "10:5: stages.base.train: has no field 'train'; fields: do, from, name, description, pipeline, set, data, calibration, context, objective, auxiliary, augment, privacy, trainable, copy_rows, optimizer, schedule, budget, batch, precision, evaluate, checkpoint, log, seed, grid. Did you mean 'trainable'?",
        "11:5: stages.base.from_: has no field 'from_'; fields: do, from, name, description, pipeline, set, data, calibration, context, objective, auxiliary, augment, privacy, trainable, copy_rows, optimizer, schedule, budget, batch, precision, evaluate, checkpoint, log, seed, grid. Did you mean 'from'?",
        "12:11: stages.tuned.do: expected one of: train, transform, decode, measure, got 'trian'. Did you mean 'train'?",
        "13:3: stages.small: field 'do' is missing; write do: train or transform or decode or measure",
        "14:3: stages.Odd: string should match pattern '^[a-z0-9][a-z0-9-]*(/[0-9]+)?$', got 'Odd'",
        "15:23: stages.short.decode: has no field 'decode'; fields: do, from, pipeline, set, data, context, columns, audio, grid.",
        "15:53: stages.short.data[0].weight: expected greater than 0, got 0",
        "16:25: stages.scores.of: list should have at least 1 item after validation, not 0, got []",
        "16:43: stages.scores.metrics[0].use: no metric is named 'rte'; installed: rate. Did you mean 'rate'?",
        "16:56: stages.scores.cost[0]: expected 'bytes', 'seconds' or 'parameters', got 'money'",
        "17:3: stages.none: expected a valid dictionary or object to extract fields from, got 3",
        "18:16: arms.short.role: expected 'technique', 'baseline' or 'control', got 'judge'",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("from: small", "from: smal", "23:23: stages.short.from: no stage is named 'smal'; stages: base, tuned, small, short, long, scores. Did you mean 'small'?"),
        ("from: small", "from: long", "23:23: stages.short.from: 'long' is a decode stage, which leaves outputs; a bundle is wanted here. Stages that leave a bundle: base, tuned, small"),
        ("of: [short, long]", "of: [base, short, long]", "25:30: stages.scores.of[0]: 'base' is a train stage, which leaves a bundle; outputs is wanted here. Stages that leave outputs: short, long"),
        ("from: small", "from: tuned/2", "23:23: stages.short.from: there is no 'tuned/2'; 'tuned' becomes: tuned"),
        ("from: base, data", "from: base, pipeline: x, data", "24:3: stages.long: name one start: from or pipeline; given: from and pipeline, got {"),
        ("from: base, data", "data", "24:3: stages.long: name one start: from or pipeline; given: none of them, got {"),
        ("calibration: [{corpus: asterisk-en}]", "calibration: [{stage: scores}]", "23:23: stages.short.from: stages need each other in a circle: small → scores → short → small"),
        ("calibration: [{corpus: asterisk-en}]", "calibration: [{stage: tuned}]", "22:20: stages.small.calibration[0].stage: 'tuned' is a train stage, which leaves a bundle; outputs is wanted here. Stages that leave outputs: short, long"),
        ("from: tuned\n", "from: small\n", "20:5: stages.small.from: stages need each other in a circle: small → small"),
        ("set: {encoder.bands: 20}", "set: {encoder.bands: 0}", "16:11: stages.tuned.set[\"encoder.bands\"]: encoder.bands: encoder/frames expected greater than or equal to 1, got 0 (slt explain encoder/frames)"),
        ("set: {transforms: [bits]}", "set: {encoder.scale: 1}", "21:11: stages.small.set[\"encoder.scale\"]: encoder.scale: encoder/frames has no field 'scale'; fields: bands, shift_s, window, dither. (slt explain encoder/frames)"),
        ("set: {transforms: [bits]}", "set: {decoder.lexicon: {stage: bas}}", "21:29: stages.small.set[\"decoder.lexicon\"].stage: no stage is named 'bas'; stages: base, tuned, small, short, long, scores. Did you mean 'base'?"),
        ("budget: {steps: 50}", "budget: {steps: 50}\n    evaluate: {best: rat.rate}", "13:16: stages.base.evaluate.best: the pipeline measures no 'rat'; its metrics: rate. Did you mean 'rate'?"),
        ("budget: {steps: 50}", "objective: {use: distance, to: {ref: vocoder}}", "12:37: stages.base.objective.to.ref: there is no 'vocoder' in this spec to refer to; it has: encoder, decoder. Did you mean 'encoder'?"),
        ("metrics: [rate]}\narms", "metrics: [rate]}\n  a/1: {do: measure, of: [long], metrics: [rate]}\narms", "26:3: stages[\"a/1\"]: a stage's name has no '/', for that is how those of a grid are numbered"),
        ("  long: {role", "  longer: {role: control}\n  long: {role", "28:3: arms.longer: no stage is named 'longer'; stages: base, tuned, small, short, long, scores. Did you mean 'long'?"),
        ("  long: {role", "  base: {role: control}\n  long: {role", "28:3: arms.base: an arm is a decode stage, and 'base' is a train stage"),
        ("versus: long", "versus: lang", "5:51: claims[0].versus: no arm is named 'lang'; arms: short, long. Did you mean 'long'?"),
        ("versus: long", "versus: short", "5:51: claims[0].versus: an arm cannot be compared with itself, got 'short' for both"),
        ("measure: scores", "measure: long", "5:4: claims[0].measure: no measure stage is named 'long'; measure stages: scores."),
        ("value: rate.rate", "value: rat.rate", "5:21: claims[0].value: 'scores' measures no 'rat'; it measures: rate. Did you mean 'rate'?"),
        ("value: rate.rate", "value: rate", "5:21: claims[0].value: string should match pattern '^[a-z0-9-]+\\.[A-Za-z0-9_ .-]+$', got 'rate'"),
        ("of: [short, long]", "of: [short]", "5:51: claims[0].versus: 'scores' does not measure 'long'; it measures: short"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "1:1: a seed stands twice in seeds [0, 0]; keep one, got {"),
        ("seeds: [0, 1]", "seeds: [0, -1]", "6:12: seeds[1]: expected greater than or equal to 0, got -1"),
        ("stages.base.budget.steps: 2,", "stages.base.budget.steps: 0,", "30:11: sizes.smoke[\"stages.base.budget.steps\"]: stages.base.budget.steps: expected greater than or equal to 1, got 0"),
        ("stages.base.budget.steps: 2,", "stages.bse.budget.steps: 2,", "30:11: sizes.smoke[\"stages.bse.budget.steps\"]: stages.bse: field 'do' is missing; write do: train or transform or decode or measure"),
        ("stages.base.budget.steps: 2,", "'stages.base.trainable[2]': 2,", "30:11: sizes.smoke[\"stages.base.trainable[2]\"]: stages.base.trainable has 0 entries, there is no [2]"),
        ("stages.base.budget.steps: 2,", "a b: 2,", "30:11: sizes.smoke[\"a b\"]: a b: not a path; write names joined by dots and list places in brackets, as decoder.beam or transforms[0].bits"),
        ("set.encoder.bands: 10", "set.encoder.bands: 999", "30:52: sizes.smoke[\"stages.tuned.set.encoder.bands\"]: stages.tuned.set[\"encoder.bands\"]: encoder.bands: encoder/frames expected less than or equal to 256, got 999 (slt explain encoder/frames)"),
        ("seeds: [0], stages", "arms.long.role: control, stages.scores.of: [short], stages", "5:51: claims[0].versus: 'scores' does not measure 'long'; it measures: short (at size smoke)"),
    ],
)  # fmt: skip
def test_a_problem_is_one_exact_line(registry: Registry, old: str, new: str, line: str) -> None:
    (found,) = problems(registry, experiment(old, new))
    assert found == line or (line.endswith("{") and found.startswith(line))


@pytest.mark.parametrize(
    ("grid", "line"),
    [
        ("{set.encoder.bands: []}", "18:12: stages.tuned.grid[\"set.encoder.bands\"]: a grid needs at least one value here"),
        ("{set.encoder.bands: [1, 0]}", "18:35: stages.tuned.grid[\"set.encoder.bands\"][1]: set[\"encoder.bands\"]: encoder.bands: encoder/frames expected greater than or equal to 1, got 0 (slt explain encoder/frames)"),
        ("{optimizer.learning_rate: [0, 1]}", "18:38: stages.tuned.grid[\"optimizer.learning_rate\"][0]: optimizer.learning_rate: expected greater than 0, got 0"),
        ("{budget.epochs: [1], sead: [1]}", "18:39: stages.tuned.grid.sead[0]: sead: has no field 'sead'; fields: do, from, name, "),
        ("{budget.epochs: [1], budget.steps: [3]}", "18:28: stages.tuned.grid[\"budget.epochs\"][0]: budget: give steps or epochs, one of the two, got {'epochs': 1, 'steps': 3}"),
        ("{from: [base]}", "18:12: stages.tuned.grid.from: 'from' is not for a grid to change"),
        ("{'trainable[1]': ['*']}", "18:12: stages.tuned.grid[\"trainable[1]\"]: trainable has 0 entries, there is no [1]"),
        ("{trainable: [['*'], []]}", "18:31: stages.tuned.grid.trainable[1]: trainable: list should have at least 1 item after validation, not 0, got []"),
        ("{name: [a], description: 3}", "18:23: stages.tuned.grid.description: expected a valid list, got 3"),
    ],
)  # fmt: skip
def test_a_grid_is_checked_value_by_value(registry: Registry, grid: str, line: str) -> None:
    old = "    data: {train: [{corpus: asterisk-en}]}\n  small"
    text = experiment(old, f"    data: {{train: [{{corpus: asterisk-en}}]}}\n    grid: {grid}\n  small")
    found = problems(registry, text)
    assert any(each == line or (line[-1] == " " and each.startswith(line)) for each in found), found


def test_too_many_combinations_are_refused(registry: Registry) -> None:
    values = ", ".join(map(str, range(40)))
    text = experiment("    budget: {steps: 50}\n", f"    grid: {{batch.size: [{values}], batch.bucket: [{values}]}}\n")
    assert problems(registry, text) == [
        "12:5: stages.base.grid: 1,600 combinations; at most 1,000 stages are made of one"
    ]


GRID = experiment("set: {encoder.bands: 20}", "grid: {set.encoder.bands: [20, 30], budget.steps: [5]}")


def test_stages_of_a_grid_are_named_with_a_number_and_reach_those_that_begin_with_them(registry: Registry) -> None:
    text = GRID.replace("arm: short,", "arm: short/2,").replace("  short: {role", "  short/2: {role")
    text = text.replace(", stages.tuned.set.encoder.bands: 10", ", stages.tuned.grid.set.encoder.bands: [10, 11]")
    model = load_spec(text, registry=registry, kind="experiment").model
    names = names_of(model)
    assert names["base"] == ["base"]
    assert names["tuned"] == ["tuned/1", "tuned/2"]
    assert names["small"] == ["small/1", "small/2"]
    assert names["short"] == ["short/1", "short/2"]
    assert names["scores"] == ["scores"]
    smoke = load_spec(text, registry=registry, kind="experiment", size="smoke").model
    assert smoke.stages["tuned"].grid["set.encoder.bands"] == [10, 11]  # type: ignore[union-attr]


def test_the_names_agree_with_those_that_run(registry: Registry) -> None:
    from sltcore.experiment.grids import Grid
    from sltcore.spec import fill

    for text in (EXPERIMENT, GRID, GRID.replace("from: small, data", "from: small, grid: {audio: [0, 1, 2]}, data")):
        model = load_spec_unchecked(text, registry)
        stages = {name: fill(stage) for name, stage in model.stages.items()}
        assert Grid(stages).names == names_of(model)


def load_spec_unchecked(text: str, registry: Registry) -> ExperimentSpec:
    """The model alone, for claims that name no stage of the grid."""
    return ExperimentSpec.model_validate(parse_document(text).data, context={"registry": registry})


def test_an_arm_of_a_grid_is_one_of_its_stages(registry: Registry) -> None:
    text = GRID.replace(", stages.tuned.set.encoder.bands: 10", "")
    assert problems(registry, text) == [
        "5:39: claims[0].arm: 'scores' does not measure 'short'; it measures: short/1, short/2, long",
        "27:3: arms.short: there is no 'short'; 'short' becomes: short/1, short/2; name those that are compared",
    ]


def test_what_a_stage_left_may_be_set_as_a_path(registry: Registry) -> None:
    text = experiment("from: base, data", "from: base, set: {decoder.lexicon: {stage: tuned}}, data")
    load_spec(text, registry=registry)
    text = experiment("from: base, data", "from: base, set: {decoder.lexicon: {stage: scores}}, data")
    assert problems(registry, text) == [
        "25:37: stages.scores.of[1]: stages need each other in a circle: long → scores → long"
    ]


def test_a_size_is_put_in_before_overrides(registry: Registry) -> None:
    full = load_spec(EXPERIMENT, registry=registry, kind="experiment").model
    same = load_spec(EXPERIMENT, registry=registry, kind="experiment", size="full").model
    smoke = load_spec(EXPERIMENT, registry=registry, kind="experiment", size="smoke").model
    ours = load_spec(
        EXPERIMENT,
        registry=registry,
        kind="experiment",
        size="smoke",
        overrides=["stages.base.budget.steps=3", "stages.tuned.set.encoder.bands=7"],
    ).model
    assert same == full
    assert (full.seeds, smoke.seeds) == ([0, 1], [0])
    found = [spec.stages["base"].budget.steps for spec in (full, smoke, ours)]  # type: ignore[union-attr]
    assert found == [50, 2, 3]
    found = [spec.stages["tuned"].set for spec in (full, smoke, ours)]  # type: ignore[union-attr]
    assert found == [{"encoder.bands": 20}, {"encoder.bands": 10}, {"encoder.bands": 7}]


def test_a_published_experiment_loads_forever(registry: Registry) -> None:
    spec = load_spec(SPECS / "experiment-v1.yaml", registry=registry, kind="experiment")
    filled = spec.filled()
    assert filled["name"] == "version-one"
    assert filled["claims"][0]["direction"] == "different"
    assert filled["stages"]["base"]["grid"] == {"privacy.epsilon": [1, 2.5], "set.encoder.bands": [20]}
    assert filled["stages"]["out"]["set"] == {"decoder.lexicon": {"stage": "base/1"}}
    assert filled["stages"]["next"]["data"]["train"][0]["stage"] == "out"
    assert names_of(spec.model)["out"] == ["out/1", "out/2"]
    smoke = load_spec(SPECS / "experiment-v1.yaml", registry=registry, size="smoke").filled()
    assert smoke["stages"]["next"]["set"] == {"encoder.bands": 20}


def test_an_unknown_size_is_refused(registry: Registry) -> None:
    assert problems(registry, EXPERIMENT, size="smok") == [
        "29:1: sizes: this spec has no size 'smok'; its sizes: full, smoke. Did you mean 'smoke'?"
    ]


@pytest.mark.parametrize("key", ["slt", "kind", "name", "sizes", "sizes.smoke.seeds"])
def test_a_size_changes_no_head_and_no_size(registry: Registry, key: str) -> None:
    text = experiment("seeds: [0], stages", f"{key}: 3, stages")
    line = f"'{key.partition('.')[0]}' is not for a size to change"
    for size in (None, "smoke"):
        (found,) = problems(registry, text, size=size)
        assert found.endswith(f": {line}")


def test_a_size_that_is_given_is_the_place_to_blame(registry: Registry) -> None:
    text = experiment("stages.base.budget.steps: 2,", "stages.base.budget.steps: 0,")
    line = '30:11: sizes.smoke["stages.base.budget.steps"]: stages.base.budget.steps: expected greater than or equal to 1, got 0'
    assert problems(registry, text, size="smoke") == [line]
    (found,) = problems(registry, EXPERIMENT, "stages.base.budget.steps=-1", size="smoke")
    assert found.startswith("--set stages.base.budget.steps=-1: stages.base.budget.steps: expected greater than")


def test_the_schema_takes_what_the_check_takes_and_flags_places(registry: Registry) -> None:
    from test_schema import flagged

    schema = json_schema(registry, "experiment")
    Draft202012Validator.check_schema(schema)
    data = parse_document(EXPERIMENT).data
    assert flagged(schema, data) == set()
    assert flagged(schema, load_spec(EXPERIMENT, registry=registry).filled()) == set()
    for old, new, path in (
        ("do: transform", "do: transfrom", ("stages", "small", "do")),
        ("    do: transform\n", "", ("stages", "small")),
        ("budget: {steps: 50}", "budget: {steps: 0}", ("stages", "base", "budget", "steps")),
        ("{encoder: frames, ", "{encoder: {use: frames, bands: 0}, ", ("stages", "base", "pipeline", "encoder", "bands")),
        ("metrics: [rate]}\narms", "metrics: [rte]}\narms", ("stages", "scores", "metrics", 0)),
        ("  tuned:\n", "  Tuned:\n", ("stages",)),
        ("role: baseline", "role: base", ("arms", "long", "role")),
        ("margin: 0.5", "margin: -1", ("claims", 0, "margin")),
        ("from: tuned\n", "form: tuned\n", ("stages", "small")),
    ):  # fmt: skip
        text = experiment(old, new)
        problems(registry, text)
        assert path in flagged(schema, parse_document(text).data), new
    for mark in ("x-slot", "x-start", "discriminator"):
        assert mark not in json.dumps(schema)


def test_the_commands_take_an_experiment(slt: Slt, demo: Site, tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    results = slt.several(
        [
            ["fill", path, "--size", "smoke"],
            ["explain", path, "stages.tuned.from"],
            ["explain", path, "stages.scores.metrics[0]"],
            ["explain", path, "stages.base.form"],
            ["check", path, "--set", "stages.tuned.from=bse"],
        ],
        site=demo,
    )
    codes, outputs, errors = zip(*results, strict=True)
    assert codes == (0, 0, 0, 2, 2)
    assert parse_document(outputs[0]).data["stages"]["base"]["budget"] == {"steps": 2}
    assert outputs[1] == f'stages.tuned.from = "base"\n{path}:15:5\nthe stage whose bundle is the start\n'
    assert outputs[2].startswith(f"stages.scores.metrics[0]: {path}:25:54\n\nuse: rate\n")
    assert "stages.base has no place 'form'; it has: do, from, name, " in errors[3]
    assert errors[3].endswith("Did you mean 'from'?\n")
    assert errors[4] == (
        "error: --set stages.tuned.from=bse: stages.tuned.from: no stage is named 'bse'; stages: base, tuned, small, short, "
        "long, scores. Did you mean 'base'?\n"
    )
