"""slt align: when each word or label of a known text was said."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltcore.cli.console import Console
from sltcore.cli.results import Targets, json_line, shown
from sltcore.cli.specs import Settings
from sltcore.cli.subtitles import FORMATS as SUBTITLES
from sltcore.cli.textgrid import Interval, textgrid
from sltcore.errors import DataError, SltError
from sltcore.types import Hypothesis

if TYPE_CHECKING:
    from sltcore.alignment import AlignedText, Unit
    from sltcore.types import Item

EXIT_PARTLY = 1
TEXT_ENDINGS = (".txt", ".lab")
LOG = logging.getLogger(__name__)


class Format(StrEnum):
    """What is written."""

    json = "json"
    jsonl = "jsonl"
    ctm = "ctm"
    textgrid = "textgrid"
    srt = "srt"
    vtt = "vtt"


ONE_FILE_EACH = {Format.textgrid: ".TextGrid", Format.srt: ".srt", Format.vtt: ".vtt"}
"""Forms that hold one recording, and how their files end."""


class Level(StrEnum):
    """What is timed."""

    word = "word"
    label = "label"


def align(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="a spec file or a bundle folder, with a CTC decoder")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="manifests with a column text (csv, tsv, jsonl), or recordings and folders with a .txt or .lab beside each recording",
        ),
    ],
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="what is said in the one recording that is given")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="what to write")] = Format.json,
    level: Annotated[Level, typer.Option("--level", help="word; or label: the decoder's labels as well")] = Level.word,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="the file to write; for textgrid, srt and vtt a folder with one file for each input",
        ),
    ] = None,
    settings: Settings = None,
    device: Annotated[str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="threads for computing")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, max=4096, help="most inputs in a batch")
    ] = None,
) -> None:
    """Find when each word of a known text was said.

    A bad input, or a text that cannot be said in its recording, is reported and the rest is done. Exit codes: 0 all
    done, 1 some inputs failed, 2 the call, spec or data is wrong, 3 an unforeseen error.
    """
    from sltcore.alignment import align as aligned_texts
    from sltcore.alignment.posteriors import ctc_head
    from sltcore.bundle import load

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    work = _items(inputs, text)
    if form in ONE_FILE_EACH and len(work) > 1 and out is None:
        raise SltError(f"--format {form} with {len(work)} inputs writes one file for each; say where with --out FOLDER")
    pipeline = load(spec, overrides=settings or (), device=device)
    vocabulary = ctc_head(pipeline).vocabulary
    silent = set() if vocabulary.boundary is None else {vocabulary.labels[vocabulary.boundary]}
    writer = _Writer(work, form=form, level=level, out=out, silent=silent)
    failed = 0
    for aligned in aligned_texts(pipeline, work, keep_going=True, batch_size=batch_size, count=len(work)):
        error = aligned.error or writer.problem(aligned)
        if error is not None:
            failed += 1
            name, said = shown(aligned.item.id), shown(" ".join(str(error).split()))
            Console().error(said if name in said else f"{name}: {said}")
            LOG.debug("%s", name, exc_info=error)
            continue
        writer.add(aligned)
    writer.close()
    if failed:
        Console().warn(f"{failed} of {len(work)} inputs failed, the rest is done")
        raise typer.Exit(EXIT_PARTLY)


def _items(inputs: Iterable[str], text: str | None) -> list[Item]:
    """The recordings with their texts: given by hand, by a manifest, or by a file beside the recording."""
    from sltcore.data import iter_inputs

    found: dict[str, Item] = {}
    for given in inputs:
        for item in iter_inputs([given]):
            name = item.id if item.id not in found else f"{given}/{item.id}"
            found.setdefault(name, item._replace(id=name))
    items = list(found.values())
    if text is not None:
        if len(items) != 1:
            raise SltError(
                f"--text is what is said in one recording, but {len(items)} are given; put the texts into a manifest"
            )
        return [items[0]._replace(text=text)]
    return [item if item.text is not None else item._replace(text=_text_beside(item)) for item in items]


def _text_beside(item: Item) -> str | None:
    """The text in a file with the recording's name that ends in .txt or .lab; None where there is none."""
    for ending in TEXT_ENDINGS if isinstance(item.source, str) else ():
        path = Path(item.source).with_suffix(ending)
        if path.is_file():
            try:
                return " ".join(path.read_text(encoding="utf-8-sig").split())
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    return None


class _Writer:
    """Writes alignments in one form: to standard output, to one file, or to a file for each."""

    def __init__(self, work: list[Item], *, form: Format, level: Level, out: Path | None, silent: set[str]) -> None:
        self.form = form
        self.level = level
        self.out = out
        self.silent = silent
        self.targets = Targets(work, None if out is None else out / "-" if form in ONE_FILE_EACH else out)
        self._rows: list[dict[str, Any]] = []
        self._file = None
        if out is not None and form not in ONE_FILE_EACH:
            try:
                out.parent.mkdir(parents=True, exist_ok=True)
                self._file = out.open("w", encoding="utf-8")
            except OSError as error:
                raise _unwritable(out, error) from None

    def problem(self, aligned: AlignedText) -> SltError | None:
        """Why an alignment cannot be written in this form."""
        if self.level == Level.word and aligned.words is None and self.form not in (Format.json, Format.jsonl):
            return SltError(
                f"{aligned.item.id}: nothing tells which labels make a word, since the vocabulary has no word boundary; "
                f"use --level label"
            )
        return None

    def add(self, aligned: AlignedText) -> None:
        """One alignment."""
        if self.form == Format.json:
            self._rows.append(self._row(aligned))
        elif self.form == Format.jsonl:
            self._write(json_line(self._row(aligned)) + "\n")
        elif self.form == Format.ctm:
            self._write("".join(self._ctm(aligned)))
        else:
            self._own_file(aligned.item, self._text(aligned))

    def close(self) -> None:
        """Write what only the end of all completes."""
        if self.form == Format.json:
            try:
                self._write(json.dumps(self._rows, ensure_ascii=False, indent=1) + "\n")
            except UnicodeEncodeError:
                self._write(json.dumps(self._rows, indent=1) + "\n")
        if self._file is not None:
            self._file.close()
            Console().say(f"wrote {shown(str(self.out))}")

    def _row(self, aligned: AlignedText) -> dict[str, Any]:
        item = aligned.item
        row: dict[str, Any] = {"id": item.id, "text": item.text, "duration_s": aligned.duration_s}
        row |= {"score": round(aligned.score, 4), "frames": aligned.frames}
        if aligned.words is not None:
            row["words"] = [_unit("word", unit) for unit in aligned.words]
        if self.level == Level.label or aligned.words is None:
            row["labels"] = [_unit("label", unit) for unit in aligned.labels]
        return row

    def _units(self, aligned: AlignedText) -> list[Unit]:
        """What is written at this level; the label between words is no sound."""
        if self.level == Level.word:
            return list(aligned.words or ())
        return [unit for unit in aligned.labels if unit.text not in self.silent]

    def _ctm(self, aligned: AlignedText) -> Iterator[str]:
        """NIST CTM: recording, channel, start, duration, word, confidence (the mean probability of its frames)."""
        from math import exp

        name = self.targets.name(aligned.item)
        for unit in self._units(aligned):
            word = "_".join(unit.text.split())
            length = unit.end_s - unit.start_s
            yield f"{name} 1 {unit.start_s:.3f} {length:.3f} {word} {exp(min(unit.score, 0.0)):.3f}\n"

    def _text(self, aligned: AlignedText) -> str:
        if self.form == Format.textgrid:
            tiers: dict[str, list[Interval]] = {}
            if aligned.words is not None:
                tiers["words"] = [(unit.start_s, unit.end_s, unit.text) for unit in aligned.words]
            if self.level == Level.label:
                tiers["labels"] = [(unit.start_s, unit.end_s, unit.text) for unit in self._units(aligned)]
            return textgrid(tiers, aligned.duration_s or 0.0)
        units = self._units(aligned)
        hypothesis = Hypothesis(
            aligned.item.text or "",
            times=tuple((unit.start_s, unit.end_s) for unit in units),
            extra={"words": tuple(unit.text for unit in units)},
        )
        return SUBTITLES[self.form.value](hypothesis, self.targets.name(aligned.item))

    def _own_file(self, item: Item, text: str) -> None:
        if self.out is None:
            Console().result(text)
            return
        target = self.targets.path(item, ONE_FILE_EACH[self.form])
        try:
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise _unwritable(target, error) from None
        Console().say(f"wrote {shown(str(target))}")

    def _write(self, text: str) -> None:
        if self._file is None:
            if text:
                Console().result(text)
            return
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise _unwritable(Path(self._file.name), error) from None


def _unit(kind: str, unit: Unit) -> dict[str, Any]:
    return {kind: unit.text, "start_s": round(unit.start_s, 3), "end_s": round(unit.end_s, 3), "score": unit.score}


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be written: {error.strerror}; choose another place with --out")
