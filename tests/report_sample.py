"""A report that has everything a report can have, for the tests of the page."""

from __future__ import annotations

import base64
import io
import math
import struct
import wave

from sltcore.report.document import (
    AudioRow,
    Chart,
    Column,
    Point,
    Report,
    SeedEffect,
    Series,
    Table,
    UnitRow,
    Verdict,
)

PUBLISHED = "published, other data"
ARMS = ("pretrained", "random", "random, 4 times the steps")


def tone(seconds: float = 0.2, hertz: float = 440.0) -> str:
    """A data URI of a sine."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        count = int(8000 * seconds)
        file.writeframes(
            b"".join(struct.pack("<h", int(9000 * math.sin(2 * math.pi * hertz * i / 8000))) for i in range(count))
        )
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()


def verdicts() -> list[Verdict]:
    """One of each word."""
    return [
        Verdict(
            text="Starting from the pretrained encoder gives fewer word errors than random weights at equal steps",
            measure="errors",
            value="wer.wer",
            unit="%",
            better="lower",
            arm="pretrained",
            versus="random",
            margin=2.0,
            effect=-31.4,
            low=-34.9,
            high=-27.8,
            p=0.0001,
            p_adjusted=0.0003,
            seeds=[SeedEffect(seed=s, effect=e) for s, e in enumerate((-30.2, -33.0, -31.7, -29.9, -32.2))],
            verdict="supported",
        ),
        Verdict(
            text="Four times the steps close the gap to within two points",
            measure="errors",
            value="wer.wer",
            unit="%",
            better="lower",
            arm="random-long",
            versus="pretrained",
            direction="not-worse",
            margin=2.0,
            effect=12.6,
            low=9.1,
            high=16.4,
            p=0.0004,
            p_adjusted=0.0008,
            seeds=[SeedEffect(seed=s, effect=e) for s, e in enumerate((10.9, 14.1, 12.0, 13.8, 12.2))],
            verdict="not supported",
        ),
        Verdict(
            text="A language model changes the order of the two arms",
            measure="errors-lm",
            value="wer.wer",
            better="lower",
            arm="pretrained-lm",
            versus="random-lm",
            relative=True,
            margin=5.0,
            effect=-6.2,
            low=-14.8,
            high=1.9,
            p=0.14,
            p_adjusted=0.14,
            seeds=[SeedEffect(seed=0, effect=-4.0), SeedEffect(seed=1, effect=-8.4)],
            verdict="undecided",
            note="About 640 utterances instead of 212, or 9 seeds instead of 2, would settle it at the size seen here.",
        ),
    ]


def tables() -> list[Table]:
    """Arms with intervals and seeds beside their cost, and a published row."""

    def row(arm: str, wer: float, seconds: float, size: int) -> dict[str, object]:
        seeds = [{"seed": s, "value": wer + d} for s, d in enumerate((-1.1, 0.4, 0.9, -0.6, 0.4))]
        return {
            "arm": arm,
            "role": "technique" if arm == "pretrained" else "baseline",
            "wer": {"value": wer, "low": wer - 2.4, "high": wer + 2.7, "seeds": seeds},
            "seconds": seconds,
            "bytes": size,
        }

    return [
        Table(
            title="Arms",
            caption="Mean over five seeds, 95 % interval over seeds and utterances, and every seed; cost beside it.",
            columns=[
                Column(key="arm", label="arm"),
                Column(key="role", label="role"),
                Column(key="wer", label="WER", unit="%", better="lower"),
                Column(key="seconds", label="training", unit="s", better="lower"),
                Column(key="bytes", label="bundle", unit="bytes", better="lower"),
            ],
            rows=[
                row("random", 55.3, 241.0, 5_312_204),
                row("pretrained", 23.9, 243.5, 5_312_204),
                row("random, 4 times the steps", 36.5, 968.25, 5_312_204),
                {"arm": "never finished", "role": "control", "wer": None, "seconds": None, "bytes": None},
                {"arm": "Conformer (S), test-clean", "role": "", "wer": 2.7, "_mark": PUBLISHED},
            ],
        )
    ]


def charts() -> list[Chart]:
    """One of each kind, and one with more series than colours."""
    curves = [
        Series(
            name=arm,
            points=[
                Point(
                    x=float(step),
                    y=4 * math.exp(-step / (400 + 300 * i)) + 0.4 * i + 0.3,
                    low=4 * math.exp(-step / (400 + 300 * i)) + 0.35 * i + 0.2,
                    high=4 * math.exp(-step / (400 + 300 * i)) + 0.45 * i + 0.45,
                )
                for step in range(0, 2001, 50)
            ],
        )
        for i, arm in enumerate(ARMS)
    ]
    return [
        Chart(
            title="Word error rate by arm",
            kind="bars",
            x_label="arm",
            y_label="WER, %",
            series=[
                Series(
                    name="greedy",
                    points=[
                        Point(x=arm, y=y, low=y - 2.4, high=y + 2.7)
                        for arm, y in zip(ARMS, (23.9, 55.3, 36.5), strict=True)
                    ]
                    + [Point(x="Conformer (S)", y=2.7, mark=PUBLISHED)],
                ),
                Series(
                    name="lexicon and language model",
                    points=[
                        Point(x=arm, y=y, low=y - 2.0, high=y + 2.0)
                        for arm, y in zip(ARMS, (17.1, 49.8, 28.8), strict=True)
                    ],
                ),
            ],
            alt="Pretrained has the fewest word errors of the three arms, with and without a language model.",
        ),
        Chart(
            title="Difference to random weights by corpus",
            kind="intervals",
            x_label="corpus",
            y_label="pretrained − random, percentage points",
            reference=0.0,
            series=[
                Series(
                    name="difference",
                    points=[
                        Point(x="asterisk prompts", y=-31.4, low=-34.9, high=-27.8),
                        Point(x="flight of the amazon queen", y=-12.0, low=-18.2, high=-5.5),
                        Point(x="librispeech mini", y=-3.1, low=-8.8, high=2.4),
                    ],
                )
            ],
        ),
        Chart(title="Training loss", kind="lines", x_label="step", y_label="loss, nats a frame", series=curves),
        Chart(
            title="Errors by the number of utterances",
            kind="lines",
            x_label="utterances",
            y_label="WER, %",
            x_scale="log",
            series=[
                Series(name=f"seed {i}", points=[Point(x=float(n), y=80 / n**0.25 + 2 * i) for n in (10, 100, 1000)])
                for i in range(8)
            ],
        ),
    ]


def sample() -> Report:
    """Everything."""
    return Report(
        title="Fine-tuning a pretrained encoder against random weights",
        kind="experiment",
        created="2026-11-22T13:10:00+00:00",
        command="slt reproduce speech/main --size small --seeds 5 --out runs/speech",
        versions={"sltcore-lib": "0.3.0", "sltcore-speech": "0.3.0", "torch": "2.13.0", "python": "3.11.7"},
        machine={"processor": "2 cores", "memory": "8 GiB", "accelerator": "none", "system": "Linux"},
        description="Does a front end that was trained for phones help to learn English characters from minutes of speech?",
        limits="Minutes of read prompts by few speakers: this shows the order of the arms, not word error rates of LibriSpeech.",
        facts={
            "data": "asterisk-en, held-out prompts",
            "split": "by prompt and speaker",
            "steps": 1200,
            "seeds": "0 1 2 3 4",
        },
        verdicts=verdicts(),
        tables=tables(),
        charts=charts(),
        audio=[
            AudioRow(title="prompt 17", label="recording", text="please enter your password", src=tone()),
            AudioRow(
                title="prompt 17", label="copy synthesis", text="please enter your pass word", src=tone(0.2, 220.0)
            ),
        ],
        units=[
            UnitRow(stage="train-pretrained", seed=0, state="done", seconds=243.5, host="laptop"),
            UnitRow(stage="train-random", seed=0, state="reused", seconds=241.0, host="laptop"),
            UnitRow(
                stage="decode",
                seed=1,
                state="failed",
                seconds=1.5,
                host="laptop",
                error="out of memory: 2 GB asked for",
            ),
            UnitRow(stage="measure", seed=1, state="skipped", error="needs decode, seed 1"),
        ],
        problems=["decode, seed 1: out of memory: 2 GB asked for"],
        spec_yaml="slt: 1\nkind: experiment\nname: main\nseeds: [0, 1, 2, 3, 4]\n",
    )
