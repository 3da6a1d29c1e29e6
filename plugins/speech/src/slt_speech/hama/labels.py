"""The 191 labels of the pretrained recogniser: IPA phones, the end of a word, and blank."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache

from slt_speech.hama.weights import REMEDY, package_file
from sltcore.errors import DataError

LABELS_FILE = "assets/g2p_vocab.json"
LABEL_COUNT = 191
WORD_BOUNDARY_ID = 189
BLANK_ID = 190
WORD_BOUNDARY = "<wb>"
BLANK = "<blank>"


@cache
def read_labels() -> tuple[str, ...]:
    """The labels by id: the 189 phones of the package's pronunciation model, `<wb>` (189), `<blank>` (190).

    Ids 0 to 3 are `<pad>`, `<sos>`, `<eos>` and `<unk>`, which the recogniser does not emit.

    Raises:
        DataError: the package is missing or lists another number of phones.
    """
    path = package_file(LABELS_FILE)
    phones = json.loads(path.read_text(encoding="utf-8"))["decoder"]
    if len(phones) != LABEL_COUNT - 2:
        raise DataError(f"{path} lists {len(phones)} phones, expected {LABEL_COUNT - 2}: {REMEDY}")
    return (*phones, WORD_BOUNDARY, BLANK)


def collapse(frame_ids: Iterable[int], *, blank_id: int = BLANK_ID) -> list[tuple[int, int]]:
    """The labels that a path of best labels per frame spells, each with its first frame: (id, frame).

    Repeats are merged, then blanks dropped (Graves et al., Connectionist temporal classification, 2006, section 3.1).

    >>> collapse([190, 7, 7, 190, 7, 8])
    [(7, 1), (7, 4), (8, 5)]
    """
    found = []
    previous = blank_id
    for frame, label in enumerate(frame_ids):
        if label not in (previous, blank_id):
            found.append((label, frame))
        previous = label
    return found
