"""Do whole models compute the same bits in the emulation and in integers, on every utterance of a corpus?

    python benchmarks/nna_bit_exact.py [MODEL ...] [--corpus asterisk-en] [--split test] [--chips generous-8bit ...]
                                       [--calibrate 32] [--limit N] [--json FILE]

A MODEL is a bundle or a pipeline spec. Without one: the published English Conformer with its head, and an LSTM of two
bidirectional layers of 256 with random weights. For each chip, ranges are measured on the first utterances (in the order
of a hash) of the corpus's part `train`; then each utterance of the split goes through the model twice, in the emulation
that training runs and in the integers of `lower`, up to the scores before any search. Two comparisons: of the scores, and
of what every single operator on the chip hands on, in the order in which they run. Equal means every bit of float32.

Any difference ends in exit status 1, with the first place of each model. The corpus is fetched once.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sltcore
from slt_nna.cost import listening
from slt_nna.deployment import scores
from slt_nna.events import ENTER, LEAVE, Event
from slt_nna.integer import IntegerTensor
from slt_nna.integer.tensor import values_of
from slt_nna.lower import Lowered
from slt_nna.nna import Nna
from slt_nna.tags import tag_of
from sltcore.data.examples import read_examples
from sltcore.interfaces import AcceleratorBackend
from sltcore.spec.training import DataConfig
from sltcore.train.start import calibration_inputs

CHIPS = ("generous-8bit", "mixed-8-16", "harsh")
HOST = ("*front_end*", "*frontend*")
MODELS: dict[str, dict[str, Any]] = {
    "hama-conformer, English": {
        "encoder": {"use": "hama-conformer", "weights": "english"},
        "decoder": {"use": "ctc-beam", "lexicon": "english"},
    },
    "LSTM 2 x 256, random weights": {
        "encoder": {
            "use": "lstm",
            "frontend": {"use": "log-mel", "normalize": "utterance"},
            "hidden": 256,
            "layers": 2,
            "bidirectional": True,
        },
        "decoder": {"use": "ctc-greedy", "characters": "abcdefghijklmnopqrstuvwxyz'"},
    },
}


@dataclass
class Count:
    """What one model on one chip came to."""

    model: str
    chip: str
    utterances: int = 0
    scores: int = 0
    numbers: int = 0
    operators: int = 0
    mismatches: int = 0
    overflows: int = 0
    seconds_emulated: float = 0.0
    seconds_integers: float = 0.0
    first: str = ""

    def differ(self, place: str, emulated: Tensor, integers: Tensor) -> None:
        """Compare two tensors of one place, bit for bit."""
        if emulated.shape != integers.shape:
            wrong = max(emulated.numel(), 1)
        else:
            wrong = int((emulated.contiguous().view(torch.int32) != integers.contiguous().view(torch.int32)).sum())
        self.mismatches += wrong
        if wrong and not self.first:
            self.first = f"{place}: {wrong} of {emulated.numel()}"


class Tape:
    """What every operator on the chip handed on in the emulation, then compared with the same in integers."""

    def __init__(self, count: Count) -> None:
        self.count = count
        self.kept: list[tuple[str, Tensor]] = []
        self.place = 0

    def record(self, event: Event) -> None:
        """A listener of the emulation."""
        if event.on_chip and event.operator not in (ENTER, LEAVE):
            self.kept += [(f"{event.operator} at {event.site}", value.clone()) for value in event.outputs]

    def compare(self, event: Event) -> None:
        """A listener of the integers."""
        if not event.on_chip or event.operator in (ENTER, LEAVE):
            return
        for value in event.outputs:
            name = f"{event.operator} at {event.site}"
            here, kept = self.kept[self.place] if self.place < len(self.kept) else ("nothing", torch.empty(0))
            self.place += 1
            if here != name:
                raise SystemExit(f"operator {self.place} is {here} in the emulation and {name} in integers")
            self.count.differ(here, _plus(kept), _plus(floats(value)))
            self.count.numbers += value.numel()
            self.count.operators += 1


def floats(value: Tensor) -> Tensor:
    """Codes as the float32 values that leave the chip."""
    tag = tag_of(value)
    return values_of(value.codes, tag.grid) if isinstance(value, IntegerTensor) and tag and tag.grid else value


def _plus(value: Tensor) -> Tensor:
    """Without the sign of zeros, which integers do not have."""
    return value.detach() + 0.0


def compared(
    count: Count, transform: Nna, lowered: Lowered, model: Any, inputs: Sequence[Any], names: Sequence[str]
) -> None:
    """One utterance after the other, both ways."""
    for value, name in zip(inputs, names, strict=True):
        tape = Tape(count)
        start = time.perf_counter()
        with listening(transform, tape.record), transform.use({}):
            emulated = floats(scores(model, value))
        middle = time.perf_counter()
        listeners = lowered.listeners
        listeners.append(tape.compare)
        with lowered.running():
            integers = floats(scores(lowered, value))
        listeners.remove(tape.compare)
        if tape.place != len(tape.kept):
            raise SystemExit(f"{name}: {len(tape.kept)} operators in the emulation, {tape.place} in integers")
        count.seconds_integers += time.perf_counter() - middle
        count.seconds_emulated += middle - start
        count.differ(f"the scores of {name}", _plus(emulated), _plus(integers))
        count.scores += emulated.numel()
        count.utterances += 1
        if count.utterances % 20 == 0:
            print(
                f"{count.chip}: {count.utterances} of {len(inputs)} utterances, {count.mismatches} mismatches",
                file=sys.stderr,
                flush=True,
            )


def measured(name: str, source: Any, arguments: argparse.Namespace) -> list[Count]:
    """One model on every chip."""
    pipeline = sltcore.load(source)
    for transform in [each for each in pipeline.transforms if isinstance(each, AcceleratorBackend)]:
        transform.detach()
        pipeline.transforms.remove(transform)
    model = pipeline.model.eval()
    train = _examples(arguments.corpus, "train", arguments.calibrate)
    test = _examples(arguments.corpus, arguments.split, arguments.limit)
    inputs = [pipeline.batch([pipeline.read(example.item)]) for example in test]
    modules = [each for each, _ in model.named_modules()]
    host = [pattern for pattern in HOST if fnmatch.filter(modules, pattern)]
    found = []
    for chip in arguments.chips:
        transform = Nna(chip, exclude=host)
        transform.attach(model, calibration_inputs(pipeline, [example.item for example in train]))
        lowered = transform.lower(model)
        assert isinstance(lowered, Lowered)
        count = Count(name, chip)
        with torch.no_grad():
            compared(count, transform, lowered, model, inputs, [example.item.id for example in test])
        count.overflows = sum(lowered.overflows().values())
        transform.detach()
        found.append(count)
        print(line(count), flush=True)
    return found


def _examples(corpus: str, split: str, limit: int | None) -> Any:
    entry = {"corpus": corpus, "split": split, **({} if limit is None else {"limit": limit})}
    return read_examples([DataConfig.model_validate(entry)])


def line(count: Count) -> str:
    """The count as a row of the table."""
    text = (
        f"{count.model[-34:]:34} {count.chip:14} {count.utterances:6} {count.scores:12,} {count.operators:10,} "
        f"{count.numbers:16,} {count.mismatches:10,} {count.seconds_emulated:9.1f} {count.seconds_integers:9.1f}"
    )
    return f"{text}\n  first: {count.first}" if count.first else text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--corpus", default="asterisk-en")
    parser.add_argument("--split", default="test")
    parser.add_argument("--chips", nargs="+", default=list(CHIPS))
    parser.add_argument("--calibrate", type=int, default=32, metavar="N")
    parser.add_argument("--limit", type=int, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = [(name, name) for name in arguments.models] or [
        (name, {"slt": 1, "kind": "pipeline", "seed": 0, **spec}) for name, spec in MODELS.items()
    ]
    print(
        f"{'model':34} {'chip':14} {'utts':>6} {'scores':>12} {'operators':>10} {'numbers':>16} {'mismatches':>10} "
        f"{'emul. s':>9} {'integ. s':>9}"
    )
    found = [count for name, source in models for count in measured(name, source, arguments)]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(count) for count in found], indent=1) + "\n", encoding="utf-8")
    wrong = sum(count.mismatches for count in found)
    print(
        f"{wrong:,} mismatches in {sum(count.numbers + count.scores for count in found):,} numbers: {'FAIL' if wrong else 'PASS'}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
