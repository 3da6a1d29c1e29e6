"""`python -m sltcore.cli`: the command line for launchers that start modules, such as `accelerate launch`."""

from __future__ import annotations

from sltcore.cli import main

if __name__ == "__main__":
    main()
