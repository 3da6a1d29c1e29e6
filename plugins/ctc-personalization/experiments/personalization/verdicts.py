"""The claims, written before the first run, and the report."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from arms import ARMS, SWEEP
from lists import CORPORA, DEV, LIBRISPEECH, PHONES
from scores import Scores, metric_of, values_of

from sltcore.experiment.bootstrap import interval
from sltcore.experiment.statistics import Estimate, seeded_difference
from sltcore.experiment.verdict import Judgement, judge, settle
from sltcore.report import Chart, Column, Point, Report, SeedEffect, Series, Table, Verdict, write
from sltcore.spec.experiments import Claim

if TYPE_CHECKING:
    from run import Study

PRIMARY = "100"
"""Distractors in the list that the claims are about; so many, too, when weights were chosen."""
F1, LISTED, OTHERS = "listed-words.listed-f1", "listed-words.b-wer", "listed-words.u-wer"


def claim(text: str, arm: str, versus: str, value: str = F1, **more: Any) -> Claim:
    """A claim about the list with `PRIMARY` distractors, resampled by text."""
    fields = {"direction": "better"} | more
    return Claim(text=text, measure="test", value=value, arm=arm, versus=versus, clusters="text", **fields)


CLAIMS = (
    claim("Adapter and boosting together find more listed words (F1) than boosting alone", "adapter-adaptive", "boosting"),
    claim("Adapter and boosting together find more listed words (F1) than the adapter alone", "adapter-adaptive", "adapter"),
    claim(
        "Adapter and boosting together leave the other words as they are: their WER is at most 1 % (relative) above that of "
        "beam + LM",
        "adapter-adaptive", "beam-lm", OTHERS, direction="not-worse", margin=1.0, relative=True,
    ),
    claim("Everything together has a higher F1 than boosting alone", "everything", "boosting"),
    claim("Everything together has a higher F1 than the adapter alone", "everything", "adapter"),
    claim("Everything together has a higher F1 than the phone network alone", "everything", "phones"),
    claim("Boosting alone has a higher F1 than the hotwords of ctc-beam-decoder", "boosting", "ctc-beam-decoder"),
    claim("Boosting alone has a higher F1 than the hotwords of pyctcdecode", "boosting", "pyctcdecode"),
)  # fmt: skip
LABELS = {name: arm.label for name, arm in ARMS.items()} | {
    "ctc-beam-decoder": "ctc-beam-decoder hotwords (peer)",
    "pyctcdecode": "pyctcdecode hotwords (peer)",
}


def verdicts(study: Study, scores: Scores) -> list[Verdict]:
    """What became of the claims, corrected for their number (Holm)."""
    judgements, estimates = [], []
    for entry in CLAIMS:
        estimate = _estimate(study, scores, entry)
        better = metric_of(["x"]).directions[entry.value.partition(".")[2]]
        judgements.append(judge(entry, estimate, better=better))
        estimates.append(estimate)
    return [_verdict(study, one, estimate) for one, estimate in zip(settle(judgements, "holm"), estimates, strict=True)]


def _estimate(study: Study, scores: Scores, entry: Claim) -> Estimate:
    a, b = (scores.stats(name, PRIMARY, study.seeds) for name in (entry.arm, entry.versus))
    return seeded_difference(
        a, b, metric_of(["x"]).reduce, value=entry.value.partition(".")[2], clusters=study.task("test").texts,
        relative=entry.relative, generator=np.random.default_rng(0),
    )  # fmt: skip


def _verdict(study: Study, judgement: Judgement, estimate: Estimate) -> Verdict:
    entry = judgement.claim
    return Verdict(
        text=entry.text, measure=f"test, {PRIMARY} distractors", value=entry.value,
        arm=LABELS[entry.arm], versus=LABELS[entry.versus], verdict=judgement.verdict,
        effect=estimate.value, low=judgement.low, high=judgement.high, unit=estimate.unit, better=judgement.better,
        direction=entry.direction, margin=entry.margin, relative=entry.relative, level=entry.level,
        p=judgement.p, p_adjusted=judgement.p_adjusted,
        seeds=[SeedEffect(seed=seed, effect=value) for seed, value in zip(study.seeds, estimate.seeds, strict=False)],
        note=" ".join(judgement.notes),
    )  # fmt: skip


COLUMNS = [
    Column(key="arm", label="arm"), Column(key="f1", label="F1", unit="%", better="higher"),
    Column(key="seeds", label="F1 of seeds"),
    Column(key="precision", label="precision", unit="%", better="higher"),
    Column(key="recall", label="recall", unit="%", better="higher"),
    Column(key="b_wer", label="WER of listed words", unit="%", better="lower"),
    Column(key="u_wer", label="WER of other words", unit="%", better="lower"),
    Column(key="wer", label="WER", unit="%", better="lower"),
    Column(key="rtf", label="CPU time over sound"),
]  # fmt: skip


TITLES = {
    "unrelated": (
        "An unrelated list",
        "1,000 words of which none is said: whatever is found is false. F1 and the WER of listed words say nothing here.",
    ),
    "own": (
        "Read English of seven other speakers (LibriSpeech mini, 70 utterances)",
        "Each utterance with its published list: its rare words and 100 others. Weights as chosen on dev of the games. CPU time "
        "includes making a list ready for each utterance.",
    ),
}


def table(study: Study, scores: Scores, label: str, part: str = "test") -> Table:
    """All arms with one list: means over seeds, and the least and the highest F1 of a seed."""
    seconds = study.encodings(part).seconds
    rows = []
    for name in LABELS:
        stats = scores.stats(name, label, study.seeds)
        if not len(stats):
            continue
        each = [values_of(seed) for seed in stats]
        said = [d for (arm, list_, _), d in scores.rows.items() if arm == name and list_ in (label, "")]
        row: dict[str, Any] = {"arm": LABELS[name]}
        for key in ("f1", "precision", "recall", "b_wer", "u_wer", "wer"):
            row[key] = round(float(np.mean([values[key] for values in each])), 2)
        if len(each) > 1 and label != "unrelated":
            row["seeds"] = " to ".join(f"{pick(values['f1'] for values in each):.1f}" for pick in (min, max))
        row["rtf"] = round(float(np.mean([d.cpu_s for d in said])) / seconds, 5)
        rows.append(row)
    if label in TITLES:
        title, caption = TITLES[label]
    else:
        title = f"Listed words and {int(label):,} distractors"
        caption = f"{len(scores.words[label]):,} phrases. Means over seeds where an adapter is in it."
    return Table(title=title, caption=caption, columns=COLUMNS, rows=rows)


def costs(measured: Sequence[Mapping[str, Any]]) -> Table:
    """What making lists ready costs."""
    rows = [
        {
            "arm": LABELS[row["arm"]], "list": row["list"], "phrases": row["phrases"], "seconds": round(row["seconds"], 3),
            "mb": round(row["mb"], 2), "each": round(1e3 * row["mb"] / row["phrases"], 2),
        }
        for row in measured
    ]  # fmt: skip
    columns = [
        COLUMNS[0], Column(key="list", label="distractors"), Column(key="phrases", label="phrases"),
        Column(key="seconds", label="CPU time", unit="s"), Column(key="mb", label="memory", unit="MB"),
        Column(key="each", label="per 1,000 phrases", unit="MB"),
    ]  # fmt: skip
    caption = (
        "Once for a list, however many utterances follow: spelling and automata, pronunciations, the adapter's table."
    )
    return Table(title="Making a list ready", caption=caption, columns=columns, rows=rows)


def chart(study: Study, scores: Scores, value: str, title: str, y: str) -> Chart:
    """One value by number of distractors."""
    series = []
    for name in LABELS:
        points = []
        for size in study.sizes:
            stats = scores.stats(name, str(size), study.seeds)
            if len(stats):
                mean = float(np.mean([values_of(seed)[value] for seed in stats]))
                points.append(Point(x=float(max(size, 1)), y=mean))
        if len(points) > 1:
            series.append(Series(name=LABELS[name], points=points))
    alt = f"{title}: lines for each arm over lists with 0 (drawn at 1) to {study.sizes[-1]:,} distractors."
    return Chart(title=title, kind="lines", x_label="distractors", y_label=y, x_scale="log", series=series, alt=alt)


def sweeps(study: Study) -> Table:
    """The whole sweep of each arm on dev, not its best point alone."""
    import json

    rows = []
    for path in sorted((study.out / "weights").glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        for weight, values in data["sweep"]:
            mark = {"_mark": "chosen"} if weight == data["weight"] else {}
            kept = {key: round(values[key], 2) for key in ("f1", "u_wer", "wer")}
            rows.append({"arm": LABELS[path.stem], "weight": weight, **kept, **mark})
    named = {column.key: column for column in COLUMNS}
    columns = [named["arm"], Column(key="weight", label="weight"), named["f1"], named["u_wer"], named["wer"]]
    caption = (
        f"dev, {PRIMARY} distractors, the first seed's adapter: the best F1 among weights that leave the WER of other words "
        "within 1 % of the same search without a list. Peers' hotword weights are ten times ours, for they pay for a word "
        "and not for a letter."
    )
    return Table(title="Choice of the weights", caption=caption, columns=columns, rows=rows)


def intervals(study: Study, scores: Scores) -> Chart:
    """F1 with its interval over texts, the first seed."""
    points = []
    for name in LABELS:
        stats = scores.stats(name, PRIMARY, study.seeds[:1])
        if len(stats):
            found = interval(
                stats[0], metric_of(["x"]).reduce, clusters=study.task("test").texts, replicates=2_000,
                generator=np.random.default_rng(0),
            )["listed-f1"]  # fmt: skip
            points.append(Point(x=LABELS[name], y=found.value, low=found.low, high=found.high))
    return Chart(
        title=f"F1 of listed words, {PRIMARY} distractors", kind="intervals", x_label="F1 (%)", y_label="arm",
        series=[Series(name="F1", points=points)], alt="F1 of each arm with its 95 % interval, resampled by text.",
    )  # fmt: skip


def facts(study: Study, scores: Scores) -> dict[str, Any]:
    """What every row stands on."""
    test, dev = study.task("test"), study.task("dev")
    said = sum(word in set(test.words) for text in test.texts for word in text.split())
    return {
        "data": ", ".join(CORPORA[study.language]),
        "split rule": f"base: 0 to 60 % of the training part by hash of the text; phone head: {PHONES[0]:.0%} "
        f"to {PHONES[1]:.0%}; adapter: 0 to {DEV[0]:.0%}; settings: {DEV[0]:.0%} to {DEV[1]:.0%}; test: the corpora's test part",
        "test": f"{len(test.examples)} utterances, {study.encodings('test').seconds / 60:.1f} min, {len(set(test.texts))} texts",
        "listed words": f"{len(test.words)} types said {said} times, in no text that anything was trained on",
        "dev": f"{len(dev.examples)} utterances, {len(dev.words)} listed words",
        "seeds of the adapter": ", ".join(map(str, study.seeds)),
        "sweep": ", ".join(map(str, SWEEP)),
        "threads": "1",
        "correction for several claims": "holm",
    }


def write_report(
    study: Study, measured: Sequence[Mapping[str, Any]], scores: Scores, read: Scores | None = None
) -> None:
    """report.json and report.html in the study's folder; `measured`: what lists cost, `read`: what was measured on read speech."""
    names = ("sltcore-lib", "sltcore-ctc-personalization", "sltcore-speech", "torch", "numpy")
    labels: Sequence[str] = [*map(str, study.sizes), "unrelated"]
    report = Report(
        title=f"Words that nothing was trained on: adapters, boosting, phones ({study.language})",
        kind="experiment", created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=f"python plugins/ctc-personalization/experiments/personalization/run.py --language {study.language}",
        versions={name: version(name) for name in names},
        machine={"system": f"{platform.system()} {platform.machine()}", "processors": "2"},
        description=DESCRIPTION, limits=LIMITS[study.language], facts=facts(study, scores),
        verdicts=verdicts(study, scores),
        tables=[
            *(table(study, scores, label) for label in labels),
            *([] if read is None else [table(study, read, "own", LIBRISPEECH)]),
            costs(measured),
            sweeps(study),
        ],
        charts=[
            intervals(study, scores),
            chart(study, scores, "f1", "F1 of listed words by list size", "F1 (%)"),
            chart(study, scores, "u_wer", "WER of other words by list size", "WER (%)"),
        ],
    )  # fmt: skip
    for path in write(report, study.out):
        print(path)


DESCRIPTION = (
    "A recogniser of letters is frozen. A list holds every word of the test that stands in no training text, and more and "
    "more distractors from a dictionary. Arms: no list; phrase boosting in the search; a contextual adapter before it (five "
    "seeds); a phone network whose spotter says which phrases to boost; and their combinations, with boosting that follows "
    "the evidence. Two libraries get the same log-probabilities, language model and sweep. Claims were written before the "
    "first run."
)
LIMITS: Mapping[str, str] = {
    "en": "A small recogniser (2 million parameters) that learned to spell from less than two hours of acted speech, so its "
    "WER is high and listed words are mostly everyday words that its training part lacks, with some names. One base and one "
    "phone head; the seeds are those of the adapter. Roles are not actors. pyctcdecode was not run beyond 100 distractors. "
    "An adapter that learned from two hours of speech knows where a phrase is said, but hardly what to write there: alone it "
    "adds little, and its use is to say which phrases to boost. Two ways to teach it more, tried on dev, brought nothing: "
    "attention to the symbols of a phrase, and further steps on texts that the base had not seen. Weights were chosen with 100 "
    "distractors; a list of 10,000 wants lower ones.",
    "cs": "A small recogniser (2 million parameters, pretrained on English) that learned Czech from one hour of a game with "
    "two lead voices, which also speak in the test. The language model is the corpus' own, so it lacks every listed word. One "
    "base and one phone head; the seeds are those of the adapter. Lists of 10,000 were left out.",
}
