"""Count what the pretrained phone recogniser writes for each phone that was said: `data/confusions-hama-english.json`.

    python plugins/ctc-personalization/experiments/count_confusions.py [--out FILE] [--fold K/N] [--iterations 6]

Material: the training prompts of the corpus `asterisk-en` (461; the 82 held-out ones are never read). Each prompt's
words become a graph of their pronunciations in the CMU dictionary, with optional boundaries between words; forward and
backward probabilities of that graph under `p'` (module `confusions`) tell how often label l was heard where phone f was
said. Expectation-maximisation: counts from the present confusions, then confusions from the counts, six times. Counts
are smoothed by `PRIOR_COUNT` occurrences of a hand-made start (the same label, little of all others). `--fold K/N`
leaves out every N-th prompt from the K-th on, to measure on prompts that were not counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.lexicon.confusions import BLANK, BOUNDARY
from slt_ctc_personalization.lexicon.lexicon import PHONES, cmu_dictionary

Floats = npt.NDArray[np.float64]
OUT = Path(__file__).parents[1] / "src" / "slt_ctc_personalization" / "data" / "confusions-hama-english.json"
DELETION, INSERTION, MISSED_BOUNDARY = 0.05, 0.01, 0.1  # while counting: generous, so that every prompt is aligned
SEARCH_RATES = {"deletion": 0.007, "insertion": 0.005, "missed_boundary": 0.02}  # chosen by tune_search.py
PRIOR_COUNT = 10.0
START_SAME, START_OTHER, START_BOUNDARY, START_SCHWA = 0.75, 0.13, 0.02, 0.5
NEVER = -1e30
MATRIX_DIGITS = 6
RARE = 5e-6


def recordings(split: str) -> list[tuple[str, str, npt.NDArray[np.float32]]]:
    """(id, words, log-probabilities [t 191]) of a part of the corpus, by the recogniser of the plugin `speech`."""
    import torch

    from slt_speech.hama.network import HamaConformer
    from sltcore.audio import read_audio
    from sltcore.data.tables import rows
    from sltcore.types import Waveform

    network = HamaConformer().eval()
    found = []
    for row in rows("asterisk-en"):
        if row.split != split:
            continue
        samples = torch.as_tensor(np.asarray(read_audio(row.path).samples)).reshape(1, -1)
        with torch.no_grad():
            encoded = network(Waveform(samples, torch.tensor([samples.shape[1]]), 16000))
            found.append((row.id, row.text, network.log_probs(encoded)[0].numpy()))
    return found


class Graph:
    """The label paths of a text, as a graph whose nodes are in topological order; a node may last many frames."""

    def __init__(self, words: Sequence[str], columns: dict[str, int]) -> None:
        dictionary = cmu_dictionary()
        self._nodes = [columns[BLANK]]
        self._before: list[list[int]] = [[-1]]
        ends = [0, -1]  # -1: the beginning
        for word in words:
            after: list[int] = []
            for phones in dictionary[word]:
                here = ends
                for phone in phones:
                    column = columns[phone]
                    node = self._add(column, [end for end in here if end < 0 or self._nodes[end] != column])
                    here = [node, self._add(columns[BLANK], [node])]
                after += here
            boundary = self._add(columns[BOUNDARY], after)
            ends = [*after, boundary, self._add(columns[BLANK], [boundary])]
        self.nodes = np.array(self._nodes)
        self.starts = np.cumsum([0, *map(len, self._before)])
        self.before = np.array([node for nodes in self._before for node in nodes])
        self.final = np.zeros(len(self.nodes), np.bool_)
        self.final[[end for end in ends if end >= 0]] = True

    def _add(self, column: int, before: list[int]) -> int:
        self._nodes.append(column)
        self._before.append(before)
        return len(self._nodes) - 1


@numba.njit(cache=True)
def _add_logs(a, b):  # type: ignore[no-untyped-def]
    top = max(a, b)
    return top if top <= NEVER / 2 else top + np.log(np.exp(a - top) + np.exp(b - top))


@numba.njit(cache=True)
def occupation(log_p, nodes, starts, before, final):  # type: ignore[no-untyped-def]
    """(probability [t, columns] that a frame belongs to a column, log-likelihood) by forward and backward sums."""
    frames, count = len(log_p), len(nodes)
    ahead = np.full((frames, count), NEVER)
    back = np.full((frames, count), NEVER)
    for t in range(frames):
        for node in range(count):
            total = ahead[t - 1, node] if t else NEVER
            for place in range(starts[node], starts[node + 1]):
                if before[place] < 0:
                    total = 0.0 if t == 0 else total
                elif t:
                    total = _add_logs(total, ahead[t - 1, before[place]])
            if total > NEVER / 2:
                ahead[t, node] = total + log_p[t, nodes[node]]
    likelihood = NEVER
    for node in range(count):
        if final[node]:
            back[frames - 1, node] = 0.0
            likelihood = _add_logs(likelihood, ahead[frames - 1, node])
    for t in range(frames - 2, -1, -1):
        for node in range(count):
            value = back[t + 1, node] + log_p[t + 1, nodes[node]]
            back[t, node] = _add_logs(back[t, node], value)
            for place in range(starts[node], starts[node + 1]):
                if before[place] >= 0:
                    back[t, before[place]] = _add_logs(back[t, before[place]], value)
    share = np.zeros(log_p.shape)
    for t in range(frames):
        for node in range(count):
            if ahead[t, node] > NEVER / 2 and back[t, node] > NEVER / 2:
                share[t, nodes[node]] += np.exp(ahead[t, node] + back[t, node] - likelihood)
    return share, likelihood


def channel(heard_as: Floats, blank: int, boundary: int) -> Floats:
    """The matrix of module `confusions` in the linear domain, [labels, phones + boundary + blank]."""
    table = heard_as.copy()
    phones = table.shape[1] - 2
    table[:, :phones] *= 1 - DELETION
    table[blank, :phones] = DELETION
    table[:, phones] = 0.0
    table[boundary, phones], table[blank, phones] = 1 - MISSED_BOUNDARY, MISSED_BOUNDARY
    table[:, phones + 1] *= INSERTION
    table[blank, phones + 1] = 1 - INSERTION
    return table


def starting_point(labels: Sequence[str], used: Floats, columns: dict[str, int]) -> Floats:
    """Each phone is heard as itself, or a little as everything that is heard at all; never as blank."""
    places = {label: index for index, label in enumerate(labels)}
    others = used.copy()
    others[[places[BLANK], places[BOUNDARY]]] = 0.0
    others /= others.sum()
    table = np.repeat(START_OTHER * others[:, None], len(columns), axis=1)
    for name, column in columns.items():
        if name in PHONES:
            table[places[name], column] += START_SAME
            table[places[BOUNDARY], column] += START_BOUNDARY
    table[places["ə"], columns["ʌ"]] += START_SCHWA
    table[places[BOUNDARY], columns[BOUNDARY]] = 1.0
    table[places[BOUNDARY], columns[BLANK]] = START_OTHER
    return np.asarray(table / table.sum(axis=0), np.float64)


def count(
    prompts: Sequence[tuple[str, str, npt.NDArray[np.float32]]], labels: Sequence[str], iterations: int
) -> tuple[dict[str, int], Floats, list[float]]:
    """Columns, confusions [labels, columns], and the log-likelihood for each frame before each iteration."""
    columns = {name: index for index, name in enumerate([*PHONES, BOUNDARY, BLANK])}
    places = {label: index for index, label in enumerate(labels)}
    blank, boundary = places[BLANK], places[BOUNDARY]
    dictionary = cmu_dictionary()
    spoken = [(text, log_p) for _, text, log_p in prompts if all(word in dictionary for word in text.split())]
    graphs = [Graph(text.split(), columns) for text, _ in spoken]
    used = sum((np.exp(log_p.astype(np.float64)).sum(axis=0) for _, log_p in spoken), np.zeros(len(labels)))
    start = starting_point(labels, used, columns)
    heard_as, progress = start, []
    for _ in range(iterations):
        table = channel(heard_as, blank, boundary)
        counts, total, frames = np.zeros(table.shape), 0.0, 0
        for (_, log_p), graph in zip(spoken, graphs, strict=True):
            p = np.exp(log_p.astype(np.float64))
            meant = p @ table
            share, likelihood = occupation(np.log(meant + 1e-300), graph.nodes, graph.starts, graph.before, graph.final)
            if likelihood > NEVER / 2:  # otherwise the recording is shorter than its phones
                counts += table * (p.T @ (share / np.maximum(meant, 1e-300)))
                total, frames = total + float(likelihood), frames + len(p)
        progress.append(total / frames)
        counts[blank] = 0.0
        heard_as = (counts + PRIOR_COUNT * start) / (counts.sum(axis=0) + PRIOR_COUNT)
    return columns, heard_as, progress


def as_json(labels: Sequence[str], columns: dict[str, int], heard_as: Floats, prompts: int) -> dict[str, Any]:
    """The file's content: labels that are ever heard, and their rows."""
    chosen = [*PHONES, BLANK]
    kept = [label for index, label in enumerate(labels) if label in (BLANK, BOUNDARY) or heard_as[index].max() > RARE]
    rows = [labels.index(label) for label in kept]
    table = heard_as[rows][:, [columns[name] for name in chosen]]
    return {
        "source": f"hama 1.7.0 on the {prompts} training prompts of asterisk-en; experiments/count_confusions.py",
        "rates": SEARCH_RATES,
        "phones": list(PHONES),
        "heard": kept,
        "matrix": [[float(f"{value:.{MATRIX_DIGITS}f}") for value in row] for row in table],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--fold", default="", help="K/N: leave out the prompts K, K + N, ...")
    parser.add_argument("--iterations", type=int, default=6)
    arguments = parser.parse_args()
    from slt_speech.hama.labels import read_labels

    prompts = recordings("train")
    if arguments.fold:
        fold, folds = map(int, arguments.fold.split("/"))
        prompts = [prompt for index, prompt in enumerate(prompts) if index % folds != fold]
    labels = read_labels()
    columns, heard_as, progress = count(prompts, labels, arguments.iterations)
    print("log-likelihood for each frame:", " ".join(f"{value:.5f}" for value in progress))
    content = as_json(labels, columns, heard_as, len(prompts))
    text = json.dumps(content, ensure_ascii=False).replace("], [", "],\n[")
    arguments.out.write_text(text + "\n", encoding="utf-8")
    print(f"{arguments.out}: {len(content['heard'])} labels for {len(PHONES)} phones, from {len(prompts)} prompts")


if __name__ == "__main__":
    main()
