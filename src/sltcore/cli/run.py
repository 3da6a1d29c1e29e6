"""slt run: a spec or bundle on recordings, folders and manifests."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltcore.cli.console import Console
from sltcore.cli.on_ray import folder_for, run_on_ray
from sltcore.cli.results import Rows, Targets, json_line, shown
from sltcore.cli.specs import Settings
from sltcore.errors import ContextError, DataError, SltError

if TYPE_CHECKING:
    from sltcore.pipeline import Item, Output, Pipeline

EXIT_PARTLY = 1
MOST_OF_A_NAME = 1024  # longer arguments are texts, not names of files
LOG = logging.getLogger(__name__)


def app(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="a spec file or a bundle folder")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="recordings, folders, or manifests (csv, tsv, jsonl); texts, or files of lines, where the pipeline reads text",
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
        Path | None,
        typer.Option("--phrases", metavar="FILE", help="phrases to expect: text (one a line), csv, tsv, json or jsonl"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="FILE|CHANNEL",
            help="the playback signal: a recording, or a channel of each input, counted from 0 (the input is then another one)",
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
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="local, or ray: many workers, here or on the cluster that RAY_ADDRESS names; --out is then a folder of parquet files",
        ),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=100_000, help="worker processes of --engine ray")
    ] = None,
) -> None:
    """Run a pipeline on recordings and print what it says, one line for each input.

    With --out, results are kept as they come and a repeated call does only what is missing; a bad input is reported and
    the rest is done. Exit codes: 0 all done, 1 some inputs failed, 2 nothing could be run, 3 an unforeseen error.
    """
    form = _form(as_json, srt=srt, vtt=vtt, ctm=ctm)
    place = folder_for(engine, form, out, workers)
    if threads is not None:
        _set_threads(threads)
    from sltcore.bundle import load
    from sltcore.cluster.fingerprint import fingerprint
    from sltcore.context import check_context

    pipeline = load(spec, overrides=settings or (), device=device if place is None else None)
    given = _context(pipeline, phrases, context or [])
    if reference is not None:
        check_context({"reference": reference}, pipeline.context_keys, batch=None)
    work = _items(pipeline, inputs)
    if place is not None:
        if reference is not None:
            work, given["reference"] = _with_reference(reference, work)
        how = {"workers": workers, "device": device, "threads": threads or 1, "batch_size": batch_size}
        failed, texts = run_on_ray(
            pipeline, work, place, source=spec, overrides=settings or (), context=given, resume=not force, **how
        )
        _measure(pipeline, texts, work, form)
        raise typer.Exit(EXIT_PARTLY if failed else 0)
    prepared = pipeline.prepare(**given)
    if len(work) > 1 and out is None and form in ("srt", "vtt"):
        raise SltError(
            f"--{form} with {len(work)} inputs writes one file for each; say where with --out FOLDER/results.jsonl"
        )
    rows = Rows(out, fingerprint(spec, pipeline, given, reference), force=force)
    todo = [item for item in work if not rows.is_done(item)]
    if len(todo) < len(work):
        Console().say(f"{len(work) - len(todo)} of {len(work)} are done already in {out}")
    beside = {}
    if reference is not None:
        todo, beside["reference"] = _with_reference(reference, todo)
    writer = _Writer(rows, Targets(work, out), form, many=len(work) > 1, has_out=out is not None)
    failed, seconds, start = 0, 0.0, time.perf_counter()
    outputs = pipeline.run(todo, prepared=prepared, keep_going=True, batch_size=batch_size, count=len(todo), **beside)
    for output in _with_progress(outputs, len(todo)):
        seconds += output.duration_s or 0.0
        if output.error is not None:
            failed += 1
            _report(output)
            continue
        writer.write(output)
    _measure(pipeline, rows.texts, work, form)
    wall = time.perf_counter() - start
    if todo and seconds:
        Console().say(f"{len(todo) - failed} of {len(todo)} inputs, {seconds:.1f} s of audio in {wall:.1f} s")
    if failed:
        Console().warn(f"{failed} of {len(todo)} inputs failed, the rest is done")
        raise typer.Exit(EXIT_PARTLY)


def _form(as_json: bool, **wanted: bool) -> str:
    """text, json, srt, vtt or ctm."""
    formats = [name for name, given in wanted.items() if given]
    if len(formats) + as_json > 1:
        raise SltError(
            f"choose one of --json, --srt, --vtt, --ctm; got {', '.join(formats)}{' and json' if as_json else ''}"
        )
    return formats[0] if formats else "json" if as_json else "text"


def _report(output: Output) -> None:
    """Why an input failed, on one line that names it."""
    text, name = shown(" ".join(str(output.error).split())), shown(output.item.id)
    named = name in text or (isinstance(output.item.source, str) and shown(output.item.source) in text)
    Console().error(text if named else f"{name}: {text}")
    LOG.debug("%s", name, exc_info=output.error)


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


def read_phrases(path: Path) -> list[Any]:
    """The phrases of a file: text, CSV, JSON or JSON lines, see `sltcore.data.read_phrases`."""
    from sltcore.data.phrase_lists import read_phrases as read

    return list(read(path, named=f"--phrases {path}"))


def _items(pipeline: Pipeline, inputs: list[str]) -> list[Item]:
    """The inputs of a call, each once and each under an id of its own."""
    from sltcore.pipeline import Item

    if pipeline.consumes.type == "Text":
        return [Item(str(index), text) for index, text in enumerate(_texts(inputs))]
    from sltcore.data import iter_inputs

    found: dict[str, Item] = {}
    for given in inputs:
        for item in iter_inputs([given]):
            name = item.id
            if name in found and found[name]._replace(text=item.text) != item:
                name = f"{given}/{item.id}"  # another recording of the same name, from another folder or manifest
            found.setdefault(name, item._replace(id=name))
    return list(found.values())


def _texts(inputs: list[str]) -> Iterator[str]:
    """Texts as they are given; of a file each line that is not empty."""
    for text in inputs:
        if "\n" in text or len(text) > MOST_OF_A_NAME or not Path(text).is_file():
            yield text
            continue
        try:
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise DataError(f"{text} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise DataError(f"{text} is not UTF-8 text; save it as UTF-8, one text a line") from None
        yield from (line for line in lines if line.strip())


def _with_reference(reference: str, items: list[Item]) -> tuple[list[Item], Any]:
    """The inputs, and their playback signal: one recording for all, or a channel of each.

    Where the playback is a channel, the input is another one: the manifest's, else the first that is left.
    """
    if not reference.isdigit():
        return items, Path(reference)
    channel = int(reference)
    other = 1 if channel == 0 else 0
    inputs = [item if item.channel is not None else item._replace(channel=other) for item in items]
    return inputs, [item._replace(channel=channel) for item in items]


class _Writer:
    """Prints results and keeps them, in the form that was asked for."""

    def __init__(self, rows: Rows, targets: Targets, form: str, *, many: bool, has_out: bool) -> None:
        self.rows = rows
        self.targets = targets
        self.form = form
        self.many = many
        self.has_out = has_out

    def write(self, output: Output) -> None:
        """One result."""
        from sltcore.cli.subtitles import FORMATS
        from sltcore.types import NBest

        item, value = output.item, output.value
        if self.form in FORMATS and not isinstance(value, NBest):
            raise SltError(f"--{self.form} needs a pipeline that gives text, this one gives {type(value).__name__}")
        row = {"id": item.id, "duration_s": output.duration_s, **self._fields(item, value)}
        if self.form in FORMATS:
            text = FORMATS[self.form](value.best, self.targets.name(item))
            self._subtitles(item, text)
        self.rows.add(item, row)
        if self.form == "json":
            Console().result(json_line(row))
        elif self.form == "text":
            said = row["text"] if "text" in row else shown(str(row.get("audio", row.get("array"))))
            Console().result(f"{shown(item.id)}\t{said}" if self.many else said)

    def _fields(self, item: Item, value: Any) -> dict[str, Any]:
        from sltcore.audio import Recording
        from sltcore.types import NBest

        if isinstance(value, NBest):
            return result_row(value)
        if isinstance(value, str):
            return {"text": value}
        ending = ".out.wav" if isinstance(value, Recording) else ".npy"
        target = self.targets.path(item, ending)
        try:
            if isinstance(value, Recording):
                import soundfile

                with target.open("wb") as file:
                    soundfile.write(file, value.samples, value.sample_rate_hz, format="WAV")
                return {"audio": str(target)}
            import numpy as np

            np.save(target, value)
        except OSError as error:
            raise DataError(f"{target} cannot be written: {error.strerror}; choose another place with --out") from None
        return {"shape": list(value.shape), "array": str(target)}

    def _subtitles(self, item: Item, text: str) -> None:
        if not self.has_out or self.form == "ctm":
            Console().result(text)
            return
        target = self.targets.path(item, f".{self.form}")
        try:
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError(f"{target} cannot be written: {error.strerror}; choose another place with --out") from None
        Console().say(f"wrote {shown(str(target))}")


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


def _measure(pipeline: Pipeline, texts: Mapping[str, str | None], work: list[Item], form: str) -> None:
    """Scores of the metrics in the spec over the inputs whose text is known, with 95 % bootstrap intervals."""
    known = [(item, said) for item in work if item.text is not None and (said := texts.get(item.id)) is not None]
    if not pipeline.metrics or not known:
        return
    import numpy as np

    from sltcore.experiment.bootstrap import interval
    from sltcore.types import Hypothesis, NBest

    for metric in pipeline.metrics:
        metric.reset()
        metric.update(
            [NBest([Hypothesis(said)]) for _, said in known],
            [item.text for item, _ in known],
            ids=[item.id for item, _ in known],
        )
        found = interval(metric.per_item(), metric.reduce, clusters=metric.groups, generator=np.random.default_rng(0))
        for name, value in found.items():
            if form == "json":
                figures = {"value": value.value, "low": value.low, "high": value.high, "unit": value.unit}
                Console().result(json.dumps({"metric": name, **figures, "inputs": len(known)}, ensure_ascii=False))
                continue
            line = f"{name}: {value.value:.2f} {value.unit} [{value.low:.2f}, {value.high:.2f}] on {len(known)} inputs"
            (Console().result if form == "text" else Console().say)(line)
