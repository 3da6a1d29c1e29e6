"""Updates that were added to a bundle: a folder beside the base's own files, which stay as they are.

`updates/added.json` lists what is added, with the sha256 of each file; `updates/NAME.safetensors` are the updates. The
bundle's provenance does not know of them, so that taking the folder away restores the bundle bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slt_residual_adapters.base_hash import hash_bundle, refuse_other_base
from slt_residual_adapters.fusion import LEARNED
from slt_residual_adapters.plugin import ADDED
from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.update import SUFFIX, Update, check_name, read_update, save_update, write_file
from sltcore.bundle import provenance
from sltcore.context import merge_keys
from sltcore.errors import BundleError, PluginError, SpecError, did_you_mean

FORMAT = 1
NEEDS = "sltcore-residual-adapters"
FUSIONS = ("sum", "average", "stack")


class Entry(NamedTuple):
    """One added update: its name, the sha256 of its file, and its weight."""

    name: str
    sha256: str
    weight: float = 1.0


class Added(NamedTuple):
    """What stands in `added.json`: entries in the order they were added, and how they are fused."""

    entries: tuple[Entry, ...] = ()
    fusion: str = "sum"

    @property
    def names(self) -> list[str]:
        """The names in order."""
        return [entry.name for entry in self.entries]


def read_added(folder: Path) -> Added:
    """What is added to a bundle; nothing where the file is not there. **Raises** `BundleError` for a damaged file."""
    path = folder / ADDED
    if not path.exists():
        return Added()
    try:
        data = json.loads(path.read_bytes())
        if data["format"] != FORMAT:
            raise BundleError(
                f"bundle {folder}: {ADDED} has format {data['format']}, expected {FORMAT}. Next: pip install -U {NEEDS}"
            )
        entries = tuple(
            Entry(check_name(one["name"]), str(one["sha256"]), float(one["weight"])) for one in data["updates"]
        )
        return Added(entries, _checked_fusion(data["fusion"]))
    except (ValueError, KeyError, TypeError, OSError, PluginError, SpecError):
        raise BundleError(
            f"bundle {folder}: {ADDED} is cut or changed; remove the folder updates and add the updates again"
        ) from None


def add(
    bundle: str | Path, sources: Sequence[str | Path], *, weight: float | None = None, fusion: str | None = None
) -> list[Update]:
    """Add updates to a bundle: files, or bundles that training one left. An update that is added already may be given
    another `weight` in this way. Returns the updates.

    **Raises** `PluginError` for an update of another base, for a name that another update has, and for a bundle whose spec
    has adapters of its own; `BundleError` for a damaged bundle; `SpecError` for an unknown fusion.
    """
    folder = Path(bundle)
    base = hash_bundle(folder)
    _refuse_own_adapters(folder)
    before = read_added(folder)
    updates = [read_update(source) for source in sources]
    entries = {entry.name: entry for entry in before.entries}
    for update in updates:
        refuse_other_base(check_name(update.name), update.base, base, what=f"bundle {folder}")
    contents = {update.name: _content(update) for update in updates}
    if len(contents) < len(updates):
        raise PluginError("two of the updates have one name; give each a name of its own")
    for name, content in contents.items():
        known, digest = entries.get(name), hashlib.sha256(content).hexdigest()
        if known is not None and known.sha256 != digest:
            raise PluginError(
                f"bundle {folder}: another update named '{name}' is added; remove it first: slt adapters remove {folder} {name}"
            )
        kept = 1.0 if known is None else known.weight
        entries[name] = Entry(name, digest, kept if weight is None else weight)
    mode = _checked_fusion(before.fusion if fusion is None else fusion)
    for name, content in contents.items():
        write_file(_file(folder, name), content)
    _write(folder, Added(tuple(entries.values()), mode))
    return updates


def remove(bundle: str | Path, names: Sequence[str]) -> None:
    """Take updates away; with the last one the bundle is bit for bit what it was before the first was added.

    **Raises** `PluginError` for a name that is not added, `BundleError` for a damaged bundle.
    """
    folder = Path(bundle)
    provenance.read(folder)
    before = read_added(folder)
    for name in names:
        if name not in before.names:
            has = ", ".join(before.names) or "none"
            raise PluginError(
                f"bundle {folder}: no update named '{name}' is added; added are: {has}.{did_you_mean(name, before.names)}"
            )
    kept = tuple(entry for entry in before.entries if entry.name not in names)
    if not kept:
        shutil.rmtree(folder / ADDED.partition("/")[0])
        return
    _write(folder, before._replace(entries=kept))
    for name in names:
        _file(folder, name).unlink(missing_ok=True)


def read_all(bundle: str | Path) -> dict[str, tuple[Update, Entry]]:
    """The added updates by name. **Raises** `BundleError` for one whose file is missing or was changed."""
    folder = Path(bundle)
    return {entry.name: (_read(folder, entry), entry) for entry in read_added(folder).entries}


def attach_added(pipeline: Any, folder: Path) -> None:
    """Give a pipeline that is being loaded from `folder` the updates added there, unless its spec has adapters.

    **Raises** `BundleError` for damaged files, `PluginError` for updates of another base.
    """
    if any(isinstance(transform, ResidualAdapters) for transform in pipeline.transforms):
        return
    added = read_added(folder)
    updates = [_read(folder, entry) for entry in added.entries]
    if not updates:
        return
    base = hash_bundle(folder)
    for update in updates:
        refuse_other_base(update.name, update.base, base, what=f"bundle {folder}")
    weights = {entry.name: entry.weight for entry in added.entries}
    fusion: Any = added.fusion
    adapters = ResidualAdapters(updates=updates, fusion=fusion, weights=weights, is_external=True)
    pipeline.transforms.append(adapters)
    owners = [("the pipeline", tuple(pipeline.context_keys.values())), ("added updates", adapters.context_keys())]
    pipeline.context_keys = merge_keys(owners)


def refuse_saving(pipeline: Any) -> None:
    """**Raises** `BundleError` for a pipeline with added updates: a saved copy would lose them, or have them for good."""
    for transform in pipeline.transforms:
        if isinstance(transform, ResidualAdapters) and transform.is_external:
            names = ", ".join(transform.updates)
            raise BundleError(
                f"the bundle has added updates ({names}), which cannot be saved into another; copy the folder as it is, or "
                f"remove them first (slt adapters remove)"
            )


def _read(folder: Path, entry: Entry) -> Update:
    path = _file(folder, entry.name)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise BundleError(f"bundle {folder}: {path.name} of {ADDED} is missing; add the update again") from None
    if found != entry.sha256:
        raise BundleError(
            f"bundle {folder}: {path.name} does not match {ADDED} (sha256 {found[:8]}… ≠ {entry.sha256[:8]}…); remove the "
            f"update and add it again"
        )
    return read_update(path)


def _content(update: Update) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        return save_update(update, Path(place) / f"{update.name}{SUFFIX}").read_bytes()


def _file(folder: Path, name: str) -> Path:
    return folder / Path(ADDED).parent / f"{name}{SUFFIX}"


def _write(folder: Path, added: Added) -> None:
    data: Mapping[str, Any] = {
        "format": FORMAT,
        "needs": NEEDS,
        "fusion": added.fusion,
        "updates": [entry._asdict() for entry in added.entries],
    }
    write_file(folder / ADDED, json.dumps(data, indent=1).encode() + b"\n")


def _checked_fusion(fusion: str) -> str:
    if fusion in LEARNED:
        raise SpecError(
            f"fusion '{fusion}' is learned, so it needs a pipeline with the updates in its spec; added updates take "
            f"{', '.join(FUSIONS)}"
        )
    if fusion not in FUSIONS:
        raise SpecError(
            f"no fusion is named '{fusion}'; added updates take: {', '.join(FUSIONS)}.{did_you_mean(fusion, FUSIONS)}"
        )
    return fusion


def _refuse_own_adapters(folder: Path) -> None:
    for path, info in provenance.read(folder, verify=False)["components"].items():
        if info["kind"] == "adapter" and info["distribution"] == NEEDS:
            raise PluginError(
                f"bundle {folder}: its spec has adapters of its own ({path}); add to the base that they were trained on, or "
                f"name the files in {path}.updates"
            )
