"""From what a recogniser writes to what was said: P(label heard | phone meant), for phone recognisers.

A recogniser that hears /u/ as /oʊ/ half of the time still tells which words are likely, once this is known. Let `p(l)`
be its probability of label l in a frame, and C the confusions. The search then reads, for each phone f,

    p'(f) = (1 - deletion) sum_l C[l, f] p(l) + deletion p(blank)
    p'(boundary) = (1 - missed_boundary) p(boundary) + missed_boundary p(blank)
    p'(blank) = (1 - insertion) p(blank) + insertion sum_l C[l, blank] p(l)

that is, the likelihood of the phone sequence under a noisy channel from phones to labels, in which phones are also
dropped and labels inserted. All of it is one matrix: `log_map`, for `lexicon_trie.map_labels`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sltcore.errors import DataError, VocabularyError

BOUNDARY, BLANK = "<wb>", "<blank>"
FLOOR = 1e-7  # for labels never heard: keeps every frame possible


class Confusions(NamedTuple):
    """`labels` of the search: phones, boundary, blank; `log_map` [heard, labels] float32 natural log."""

    labels: tuple[str, ...]
    log_map: npt.NDArray[np.float32]

    @property
    def boundary(self) -> int:
        """The id of the word boundary in `labels`."""
        return self.labels.index(BOUNDARY)

    @property
    def blank(self) -> int:
        """The id of blank in `labels`."""
        return self.labels.index(BLANK)


def load_confusions(
    heard: Sequence[str],
    *,
    name: str = "hama-english",
    deletion: float | None = None,
    insertion: float | None = None,
    missed_boundary: float | None = None,
) -> Confusions:
    """The confusions of a recogniser whose labels are `heard`; rates that are not given are the file's own.

    Raises `DataError` for an unknown `name`, `VocabularyError` when the recogniser lacks labels of the file.
    """
    counted = _read(name)
    places = {label: index for index, label in enumerate(heard)}
    missing = [label for label in counted["heard"] if label not in places]
    if missing:
        raise VocabularyError(
            f"confusions '{name}' were counted for a recogniser that writes {missing[0]!r}; this one has {len(heard)} "
            "labels without it: use no confusions, or the recogniser they belong to."
        )
    rates = counted["rates"]
    deletion = rates["deletion"] if deletion is None else deletion
    insertion = rates["insertion"] if insertion is None else insertion
    missed_boundary = rates["missed_boundary"] if missed_boundary is None else missed_boundary
    labels = (*counted["phones"], BOUNDARY, BLANK)
    table = np.full((len(heard), len(labels)), 0.0)
    rows = [places[label] for label in counted["heard"]]
    phones = len(counted["phones"])
    heard_as = np.array(counted["matrix"])
    table[rows, :phones] = heard_as[:, :phones]
    inserted = np.zeros(len(heard))
    inserted[rows] = heard_as[:, phones]
    table[:, :phones] = (1 - deletion) * (table[:, :phones] + FLOOR)
    table[places[BLANK], :phones] = deletion
    table[:, phones] = FLOOR
    table[places[BOUNDARY], phones], table[places[BLANK], phones] = 1 - missed_boundary, missed_boundary
    table[:, phones + 1] = insertion * inserted + FLOOR
    table[places[BLANK], phones + 1] = 1 - insertion
    return Confusions(labels, np.log(np.maximum(table, FLOOR * FLOOR)).astype(np.float32))


@cache
def _read(name: str) -> dict[str, Any]:
    path = files("slt_ctc_personalization") / "data" / f"confusions-{name}.json"
    if not path.is_file():
        known = sorted(
            entry.name[len("confusions-") : -len(".json")]
            for entry in (files("slt_ctc_personalization") / "data").iterdir()
            if entry.name.startswith("confusions-")
        )
        raise DataError(f"no confusions are named '{name}'; installed: {', '.join(known)}.")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
