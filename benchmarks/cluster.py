"""How fast do one and two workers transcribe, and how many bytes travel for an utterance?

    python benchmarks/cluster.py [--json FILE] [--check] [--spec examples/transcribe.yaml] [--utterances N] [--workers 1 2]

The prompts of the corpus `asterisk-en`, as many as asked for, mapped by `sltcore.cluster.run_dataset` on a local Ray; one
thread for each worker. Throughput is seconds of audio done in a second of wall-clock time: once from the moment the
first part is begun (workers have loaded the pipeline), once from the call on (with starting Ray and loading); and for a
second of the workers' processor time, which says what a shared machine hides. The same pipeline in this process, on the
same batches, is the peer. Bytes are those of the packed descriptions that are sent, of the parts that come back, and of
what each worker is told once; Ray's own messages are not counted. Small runs have parts of eight utterances; bytes in a
part of up to 256, as larger runs have them, are made from the local run and told beside. `--check` exits 1 when a text
differs from that of the local run, or when an utterance needs more bytes than the bar.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import torch

import sltcore
from sltcore.cluster import read_results, run_dataset
from sltcore.cluster.parts import encoded, row_of
from sltcore.cluster.shards import MOST, cut, items_per_part
from sltcore.data import rows
from sltcore.types import Item

SPEC = Path(__file__).resolve().parent.parent / "examples" / "transcribe.yaml"
CORPUS = "asterisk-en"
BYTES_BAR = 1000  # sent and returned for an utterance in parts of eight
SAMPLE_BYTES, RATE = 4, 16000


def chosen(count: int) -> list[Item]:
    """The first recordings of the corpus."""
    found = [Item(row.id, str(row.path)) for row in rows(CORPUS)]
    if len(found) < count:
        sys.exit(f"{CORPUS} has {len(found)} recordings, {count} were asked for")
    return found[:count]


def local(spec: str, items: list[Item], size: int) -> tuple[dict[str, str], dict[str, Any]]:
    """Texts and throughput of this process, on the same batches: those of a part."""
    pipeline = sltcore.load(spec)
    list(pipeline.run(items[:2]))  # loads and compiles what is loaded once
    start, cpu_start, outputs = time.perf_counter(), time.process_time(), []
    for first in range(0, len(items), size):
        outputs += pipeline.run(items[first : first + size])
    map_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    large = outputs[: MOST["text"]]
    shard = cut([output.item for output in large], {}, {}, size=len(large), mark="")[0]
    returned = encoded([row_of(output, "text") for output in large], "text", shard)
    return {output.item.id: output.value.text for output in outputs}, {
        "workers": "this process",
        "audio_s": sum(output.duration_s or 0.0 for output in outputs),
        "map_s": map_s,
        "cpu_s": cpu_s,
        "wall_s": map_s,
        "large_part": len(large),
        "large_sent": len(shard.packed()) / len(large),
        "large_returned": len(returned) / len(large),
    }


def spread(spec: str, items: list[Item], workers: int, folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Texts and figures of a run on a local Ray."""
    done = run_dataset(spec, items, folder, workers=workers)
    if done.failed:
        sys.exit(f"{done.failed} recordings failed; see {folder}")
    texts = {row["id"]: row["text"] for row in read_results(folder).to_pylist()}
    loads = [worker["load_s"] for worker in done.report["workers"]]
    return texts, {
        "workers": workers,
        "audio_s": done.audio_s,
        "map_s": done.map_s,
        "cpu_s": done.cpu_s,
        "wall_s": done.wall_s,
        "load_s": max(loads),
        "sent": done.sent_bytes / len(items),
        "returned": done.returned_bytes / len(items),
        "told": done.told_bytes,
        "parts": done.parts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default=str(SPEC))
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    items = chosen(arguments.utterances)
    size = items_per_part(len(items), "text")
    texts, first = local(arguments.spec, items, size)
    print(
        f"{len(items)} recordings of {CORPUS}, {first['audio_s'] / 60:.1f} min, parts of {size}; {os.cpu_count()} "
        f"processors, load {os.getloadavg()[0]:.1f} at the start",
        flush=True,
    )
    results, differing = [first], 0
    with tempfile.TemporaryDirectory() as folder:
        for workers in arguments.workers:
            found, result = spread(arguments.spec, items, workers, Path(folder) / f"{workers}")
            differing += sum(found[name] != text for name, text in texts.items())
            results.append(result)
    print(
        f"{'workers':>14} {'audio s / s':>12} {'with start':>11} {'/ CPU s':>8} {'sent B':>8} {'returned B':>11} {'told B':>8}"
    )
    for result in results:
        speed, whole, each = (result["audio_s"] / result[name] for name in ("map_s", "wall_s", "cpu_s"))
        bytes_ = "".join(
            f" {result[name]:>{width}.0f}" if name in result else " " * (width + 1)
            for name, width in (("sent", 8), ("returned", 11), ("told", 8))
        )
        print(f"{result['workers']!s:>14} {speed:>12.1f} {whole:>11.1f} {each:>8.1f}{bytes_}")
    decoded = first["audio_s"] / len(items) * RATE * SAMPLE_BYTES
    print(
        f"in parts of {first['large_part']}: {first['large_sent']:.0f} bytes sent and {first['large_returned']:.0f} returned "
        f"for an utterance; decoded it would have {decoded:.0f}"
    )
    print(f"{differing} texts differ from those of this process; load {os.getloadavg()[0]:.1f} at the end")
    most = max(result["sent"] + result["returned"] for result in results[1:])
    if arguments.json:
        content = {"machine": platform.machine(), "processors": os.cpu_count(), "utterances": len(items)}
        arguments.json.write_text(json.dumps({**content, "results": results}, indent=1) + "\n", encoding="utf-8")
    if arguments.check:
        for kept, line in (
            (not differing, f"{differing} texts differ"),
            (most <= BYTES_BAR, f"{most:.0f} bytes travel for an utterance, at most {BYTES_BAR}"),
        ):
            print(("ok      " if kept else "MISSED  ") + line)
        sys.exit(0 if not differing and most <= BYTES_BAR else 1)


if __name__ == "__main__":
    main()
