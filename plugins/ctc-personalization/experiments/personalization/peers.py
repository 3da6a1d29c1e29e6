"""The two libraries that a user would take today for hotwords, on the same log-probabilities, in their own environment."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from arms import Words

ROOT = Path(__file__).resolve().parents[4]
PEERS = ("ctc-beam-decoder", "pyctcdecode")


class Said(NamedTuple):
    """What a peer wrote, and the CPU time of one thread."""

    texts: list[str]
    cpu_s: float


def decode(
    name: str, log_probs: Sequence[np.ndarray], settings: dict[str, Any], runs: Sequence[tuple[Words, float]]
) -> Iterator[Said]:
    """Texts for each run: a list of words (or one for each utterance) and their weight. `settings`: labels, arpa, beam, prune, token_min,
    lm_weight, word_bonus."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from ctc_beam import prepare_environment

    python = prepare_environment()
    with tempfile.TemporaryDirectory() as folder:
        data, request = Path(folder) / "data.npz", Path(folder) / "request.json"
        np.savez(data, values=np.concatenate(log_probs), lengths=np.array([len(x) for x in log_probs]))
        entries = [{"words": list(words), "weight": weight} for words, weight in runs]
        request.write_text(json.dumps(settings | {"runs": entries}), encoding="utf-8")
        command = [python, Path(__file__).with_name("peer_worker.py"), name, data, request]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    found = json.loads(line)
                    yield Said(found["texts"], found["seconds"])
        if process.returncode:
            raise SystemExit(f"{name} failed with status {process.returncode}")
