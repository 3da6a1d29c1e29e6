"""How fast and how good is the compiled CTC beam search beside its peers, on the same log-probabilities in one run?

    python benchmarks/ctc_beam.py             the whole table: 100 utterances of 10 s, 0, 100 and 5,000 phrases
    python benchmarks/ctc_beam.py --check     a quick size; prints each bar with its figure, exits 1 when one is missed
    options: --json FILE, --seeds 1,2, --beam N, --utterances N, --peers NAMES

A synthetic language of 20,000 words with a 3-gram model; 32 characters, 50 frames/s, peaky log-probabilities whose
greedy WER is 20 to 50 %. All figures are CPU time of one thread for each utterance, the median of the repeats after a
warm-up. Peers run in an environment of their own, `.venv-bench`, made from requirements/bench.txt on the first run.
The floor is the time to read the log-probabilities once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402 (after the thread limits, which are read when it is imported)
from ctc_beam_data import BLANK, LABELS, SPACE, Corpus, greedy, make, word_errors  # noqa: E402

from slt_ctc_personalization.ngram import load_lm  # noqa: E402
from slt_ctc_personalization.search import BeamSearch, Phrase  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-bench"
SETTINGS = {"lm_weight": 0.5, "word_bonus": 1.5, "token_min": -5.0, "prune": -10.0, "phrase_bonus": 10.0}
OURS, FAST, HABIT = "ctc-beam", "ctc-beam-decoder", "pyctcdecode"
WER_SLACK, FASTER_THAN_FAST, FASTER_THAN_HABIT = 0.1, 3.0, 20.0
SLOW_UTTERANCES = 20
"""pyctcdecode decodes only this many with 5,000 phrases, and in --check."""


def prepare_environment() -> Path:
    """The peers' Python; made when it is missing."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "complete").exists():
        print(f"making {ENVIRONMENT.name} from requirements/bench.txt (once)", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        requirements = ROOT / "requirements" / "bench.txt"
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "-r", requirements], check=True)
        (ENVIRONMENT / "complete").touch()
    return python


def run_peer(python: Path, name: str, data: Path, corpus: Corpus, **request: Any) -> dict[str, Any]:
    """One peer's seconds for each utterance and its texts."""
    request |= SETTINGS | {"labels": LABELS, "arpa": str(corpus.arpa), "words": request.get("words", [])}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(request, file)
        file.flush()
        script = Path(__file__).with_name("ctc_beam_peer.py")
        done = subprocess.run([python, script, name, data, file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
    return dict(json.loads(done.stdout))


def run_ours(search: BeamSearch, corpus: Corpus, words: list[str], repeats: int) -> dict[str, Any]:
    """Our seconds for each utterance (one thread) and texts; the phrase list is prepared once and timed apart."""
    begin = time.process_time()
    table = search.prepare([Phrase(w, SETTINGS["phrase_bonus"], [[LABELS.index(c) for c in w]]) for w in words])
    prepare_s = time.process_time() - begin
    search.decode(corpus.log_probs[:1], phrases=table)
    seconds, texts = [], []
    for _ in range(repeats):
        begin = time.process_time()
        found = search.decode(corpus.log_probs, phrases=table)
        seconds.append((time.process_time() - begin) / len(corpus.log_probs))
        texts = [result.text for result in found]
    return {"seconds": seconds, "texts": texts, "prepare_s": prepare_s}


def measure_floor(corpus: Corpus) -> float:
    """Seconds to read one utterance's log-probabilities."""
    times = []
    for _ in range(9):
        begin = time.process_time()
        for _ in range(20):
            float(corpus.log_probs.max())
        times.append((time.process_time() - begin) / 20 / len(corpus.log_probs))
    return statistics.median(times)


def judge(corpus: Corpus, texts: list[str]) -> tuple[float, float]:
    """WER and the share of rare words found, both in percent."""
    pairs = [word_errors(r, t) for r, t in zip(corpus.references, texts, strict=False)]
    found = [w in t.split() for w, t in zip(corpus.rare, texts[::2], strict=False)]
    return 100.0 * sum(e for e, _ in pairs) / sum(n for _, n in pairs), 100.0 * sum(found) / max(len(found), 1)


def measure(seed: int, python: Path, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All rows of one seed; peers and ours take turns, so that another job's load falls on both."""
    size = {"utterances": options.utterances, "words": 20_000, "seconds": 10.0, "sentences": 35_000, "error": 0.08}
    corpus = make(folder, seed=seed, **size)
    data = folder / f"{seed}.npz"
    np.savez(data, log_probs=corpus.log_probs)
    greedy_wer = judge(corpus, [greedy(x) for x in corpus.log_probs])[0]
    floor = measure_floor(corpus)
    print(f"seed {seed}: greedy WER {greedy_wer:.1f} %; floor (reading the log-probabilities) {1000 * floor:.4f} ms")
    lm = load_lm(corpus.arpa)
    search = BeamSearch(
        LABELS, blank=BLANK, word_boundary=SPACE, lm=lm, beam=options.beam, threads=1, lm_weight=SETTINGS["lm_weight"],
        word_bonus=SETTINGS["word_bonus"], token_min_log_prob=SETTINGS["token_min"], beam_prune_log_prob=SETTINGS["prune"],
    )  # fmt: skip
    rows = []
    for count in options.phrases:
        words, first = corpus.phrases[count], len(rows)
        for name in [OURS, *options.peers]:
            utterances = options.utterances
            if name == HABIT and (options.check or count == 5000):
                utterances = min(utterances, SLOW_UTTERANCES)
            if name == OURS:
                found = run_ours(search, corpus, words, options.repeats)
            elif name not in (FAST, HABIT) and count:
                continue  # knows no phrases
            else:
                found = run_peer(
                    python, name, data, corpus, utterances=utterances, phrases=words, beam=options.beam,
                    repeats=1 if name == HABIT else options.repeats, words=lm.words[3:] if name == "flashlight" else [],
                )  # fmt: skip
            if name == HABIT:  # ours once more behind the slowest peer: the machine's clock and load drift meanwhile
                rows[first]["ms_again"] = 1000 * statistics.median(run_ours(search, corpus, words, 3)["seconds"])
            wer, recall = judge(corpus, found["texts"])
            subset = judge(corpus, found["texts"][:SLOW_UTTERANCES])[0]
            rows.append({"seed": seed, "engine": name, "phrases": count, "utterances": utterances, "wer": wer})
            rows[-1] |= {"recall": recall, "subset_wer": subset, "ms": 1000 * statistics.median(found["seconds"])}
            rows[-1] |= {"spread_ms": 1000 * (max(found["seconds"]) - min(found["seconds"])), "floor_ms": 1000 * floor}
            show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    print(
        f"  {row['phrases']:>5} phrases  {row['engine']:<17} {row['ms']:8.3f} ms (spread {row['spread_ms']:.3f})"
        f"  WER {row['wer']:5.2f} %  rare words found {row['recall']:5.1f} %  ({row['utterances']} utterances)",
        flush=True,
    )


def judge_bars(rows: list[dict[str, Any]]) -> list[tuple[str, float, float, bool]]:
    """(bar, figure, limit, met) over all seeds, for 0 and 100 phrases."""
    bars = []
    for count in (0, 100):
        mine, fast, habit = (
            [row for row in rows if row["engine"] == name and row["phrases"] == count] for name in (OURS, FAST, HABIT)
        )
        if not mine:
            continue
        if fast:
            worse = statistics.mean(m["wer"] - f["wer"] for m, f in zip(mine, fast, strict=True))
            bars.append((f"{count} phrases: WER minus {FAST}'s, points", worse, WER_SLACK, worse <= WER_SLACK))
        for name, others, limit in ((FAST, fast, FASTER_THAN_FAST), (HABIT, habit, FASTER_THAN_HABIT)):
            if others:
                ours = [statistics.mean([m["ms"], m.get("ms_again", m["ms"])]) for m in mine]
                ratio = statistics.median(o["ms"] / m for m, o in zip(ours, others, strict=True))
                bars.append((f"{count} phrases: times faster than {name}", ratio, limit, ratio >= limit))
    return bars


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=None)
    parser.add_argument("--beam", type=int, default=100)
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--phrases", type=lambda text: [int(part) for part in text.split(",")], default=None)
    parser.add_argument("--peers", type=lambda text: [part for part in text.split(",") if part], default=None)
    options = parser.parse_args()
    options.seeds = options.seeds or [1]
    options.phrases = options.phrases or ([0, 100] if options.check else [0, 100, 5000])
    if options.peers is None:
        options.peers = [FAST, HABIT] if options.check else [FAST, HABIT, "fast-ctc-decode"]
    python = prepare_environment()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SLT_CACHE"] = str(Path(folder) / "cache")
        for seed in options.seeds:
            rows += measure(seed, python, options, Path(folder))
    bars = judge_bars(rows)
    for text, figure, limit, met in bars:
        print(f"{'met   ' if met else 'MISSED'} {text}: {figure:.2f} (bar {limit:g})")
    if options.json:
        report = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "rows": rows, "bars": bars}
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return int(options.check and not all(met for *_, met in bars))


if __name__ == "__main__":
    raise SystemExit(main())
