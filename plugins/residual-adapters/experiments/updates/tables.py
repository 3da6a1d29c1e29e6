"""The report's tables and charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from counting import COLUMNS, Stats
from scores import NO_SEED, ItemOfSet, Scores, recall, wer
from settings import BONUS
from study import FUSED, LEARNED
from sweep import BASE_RECALL, BASE_WER, BOOSTED, JOINT, JOINT_RECALL, JOINT_WER, SWEEP, Tried
from work import general_test

from sltcore.experiment.bootstrap import Reduce
from sltcore.experiment.resampling import Draws, replicated
from sltcore.experiment.statistics import Estimate, level_of, seeded_difference
from sltcore.report import Chart, Column, Point, Series, Table

ARMS = {
    "base": "base", "beam": "base, beam", "boosting": "base, beam, phrase boosting", "single": "single update",
    "sum": "sum", "sum-boosting": "sum, beam, phrase boosting", "average": "average", "stack": "stack", "attention": "attention", "gate": "gate",
    "joint": "one joint adapter", "lora": "LoRA, summed", "full": "full fine-tune per set",
    "sequential": "sequential fine-tune",
}  # fmt: skip


def counts_of(scores: Scores, arm: str) -> list[int]:
    """The numbers of active updates at which an arm is measured."""
    counts = scores.study.counts
    if arm in ("single", "full"):
        return counts[:1]
    if arm == "joint":
        return counts[-1:]
    if arm in (*FUSED, *LEARNED, "sum-boosting"):
        return counts[1:]
    return counts


def rows_of(scores: Scores) -> Iterator[tuple[str, int]]:
    """Arms and counts that have anything to show, count by count."""
    for count in scores.study.counts:
        for arm in ARMS:
            if scores.has(arm) and count in counts_of(scores, arm):
                yield arm, count


def caption(scores: Scores) -> str:
    """What every table of results stands on."""
    data = scores.study.data
    real = sum(data.count(f"real-{number}") for number in scores.study.numbers)
    made = sum(data.count(f"synthetic-{number}") for number in scores.study.numbers)
    return (
        f"Learned from real and synthetic speech: {real} recordings and {made} utterances of espeak-ng, with general "
        f"recordings; tested on real speech alone. Means over seeds with 95 % intervals over seeds and texts."
    )


def level(scores: Scores, stats: Stats, reduce: Reduce, value: str, clusters: Sequence[str]) -> Estimate:
    """A mean over seeds with its interval."""
    draws = Draws(
        stats.shape[1], clusters=clusters, replicates=scores.study.size.replicates, generator=np.random.default_rng(0)
    )
    return level_of(replicated(stats, reduce, draws, names=[value])[value], draws)


def cell(estimate: Estimate, seeds: Sequence[int], digits: int = 2) -> dict[str, Any]:
    """A value with its interval and seeds."""
    low, high = estimate.interval()
    found: dict[str, Any] = {"value": _rounded(estimate.value, digits)}
    if np.isfinite([low, high]).all():
        found |= {"low": _rounded(low, digits), "high": _rounded(high, digits)}
    if len(estimate.seeds) > 1:
        found["seeds"] = [
            {"seed": seed, "value": _rounded(value, digits)} for seed, value in zip(seeds, estimate.seeds, strict=True)
        ]
    return found


def _rounded(value: float, digits: int) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None


def results(scores: Scores) -> Table:
    """The main table."""
    columns = [
        Column(key="arm", label="arm"), Column(key="active", label="active updates"),
        Column(key="recall", label="recall", unit="%", better="higher"),
        Column(key="wer", label="general WER", unit="%", better="lower"),
        Column(key="change", label="general WER against the base", unit="%", better="lower"),
        Column(key="insertions", label="false insertions per 1,000 general words", better="lower"),
        Column(key="seeds", label="seeds"),
    ]  # fmt: skip
    rows = [_row(scores, arm, count) for arm, count in rows_of(scores)]
    note = (
        " Recall: taught words heard at their place, of the sets that are active (every group of neighbouring sets); that of "
        "sequential fine-tuning is of all sets taught so far, with 1 of each right after its own step. General WER against "
        "the base: paired, in percent of it."
    )
    return Table(
        title="Recall and general speech by active updates", caption=caption(scores) + note, columns=columns, rows=rows
    )


def _row(scores: Scores, arm: str, count: int) -> dict[str, Any]:
    seeds = scores.seeds(arm)
    items = scores.recall_items(arm, count)
    heard = level(scores, scores.recalls(arm, count, seeds, items), recall, "recall", [item.text for item in items])
    row: dict[str, Any] = {"arm": ARMS[arm], "active": count, "recall": cell(heard, seeds)}
    starts = scores.starts(count, arm)
    clusters = scores.general_clusters(starts)
    own = scores.general_rows(arm, count, seeds, starts)
    row["wer"] = cell(level(scores, own, wer, "wer", clusters), seeds)
    if arm != "base":
        base = scores.general_rows("base", count, seeds, starts)
        row["change"] = cell(
            seeded_difference(
                own, base, wer, value="wer", clusters=clusters, relative=True,
                replicates=scores.study.size.replicates, generator=np.random.default_rng(0),
            ),
            seeds,
        )  # fmt: skip
    place = COLUMNS.index("insertions")
    row["insertions"] = round(float(1000 * own[..., place].sum() / own[..., COLUMNS.index("words")].sum()), 3)
    row["seeds"] = "none drawn" if arm in NO_SEED else len(seeds)
    return row


def by_set(scores: Scores) -> Table:
    """Recall of each set."""
    numbers = scores.study.numbers
    columns = [
        Column(key="arm", label="arm"), Column(key="active", label="active updates"),
        *(Column(key=f"set-{n}", label=f"set {n}", unit="%", better="higher") for n in numbers),
        Column(key="mean", label="mean of sets", unit="%", better="higher"),
    ]  # fmt: skip
    rows = []
    for arm, count in rows_of(scores):
        items = scores.recall_items(arm, count)
        stats = scores.recalls(arm, count, scores.seeds(arm), items)
        row: dict[str, Any] = {"arm": ARMS[arm], "active": count}
        found = []
        for number in numbers:
            value = _recall(stats, items, number)
            if value is not None:
                row[f"set-{number}"] = round(value, 1)
                found.append(value)
        row["mean"] = round(float(np.mean(found)), 1) if found else None
        rows.append(row)
    words = "; ".join(f"set {n}: {', '.join(own)}" for n, own in zip(numbers, scores.study.sets, strict=True))
    return Table(title="Recall of each set", caption=f"{caption(scores)} {words}.", columns=columns, rows=rows)


def _recall(stats: Stats, items: Sequence[ItemOfSet], number: int) -> float | None:
    kept = stats[:, [place for place, item in enumerate(items) if item.number == number]]
    said = kept[..., COLUMNS.index("said")].sum()
    return float(100 * kept[..., COLUMNS.index("hits")].sum() / said) if said else None


def words(scores: Scores) -> Table:
    """How often each word teaches and is tested."""
    columns = [
        Column(key="word", label="word"), Column(key="set", label="set"),
        Column(key="train", label="recordings that teach"), Column(key="made", label="synthetic utterances"),
        Column(key="dev", label="dev"), Column(key="test", label="test"),
    ]  # fmt: skip
    data = scores.study.data
    rows = [
        {**row, "made": data.count(f"synthetic-{row['set']}") // len(data.sets[row["set"] - 1])}
        for row in data.facts["occurrences"]
    ]
    note = "Utterances that hold the word: real recordings, and synthetic ones of espeak-ng, which only teach. Voices and texts of dev and test teach nothing."
    return Table(title="The words", caption=note, columns=columns, rows=rows)


def sweep() -> list[Table]:
    """What dev said of the settings that were tried."""
    columns = [
        Column(key="settings", label="settings"),
        Column(key="single", label="recall, single", unit="%", better="higher"),
        Column(key="together", label="recall, sum", unit="%", better="higher"),
        Column(key="wer", label="general WER, single", unit="%", better="lower"),
        Column(key="wer_sum", label="general WER, sum", unit="%", better="lower"),
    ]
    note = (
        f"Dev, seed 0, sets 2, 5 and 7 with 32 occurrences (the base: recall {BASE_RECALL} %, general WER {BASE_WER} %), learned "
        "from recordings and espeak-ng utterances: a coarse choice. Rule: the highest recall of the sum among settings with a "
        "general WER at most 1 % above the base's; where none is, the lowest general WER. Rank 32 and one general "
        "utterance for each that teaches where nothing else is said. The penalty counted padded frames but in the row that says so."
    )
    joint = f"Dev, seed 0, all eight sets with 56 occurrences (the base: recall {JOINT_RECALL} %, general WER {JOINT_WER} %), learned from recordings and espeak-ng utterances; the same rule."
    return [
        Table(title="Choice of the settings", caption=note, columns=columns, rows=_tried(SWEEP)),
        Table(title="Choice of the settings of the joint adapter", caption=joint, columns=columns, rows=_tried(JOINT)),
        _bonuses(),
    ]


def _tried(settings: Sequence[Tried]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in one._asdict().items() if key != "chosen" and value is not None}
        | ({"_mark": "chosen"} if one.chosen else {})
        for one in settings
    ]


def _bonuses() -> Table:
    columns = [
        Column(key="bonus", label="nats a letter"), Column(key="recall", label="recall", unit="%", better="higher"),
        Column(key="wer", label="general WER", unit="%", better="lower"),
        Column(key="insertions", label="false insertions in 1,246 words", better="lower"),
    ]  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"bonus": bonus, "recall": heard, "wer": rate, "insertions": extra}
        | ({"_mark": "chosen"} if bonus == BONUS else {})
        for bonus, heard, rate, extra in BOOSTED
    ]
    note = "Dev, real speech: the base with a beam and the words of four sets as phrases, nothing learned from espeak-ng; the same rule, against 0 nats."
    return Table(title="Choice of the phrases' bonus", caption=note, columns=columns, rows=rows)


def conflicts(scores: Scores) -> Table | None:
    """What `slt adapters check` says of the updates of each seed, on general dev audio."""
    columns = [
        Column(key="seed", label="seed"), Column(key="together", label="all together move frames by", unit="%"),
        Column(key="single", label="one moves frames by, mean", unit="%"),
        Column(key="same", label="same frames, mean of pairs"), Column(key="agreement", label="agreement, mean of pairs"),
        Column(key="cosine", label="cosine of mean outputs, mean of pairs"),
        Column(key="largest", label="largest cosine"), Column(key="pair", label="of"),
    ]  # fmt: skip
    rows = []
    for seed in scores.study.seeds:
        name = f"check--sum--seed-{seed}"
        if not scores.study.has(name):
            continue
        found = scores.study.result(name)["check"]
        pairs, moves = found["conflicts"], found["moves"]
        worst = max(pairs, key=lambda one: one["mean_cosine"])
        rows.append(
            {
                "seed": seed, "together": round(100 * found["together"], 2),
                "single": round(100 * float(np.mean([one["relative"] for one in moves])), 2),
                "same": _mean(pairs, "same_frames"), "agreement": _mean(pairs, "agreement"),
                "cosine": _mean(pairs, "mean_cosine"), "largest": round(worst["mean_cosine"], 2),
                "pair": f"{worst['first']}, {worst['second']}",
            }
        )  # fmt: skip
    note = "General dev audio, real speech, by slt adapters check; the updates learned from recordings and espeak-ng utterances. Updates that share a common component add up everywhere."
    return Table(title="Do updates move the same frames?", caption=note, columns=columns, rows=rows) if rows else None


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    return round(float(np.mean([row[key] for row in rows])), 2)


def costs(scores: Scores) -> Table:
    """Steps, parameters and time of training."""
    columns = [
        Column(key="arm", label="training"), Column(key="steps", label="steps"),
        Column(key="parameters", label="parameters of one"), Column(key="seconds", label="time of one", unit="s"),
        Column(key="runs", label="runs"),
    ]  # fmt: skip
    rows = []
    for arm in ("adapter", "lora", "attention", "gate", "joint", "full", "sequential"):
        found = [scores.study.result(path.stem) for path in sorted(scores.study.out.glob(f"units/train--{arm}-*.json"))]
        if found:
            seconds = round(float(np.mean([one["cpu_s"] for one in found])), 1)
            row = {"arm": arm, "steps": found[0]["steps"], "seconds": seconds, "runs": len(found)}
            rows.append(row | ({"parameters": found[0]["parameters"]} if "parameters" in found[0] else {}))
    note = "CPU seconds of one thread. Recordings and espeak-ng utterances of the words with general recordings; every arm learns for equally many steps for each set."
    return Table(title="What training costs", caption=note, columns=columns, rows=rows)


def chart(table: Table, key: str, title: str, y: str) -> Chart:
    """One column of the main table by active updates; sum, average and stack of one update are that update."""
    rows: list[dict[str, Any]] = [row for row in table.rows if isinstance(row.get(key), dict)]
    most = max((row["active"] for row in rows), default=1)
    series = []
    for arm in ARMS:
        own = (ARMS[arm], ARMS["single"]) if arm in FUSED else (ARMS[arm],)
        points = [
            Point(x=float(row["active"]), y=row[key]["value"], low=row[key].get("low"), high=row[key].get("high"))
            for row in rows
            if row["arm"] in own
        ]
        if len(points) > 1:
            series.append(Series(name=ARMS[arm], points=points))
    alt = f"{title}: a line for each arm over 1 to {most} active updates."
    return Chart(title=title, kind="lines", x_label="active updates", y_label=y, x_scale="log", series=series, alt=alt)


def general_words(scores: Scores) -> int:
    """Words of general test audio."""
    return sum(len((example.item.text or "").split()) for example in general_test(scores.study))
