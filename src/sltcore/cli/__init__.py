"""The command line `slt`; each command imports what it needs when it runs."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `slt` script."""
    from sltcore.cli.app import run

    run()
