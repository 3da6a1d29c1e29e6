"""Which experiments the installed plugins bring: the `experiments` folder of each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from sltcore.errors import PluginError, SltError, did_you_mean
from sltcore.experiment.keys import package_folder
from sltcore.registry import Found, scan

FOLDER = "experiments"
MAIN = "main"
ENDINGS = (".yaml", ".yml")
_HIGHEST = 4  # folders above a module in which its checkout is looked for


class Experiment(NamedTuple):
    """An experiment of a plugin: `sizes` are those of its spec, `title` its heading."""

    plugin: str
    name: str
    path: Path
    title: str = ""
    sizes: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """How `slt reproduce` calls it."""
        return f"{self.plugin}/{self.name}"


def experiments_of(plugin: str, *, path: Iterable[str] | None = None) -> list[Experiment]:
    """The experiments of an installed plugin, by name; none where it brings none.

    They lie in the folder `experiments` of the plugin's package, or, where it is installed for editing, beside its
    pyproject.toml. The plugin itself is not imported. `path` restricts the search as in `scan`.

    **Raises** `PluginError` when no such plugin is installed.
    """
    found = {entry.plugin: entry for entry in scan(path)}
    if plugin not in found:
        raise PluginError(
            f"no plugin is named '{plugin}'; installed: {', '.join(found) or 'none'}.{did_you_mean(plugin, found)}"
        )
    return _of(found[plugin])


def all_experiments(*, path: Iterable[str] | None = None) -> list[Experiment]:
    """The experiments of every installed plugin."""
    return [experiment for entry in scan(path) for experiment in _of(entry)]


def find_experiment(address: str, *, path: Iterable[str] | None = None) -> Experiment:
    """The experiment that PLUGIN/EXPERIMENT or PLUGIN means; without a name the one called `main`.

    **Raises** `PluginError` naming the experiments that exist.
    """
    plugin, slash, name = address.partition("/")
    found = {experiment.name: experiment for experiment in experiments_of(plugin, path=path)}
    wanted = name if slash else MAIN
    if wanted in found:
        return found[wanted]
    if not found:
        raise PluginError(f"plugin '{plugin}' brings no experiment; those there are: slt reproduce")
    choices = ", ".join(f"{plugin}/{known}" for known in found)
    what = f"plugin '{plugin}' has no experiment '{name}'" if slash else f"plugin '{plugin}' has no experiment '{MAIN}'"
    raise PluginError(f"{what}; choose one of: {choices}.{did_you_mean(wanted, found)}")


def _of(found: Found) -> list[Experiment]:
    for folder in _folders(found):
        files = sorted(path for path in folder.glob("*") if path.suffix in ENDINGS and path.is_file())
        if files:
            return [described(found.plugin, path) for path in files]
    return []


def _folders(found: Found) -> Iterable[Path]:
    package = package_folder(found.value.partition(":")[0].partition(".")[0])
    if package is not None and package.is_dir():
        yield package / FOLDER
    checkout = _checkout(found.distribution)
    if checkout is not None:
        yield checkout / FOLDER
    if package is not None:
        for above in list(package.parents)[:_HIGHEST]:
            if (above / "pyproject.toml").is_file():
                yield above / FOLDER
                return


def _checkout(distribution: str) -> Path | None:
    """Where a distribution lies that is installed for editing, as pip notes it."""
    try:
        noted = json.loads(metadata.distribution(distribution).read_text("direct_url.json") or "{}")
        if not noted["dir_info"]["editable"]:
            return None
        url = urlsplit(noted["url"])
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return None
    return Path(url2pathname(unquote(url.path))) if url.scheme == "file" else None


def described(plugin: str, path: Path) -> Experiment:
    """An experiment with what a list shows of it; a spec that cannot be read is listed with the reason."""
    from sltcore.spec.document import read_document

    try:
        data: Any = read_document(path).data
    except SltError as error:
        return Experiment(plugin, path.stem, path, f"cannot be read: {str(error).splitlines()[0]}")
    if not isinstance(data, dict):
        return Experiment(plugin, path.stem, path, "cannot be read: it is no map")
    sizes = data.get("sizes")
    title = data.get("title") or data.get("description") or ""
    return Experiment(
        plugin, path.stem, path, " ".join(str(title).split()), tuple(sizes) if isinstance(sizes, dict) else ()
    )
