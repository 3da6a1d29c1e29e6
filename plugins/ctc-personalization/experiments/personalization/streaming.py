"""Whether the search gives on chunks what it gives on the whole, on every utterance of the test part.

    python streaming.py --language en --out OUT      exits 1 where one differs

Log-probabilities of the committed base, computed once (a head on fewer frames rounds differently); the listed words and 100 distractors; letters with the language model of `run.py`.
Utterance i is read in chunks of 1, of 64, and of 1 + i mod 64 frames. Windowed boosting gets the phone spotter's evidence.
Compared are the texts, labels, times and scores of the 3-best lists, with no tolerance.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from arms import BEAM, Arm, decoder_of, fields_of
from run import BASES, Study

from sltcore.types import Encoded

FORMS = {
    "fixed": {**BEAM, "boosting": "fixed"},
    "depth-scaled": {**BEAM, "boosting": "depth-scaled"},
    "windowed": {**BEAM, "boosting": "windowed", "evidence": "phones"},
}


def rows(encoded: Encoded, row: int, first: int, stop: int) -> Encoded:
    """Some frames of one utterance of a batch."""
    return encoded._replace(
        values=encoded.values[row : row + 1, first:stop],
        lengths=torch.tensor([stop - first]),
        layers={},
        extra={name: tensor[row : row + 1, first:stop] for name, tensor in encoded.extra.items()},
        offset_s=encoded.offset_s + first * encoded.frame_shift_s,
    )


@torch.no_grad()
def differs(decoder: Any, encoded: Encoded, row: int, size: int, context: dict[str, Any], whole: Any) -> bool:
    """Whether a session over chunks of `size` frames ends in another list than `whole`."""
    session = decoder.open(context)
    length = int(encoded.lengths[row])
    for first in range(0, length, size):
        session.push(rows(encoded, row, first, min(first + size, length)))
    return bool(session.finish() != whole)


def main() -> int:
    """Every utterance, three forms, three chunk sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=("en", "cs"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    study = Study(options.language, options.out, options.out / options.language, [0], [100])
    encodings, words = study.encodings("test"), study.words("test", 100)
    wrong = 0
    for name, fields in FORMS.items():
        arm = Arm(name, "base", {**fields, "n_best": 3})
        lm = study.lm | {"lm_weight": 0.6, "word_bonus": 0.0}
        decoder = decoder_of(BASES / options.language, fields_of(arm, 1.0, lm))
        context = dict(decoder.prepare({"phrases": words}))
        heard = [encoded._replace(values=torch.from_numpy(decoder.frames(encoded))) for encoded in encodings.batches]
        decoder.head, decoder.d = torch.nn.Identity(), heard[0].values.shape[2]  # they are log-probabilities already
        found = {1: 0, 64: 0, 0: 0}
        for places, encoded in zip(encodings.places, heard, strict=True):
            for row, place in enumerate(places):
                alone = rows(encoded, row, 0, int(encoded.lengths[row]))
                (whole,) = decoder.decode(alone, context)
                for kind in found:
                    size = kind or 1 + place % 64
                    found[kind] += differs(decoder, encoded, row, size, context, whole)
        total = sum(map(len, encodings.places))
        print(
            f"{name}: {total} utterances; differing at chunks of 1, 64, 1 to 64 frames: {list(found.values())}",
            flush=True,
        )
        wrong += sum(found.values())
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
