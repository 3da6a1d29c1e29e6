"""slt train: a training run from its spec."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sltcore.cli.console import Console
from sltcore.cli.specs import Settings

RUNS = Path("runs")


def train(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="a spec of kind train")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="the run's folder; runs/ and the name of the spec, if not given"),
    ] = None,
    settings: Settings = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="begin anew and replace what stands in DIR")] = False,
) -> None:
    """Train what a spec describes; a run that was interrupted goes on from its last checkpoint.

    Prints the values of the result on the development data, and its bundle. Over several GPUs, or processes on CPUs:
    accelerate launch --multi_gpu --num_processes 2 -m sltcore.cli train SPEC.
    """
    import os

    folder = out if out is not None else RUNS / Path(spec).stem
    from sltcore.train import fit

    trained = fit(
        spec,
        out=folder,
        overrides=settings or (),
        resume=not fresh,
        quiet=Console.quiet,
        say=Console().say if Console.json else None,
    )
    if os.environ.get("RANK", "0") != "0":  # one of several processes; the first one speaks
        return
    console = Console()
    values = trained.best.get("values", trained.values)
    for name, value in values.items():
        console.result(f"{name}: {value:.4g}")
    console.result(f"{trained.bundle}")
