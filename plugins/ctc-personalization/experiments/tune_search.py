"""Choose the weights of the word search on training prompts: lm_weight, word_bonus, and the rates of the confusions.

    python plugins/ctc-personalization/experiments/tune_search.py [--every 3] [--set NAME=V1,V2,...]...

Material: the 461 training prompts of `asterisk-en`; the 82 held-out ones are never read. Each half of them is decoded
with confusions that were counted on the other half, so the rates are not chosen on prompts that were counted. From the
starting point one value is changed at a time; each line is a setting with its word error rate and the search's CPU time
for a second of audio. The shipped values are the start: no neighbour is better by more than 0.3 points, which on these
prompts is noise.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jiwer
from count_confusions import SEARCH_RATES, as_json, count, recordings

from slt_ctc_personalization.beam_search.search import BeamSearch
from slt_ctc_personalization.language_model.english import english_lexicon, english_lm
from slt_ctc_personalization.lexicon import confusions
from slt_ctc_personalization.lexicon.lexicon_trie import LexiconTrie, map_labels
from sltcore.data.normalization import normalized

START: dict[str, float] = {
    **SEARCH_RATES,
    "lm_weight": 0.6,
    "word_bonus": -1.5,
    "beam": 60,
    "token_min_log_prob": -8.0,
    "beam_prune_log_prob": -11.0,
}
TRIED: dict[str, list[float]] = {
    "lm_weight": [0.4, 0.5, 0.8, 1.0],
    "word_bonus": [0.0, -0.5, -2.5],
    "deletion": [0.003, 0.015, 0.05],
    "insertion": [0.001, 0.02],
    "missed_boundary": [0.01, 0.1],
    "beam": [30, 100],
    "token_min_log_prob": [-5.0, -12.0],
    "beam_prune_log_prob": [-9.0, -14.0, -20.0],
}
FRAME_S, ITERATIONS = 0.02, 6


class Halves:
    """The prompts, and for each half the confusions of the other."""

    def __init__(self, every: int) -> None:
        from slt_speech.hama.labels import read_labels

        self.labels = read_labels()
        self.prompts = recordings("train")
        self.every = every
        self.counted: list[dict[str, Any]] = []
        for half in (0, 1):
            others = [prompt for index, prompt in enumerate(self.prompts) if index % 2 != half]
            columns, heard_as, _ = count(others, self.labels, ITERATIONS)
            self.counted.append(as_json(self.labels, columns, heard_as, len(others)))
        self.lm = english_lm()
        self.words = english_lexicon()

    def measure(self, setting: dict[str, float]) -> tuple[float, float]:
        """(word error rate in %, CPU seconds of the search for a second of audio)."""
        maps = []
        for content in self.counted:
            with patch.object(confusions, "_read", lambda _, content=content: content):
                maps.append(confusions.load_confusions(self.labels, **{name: setting[name] for name in SEARCH_RATES}))
        names = maps[0].labels
        search = BeamSearch(
            names,
            blank=maps[0].blank,
            word_boundary=maps[0].boundary,
            lm=self.lm,
            lexicon=LexiconTrie(self.words, names),
            threads=1,
            beam=int(setting["beam"]),
            **{
                name: setting[name] for name in ("lm_weight", "word_bonus", "token_min_log_prob", "beam_prune_log_prob")
            },
        )
        said, heard, frames, spent = [], [], 0, 0.0
        search.decode(map_labels(self.prompts[0][2], maps[0].log_map)[None])  # compiles
        for index, (_, text, log_p) in enumerate(self.prompts):
            if index % self.every:
                continue
            start = time.process_time()
            best = search.decode(map_labels(log_p, maps[index % 2].log_map)[None])[0]
            spent += time.process_time() - start
            said.append(text)
            heard.append(normalized(best.text, "en") or "")
            frames += len(log_p)
        return 100 * float(jiwer.wer(said, heard)), spent / (frames * FRAME_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--every", type=int, default=3, help="decode every so many prompts; an odd number meets both halves"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=V1,V2,...", help="try these values only")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    tried = TRIED
    if arguments.set:
        pairs = [entry.partition("=") for entry in arguments.set]
        tried = {name: [float(value) for value in values.split(",")] for name, _, values in pairs}
    halves = Halves(arguments.every)
    settings = [START, *({**START, name: value} for name, values in tried.items() for value in values)]
    results = []
    for setting in settings:
        error, cpu = halves.measure(setting)
        changed = {name: value for name, value in setting.items() if value != START[name]} or "start"
        print(f"WER {error:5.2f} %  search {cpu:.4f}  {changed}", flush=True)
        results.append({"changed": changed, "wer": round(error, 2), "search_rtf": round(cpu, 4)})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
