"""`slt nna`: chips, audit and cost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltcore.cli.console import Console, counted
from sltcore.cli.specs import Settings, SpecPath
from sltcore.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table as RichTable

    from slt_nna.audit import Audit
    from slt_nna.cost import Account
    from sltcore.pipeline import Item

PIPED_COLUMNS = 10_000  # as wide as it takes where nobody watches
MOST_SHOWN = 20

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Chips: describe them, see what they do to a model, count what a model costs on them.",
)

ChipArgument = Annotated[str, typer.Argument(metavar="CHIP", help="a shipped chip (slt nna chips), or a YAML file")]
Inputs = Annotated[list[str], typer.Argument(metavar="INPUT...", help="recordings, folders or manifests")]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="use the first N inputs only")]
RangeRule = Annotated[
    str | None,
    typer.Option("--range", metavar="RULE", help="how ranges are measured on the inputs: max, percentile or mse"),
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="also write everything as JSON")]


@app.callback()
def group() -> None:
    """Chips: describe them, see what they do to a model, count what a model costs on them."""


@app.command()
def chips() -> None:
    """List the chips that are shipped, the mildest first."""
    from slt_nna.chip import chip_names, load_chip

    table = _table(["chip", "weights", "activations", "state", "tables", "register", "scales", "rounding"], right=())
    for name in chip_names():
        chip = load_chip(name)
        sigmoid = chip.tables.sigmoid
        if chip.is_ideal:
            table.add_row(name, *["float"] * 3, *["-"] * 4)
            continue
        register = f"{chip.accumulator.bits} bits" + (f" / {chip.accumulator.tile}" if chip.accumulator.tile else "")
        table.add_row(
            name,
            *(f"{bits} bits" for bits in (chip.words.weight, chip.words.activation, chip.words.state)),
            f"{sigmoid.entries} {sigmoid.interpolation}" if sigmoid else "host",
            register,
            chip.scales,
            chip.rounding,
        )
    Console().result(_printed(table))


@app.command("chip")
def show_chip(chip: ChipArgument) -> None:
    """Print a chip as YAML with every default written out: check your own, or begin with a copy of a shipped one."""
    from slt_nna.chip import load_chip
    from sltcore.spec.document import dump_document

    Console().result(dump_document({"kind": "chip", **load_chip(chip).model_dump(mode="json")}))


@app.command("audit")
def audit_command(
    bundle: SpecPath,
    chip: ChipArgument,
    inputs: Inputs,
    limit: Limit = 4,
    range_rule: RangeRule = None,
    kinds: Annotated[bool, typer.Option("--kinds", help="compare kinds of operators only, which is quicker")] = False,
    every: Annotated[bool, typer.Option("--all", help="print every operator, not only the worst")] = False,
    as_json: JsonFile = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="also write a page with a chart")] = None,
    settings: Settings = None,
) -> None:
    """Show what hurts: the error of a model's output when one operator alone runs in a chip's arithmetic.

    Ranges are measured on the inputs themselves, and a chip that the bundle has already is taken off first. The ratios
    are in dB, of the scores before the search; 6 dB are one bit.
    """
    from slt_nna.audit import audit
    from slt_nna.audit_report import audit_report, write_page
    from slt_nna.chip import load_chip
    from slt_nna.deployment import place, scores

    described = load_chip(chip)
    for path in (as_json, html):
        _check_writable(path)
    placed = place(bundle, described, _items(inputs, limit), overrides=settings or (), range_rule=range_rule)
    found = audit(placed.transform, placed.pipeline.model, placed.inputs, call=scores, each=not kinds, progress=_tell)
    Console().result(_audit_text(found, len(found.rows) if every else MOST_SHOWN))
    _write_json(as_json, found.to_dict())
    if html is not None:
        command = f"slt nna audit {bundle} {chip} {' '.join(inputs)}"
        write_page(
            audit_report(found, title=f"{Path(bundle).name} on the chip {described.name}", command=command), html
        )


@app.command("cost")
def cost_command(
    bundle: SpecPath,
    chip: ChipArgument,
    inputs: Inputs,
    limit: Limit = 1,
    every: Annotated[bool, typer.Option("--all", help="print every operator, not only the slowest")] = False,
    as_json: JsonFile = None,
    settings: Settings = None,
) -> None:
    """Count what a model costs on a chip for each second of sound: multiply-accumulates, bytes, hand-overs, latency.

    Every input is one call. The search behind the model's scores is the host's and is not counted.
    """
    from slt_nna.chip import load_chip
    from slt_nna.cost import account
    from slt_nna.deployment import place, scores

    described = load_chip(chip)
    _check_writable(as_json)
    placed = place(bundle, described, _items(inputs, limit), overrides=settings or ())
    found = [
        account(placed.transform, placed.pipeline.model, value, audio_s=seconds or None, call=scores)
        for value, seconds in zip(placed.inputs, placed.audio_s, strict=True)
    ]
    for one in found:
        Console().result(_cost_text(one, len(one.sites) if every else MOST_SHOWN))
    _write_json(as_json, {"calls": [one.to_dict() for one in found]})


def _items(inputs: list[str], limit: int) -> list[Item]:
    from itertools import islice

    from sltcore.data import iter_inputs

    return list(islice(iter_inputs(inputs), limit))


def _audit_text(found: Audit, most: int) -> str:
    from slt_nna.audit_report import db_text

    lines = [
        f"{found.chip.name}: {db_text(found.whole_db)} with everything on the chip "
        f"({counted(found.utterances, 'utterance')})",
        "",
    ]
    kinds = _table(["operators on the chip", "output"], right=(1,))
    for kind, db in found.kinds.items():
        kinds.add_row(f"every {kind}", db_text(db))
    lines.append(_printed(kinds))
    if found.rows:
        table = _table(["operator alone on the chip", "kind", "output", "its own output"], right=(2, 3))
        for row in found.rows[:most]:
            table.add_row(row.site, row.operator, db_text(row.output_db), db_text(row.own_db))
        lines += ["", _printed(table)]
    if len(found.rows) > most:
        lines.append(f"and {len(found.rows) - most} more; see them with --all")
    return "\n".join(lines)


def _cost_text(found: Account, most: int) -> str:
    sound = f" for {found.audio_s:.2f} s of sound" if found.audio_s else ""
    totals = _table([f"{found.chip.name}{sound}", "call", "per second"], right=(1, 2))
    for name, value, unit in (
        ("multiply-accumulates", found.macs / 1e6, "M"),
        ("of these on the host", found.host_macs / 1e6, "M"),
        ("bytes moved", found.bytes_moved / 1e6, "MB"),
        ("hand-overs to the chip", found.entries, ""),
        ("hand-overs to the host", found.exits, ""),
        ("time, chip", found.chip_s * 1e3, "ms"),
        ("time, host", found.host_s * 1e3, "ms"),
        ("time, hand-overs", found.crossing_s * 1e3, "ms"),
        ("time, all", found.latency_s * 1e3, "ms"),
    ):
        each = found.per_second(value)
        totals.add_row(name, _figure(value, unit), "" if each is None else _figure(each, unit))
    slowest = sorted(found.sites, key=lambda site: -site.seconds)
    table = _table(["operator", "kind", "where", "calls", "M MACs", "kB", "us"], right=(3, 4, 5, 6))
    for site in slowest[:most]:
        table.add_row(
            site.site,
            site.operator,
            "chip" if site.on_chip else "host",
            str(site.calls),
            f"{site.macs / 1e6:.3f}",
            f"{site.bytes_moved / 1e3:.1f}",
            f"{site.seconds * 1e6:.1f}",
        )
    more = [f"and {len(slowest) - most} more; see them with --all"] if len(slowest) > most else []
    told = [f"- {assumption}" for assumption in found.assumptions()]
    return "\n".join([_printed(totals), "", _printed(table), *more, "", "The times are those of a model:", *told])


def _figure(value: float, unit: str) -> str:
    if not unit:
        return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
    return f"{value:,.3f} {unit}"


def _table(titles: Sequence[str], *, right: Sequence[int]) -> RichTable:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False, header_style="")
    for place, title in enumerate(titles):
        table.add_column(title, justify="right" if place in right else "left", overflow="fold")
    return table


def _printed(table: RichTable) -> str:
    from rich.console import Console as RichConsole

    width = None if sys.stdout.isatty() else PIPED_COLUMNS
    console = RichConsole(width=width, color_system=None, force_terminal=False, markup=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _tell(done: int, runs: int) -> None:
    if done == runs or done % max(1, runs // 10) == 0:
        Console().say(f"{done} of {runs} runs of the model")


def _check_writable(path: Path | None) -> None:
    """A long measurement must not end in a folder that is not there. **Raises** `DataError`."""
    if path is not None and not path.parent.is_dir():
        raise DataError(f"{path} cannot be written: there is no folder {path.parent}; make it, or choose another")


def _write_json(path: Path | None, values: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        path.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; choose another file") from None
