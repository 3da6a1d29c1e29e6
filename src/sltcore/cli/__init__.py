"""The command line `slt`; each command imports what it needs when it runs."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `slt` script."""
    import os

    # pydantic's plugin loader reads the entry points of every installed distribution and stops at the first malformed
    # file; `slt doctor` must survive what it is asked to find.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    from sltcore.cli.app import run

    run()
