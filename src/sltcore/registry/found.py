"""What a scan finds: a plugin that is announced, before anything of it is imported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """One announced plugin, not imported.

    `shadowed` lists further copies of its distribution later on the path; `problem` and `remedy` are set when its
    metadata cannot be used, and it is then not imported.
    """

    plugin: str
    value: str
    distribution: str
    version: str
    location: str
    shadowed: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""

    @property
    def key(self) -> str:
        """Distribution and entry name: unique, unlike either."""
        return f"{self.distribution}/{self.plugin}"
