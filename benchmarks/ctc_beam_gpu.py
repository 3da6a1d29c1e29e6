"""How fast is the batched torch search beside the compiled one, on the same log-probabilities and phrase lists?

    python benchmarks/ctc_beam_gpu.py [--devices cpu,cuda] [--batches 16,64] [--phrases 0,100,5000] [--json FILE]

The synthetic language of `ctc_beam.py`: 32 characters, a 3-gram model of 20,000 words, 50 frames/s. Seconds of audio
for each second of wall clock, all utterances of a batch in one call, after a warm-up, lists prepared before; the median
of the repeats. The compiled search runs on the CPU with one thread (`--threads` for more). Every torch result is compared
with the compiled one: the share of utterances with the same text, and the largest difference of their scores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctc_beam_data import BLANK, FRAMES_PER_S, LABELS, SPACE, Corpus, make

from slt_ctc_personalization.beam_search.search import BeamSearch, Phrase
from slt_ctc_personalization.language_model.ngram import load_lm
from slt_ctc_personalization.torch_search.torch_engine import TorchEngine

PHRASE_BONUS = 10.0


def timed(decode: Callable[[], Any], repeats: int, device: str) -> tuple[float, Any]:
    """The median of the seconds of a call, and what it returns."""
    found, seconds = decode(), []
    for _ in range(repeats):
        begin = time.perf_counter()
        found = decode()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), found


def show(row: dict[str, Any], same: float, worst: float) -> dict[str, Any]:
    """Print one line of the table; returns the row with what was compared."""
    print(
        f"{row['phrases']:>6} phrases  batch {row['batch']:>3}  {row['engine']:<12} {row['audio_s_per_s']:10.1f} s of audio "
        f"each second   same texts {100.0 * same:5.1f} %   scores differ by at most {worst:.1e}",
        flush=True,
    )
    return row | {"same_texts_percent": 100.0 * same, "largest_score_difference": worst}


def measure(corpus: Corpus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each list, batch and engine, printed as it comes."""
    search = BeamSearch(
        LABELS, blank=BLANK, word_boundary=SPACE, lm=load_lm(corpus.arpa) if options.lm else None, beam=options.beam,
        threads=options.threads,
    )  # fmt: skip
    engines = {device: TorchEngine(search, device=device) for device in options.devices}
    rows: list[dict[str, Any]] = []
    for count in options.phrases:
        words = corpus.phrases[count]
        table = search.prepare([Phrase(w, PHRASE_BONUS, [[LABELS.index(c) for c in w]]) for w in words])
        for size in options.batches:
            values = np.resize(corpus.log_probs, (size, *corpus.log_probs.shape[1:]))
            audio = size * values.shape[1] / FRAMES_PER_S

            seconds, expected = timed(partial(search.decode, values, phrases=table), options.repeats, "cpu")
            row = {"phrases": count, "batch": size}
            rows.append(show(row | {"engine": "compiled", "audio_s_per_s": audio / seconds}, 1.0, 0.0))
            for device, engine in engines.items():
                on_device = torch.from_numpy(values).to(device)
                seconds, found = timed(partial(engine.decode, on_device, phrases=table), options.repeats, device)
                same = [a.text == b.text for a, b in zip(found, expected, strict=True)]
                worst = max(abs(a.best.score - b.best.score) for a, b in zip(found, expected, strict=True))
                speed = {"engine": f"torch {device}", "audio_s_per_s": audio / seconds}
                rows.append(show(row | speed, sum(same) / len(same), worst))
    return rows


def main() -> None:
    """Make the data, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=lambda text: text.split(","))
    for name, values in (("batches", [16, 64]), ("phrases", [0, 100, 5000])):
        parser.add_argument(f"--{name}", type=lambda text: [int(part) for part in text.split(",")], default=values)
    parser.add_argument("--beam", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-lm", dest="lm", action="store_false")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not set(options.phrases) <= {0, 100, 5000}:
        parser.error(f"--phrases {options.phrases}: the corpus has lists of 0, 100 and 5000 phrases")
    cuda = torch.cuda.is_available()
    options.devices = options.devices or (["cpu", "cuda"] if cuda else ["cpu"])
    name = torch.cuda.get_device_name() if cuda else "none: the torch rows are CPU figures and say nothing about a GPU"
    print(f"GPU: {name}")
    print(
        f"CPU: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; torch threads {torch.get_num_threads()}; "
        f"beam {options.beam}, {options.seconds:g} s an utterance, language model {'3-gram' if options.lm else 'none'}"
    )
    with tempfile.TemporaryDirectory() as folder:
        corpus = make(
            Path(folder), seed=1, utterances=min(max(options.batches), 64), words=20_000, seconds=options.seconds,
            sentences=35_000, error=0.08,
        )  # fmt: skip
        rows = measure(corpus, options)
    if options.json:
        report = {"gpu": torch.cuda.get_device_name() if cuda else None, "cores": os.cpu_count(), "rows": rows}
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
