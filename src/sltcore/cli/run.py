"""slt run: a spec or bundle on recordings, folders and manifests."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltcore.cli.console import Console
from sltcore.cli.specs import Settings
from sltcore.errors import ContextError, DataError, SltError

if TYPE_CHECKING:
    from sltcore.pipeline import Item, Output, Pipeline

EXIT_PARTLY = 1


def app(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="a spec file or a bundle folder")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="recordings, folders, or manifests (csv, tsv, jsonl); texts where the pipeline reads text",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="write one JSON line for each input; a second run goes on where the first stopped",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON lines instead of text")] = False,
    srt: Annotated[bool, typer.Option("--srt", help="subtitles in SubRip form")] = False,
    vtt: Annotated[bool, typer.Option("--vtt", help="subtitles in WebVTT form")] = False,
    ctm: Annotated[bool, typer.Option("--ctm", help="word times in NIST CTM form")] = False,
    phrases: Annotated[
        Path | None, typer.Option("--phrases", metavar="FILE", help="phrases to expect, one a line")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="FILE|CHANNEL",
            help="the playback signal: a recording, or a channel of each input, counted from 0",
        ),
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="KEY=VALUE", help="further side information, the value as YAML; may repeat"),
    ] = None,
    settings: Settings = None,
    device: Annotated[str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="threads for computing")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, max=4096, help="most inputs in a batch")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="start FILE of --out anew")] = False,
) -> None:
    """Run a pipeline on recordings and print what it says, one line for each input.

    With --out, results are kept as they come and a repeated call does only what is missing; a bad input is reported and
    the rest is done. Exit codes: 0 all done, 1 some inputs failed, 2 nothing could be run, 3 an unforeseen error.
    """
    formats = [name for name, wanted in (("srt", srt), ("vtt", vtt), ("ctm", ctm)) if wanted]
    if len(formats) + as_json > 1:
        raise SltError(
            f"choose one of --json, --srt, --vtt, --ctm; got {', '.join(formats)}{' and json' if as_json else ''}"
        )
    if threads is not None:
        _set_threads(threads)
    from sltcore.bundle import load

    pipeline = load(spec, overrides=settings or (), device=device)
    given = _context(pipeline, phrases, context or [])
    work = _items(pipeline, inputs)
    if len(work) > 1 and out is None and formats and formats[0] != "ctm":
        raise SltError(
            f"--{formats[0]} with {len(work)} inputs writes one file for each; say where with --out FOLDER/results.jsonl"
        )
    rows = _Rows(out, _fingerprint(pipeline, given, reference), force=force)
    todo = [item for item in work if item.id not in rows.done]
    if len(todo) < len(work):
        Console().say(f"{len(work) - len(todo)} of {len(work)} are done already in {out}")
    if reference is not None:
        given["reference"] = [_reference(reference, item) for item in todo]
    prepared = pipeline.prepare(**given) if reference is None else None
    failed = 0
    start = time.perf_counter()
    seconds = 0.0
    outputs = pipeline.run(
        todo, prepared=prepared, keep_going=True, batch_size=batch_size, count=len(todo), **({} if prepared else given)
    )
    for output in _with_progress(outputs, len(todo)):
        seconds += output.duration_s or 0.0
        if output.error is not None:
            failed += 1
            Console().error(str(output.error))
            continue
        _emit(output, rows, formats[0] if formats else "json" if as_json else "text", out, many=len(work) > 1)
    _measure(pipeline, rows, work)
    wall = time.perf_counter() - start
    if todo and seconds:
        Console().say(f"{len(todo) - failed} of {len(todo)} inputs, {seconds:.1f} s of audio in {wall:.1f} s")
    if failed:
        Console().warn(f"{failed} of {len(todo)} inputs failed, the rest is done")
        raise typer.Exit(EXIT_PARTLY)


def _set_threads(threads: int) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)


def _context(pipeline: Pipeline, phrases: Path | None, pairs: list[str]) -> dict[str, Any]:
    from sltcore.spec.document import parse_value

    given: dict[str, Any] = {}
    if phrases is not None:
        given["phrases"] = read_phrases(phrases)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ContextError(
                f"--context {pair}: expected KEY=VALUE, such as language=en; keys: {', '.join(sorted(pipeline.context_keys)) or 'none'}"
            )
        given[key] = parse_value(value, f"--context {pair}")
    return given


def read_phrases(path: Path) -> list[str]:
    """Phrases of a text file, one a line; empty lines and lines that begin with # are left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"--phrases {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"--phrases {path}: is not UTF-8 text; save it as UTF-8, one phrase a line") from None
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise DataError(f"--phrases {path}: holds no phrase; write one a line")
    return found


def _items(pipeline: Pipeline, inputs: list[str]) -> list[Item]:
    from sltcore.pipeline import Item

    if pipeline.consumes.type == "Text":
        return [Item(str(index), text) for index, text in enumerate(inputs)]
    from sltcore.data import iter_inputs

    return list(iter_inputs(inputs))


def _reference(reference: str, item: Item) -> Any:
    if reference.isdigit():
        return item._replace(channel=int(reference))
    return Path(reference)


def _fingerprint(pipeline: Pipeline, context: dict[str, Any], reference: str | None) -> str:
    text = json.dumps([pipeline.spec.filled(), context, reference, pipeline.spec.name], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Rows:
    """The results file: what is done, and appending so that a kill loses at most the line being written."""

    def __init__(self, path: Path | None, fingerprint: str, *, force: bool) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.done: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        if force:
            path.unlink(missing_ok=True)
        if path.exists():
            self._read(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise DataError(f"--out {path}: cannot be written: {error.strerror}") from None

    def _read(self, path: Path) -> None:
        whole = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    mark = row["run"]
                except (ValueError, KeyError, TypeError):
                    raise DataError(
                        f"--out {path}: line {number} is no result of slt run; choose another file, or --force to start it anew"
                    ) from None
                if mark != self.fingerprint:
                    raise DataError(
                        f"--out {path}: was written with another spec or other side information; choose another file, or --force to start it anew"
                    )
                self.done[row["id"]] = row
                whole += len(line)
        os.truncate(path, whole)

    def add(self, row: dict[str, Any]) -> None:
        row = {**row, "run": self.fingerprint}
        self.done[row["id"]] = row
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise DataError(
                f"--out {self.path}: cannot be written: {error.strerror}; what was finished is kept"
            ) from None


def _emit(output: Output, rows: _Rows, form: str, out: Path | None, *, many: bool) -> None:
    from sltcore.audio import Recording
    from sltcore.cli.subtitles import FORMATS
    from sltcore.types import NBest

    console = Console()
    value = output.value
    row: dict[str, Any] = {"id": output.item.id, "duration_s": output.duration_s}
    if isinstance(value, NBest):
        row.update(result_row(value))
    elif isinstance(value, Recording):
        row["audio"] = str(_write_wave(value, output.item, out))
    else:
        row["shape"] = list(value.shape)
        row["array"] = str(_write_array(value, output.item, out))
    rows.add(row)
    if form == "json":
        console.result(json.dumps(row, ensure_ascii=False))
    elif form in FORMATS:
        if not isinstance(value, NBest):
            raise SltError(f"--{form} needs a pipeline that gives text, this one gives {type(value).__name__}")
        text = FORMATS[form](value.best, Path(output.item.id).stem)
        if out is not None and form != "ctm":
            target = _target(output.item, out, f".{form}")
            target.write_text(text, encoding="utf-8")
            console.say(f"wrote {target}")
        else:
            console.result(text)
    else:
        text = row.get("text", row.get("audio", row.get("array", "")))
        console.result(f"{output.item.id}\t{text}" if many else str(text))


def result_row(nbest: Any) -> dict[str, Any]:
    """An n-best list as JSON data: text, score, words with times, and the other readings."""
    best = nbest.best
    row: dict[str, Any] = {"text": best.text, "score": round(best.score, 4)}
    units = best.extra.get("words")
    if units is not None and len(units) == len(best.times):
        row["words"] = [
            {"word": str(word), "start_s": round(a, 3), "end_s": round(b, 3)}
            for word, (a, b) in zip(units, best.times, strict=True)
        ]
    if len(nbest) > 1:
        row["n_best"] = [{"text": other.text, "score": round(other.score, 4)} for other in nbest]
    return row


def _target(item: Item, out: Path | None, ending: str) -> Path:
    """A file beside the results, below the same folders as the input below its own."""
    name = Path(item.id)
    inside = Path(name.name) if name.is_absolute() or ".." in name.parts else name
    target = (out.parent if out is not None else Path()) / inside.with_suffix(ending)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _write_wave(recording: Any, item: Item, out: Path | None) -> Path:
    import soundfile

    target = _target(item, out, ".out.wav")
    soundfile.write(target, recording.samples, recording.sample_rate_hz)
    return target


def _write_array(array: Any, item: Item, out: Path | None) -> Path:
    import numpy as np

    target = _target(item, out, ".npy")
    np.save(target, array)
    return target


def _with_progress(outputs: Iterator[Output], total: int) -> Iterator[Output]:
    """A bar on standard error while a person watches, and nothing otherwise."""
    if Console.quiet or Console.json or total < 2 or not sys.stderr.isatty():
        yield from outputs
        return
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=RichConsole(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("run", total=total)
        for output in outputs:
            bar.advance(task)
            yield output


def _measure(pipeline: Pipeline, rows: _Rows, work: list[Item]) -> None:
    """Scores of the metrics in the spec over the inputs whose text is known, with 95 % bootstrap intervals."""
    known = [
        (item, rows.done[item.id]) for item in work if item.text is not None and "text" in rows.done.get(item.id, {})
    ]
    if not pipeline.metrics or not known:
        return
    import numpy as np

    from sltcore.experiment.bootstrap import interval
    from sltcore.types import Hypothesis, NBest

    for metric in pipeline.metrics:
        metric.reset()
        metric.update(
            [NBest([Hypothesis(row["text"])]) for _, row in known],
            [item.text for item, _ in known],
            ids=[item.id for item, _ in known],
        )
        found = interval(metric.per_item(), metric.reduce, clusters=metric.groups, generator=np.random.default_rng(0))
        for name, value in found.items():
            Console().result(
                f"{name}: {value.value:.2f} {value.unit} [{value.low:.2f}, {value.high:.2f}] on {len(known)} inputs"
            )
