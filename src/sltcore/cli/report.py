"""slt report: the page of an experiment or a training run, or of two side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sltcore.cli.console import Console
from sltcore.errors import DataError

if TYPE_CHECKING:
    from sltcore.report import Report

RESULTS, REPORT, METRICS = "results.json", "report.json", "metrics.jsonl"
COMPARISON = "comparison"


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="a folder of slt reproduce or of slt train, or a report.json")
    ],
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="OTHER", help="another such folder, to set beside it")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="where both files go; by default DIR, or DIR/comparison"),
    ] = None,
) -> None:
    """Write report.json and report.html, one page that needs no network, and print where it is.

    With --compare the page shows both sides, and the difference of every value of every arm, DIR minus OTHER. A run that
    is not finished is reported as far as it has come. Exit codes: 0 written, 2 there is nothing to report.
    """
    from sltcore.report.comparison import compare as side_by_side
    from sltcore.report.page import write

    found = read_report(folder)
    target = folder.parent if folder.is_file() else folder
    if compare is not None:
        if compare.resolve() == folder.resolve():
            raise DataError(f"--compare {compare}: is the same folder as DIR; name another run")
        found = side_by_side(found, read_report(compare), names=_names(folder, compare))
        target = target / COMPARISON
    _, page = write(found, out or target)
    for problem in found.problems:
        Console().warn(problem)
    Console().result(str(page))


def read_report(path: Path) -> Report:
    """The report of a folder: of its results, of its training, or the one that lies in it; or of a report.json.

    **Raises** `DataError` when there is none of them.
    """
    if path.is_file():
        return _read(path)
    if not path.exists():
        raise DataError(f"{path}: there is no such folder; name one that slt reproduce or slt train has written")
    if (path / RESULTS).is_file():
        from sltcore.experiment.summary import summarize

        summary: Report = summarize(path)
        return summary
    if (path / METRICS).is_file():
        from sltcore.report.training import training_report

        return training_report(path)
    if (path / REPORT).is_file():
        return _read(path / REPORT)
    raise DataError(
        f"{path}: holds no {RESULTS} of slt reproduce, no {METRICS} of slt train and no {REPORT}; name the folder given to their --out"
    )


def _read(path: Path) -> Report:
    from sltcore.report import Report

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise DataError(f"{path}: is not JSON; name a report.json, or a folder of slt reproduce or slt train") from None
    return Report.from_dict(values, source=str(path))


def _names(folder: Path, other: Path) -> tuple[str, str]:
    """The last parts of both paths that tell them apart."""
    ours, theirs = folder.resolve().parts, other.resolve().parts
    for count in range(1, max(len(ours), len(theirs)) + 1):
        names = "/".join(ours[-count:]), "/".join(theirs[-count:])
        if names[0] != names[1]:
            return names
    return str(folder), str(other)
