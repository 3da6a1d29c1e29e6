"""Which plugins are announced: entry points of group `sltcore`, read from the metadata of installed distributions.

Whatever is wrong with a distribution's metadata becomes the `problem` of its plugin; nothing here raises for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from sltcore.errors import PluginError, did_you_mean
from sltcore.plugin import ENTRY_POINT_GROUP
from sltcore.registry.found import Found
from sltcore.registry.rows import describe_error

_HEADER = re.compile(r"^(Name|Version):[ \t]*(\S+)", re.MULTILINE)


def scan(path: Iterable[str] | None = None) -> list[Found]:
    """Every announced plugin, sorted by distribution; of two copies of one distribution the first on the path counts."""
    first: dict[str, metadata.Distribution] = {}
    shadowed: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    for distribution in metadata.distributions(path=list(path)) if path is not None else metadata.distributions():
        if ENTRY_POINT_GROUP not in _read(distribution, "entry_points.txt"):
            continue
        name = canonical(_headers(distribution).get("Name") or _folder_name(distribution))
        place = _place(distribution)
        if name not in first:
            first[name], places[name] = distribution, place
        elif place != places[name] and place not in shadowed.get(name, ()):
            if _beside(place, places[name]) and _rank(distribution, place) > _rank(first[name], places[name]):
                first[name], places[name], place = distribution, place, places[name]
            shadowed.setdefault(name, []).append(place)
    return [
        found
        for name in sorted(first)
        for found in _announced(name, first[name], tuple(shadowed.get(name, ())), places[name])
    ]


def _announced(name: str, distribution: metadata.Distribution, shadowed: tuple[str, ...], place: str) -> list[Found]:
    headers = _headers(distribution)
    about = {
        "distribution": name,
        "version": headers.get("Version", "?"),
        "location": str(distribution.locate_file("")),
    }
    again = f"pip install --force-reinstall {name}"
    try:
        points = [point for point in distribution.entry_points if point.group == ENTRY_POINT_GROUP]
    except Exception as error:
        problem = f"{place}/entry_points.txt cannot be parsed ({describe_error(error)})"
        return [Found(name, "?", **about, shadowed=shadowed, problem=problem, remedy=again)]
    values: dict[str, list[str]] = {}
    for point in points:
        values.setdefault(point.name, []).append(point.value)
    found = []
    for plugin in sorted(values):
        problem, remedy = "", ""
        if not headers:
            problem = f"{place} holds no METADATA: the rest of an installation that was removed or never finished"
            remedy = f"delete that folder, or {again}"
        elif len(values[plugin]) > 1:
            problem = f"{place}/entry_points.txt announces '{plugin}' {len(values[plugin])} times"
            remedy = "keep one entry point of that name and reinstall it"
        found.append(Found(plugin, values[plugin][0], **about, shadowed=shadowed, problem=problem, remedy=remedy))
    return found


def selected(found: Found, environ: Mapping[str, str] = os.environ) -> str | None:
    """None when the plugin may load, else the setting that keeps it out.

    `SLT_PLUGINS` is an allow list of entry names or distributions (empty: none), `SLT_DISABLE` a deny list.
    """
    names = _names(found)
    allowed = environ.get("SLT_PLUGINS")
    if allowed is not None and not names & set(_words(allowed)):
        return "SLT_PLUGINS"
    if names & set(_words(environ.get("SLT_DISABLE", ""))):
        return "SLT_DISABLE"
    return None


def settings_problems(found: Iterable[Found], environ: Mapping[str, str] = os.environ) -> list[str]:
    """What `SLT_PLUGINS` and `SLT_DISABLE` name that no installed plugin is called, one line each."""
    announced = list(found)
    known = set().union(*(_names(item) for item in announced)) if announced else set()
    plugins = sorted({item.plugin for item in announced})
    return [
        f"{setting} names '{word}', which no installed plugin or distribution is called; "
        f"plugins: {', '.join(plugins) or 'none'}.{did_you_mean(word, sorted(known))}"
        for setting in ("SLT_PLUGINS", "SLT_DISABLE")
        for word in _words(environ.get(setting, ""))
        if word not in known
    ]


def is_strict(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a problem raises instead of becoming a row. **Raises** `PluginError` when `SLT_STRICT` is not 0 or 1."""
    value = environ.get("SLT_STRICT", "")
    if value not in ("", "0", "1"):
        raise PluginError(f"SLT_STRICT is {value!r}, expected 1 (a plugin's problem is an error) or 0 (it is a row)")
    return value == "1"


def canonical(name: str) -> str:
    """A distribution's name in the spelling that packaging tools compare (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(found: Found) -> set[str]:
    return {canonical(name) for name in (found.plugin, found.distribution, found.key)}


def _words(value: str) -> list[str]:
    return [canonical(word.strip()) for word in value.split(",") if word.strip()]


def _read(distribution: metadata.Distribution, name: str) -> str:
    """A metadata file's text; bytes that are no UTF-8 are replaced, so that a damaged file still names its plugin."""
    try:
        return distribution.read_text(name) or ""
    except UnicodeDecodeError:
        return (Path(_place(distribution)) / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _headers(distribution: metadata.Distribution) -> dict[str, str]:
    """Name and Version from the head of the metadata, which is all that is needed and much faster than parsing it."""
    text = _read(distribution, "METADATA") or _read(distribution, "PKG-INFO")
    return dict(_HEADER.findall(text.partition("\n\n")[0]))


def _folder_name(distribution: metadata.Distribution) -> str:
    return Path(_place(distribution)).name.partition("-")[0] or "unnamed"


def _beside(place: str, other: str) -> bool:
    return os.path.dirname(place) == os.path.dirname(other)


def _rank(distribution: metadata.Distribution, place: str) -> tuple[bool, str]:
    """Two copies in one folder come in no order of their own: one that is whole wins, then the later name."""
    return bool(_headers(distribution)), place


def _place(distribution: metadata.Distribution) -> str:
    """The distribution's own metadata folder; the standard library keeps it in a private attribute."""
    path = getattr(distribution, "_path", None)
    return os.path.realpath(str(path if path is not None else distribution.locate_file("")))
