"""The report of what is finished: report.json and report.html."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from claims import verdicts
from scores import Scores
from settings import BEAM, BONUS, CHOSEN, FUSION_STEPS, Settings
from study import GENERAL_AT, Study, units
from tables import by_set, chart, conflicts, costs, general_words, results, sweep, words

from slt_residual_adapters.base_hash import hash_bundle
from sltcore.report import Report, UnitRow, write

NAMES = ("sltcore-lib", "sltcore-residual-adapters", "sltcore-speech", "torch", "numpy")


def write_report(study: Study, failed: Mapping[str, str]) -> tuple[Path, Path]:
    """The report of every finished unit, in the study's folder."""
    scores = Scores(study)
    return write(make_report(study, scores, failed), study.out)


def make_report(study: Study, scores: Scores, failed: Mapping[str, str]) -> Report:
    """As plain values."""
    main = results(scores)
    found = [main, by_set(scores), conflicts(scores), costs(scores), *sweep(), words(scores)]
    every = units(study)
    missing = [unit.name for unit in every if not study.has(unit.name)]
    problems = [f"{name}: {error}" for name, error in failed.items()]
    if missing and not failed:
        problems.append(f"{len(missing)} of {len(every)} units are not finished, the first is {missing[0]}")
    return Report(
        title="Targeted updates of a shipped transducer",
        kind="experiment",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=f"python plugins/residual-adapters/experiments/updates/run.py --base BUNDLE --out OUT --size {study.size_name}",
        versions={name: version(name) for name in NAMES},
        machine={"system": f"{platform.system()} {platform.machine()}", "processors": str(os.cpu_count())},
        description=DESCRIPTION,
        limits=LIMITS,
        facts=facts(study, scores),
        verdicts=verdicts(scores),
        tables=[table for table in found if table is not None],
        charts=[
            chart(main, "recall", "Recall of active words", "recall (%)"),
            chart(main, "change", "General WER against the base", "% of the base's WER"),
        ],
        units=[
            _row(study, unit.name, unit.seed, failed) for unit in every if unit.name in failed or study.has(unit.name)
        ],
        problems=problems,
    )


def _row(study: Study, name: str, seed: int | None, failed: Mapping[str, str]) -> UnitRow:
    if name in failed:
        return UnitRow(stage=name, seed=seed, state="failed", error=failed[name])
    return UnitRow(stage=name, seed=seed, state="done", seconds=round(study.result(name)["seconds"], 1))


def facts(study: Study, scores: Scores) -> dict[str, Any]:
    """What every row stands on."""
    data, size = study.data, study.size
    real = sum(data.count(f"real-{number}") for number in study.numbers)
    made = sum(data.count(f"synthetic-{number}") for number in study.numbers)
    base = hash_bundle(study.base)
    return {
        "data": "flight-of-the-amazon-queen and asterisk-en (real speech); synthetic speech of espeak-ng in training only",
        "sets": f"{len(study.sets)} of {len(study.sets[0])} words each, which no training utterance of the base holds",
        "taught by": f"{real} recordings, {made} synthetic utterances; general audio from {data.count('general')} recordings",
        "test": f"{len(scores.items)} utterances with taught words (once for each set of which they hold a word), real speech",
        "general test": f"{len(scores.general)} utterances, {general_words(scores)} words, of the corpora's test part",
        "split rule": "voices and texts of dev and test teach nothing; texts by hash, 16 % dev",
        "base": ", ".join(f"{part} {digest[:12]}" for part, digest in base.items()),
        "base parameters": _parameters(study),
        "seeds": ", ".join(map(str, study.seeds)),
        "steps": f"{size.steps} for each set in every arm; a learned fusion {FUSION_STEPS * size.steps} more, on all sets",
        "residual adapters": _settings(CHOSEN["adapter"]),
        "joint adapter": _settings(CHOSEN["joint"]),
        "LoRA": _settings(CHOSEN["lora"]),
        "fine-tuning": _settings(CHOSEN["full"]),
        "learned fusion": _settings(CHOSEN["fusion"]),
        "phrase boosting": f"beam {BEAM}, {BONUS} nats a letter",
        "general audio is heard with": f"groups that begin with set {' or '.join(map(str, GENERAL_AT))}",
        "interval": f"{size.replicates} replicates of texts, crossed with seeds",
        "threads": "1 for each unit",
        "correction for several claims": "holm",
    }


def _parameters(study: Study) -> int:
    import sltcore

    return sum(parameter.numel() for parameter in sltcore.load(str(study.base)).model.parameters())


def _settings(found: Settings) -> str:
    rank = f"rank {found.rank} at {', '.join(found.place) or 'every linear layer'}, " if found.rank else ""
    silence = f"silence {found.silence:g}, " if found.silence else ""
    return (
        f"{rank}{silence}learning rate {found.learning_rate:g}, {found.general:g} general utterances for each that teaches, "
        f"recordings {found.real:g} times, synthetic ones once"
    )


DESCRIPTION = (
    "A transducer that has met none of forty words learns them in eight sets of five, each as an update of its own from the "
    "same base. Updates are active one, two, four or eight at a time: summed, averaged, stacked, or fused by what is "
    "learned on all sets. Compared with fine-tuning per set and in sequence, one adapter for all sets, low-rank updates "
    "summed in weight space, and a list of phrases at decoding time. Claims were written before the first full run."
)
LIMITS = (
    "A small transducer that learned from two and a half hours of speech: its WER is high, so the words that updates teach "
    "stand among many errors, and recall is far below what a shipped model reaches. One base; the seeds are those of the "
    "updates. Words are of games; roles are not actors, and an actor may speak on both sides. Voices of the test teach no word, "
    "but the base and general training audio hold other utterances of them, and one of them, the hero, has four fifths of the "
    "test. Settings were chosen on a few dozen occurrences; those of fine-tuning and of the learned fusions are one guess. "
    "Numbers of other papers are of other data and stand in no table."
)
