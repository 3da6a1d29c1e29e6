"""`slt sub8bit`: what is done with bundles that hold quantized weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sltcore.cli.console import Console, counted, table

if TYPE_CHECKING:
    from slt_sub8bit.bundle_report import BundleReport, KernelBytes

PIPED_COLUMNS = 10_000  # as wide as it takes where nobody watches

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Quantized models: what they take, and how to use them elsewhere.",
)


@app.callback()
def group() -> None:
    """Quantized models: what they take, and how to use them elsewhere."""


@app.command()
def report(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="a bundle with a quantizer, finished or not")],
    as_json: Annotated[bool, typer.Option("--json", help="every number as one JSON object")] = False,
) -> None:
    """Account for every byte of a bundle's weights: kernel by kernel, in the file and in memory.

    `packed` are the codes, `table` the levels with their scales, `share` both over what float32 takes.
    """
    from slt_sub8bit.bundle_report import report_bundle

    found = report_bundle(bundle)
    if as_json:
        Console().result(json.dumps(found.to_dict(), ensure_ascii=False, indent=1))
        return
    Console().result(_kernel_table(found) + "\n\n" + _totals(found))


def _kernel_table(found: BundleReport) -> str:
    from rich.console import Console as RichConsole
    from rich.table import Table

    rows = Table(box=None, pad_edge=False, show_edge=False, header_style="")
    for title in ("weight", "shape", "bits", "levels", "packed", "table", "float", "share"):
        rows.add_column(title, justify="left" if title in ("weight", "shape") else "right", overflow="fold")
    for kernel in found.kernels:
        rows.add_row(*_cells(kernel))
    width = None if sys.stdout.isatty() else PIPED_COLUMNS
    console = RichConsole(width=width, color_system=None, force_terminal=False, markup=False)
    with console.capture() as capture:
        console.print(rows)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _cells(kernel: KernelBytes) -> list[str]:
    numbers = (kernel.code_bytes, kernel.table_bytes + kernel.scale_bytes, kernel.float_bytes)
    return [
        kernel.name,
        "x".join(map(str, kernel.shape)),
        str(kernel.bits),
        str(kernel.levels),
        *(f"{number:,}" for number in numbers),
        f"{100 * kernel.share:.1f} %",
    ]


def _totals(found: BundleReport) -> str:
    left = [f"{name or 'the model itself'} ({found.reasons[name]})" for name in found.untouched]
    largest = ", ".join(f"{name} {taken:,}" for name, taken in found.largest_others.items())
    lines = [
        f"{counted(len(found.kernels), 'kernel')}: {found.kernel_bytes:,} bytes, "
        f"{100 * found.kernel_bytes / max(1, found.kernel_float_bytes):.1f} % of {found.kernel_float_bytes:,} in float32",
        f"other tensors: {found.other_bytes:,} bytes" + (f", the largest {largest}" if largest else ""),
        f"{counted(len(left), 'module')} left alone: {', '.join(left)}"
        if left
        else "no module with a matrix of its own is left alone",
        f"weights.safetensors: {found.file_bytes:,} bytes = {found.tensor_bytes:,} of tensors + {found.header_bytes:,} of header",
    ]
    for predicted, measured in found.errors:
        lines.append(
            f"bits chosen for a budget: output error {predicted:.2g} predicted (the sum over kernels alone), "
            f"{measured:.2g} measured with all at once, before training"
        )
    states = found.tensor_bytes - found.kernel_bytes - found.other_bytes
    if not found.is_finished:
        lines.append(
            f"not finished: the file holds float weights; finished, its tensors take {found.disk_bytes:,} bytes: slt pack BUNDLE DIR --finish"
        )
        return "\n".join(lines)
    if states:
        lines.append(f"of the tensors {states:,} bytes are what other transforms keep")
    anew = found.memory_bytes - found.disk_bytes
    lines.append(
        f"in memory: {found.memory_bytes:,} bytes" + (f", {anew:,} of them made anew when loading" if anew else "")
    )
    return "\n".join(lines)


@app.command()
def export(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="a bundle with a finished quantizer, or without any")],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="the file to write")],
    as_json: Annotated[bool, typer.Option("--json", help="the figures as one JSON object")] = False,
) -> None:
    """Write encoder and head as ONNX with quantized weights, and check it in ONNX Runtime.

    The graph takes what the encoder takes after its front end (features [b t f], or samples [b n], and lengths [b]) and
    gives log-probabilities [b t v] (or frames [b t d] without a head), and their lengths.
    """
    from slt_sub8bit.pipeline_export import export_pipeline
    from sltcore.bundle import load

    done = export_pipeline(load(bundle), out)
    console = Console()
    if as_json:
        console.result(json.dumps({**done._asdict(), "path": str(done.path)}, ensure_ascii=False, indent=1))
        return
    console.result(table(["weight", "stored as"], [[name, how] for name, how in done.kernels.items()]) + "\n")
    console.result(
        f"{done.path}: {done.file_bytes:,} bytes ({done.float_bytes:,} with float weights); ONNX Runtime differs from the "
        f"model by {done.difference:.2g} at most ({done.default_difference:.2g} with its own settings), where the largest "
        f"output is {done.largest:.3g}"
    )
