"""`slt adapters`: updates of a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltcore.cli.console import Console, counted, table

if TYPE_CHECKING:
    from slt_residual_adapters.learned_fusion import LearnedFusion
    from slt_residual_adapters.release_check import ReleaseCheck
    from slt_residual_adapters.update import Update

EXIT_FAILED = 1
MOST_PAIRS = 10

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Updates of a bundle: add them, take them away, check them before a release.",
)

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="the bundle of the base")]
AsJson = Annotated[bool, typer.Option("--json", help="everything as one JSON object")]


@app.callback()
def group() -> None:
    """Updates of a bundle: add them, take them away, check them before a release."""


@app.command("save")
def save_command(
    trained: Annotated[Path, typer.Argument(metavar="TRAINED", help="the bundle that training one update left")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="the file to write")],
) -> None:
    """Take the update, or the learned fusion, out of the bundle that training left, as one small file."""
    from slt_residual_adapters.learned_fusion import holds_fusion, read_fusion, save_fusion
    from slt_residual_adapters.update import read_update, save_update

    if holds_fusion(trained):
        fusion = read_fusion(trained)
        path = save_fusion(fusion, out)
        Console().result(f"{path}: {_told(fusion)}, {path.stat().st_size:,} bytes")
        return
    update = read_update(trained)
    path = save_update(update, out)
    Console().result(f"{path}: update '{update.name}', {_size(update)}, {path.stat().st_size:,} bytes")


@app.command("add")
def add_command(
    bundle: Bundle,
    updates: Annotated[
        list[Path],
        typer.Argument(
            metavar="UPDATE...", help="files of updates or of a learned fusion, or bundles that training left"
        ),
    ],
    weight: Annotated[
        float | None, typer.Option("--weight", help="of these updates in the sum; 1 where not given")
    ] = None,
    fusion: Annotated[
        str | None, typer.Option("--fusion", metavar="NAME", help="of all added updates: sum, average or stack")
    ] = None,
) -> None:
    """Add updates to a bundle: everything that loads it then hears with them. The base's own files stay as they are.

    An update of another base is refused. To change the weight of one that is added, add it again. A fusion that was learned
    (attention, gate) is added like an update, to exactly those that it was learned over.
    """
    from slt_residual_adapters.added import add
    from slt_residual_adapters.learned_fusion import LearnedFusion

    for one in add(bundle, updates, weight=weight, fusion=fusion):
        told = _told(one) if isinstance(one, LearnedFusion) else f"'{one.name}', {_size(one)}"
        Console().result(f"{bundle}: added {told}")


@app.command("remove")
def remove_command(
    bundle: Bundle,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="names of added updates")],
    fusion: Annotated[
        str | None, typer.Option("--fusion", metavar="NAME", help="of those that stay: sum, average or stack")
    ] = None,
) -> None:
    """Take updates away; with the last one the bundle is what it was before, bit for bit.

    Where the fusion was learned over an update that goes, say how the rest is fused.
    """
    from slt_residual_adapters.added import remove

    remove(bundle, names, fusion=fusion)
    for name in names:
        Console().result(f"{bundle}: removed '{name}'")


@app.command("list")
def list_command(bundle: Bundle, as_json: AsJson = False) -> None:
    """List the updates that are added to a bundle, in the order they were added."""
    from slt_residual_adapters.added import read_added, read_all
    from sltcore.bundle import provenance

    provenance.read(bundle)
    found, fusion = read_all(bundle), read_added(bundle).fusion
    if as_json:
        rows = [
            {**update.facts(), **entry._asdict(), "rank": update.rank, "parameters": update.parameters}
            for update, entry in found.values()
        ]
        Console().result(json.dumps({"fusion": fusion, "updates": rows}, ensure_ascii=False, indent=1))
        return
    if not found:
        Console().result(f"{bundle}: no updates are added")
        return
    cells = [
        [
            name,
            f"{entry.weight:g}",
            update.method,
            str(update.rank),
            str(len(update.tensors)),
            f"{update.parameters:,}",
            _shortened(", ".join(update.words)),
        ]
        for name, (update, entry) in found.items()
    ]
    Console().result(table(["update", "weight", "method", "rank", "places", "parameters", "words"], cells))
    Console().result(f"\n{counted(len(found), 'update')}, fused by {fusion}")


@app.command("check")
def check_command(
    bundle: Bundle,
    inputs: Annotated[
        list[str], typer.Argument(metavar="GENERAL...", help="manifests of general audio with a column text")
    ],
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="check this update only; may repeat")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="use the first N utterances")] = None,
    wer_increase: Annotated[
        float,
        typer.Option(
            "--wer-increase", metavar="PERCENT", min=0, help="how much more word errors, in percent of the base's"
        ),
    ] = 1.0,
    upper: Annotated[
        bool, typer.Option("--upper", help="ask that of the upper end of the 95 % interval, not of the measured value")
    ] = False,
    insertions: Annotated[
        int,
        typer.Option("--insertions", metavar="N", min=0, help="how many more false insertions of an update's words"),
    ] = 0,
    same_frames: Annotated[
        float | None,
        typer.Option(
            "--same-frames", metavar="SHARE", min=0, max=1, help="how far two updates may move the same frames"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check updates on general audio before a release: what is lost, what is heard that nobody said, and which conflict.

    Exit codes: 0 all limits hold, 1 one does not, 2 the call is wrong.
    """
    from itertools import islice

    from slt_residual_adapters.release_check import Limits, check_release
    from sltcore.bundle import load
    from sltcore.data import iter_inputs

    limits = Limits(wer_increase / 100, upper, insertions, same_frames)
    found = check_release(load(bundle), islice(iter_inputs(inputs), limit), names=only, limits=limits)
    console = Console()
    if as_json:
        console.result(json.dumps(found.to_dict(), ensure_ascii=False, indent=1))
    else:
        console.result(_checked_text(found))
    for failure in found.failures:
        console.error(failure)
    raise typer.Exit(EXIT_FAILED if found.failures else 0)


def _checked_text(found: ReleaseCheck) -> str:
    more = {one.name: one for one in found.insertions}
    rows: list[list[Any]] = [
        [
            move.name,
            f"{100 * move.relative:.2f} %",
            f"{100 * move.largest:.2f} % at {move.place}",
            str(more[move.name].base),
            str(more[move.name].updated),
        ]
        for move in found.moves
    ]
    head = ["update", "moves frames by", "most", "false insertions, base", "updated"]
    lines = [
        f"{counted(found.utterances, 'utterance')} of general audio, {found.words:,} words",
        f"word errors: {found.base_wer:.2f} % without updates, {found.wer:.2f} % with them: {100 * found.increase:+.2f} % of the "
        f"base's, 95 % interval [{100 * found.increase_low:+.2f}, {100 * found.increase_high:+.2f}]",
        f"all updates together move frames by {100 * found.together:.2f} %",
        "",
        table(head, rows),
    ]
    if found.conflicts:
        pairs = [
            [f"{one.first}, {one.second}", f"{one.same_frames:.2f}", f"{one.agreement:+.2f}", f"{one.mean_cosine:+.2f}"]
            for one in found.conflicts[:MOST_PAIRS]
        ]
        lines += ["", table(["two updates", "same frames", "agreement", "cosine of means"], pairs)]
    return "\n".join(lines)


def _told(fusion: LearnedFusion) -> str:
    return f"the {fusion.mode} fusion of {', '.join(fusion.updates)}, {fusion.parameters:,} parameters"


def _size(update: Update) -> str:
    return f"{counted(len(update.tensors), 'place')}, {update.parameters:,} parameters"


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
