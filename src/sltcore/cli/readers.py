"""The second reader of entry points, the `entrypoints` package: what it reads otherwise than `importlib.metadata`.

Two programs that read the same files and disagree point at a shadowed duplicate, a malformed line or a stale folder.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sltcore.plugin import ENTRY_POINT_GROUP
from sltcore.registry import Found, scan
from sltcore.registry.rows import describe_error


class Second(NamedTuple):
    """One entry point as the second reader has it: `value` is empty when its line does not parse."""

    plugin: str
    value: str
    folder: str
    problem: str = ""


def reader_differences(folders: list[str] | None) -> list[str]:
    """Every difference between the two readers, and every duplicate that the first one hides, one line each."""
    places = folders or [place for place in sys.path if place and Path(place).is_dir()]
    theirs = [second for place in dict.fromkeys(os.path.realpath(place) for place in places) for second in _read(place)]
    ours = scan(folders)
    hidden = {place for found in ours for place in found.shadowed}
    known = {(found.plugin, _bare(found.value)) for found in ours}
    read = {(second.plugin, second.value) for second in theirs if not second.problem}
    problems = [
        f"{found.distribution} is installed more than once: the one in {found.location} ({found.version}) wins over {place}. "
        f"Next: delete that folder, or pip uninstall {found.distribution} until none is left and install it again"
        for found in _by_distribution(ours)
        for place in found.shadowed
    ]
    problems += [
        f"{second.folder}: {second.problem}. Next: reinstall that distribution" for second in theirs if second.problem
    ]
    problems += [
        f"{found.plugin}: only importlib.metadata finds '{found.value}' (in {found.location}). Next: reinstall {found.distribution}"
        for found in ours
        if not found.problem
        and (found.plugin, _bare(found.value)) not in read
        and not any(second.problem and second.plugin in ("", found.plugin) for second in theirs)
    ]
    problems += [
        f"{second.plugin}: only the entrypoints package finds '{second.value}', in {second.folder}, a folder that is no "
        "installed distribution any more. Next: delete it"
        for second in theirs
        if not second.problem and (second.plugin, second.value) not in known and second.folder not in hidden
        and not any(found.problem and found.plugin == second.plugin for found in ours)
    ]  # fmt: skip
    return problems


def strangers(folders: list[str] | None) -> list[str]:
    """The distribution named `sltcore` on PyPI belongs to somebody else."""
    from importlib import metadata

    found = metadata.distributions(name="sltcore", path=folders) if folders else metadata.distributions(name="sltcore")
    return [
        f"distribution 'sltcore' {one.version} in {one.locate_file('')} is another project's, ours is sltcore-lib. "
        "Next: pip uninstall sltcore, then pip install --force-reinstall sltcore-lib"
        for one in found
    ]


def _read(place: str) -> Iterator[Second]:
    """One distribution's file after another, each in its own try, for one malformed file stops the package's own loop."""
    import entrypoints

    for pattern in ("*.dist-info", "*.egg-info"):
        for folder in sorted(Path(place).glob(pattern)):
            file = folder / "entry_points.txt"
            if not file.is_file() or ENTRY_POINT_GROUP.encode() not in file.read_bytes():
                continue
            parser = entrypoints.CaseSensitiveConfigParser(delimiters=("=",))
            try:
                parser.read([str(file)], encoding="utf-8")
            except (configparser.Error, UnicodeDecodeError) as error:
                yield Second("", "", str(folder), f"entry_points.txt does not parse ({describe_error(error)})")
                continue
            section = dict(parser[ENTRY_POINT_GROUP]) if parser.has_section(ENTRY_POINT_GROUP) else {}
            for name in section:
                try:
                    point = entrypoints.EntryPoint.from_string(section[name], name)
                except entrypoints.BadEntryPoint:
                    problem = f"entry point '{name}' reads '{section[name]}', expected package.module"
                    yield Second(name, "", str(folder), problem)
                else:
                    value = point.module_name + (f":{point.object_name}" if point.object_name else "")
                    yield Second(name, value, str(folder))


def _bare(value: str) -> str:
    return value.partition("[")[0].replace(" ", "")


def _by_distribution(found: list[Found]) -> list[Found]:
    return list({item.distribution: item for item in found}.values())
