"""How fast and how good is the compiled CTC beam search beside its peers, on the same log-probabilities in one run?

    python benchmarks/ctc_beam.py             the whole table; writes benchmarks/reports/ctc-beam.json
    python benchmarks/ctc_beam.py --check     a quick size; prints each bar with its figure, exits 1 when one is missed
    options: --json FILE, --seed N, --beam N, --alphabets characters,bpe-500, --peers NAMES

A synthetic language of 20,000 words with a 3-gram model; utterances of 10 s in 32 characters (50 frames/s) and in 500
sub-words (25 frames/s), peaky log-probabilities whose greedy WER is 30 to 45 %; with and without the model; lists of 0,
100 and 5,000 words, of which 50 are said on purpose (half of them unknown to the model) and many by chance. A word that
is listed is no unknown word to ours; the peers charge for it all the same, which is most of the difference in quality with
the model. Quality is word error rate, and precision, recall and F1 of the listed words. What a listed word is worth is
chosen for ours and for ctc-beam-decoder by the same sweep on utterances of another seed (`--check` takes what the
committed report chose); pyctcdecode, whose scores ctc-beam-decoder reproduces, takes the same weight as that.

Times are CPU time of one thread for each utterance: the mean over utterances of the median over rounds; engines take
turns, so that another job's load falls on all. pyctcdecode re-reads its list for every hypothesis, so it gets fewer and
shorter pieces: the first seconds of the first utterances, which are its best case, and the others are timed again on just
these. A list is prepared once and timed apart. The floor is the time to read the log-probabilities once. Peers run in an
environment of their own, `.venv-bench`, made from requirements/bench.txt on the first run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402 (after the thread limits, which are read when it is imported)
from ctc_beam_bars import Bar, cost_bars, peer_bars, quality  # noqa: E402
from ctc_beam_costs import measure_building, measure_costs, measure_floor  # noqa: E402
from ctc_beam_data import Corpus, Language, greedy, utter, write_arpa  # noqa: E402
from ctc_beam_engines import ENVIRONMENT, ROOT, SETTINGS, Engine, Ours, Peer, Piece, Said, prepare_environment  # noqa: E402
from ctc_beam_subwords import Alphabet, characters, subwords  # noqa: E402

from slt_ctc_personalization.language_model.ngram import NgramModel, load_lm  # noqa: E402

REPORT = ROOT / "benchmarks" / "reports" / "ctc-beam.json"
OURS, FAST, HABIT = "ctc-beam", "ctc-beam-decoder", "pyctcdecode"
WITHOUT_PHRASES = ("fast-ctc-decode", "flashlight")
LISTS = (0, 100, 5_000)
WEIGHTS = (5.0, 10.0, 15.0, 20.0)
DEV_SEED = 1_000
SECONDS = 10.0
FULL = {
    "test": 100, "slow_test": 50, "dev": 20, "rounds": 3, "costs": 30,
    HABIT: {(True, 0): (40, 10.0), (True, 100): (40, 10.0), (True, 5_000): (8, 10.0),
            (False, 0): (20, 10.0), (False, 100): (6, 3.0), (False, 5_000): (3, 1.0)},
}  # fmt: skip
QUICK = {
    "test": 50, "slow_test": 20, "dev": 8, "rounds": 3, "costs": 15,
    HABIT: {(True, 0): (10, 10.0), (True, 100): (10, 10.0), (True, 5_000): (3, 4.0),
            (False, 0): (6, 6.0), (False, 100): (4, 2.0), (False, 5_000): (2, 0.8)},
}  # fmt: skip
"""Utterances, and how many of them for how many seconds pyctcdecode reads by (language model, phrases). `slow_test` holds
for ctc-beam-decoder with 5,000 phrases and no model."""


def make_language(seed: int) -> tuple[Language, Path]:
    """The language and its model, which is kept beside the peers until the code that makes it changes."""
    language = Language(20_000, np.random.default_rng(seed))
    source = Path(__file__).with_name("ctc_beam_data.py").read_bytes()
    arpa = ENVIRONMENT / f"lm-{seed}-{hashlib.sha256(source).hexdigest()[:12]}.arpa"
    if not arpa.exists():
        unfinished = arpa.with_suffix(".part")
        write_arpa(language, unfinished, sentences=35_000)
        unfinished.rename(arpa)
    return language, arpa


def choose_weight(engine: Engine, corpus: Corpus, count: int) -> float:
    """The weight with the best F1 of listed words on the development utterances; ties: fewer errors, then less weight."""
    piece = Piece("dev", len(corpus.references), corpus.log_probs.shape[1])
    tried = []
    for weight in WEIGHTS:
        found = quality(corpus, engine.run(piece, corpus.phrases[count], weight).texts, count, piece.frames)
        tried.append((-round(found["f1"], 6), found["errors"], weight))
    return min(tried)[2]


def rounds(
    engines: dict[str, Engine], piece: Piece, words: list[str], weights: dict[str, float], n: int
) -> dict[str, Said]:
    """`n` rounds in turn, pyctcdecode in the first alone: medians of the seconds, and the texts."""
    seconds: dict[str, list[Any]] = {name: [] for name in engines}
    texts: dict[str, list[str]] = {}
    for turn in range(n):
        for name, engine in engines.items():
            if name == HABIT and turn:
                continue
            said = engine.run(piece, words, weights[name])
            seconds[name].append(said.seconds)
            texts[name] = said.texts
    return {name: Said(np.median(seconds[name], axis=0), texts[name]) for name in engines}


def measure_list(
    count: int, corpus: Corpus, alphabet: Alphabet, engines: dict[str, Engine], weights: dict[str, float],
    sizes: dict[str, Any], has_lm: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """The rows of one list: all engines but pyctcdecode on whole utterances, then all with a list on its pieces."""
    words, frames = corpus.phrases[count], corpus.log_probs.shape[1]
    slow = count == 5_000 and not has_lm and FAST in engines
    whole = Piece("test", sizes["slow_test" if slow else "test"], frames)
    some = {name: engine for name, engine in engines.items() if name != HABIT}
    if count:
        some = {name: engine for name, engine in some.items() if name not in WITHOUT_PHRASES}
    runs = [(whole, rounds(some, whole, words, weights, 1 if slow else sizes["rounds"]))]
    if HABIT in engines:
        utterances, seconds = sizes[HABIT][has_lm, count]
        piece = Piece("test", utterances, round(seconds * alphabet.frames_per_s))
        three = {name: engines[name] for name in (OURS, FAST, HABIT) if name in engines}
        runs.append((piece, rounds(three, piece, words, weights, sizes["rounds"])))
    rows = []
    for piece, said in runs:
        for name, found in said.items():
            row = {"alphabet": alphabet.name, "lm": has_lm, "phrases": count, "engine": name, "piece": "whole"}
            row |= {"utterances": piece.utterances, "seconds": piece.frames / alphabet.frames_per_s}
            row |= {"weight": weights[name] if count else None, "ms": 1000 * float(found.seconds.mean())}
            row |= quality(corpus, found.texts, count, piece.frames)
            if piece is not whole:
                row["piece"] = HABIT
                if FAST in said:
                    same = sum(a == b for a, b in zip(found.texts, said[FAST].texts, strict=True))
                    row["same_as_fast"] = same / piece.utterances
            rows.append(row)
    return rows


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    f1 = f"P {row['precision']:5.1f} R {row['recall']:5.1f} F1 {row['f1']:5.1f}" if row["phrases"] else " " * 25
    weight = f"w {row['weight']:<4g}" if row["phrases"] else " " * 6
    print(
        f"  {row['alphabet']:<10} {'3-gram' if row['lm'] else 'no lm '} {row['phrases']:>5} phrases  {row['engine']:<16} "
        f"{row['ms']:9.3f} ms  WER {row['wer']:5.2f} %  {f1}  {weight} ({row['utterances']} x {row['seconds']:g} s)",
        flush=True,
    )


def measure(
    alphabet: Alphabet, lm: NgramModel | None, parts: dict[str, Corpus], arpa: Path, options: argparse.Namespace,
    folder: Path,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """All rows of one alphabet, with or without the language model."""
    corpus, sizes, has_lm = parts["test"], options.sizes, lm is not None
    arrays = {part: found.log_probs for part, found in parts.items()}
    data = folder / f"{alphabet.name}.npz"
    np.savez(data, **arrays)
    settings: dict[str, Any] = SETTINGS | {"labels": alphabet.labels, "beam": options.beam}
    settings |= {"arpa": str(arpa) if lm else None, "words": list(lm.words[3:]) if lm else []}
    engines: dict[str, Engine] = {OURS: Ours(alphabet, lm, options.beam, arrays)}
    peers = [name for name in options.peers if name not in WITHOUT_PHRASES or _knows(name, alphabet, has_lm)]
    opened = [Peer(name, data, settings, folder) for name in peers]
    engines |= dict(zip(peers, opened, strict=True))
    rows, chosen = [], 0.0
    try:
        for count in LISTS:
            weights = dict.fromkeys(engines, 0.0)
            for name in (OURS, FAST) if count else ():
                kept = options.weights.get((alphabet.name, has_lm, count, name))
                if name in engines:
                    weights[name] = kept or choose_weight(engines[name], parts["dev"], count)
            weights[HABIT], chosen = weights.get(FAST, weights[OURS]), weights[OURS]
            rows += measure_list(count, corpus, alphabet, engines, weights, sizes, has_lm)
            for row in [row for row in rows if row["phrases"] == count]:
                show(row)
    finally:
        for peer in opened:
            peer.close()
    costs = measure_costs(alphabet, lm, corpus, options.beam, chosen, utterances=sizes["costs"], rounds=sizes["rounds"])
    return {"rows": rows, "costs": costs}


def _knows(name: str, alphabet: Alphabet, has_lm: bool) -> bool:
    """Whether a peer without phrases takes part: fast-ctc-decode has no language model, flashlight needs one."""
    return alphabet.space is not None and has_lm == (name == "flashlight")


def committed_weights() -> dict[tuple[str, bool, int, str], float]:
    """What the sweeps of the committed report chose."""
    if not REPORT.exists():
        return {}
    rows = json.loads(REPORT.read_text(encoding="utf-8"))["rows"]
    return {(r["alphabet"], r["lm"], r["phrases"], r["engine"]): r["weight"] for r in rows if r["weight"]}


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--beam", type=int, default=100)
    parser.add_argument("--alphabets", type=lambda text: text.split(","), default=["characters", "bpe-500"])
    parser.add_argument("--peers", type=lambda text: [part for part in text.split(",") if part], default=None)
    options = parser.parse_args()
    options.sizes = QUICK if options.check else FULL
    options.weights = committed_weights() if options.check else {}
    if options.peers is None:
        options.peers = [FAST, HABIT] if options.check else [FAST, HABIT, "fast-ctc-decode"]
    prepare_environment()
    os.environ.setdefault("SLT_CACHE", str(ENVIRONMENT / "cache"))
    language, arpa = make_language(options.seed)
    lm = load_lm(arpa)
    report: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    report |= {"load": os.getloadavg()[0], "beam": options.beam, "seed": options.seed}
    report |= {"rows": [], "costs": [], "building": []}
    print(f"{report['cores']} cores, load {report['load']:.1f}, beam {options.beam}, one thread")
    with tempfile.TemporaryDirectory() as folder:
        for alphabet in (characters(), subwords(language.counts())):
            if alphabet.name not in options.alphabets:
                continue
            sizes = {
                "test": (options.seed, options.sizes["test"]),
                "dev": (DEV_SEED + options.seed, options.sizes["dev"]),
            }
            parts = {
                part: utter(language, arpa, alphabet, seed=seed, utterances=utterances, seconds=SECONDS)
                for part, (seed, utterances) in sizes.items()
            }
            test = parts["test"]
            plain = quality(test, [greedy(x, alphabet) for x in test.log_probs], 0, test.log_probs.shape[1])["wer"]
            floor = measure_floor(test)
            print(
                f"{alphabet.name}: greedy WER {plain:.1f} %; floor (reading the log-probabilities) {1000 * floor:.4f} ms"
            )
            for model in (lm, None):
                found = measure(alphabet, model, parts, arpa, options, Path(folder))
                report["rows"] += found["rows"]
                report["costs"] += found["costs"]
            report["building"].append(measure_building(alphabet, lm, test, options.beam))
    bars: list[Bar] = [*peer_bars(report["rows"]), *cost_bars(report["costs"], report["building"])]
    for bar in bars:
        print(f"{'met   ' if bar.met else 'MISSED'} {bar.text}: {bar.figure:.2f} (bar {bar.limit})")
    target = options.json or (None if options.check else REPORT)
    if target:
        report["bars"] = [bar._asdict() for bar in bars]
        target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(bar.met for bar in bars)} of {len(bars)} bars met")
    return int(options.check and not all(bar.met for bar in bars))


if __name__ == "__main__":
    raise SystemExit(main())
