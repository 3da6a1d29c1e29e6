"""slt data list, fetch, show."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sltcore.cli.console import Console, table

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="List, fetch and show corpora."
)

AsJson = Annotated[bool, typer.Option("--json", help="everything as JSON")]
Name = Annotated[str, typer.Argument(metavar="CORPUS", help="a name that `slt data list` shows")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the corpora that are described, and which lie on this machine."""
    from sltcore.data import list_corpora

    found = list_corpora()
    if as_json:
        Console().result(json.dumps(found, ensure_ascii=False, indent=1, default=str))
        return
    rows = [
        [
            entry["name"],
            ",".join(entry["languages"]),
            entry["utterances"],
            f"{entry['minutes']:.0f}",
            entry["speakers"],
            "yes" if entry["fetched"] else "-",
            entry["license"],
        ]
        for entry in found
    ]
    Console().result(table(["corpus", "language", "utterances", "minutes", "speakers", "on disk", "licence"], rows))


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="CORPUS...", help="names that `slt data list` shows")],
) -> None:
    """Make corpora available on this machine, without root; what is there already is not fetched again."""
    from sltcore.data import fetch as fetch_corpus

    console = Console()
    for name in names:
        found = fetch_corpus(name, progress=console.say)
        places = ", ".join(str(root) for root in found.roots) or "the hub"
        versions = ", ".join(f"{package} {version}" for package, version in found.versions.items())
        console.result(f"{found.name}: {found.source}{f' ({versions})' if versions else ''}, {places}")


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Print a corpus's licence, source, columns and split rule, and counts where it lies on this machine."""
    from sltcore.data import show as facts_of

    facts = facts_of(name)
    if as_json:
        Console().result(json.dumps(facts, ensure_ascii=False, indent=1, default=str))
        return
    width = max(len(key) for key in facts)
    lines = []
    for key, value in facts.items():
        text = (
            json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list | tuple) else str(value)
        )
        lines.append(f"{key.ljust(width)}  {text}")
    Console().result("\n".join(lines))
