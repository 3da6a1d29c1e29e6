"""`slt sub8bit`: what is done with finished bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sltcore.cli.console import Console, table

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Use quantized models elsewhere."
)


@app.callback()
def group() -> None:
    """Use quantized models elsewhere."""


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
