"""The report of what is finished: report.json and report.html."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import made_up
import tables
from attacked import attacks
from claims import CROWD, verdicts
from data import TEST_SHARE
from roles import unit_of_dialogue
from scores import Scores
from settings import DELTA, MODELS, RATE, TEACHERS, UTTERANCES
from study import Study, units

from sltcore.report import Chart, Report, Table, UnitRow, write

NAMES = ("sltcore-lib", "sltcore-pate", "sltcore-speech", "sltcore-ctc-personalization", "hama", "torch", "numpy")


def write_report(study: Study, failed: Mapping[str, str]) -> tuple[Path, Path]:
    """The report of every finished unit, in the study's folder."""
    return write(make_report(study, Scores(study), failed), study.out)


def make_report(study: Study, scores: Scores, failed: Mapping[str, str]) -> Report:
    """As plain values."""
    every = units(study)
    missing = [unit.name for unit in every if not study.has(unit.name)]
    problems = [f"{name}: {error}" for name, error in failed.items()]
    if missing and not failed:
        problems.append(f"{len(missing)} of {len(every)} units are not finished, the first is {missing[0]}")
    shown, charts = _shown(study, scores)
    return Report(
        title="PATE and DP-SGD for a recogniser of a game's roles",
        kind="experiment",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=f"python plugins/pate/experiments/pate_asr/run.py --out OUT --size {study.size_name}",
        versions={name: version(name) for name in NAMES},
        machine={"system": f"{platform.system()} {platform.machine()}", "processors": str(os.cpu_count())},
        description=DESCRIPTION,
        limits=LIMITS,
        facts=facts(study),
        verdicts=verdicts(scores),
        tables=shown,
        charts=charts,
        units=[
            _row(study, unit.name, unit.seed, failed) for unit in every if unit.name in failed or study.has(unit.name)
        ],
        problems=problems,
    )


def _shown(study: Study, scores: Scores) -> tuple[list[Table], list[Chart]]:
    found: list[Table | None] = []
    charts: list[Chart] = []
    if study.part != "synthetic":
        main = tables.results(scores)
        found += [main, tables.arithmetic(scores), tables.dependent(scores)]
        charts += [tables.chart(main)] if main.rows else []
    if study.part != "speech":
        found += [made_up.crossings(scores), *(made_up.errors(scores, model) for model in MODELS)]
        charts += made_up.charts(scores)
    if study.part != "synthetic":
        found += [attacks(scores), tables.settings(scores), tables.costs(scores)]
    if study.part != "speech":
        found += [made_up.audits(scores), made_up.settings(scores)]
    return [table for table in found if table is not None], charts


def _row(study: Study, name: str, seed: int | None, failed: Mapping[str, str]) -> UnitRow:
    if name in failed:
        return UnitRow(stage=name, seed=seed, state="failed", error=failed[name])
    return UnitRow(stage=name, seed=seed, state="done", seconds=round(study.result(name)["seconds"], 1))


def facts(study: Study) -> dict[str, Any]:
    """What every row stands on."""
    size = study.size
    found: dict[str, Any] = {
        "seeds": ", ".join(map(str, study.seeds)),
        "delta": DELTA,
        "interval": f"{size.replicates} replicates of texts (made-up people: of people), crossed with seeds",
        "correction for several claims": "holm",
        "threads": "1",
    }
    if study.part == "synthetic":
        return found
    data = study.data.facts
    found["private"] = _amount(data["private"]) + ": all roles but the hero, by dialogue file after merging"
    found["test"] = f"{size.tested} of {_amount(data['test'])}; no text of them is learned from"
    found["public, with texts"] = (
        _amount(data["spoken"], people=False) + ": asterisk-en, librispeech-mini, CMU Arctic (kathleen), fsdd"
    )
    found["public, silent"] = _amount(data["silent"]) + ": librispeech-mini, the untranscribed voices"
    merged = unit_of_dialogue()
    found["merging"] = (
        f"{len(set(merged.values()))} units of {len(merged)} dialogue files: mean voices (resemblyzer 0.1.4) whose cosine is 0.94 or "
        f"more; {TEST_SHARE:.0%} of them by hash are the test"
    )
    found["model"] = "hama 1.7.0 (Conformer-CTC, frozen) under a residual layer of 92,368 weights and a head of 4,205"
    found["steps"] = f"{size.start_steps} of the public start, then {size.steps} in every arm"
    found["PATE"] = (
        f"{TEACHERS} teachers, shards by a hash of the unit; each model sees public recordings as often as its own"
    )
    found["DP-SGD"] = (
        f"every unit in a step with chance {RATE:g}, {UTTERANCES} of its lines; clip 1, flat; the component dp-sgd"
    )
    return found


def _amount(found: Mapping[str, Any], *, people: bool = True) -> str:
    units = f", {found['units']} units" if people else ""
    return f"{found['utterances']} utterances, {found['minutes']:.0f} min{units}"


DESCRIPTION = (
    "A recogniser that learned from public recordings is to learn from a game's roles, whose units (dialogue files, merged where "
    "they sound alike) are protected: by PATE with a whole-transcript vote or a confident vote on CTC slots, or by DP-SGD, at the "
    "same epsilon, delta and unit. Public only and non-private training show what there is to gain. Twenty-one units are far too "
    "few for a useful budget, as the arithmetic shows; so the same comparison stands beside it on made-up people, who can be as "
    "many as one likes. What is claimed on real speech was fixed before any run; the file that tests it was written while three of "
    "five seeds had been heard. A first run with 40 steps was given up after seed 0 of the plain arms and of whole transcripts had been "
    "seen on the test, because the gap between public and non-private was 2.3 points: all arms then got 100 steps, the trials of queries "
    "and of DP-SGD's rates and its utterances of a unit were chosen anew. Claims on made-up people followed trials with 60 to 300 of "
    f"them, after which the larger model was added and trials were changed, before any run with {CROWD:,}; 3,000 were added after it."
)
LIMITS = (
    "Real speech: a frozen encoder under a small layer, greedy decoding without a lexicon, so error rates are high; two points are all "
    "there is to gain. Roles are not actors, and merged files are not speakers: no protection of speakers is claimed, and intervals "
    "over texts do not say what other roles would give (there are eight in the test). What hama was trained on is not known; it is public "
    "as a package. The public silent recordings are read books, not acted dialogue. Each budget and seed has a ledger of its own: five "
    "seeds that left would cost five times. DP-SGD's epsilon comes from the privacy loss distribution, PATE's from Rényi divergence, which "
    "favours DP-SGD a little. Settings were chosen on the hero's lines and used for every budget. The made-up people are patterns of "
    "formants: they show how error scales with people and noise, and say nothing about real speech; there votes pass the mechanism "
    "without a ledger. The published gain of PATE over DP-SGD (arXiv:2210.05614: 26 to 28 % fewer word errors on LibriSpeech) "
    "is of other data, with unknown noise and teachers, and is not reproduced."
)
