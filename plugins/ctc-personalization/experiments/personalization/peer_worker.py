"""Decodes log-probabilities with a peer's hotwords, in the peers' environment; see `peers.py`.

    python peer_worker.py NAME DATA.npz REQUEST.json

The request: labels, arpa, beam, limits, lm_weight, word_bonus, and `runs`, a list of {words, weight}; words may be a
list for each utterance. One line of JSON for each run: CPU seconds and texts.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Load the model once, then every run."""
    logging.disable(logging.WARNING)
    name, data, request_file = sys.argv[1:4]
    request: dict[str, Any] = json.loads(Path(request_file).read_text(encoding="utf-8"))
    stored = np.load(data)
    ends = np.cumsum(stored["lengths"])
    utterances = [stored["values"][end - length : end] for end, length in zip(ends, stored["lengths"], strict=True)]
    module = __import__(name.replace("-", "_"))
    decoder = module.build_ctcdecoder(
        request["labels"], request["arpa"], alpha=request["lm_weight"], beta=request["word_bonus"]
    )
    limits = {"beam_prune_logp": request["prune"], "token_min_logp": request["token_min"]}
    for run in request["runs"]:
        words = run["words"]
        own = words if words and not isinstance(words[0], str) else [words] * len(utterances)
        hotwords = [{"hotwords": each, "hotword_weight": run["weight"]} if each else {} for each in own]
        begin = time.process_time()
        pairs = zip(utterances, hotwords, strict=True)
        texts = [decoder.decode(x, beam_width=request["beam"], **more, **limits) for x, more in pairs]
        seconds = time.process_time() - begin
        print(json.dumps({"seconds": seconds, "texts": [" ".join(text.split()) for text in texts]}), flush=True)


if __name__ == "__main__":
    main()
