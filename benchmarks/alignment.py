"""How fast is forced alignment beside a plain search, and beside a published aligner?

    python benchmarks/alignment.py            the whole table
    python benchmarks/alignment.py --check    small sizes; prints each bar with its figure, exits 1 when one is missed
    options: --json FILE, --peer PYTHON (an interpreter that has ctc-segmentation)

Random log-probabilities and targets; CPU time of one thread for each utterance, the median of the repeats after a
warm-up. "numpy" is the textbook search, vectorised over states, a loop over frames; "torch" is the tensor form of ours on
the CPU. ctc-segmentation answers a wider question (where utterances lie in a long recording, text between them being
skipped), with a table in float32; its time is given for orientation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402 (after the thread limits, which are read when it is imported)
import torch  # noqa: E402

from sltcore.alignment import alignment_bytes, forced_alignment  # noqa: E402
from sltcore.ctc import pad_labels  # noqa: E402

SIZES = [(250, 50, 32), (500, 100, 32), (500, 100, 500), (1500, 300, 32), (1500, 300, 500), (3000, 600, 32)]
CHECKED = [(500, 100, 32), (1500, 300, 32)]
FASTER_THAN_NUMPY = 5.0
PEER = """
import json, sys, time
import numpy as np
from ctc_segmentation import CtcSegmentationParameters, ctc_segmentation
frames, labels, size, repeats = map(int, sys.argv[1:])
source = np.random.default_rng(0)
logits = source.normal(size=(frames, size)).astype(np.float32)
log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
ids = np.concatenate([[-1], source.integers(1, size, labels)]).reshape(-1, 1)
parameters = CtcSegmentationParameters(char_list=[str(i) for i in range(size)])
seconds = []
for _ in range(repeats + 1):
    begin = time.process_time()
    ctc_segmentation(parameters, log_probs, ids)
    seconds.append(time.process_time() - begin)
print(json.dumps(seconds[1:]))
"""


def plain(log_probs: Any, ids: list[int], blank: int) -> float:
    """The search as it is written down: all states of a frame at once, a byte for each backpointer."""
    states = np.full(2 * len(ids) + 1, blank)
    states[1::2] = ids
    skip = np.zeros(len(states), bool)
    skip[3::2] = states[3::2] != states[1:-2:2]
    sums = np.full(len(states), -np.inf)
    sums[:2] = log_probs[0, states[:2]]
    back = np.zeros((len(log_probs), len(states)), np.uint8)
    for t in range(1, len(log_probs)):
        one = np.concatenate([[-np.inf], sums[:-1]])
        two = np.where(skip, np.concatenate([[-np.inf, -np.inf], sums[:-2]]), -np.inf)
        moves = np.stack([sums, one, two])
        back[t] = moves.argmax(0)
        sums = moves.max(0) + log_probs[t, states]
    state = len(states) - 1 if sums[-1] >= sums[-2] else len(states) - 2
    score = float(sums[state])
    path = np.empty(len(log_probs), np.int64)
    for t in range(len(log_probs) - 1, -1, -1):
        path[t] = state
        state -= int(back[t, state])
    return score


def median_s(call: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of a call, the median after a warm-up."""
    call()
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        call()
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds)


def measure(frames: int, labels: int, size: int, *, utterances: int, repeats: int, peer: str | None) -> dict[str, Any]:
    """Milliseconds for one utterance of each search, on the same log-probabilities; the scores must agree."""
    source = torch.Generator().manual_seed(0)
    log_probs = torch.randn(utterances, frames, size, generator=source).log_softmax(-1)
    rows = torch.randint(1, size, (utterances, labels), generator=source).tolist()
    lengths, targets = torch.full((utterances,), frames), pad_labels(rows)
    found = forced_alignment(log_probs, lengths, targets, blank=0)
    for row, alignment in enumerate(found[:2]):
        assert abs(plain(log_probs[row].numpy(), rows[row], 0) - alignment.score) < 1e-3
    ours = median_s(lambda: forced_alignment(log_probs, lengths, targets, blank=0), repeats) / utterances
    tensors = median_s(lambda: forced_alignment(log_probs, lengths, targets, blank=0, engine="torch"), 3) / utterances
    simple = median_s(lambda: plain(log_probs[0].numpy(), rows[0], 0), 3)
    row = {"frames": frames, "labels": labels, "vocabulary": size, "kilobytes": alignment_bytes(frames, labels) / 1e3}
    row |= {"ours_ms": ours * 1e3, "numpy_ms": simple * 1e3, "torch_ms": tensors * 1e3}
    if peer is not None:
        words = [peer, "-c", PEER, *map(str, (frames, labels, size, 3))]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        row["ctc_segmentation_ms"] = statistics.median(json.loads(done.stdout)) * 1e3
    return row


def main() -> int:
    """Print the table; the exit code says whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--peer", metavar="PYTHON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for frames, labels, size in CHECKED if options.check else SIZES:
        rows.append(measure(frames, labels, size, utterances=8, repeats=7, peer=options.peer))
        if len(rows) == 1:
            print("  ".join(f"{name:>10}" for name in rows[0]))
        print(
            "  ".join(f"{value:>10.3g}" if isinstance(value, float) else f"{value:>10}" for value in rows[-1].values())
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    least = min(row["numpy_ms"] / row["ours_ms"] for row in rows)
    print(f"at least {least:.1f} times faster than the plain search (bar: {FASTER_THAN_NUMPY:g})")
    return 0 if least >= FASTER_THAN_NUMPY else 1


if __name__ == "__main__":
    sys.exit(main())
