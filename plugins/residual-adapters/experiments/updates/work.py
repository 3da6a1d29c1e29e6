"""What the units do, by the library's public ways: training specs, bundles, added updates, decoding."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import specs
import torch
from hearing import by_id, hear
from settings import BEAM, BONUS, CHOSEN, FUSION_STEPS
from study import FUSED, GENERAL_AT, LEARNED, Study, Unit, groups
from typer.testing import CliRunner
from words import sets_in, text_of

import sltcore
from slt_residual_adapters.commands import app
from slt_residual_adapters.update import read_update
from sltcore.data.examples import Example
from sltcore.experiment.units import write_json
from sltcore.train import fit

Heard = dict[str, Mapping[str, str]]


def do(study: Study, unit: Unit) -> str:
    """Do one unit and write its result; returns a line about it."""
    torch.set_num_threads(1)
    begin, cpu = time.monotonic(), time.process_time()
    found = WORK[unit.kind](study, unit)
    found |= {"seconds": time.monotonic() - begin, "cpu_s": time.process_time() - cpu}
    study.file(unit.name).parent.mkdir(parents=True, exist_ok=True)
    write_json(study.file(unit.name), found)
    return f"{unit.name}: {found['seconds']:.0f} s"


def train(study: Study, unit: Unit) -> dict[str, Any]:
    """One training run."""
    assert unit.seed is not None
    base, numbers, steps, transform = study.base, [unit.number], study.size.steps, None
    settings = CHOSEN.get(unit.arm, CHOSEN["full"])
    if unit.arm == "adapter":
        transform = specs.adapter(specs.name_of(unit.number), study.sets[unit.number - 1], settings)
    elif unit.arm == "lora":
        transform = specs.lora(specs.name_of(unit.number), study.sets[unit.number - 1], settings)
    elif unit.arm == "sequential" and unit.number > 1:
        base = Path(study.result(unit.needs[0])["bundle"])
    elif unit.arm == "joint":
        settings, numbers, steps = CHOSEN["joint"], study.numbers, specs.steps_of(study.size, study.size.sets)
        transform = specs.adapter("joint", [word for one in study.sets for word in one], settings)
    elif unit.arm in LEARNED:
        settings, numbers, steps = CHOSEN["fusion"], study.numbers, FUSION_STEPS * study.size.steps
        transform = specs.fusion(unit.arm, [Path(study.result(name)["bundle"]) for name in unit.needs])
    spec = specs.spec(base, study.data, numbers, settings, seed=unit.seed, steps=steps, transform=transform)
    made = fit(spec, out=study.out / "runs" / unit.name, quiet=True)
    for path in (study.out / "runs" / unit.name).glob("checkpoints"):
        shutil.rmtree(path)
    found: dict[str, Any] = {"bundle": str(made.bundle), "steps": steps}
    if unit.arm in ("adapter", "lora"):
        found["parameters"] = read_update(made.bundle).parameters
    return found


def listen(study: Study, unit: Unit) -> dict[str, Any]:
    """The texts of one arm: of test utterances with words of the active updates, and of general audio."""
    found: Heard = {}
    for key, pipeline, active, context in SETTINGS_OF[unit.arm](study, unit):
        found[key] = _texts(study, pipeline, active, context)
    return {"texts": found}


Ways = Iterator[tuple[str, sltcore.Pipeline, tuple[int, ...], dict[str, Any]]]


def _base(study: Study, unit: Unit) -> Ways:
    yield key_of(study.numbers), sltcore.load(str(study.base)), tuple(study.numbers), {}


def _beam(study: Study, unit: Unit) -> Ways:
    pipeline = sltcore.load(str(study.base), overrides=["decoder.search=beam", f"decoder.beam={BEAM}"])
    yield key_of(study.numbers), pipeline, tuple(study.numbers), {}


def _sum_boosting(study: Study, unit: Unit) -> Ways:
    """The summed updates, and phrases beside them."""
    pipeline = boosting(study.out / "added" / unit.needs[0], BONUS)
    for count in study.counts[1:]:
        for active in groups(study.numbers, count):
            words = [word for number in active for word in study.sets[number - 1]]
            names = [specs.name_of(number) for number in active]
            yield key_of(active), pipeline, active, {"phrases": words, "updates": names}


def boosting(base: Path, bonus: float) -> sltcore.Pipeline:
    """The base with a beam that is told phrases."""
    block = json.dumps({"use": "phrase-boost", "bonus": bonus})
    return sltcore.load(str(base), overrides=["decoder.search=beam", f"decoder.beam={BEAM}", f"decoder.boost={block}"])


def _boosting(study: Study, unit: Unit) -> Ways:
    pipeline = boosting(study.base, BONUS)
    for count in study.counts:
        for active in groups(study.numbers, count):
            words = [word for number in active for word in study.sets[number - 1]]
            yield key_of(active), pipeline, active, {"phrases": words}


def _added(study: Study, unit: Unit) -> Ways:
    """A copy of the base with the updates added; each call chooses among them."""
    copy = study.out / "added" / unit.name
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(study.base, copy)
    trained = [str(study.result(name)["bundle"]) for name in unit.needs]
    fusion = ["--fusion", unit.arm] if unit.arm in FUSED else []
    outcome = CliRunner().invoke(app, ["add", str(copy), *trained, *fusion], catch_exceptions=False)
    if outcome.exit_code:
        raise RuntimeError(f"slt adapters add: {outcome.output.strip()}")
    pipeline = sltcore.load(str(copy))
    for count in study.counts:
        if (unit.arm == "single") != (count == 1) and unit.arm != "lora":
            continue
        for active in groups(study.numbers, count):
            yield key_of(active), pipeline, active, {"updates": [specs.name_of(number) for number in active]}


def _learned(study: Study, unit: Unit) -> Ways:
    pipeline = sltcore.load(study.result(unit.needs[0])["bundle"])
    for count in study.counts[1:]:
        for active in groups(study.numbers, count):
            yield key_of(active), pipeline, active, {"updates": [specs.name_of(number) for number in active]}


def _joint(study: Study, unit: Unit) -> Ways:
    yield key_of(study.numbers), sltcore.load(study.result(unit.needs[0])["bundle"]), tuple(study.numbers), {}


def _full(study: Study, unit: Unit) -> Ways:
    for number, name in zip(study.numbers, unit.needs, strict=True):
        yield key_of([number]), sltcore.load(study.result(name)["bundle"]), (number,), {}


def _sequential(study: Study, unit: Unit) -> Ways:
    """After each step the set that it taught; after 1, 2, 4 and 8 all sets until then."""
    for number, name in zip(study.numbers, unit.needs, strict=True):
        pipeline = sltcore.load(study.result(name)["bundle"])
        yield key_of([number]), pipeline, (number,), {}
        if number > 1 and number in study.counts:
            active = tuple(study.numbers[:number])
            yield key_of(active), pipeline, active, {}


SETTINGS_OF: Mapping[str, Callable[[Study, Unit], Ways]] = {
    "base": _base, "beam": _beam, "boosting": _boosting, "sum-boosting": _sum_boosting, "sequential": _sequential, "joint": _joint, "full": _full,
    **dict.fromkeys(("single", "lora", *FUSED), _added), **dict.fromkeys(LEARNED, _learned),
}  # fmt: skip


def key_of(active: Sequence[int]) -> str:
    """The name of active sets.

    >>> key_of([1, 2])
    '1-2'
    """
    return "-".join(map(str, active))


def hears_general(active: Sequence[int]) -> bool:
    """Whether general audio is heard with these updates."""
    return active[0] in GENERAL_AT


def general_test(study: Study) -> list[Example]:
    """General test audio: so many words of it, by a hash of the id."""
    found: list[Example] = []
    said = 0
    for example in study.data.examples("general-test"):
        if study.size.words is not None and said >= study.size.words:
            break
        found.append(example)
        said += len(text_of(example).split())
    return found


def _texts(
    study: Study, pipeline: sltcore.Pipeline, active: Sequence[int], context: Mapping[str, Any]
) -> Mapping[str, str]:
    chosen = [study.sets[number - 1] for number in active]
    taught = [e for e in study.data.examples("test") if sets_in(text_of(e), chosen)]
    examples = [*taught, *(general_test(study) if hears_general(active) else [])]
    return by_id(examples, hear(pipeline, examples, **context))


def look(study: Study, unit: Unit) -> dict[str, Any]:
    """How far the updates move general audio, and each other, as `slt adapters check` tells it."""
    command = ["check", str(study.out / "added" / unit.needs[0]), str(study.data.path("general-dev")), "--json"]
    outcome = CliRunner().invoke(app, command, catch_exceptions=False)
    if outcome.exit_code not in (0, 1):  # 1: a limit does not hold, which the numbers tell
        raise RuntimeError(f"slt adapters check: {outcome.output.strip()}")
    return {"check": json.loads(outcome.stdout)}


WORK: Mapping[str, Callable[[Study, Unit], dict[str, Any]]] = {"train": train, "hear": listen, "check": look}
