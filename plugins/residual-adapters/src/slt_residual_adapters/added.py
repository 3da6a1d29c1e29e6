"""Updates that were added to a bundle: a folder beside the base's own files, which stay as they are.

`updates/added.json` lists what is added, with the sha256 of each file; `updates/NAME.safetensors` are the updates, and
`updates/learned.fusion.safetensors` is their fusion where it was learned. The bundle's provenance does not know of them, so
that taking the folder away restores the bundle bit for bit.
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
from slt_residual_adapters.learned_fusion import LearnedFusion, holds_fusion, read_fusion, refuse_unfit, to_bytes
from slt_residual_adapters.plugin import ADDED
from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.update import SUFFIX, Update, check_name, read_update, save_update, write_file
from sltcore.bundle import provenance
from sltcore.context import merge_keys
from sltcore.errors import BundleError, PluginError, SpecError, did_you_mean

FORMAT = 2
WITHOUT_LEARNED = 1
"""The format that is written where no fusion was learned: versions that know no other read it, too."""
LEARNED_FILE = f"learned.fusion{SUFFIX}"
"""An update's name has no dot."""
NEEDS = "sltcore-residual-adapters"
LARGEST_WEIGHT = 100.0
FUSIONS = ("sum", "average", "stack")


class Entry(NamedTuple):
    """One added update: its name, the sha256 of its file, and its weight."""

    name: str
    sha256: str
    weight: float = 1.0


class Added(NamedTuple):
    """What stands in `added.json`: entries in the order they were added, how they are fused, and the sha256 of a learned
    fusion's file."""

    entries: tuple[Entry, ...] = ()
    fusion: str = "sum"
    learned: str = ""

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
        if data["format"] not in (WITHOUT_LEARNED, FORMAT):
            raise BundleError(
                f"bundle {folder}: {ADDED} has format {data['format']}, expected {FORMAT}. Next: pip install -U {NEEDS}"
            )
        entries = tuple(
            Entry(check_name(one["name"]), str(one["sha256"]), _checked_weight(float(one["weight"])))
            for one in data["updates"]
        )
        learned = str(data.get("learned", ""))
        return Added(entries, _read_mode(data["fusion"], learned), learned)
    except (ValueError, KeyError, TypeError, OSError, PluginError, SpecError):
        raise BundleError(
            f"bundle {folder}: {ADDED} is cut or changed; remove the folder updates and add the updates again"
        ) from None


def add(
    bundle: str | Path, sources: Sequence[str | Path], *, weight: float | None = None, fusion: str | None = None
) -> list[Update | LearnedFusion]:
    """Add updates to a bundle: files, or bundles that training one left; and a fusion that was learned over all of them, in
    the same ways. An update that is added already may be given another `weight` in this way. Returns what was added.

    **Raises** `PluginError` for an update of another base, for a name that another update has, for a bundle whose spec has
    adapters of its own, and for a learned fusion beside other updates or weights than it was learned over; `BundleError`
    for a damaged bundle; `SpecError` for an unknown fusion.
    """
    folder = Path(bundle)
    base = hash_bundle(folder)
    _refuse_own_adapters(folder)
    before = read_added(folder)
    if weight is not None:
        _checked_weight(weight)
    fusions = [read_fusion(source) for source in sources if holds_fusion(source)]
    updates = [read_update(source) for source in sources if not holds_fusion(source)]
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
    after = before._replace(entries=tuple(entries.values()))
    if fusions:
        there = {entry.name: _read(folder, entry) for entry in before.entries} | {one.name: one for one in updates}
        after = _with_learned(folder, after, fusions, there, base, fusion)
    else:
        after = _with_fusion(folder, before, after, fusion)
    for name, content in contents.items():
        write_file(_file(folder, name), content)
    if fusions:
        write_file(folder / Path(ADDED).parent / LEARNED_FILE, to_bytes(fusions[0]))
    _write(folder, after)
    if not after.learned:
        (folder / Path(ADDED).parent / LEARNED_FILE).unlink(missing_ok=True)
    return [*updates, *fusions]


def _with_learned(
    folder: Path, added: Added, fusions: Sequence[LearnedFusion], updates: Mapping[str, Update], base: Mapping[str, str],
    asked: str | None,
) -> Added:  # fmt: skip
    """What stands there with a learned fusion; **Raises** `PluginError` where it does not fit."""
    fusion = fusions[0]
    if len(fusions) > 1:
        raise PluginError(f"bundle {folder}: {len(fusions)} learned fusions are given, but it takes one")
    if asked not in (None, fusion.mode):
        raise SpecError(f"fusion '{asked}' is asked for, but the given one is {fusion.mode}; give one of the two")
    refuse_unfit(fusion, updates, base, what=f"bundle {folder}")
    for entry in added.entries:
        learned_with = fusion.factors.get(entry.name, 1.0)
        if entry.weight != learned_with:
            raise PluginError(
                f"bundle {folder}: the {fusion.mode} fusion was learned with weight {learned_with:g} of '{entry.name}', here "
                f"it is {entry.weight:g}; give its own, or train a fusion with this one"
            )
    return Added(added.entries, fusion.mode, hashlib.sha256(to_bytes(fusion)).hexdigest())


def _with_fusion(folder: Path, before: Added, after: Added, asked: str | None) -> Added:
    """What stands there when no learned fusion is given; **Raises** `PluginError` where one that is there would not fit."""
    if asked is not None and not (before.learned and asked == before.fusion):
        return Added(after.entries, _checked_fusion(asked))
    if before.learned and after.entries != before.entries:
        raise PluginError(
            f"bundle {folder}: its {before.fusion} fusion was learned over {', '.join(before.names)} as they are; also give a "
            f"fusion that was learned over all that shall be there, or take another: --fusion sum"
        )
    return after


def remove(bundle: str | Path, names: Sequence[str], *, fusion: str | None = None) -> None:
    """Take updates away; with the last one the bundle is bit for bit what it was before the first was added.

    Where the fusion was learned, the rest needs another one: `fusion`.

    **Raises** `PluginError` for a name that is not added, and for updates that a learned fusion needs; `BundleError` for a
    damaged bundle; `SpecError` for an unknown fusion.
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
    mode = before.fusion if fusion is None else _checked_fusion(fusion)
    if before.learned and mode == before.fusion:
        raise PluginError(
            f"bundle {folder}: its {before.fusion} fusion was learned over {', '.join(before.names)} and does not work without "
            f"'{names[0]}'; say how the rest shall be fused: --fusion sum, average or stack"
        )
    _write(folder, Added(kept, mode))
    for name in names:
        _file(folder, name).unlink(missing_ok=True)
    (folder / Path(ADDED).parent / LEARNED_FILE).unlink(missing_ok=True)


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
    learned = _read_learned(folder, added, updates, base) if added.learned else None
    width = next((len(t) for name, t in learned.tensors.items() if name.endswith(".query")), 1) if learned else 1
    fusion: Any = added.fusion
    adapters = ResidualAdapters(
        updates=updates, fusion=fusion, weights=weights, is_external=True, attention_width=width,
        learned=learned.tensors if learned else None,
    )  # fmt: skip
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


def _read_learned(folder: Path, added: Added, updates: Sequence[Update], base: Mapping[str, str]) -> LearnedFusion:
    path = folder / Path(ADDED).parent / LEARNED_FILE
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise BundleError(f"bundle {folder}: {path.name} of {ADDED} is missing; add the fusion again") from None
    if found != added.learned:
        raise BundleError(
            f"bundle {folder}: {path.name} does not match {ADDED} (sha256 {found[:8]}… ≠ {added.learned[:8]}…); add the "
            f"fusion again"
        )
    fusion = read_fusion(path)
    refuse_unfit(fusion, {update.name: update for update in updates}, base, what=f"bundle {folder}")
    return fusion


def _content(update: Update) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        return save_update(update, Path(place) / f"{update.name}{SUFFIX}").read_bytes()


def _file(folder: Path, name: str) -> Path:
    return folder / Path(ADDED).parent / f"{name}{SUFFIX}"


def _write(folder: Path, added: Added) -> None:
    data: Mapping[str, Any] = {
        "format": FORMAT if added.learned else WITHOUT_LEARNED,
        "needs": NEEDS,
        "fusion": added.fusion,
        **({"learned": added.learned} if added.learned else {}),
        "updates": [entry._asdict() for entry in added.entries],
    }
    write_file(folder / ADDED, json.dumps(data, indent=1).encode() + b"\n")


def _read_mode(fusion: Any, learned: str) -> str:
    return str(LEARNED[LEARNED.index(fusion)]) if learned else _checked_fusion(fusion)


def _checked_weight(weight: float) -> float:
    if not abs(weight) <= LARGEST_WEIGHT:  # NaN is not, either
        raise SpecError(
            f"the weight of updates is {weight:g}, expected a number from -{LARGEST_WEIGHT:g} to {LARGEST_WEIGHT:g}"
        )
    return weight


def _checked_fusion(fusion: str) -> str:
    if fusion in LEARNED:
        raise SpecError(
            f"fusion '{fusion}' is learned: give what training it left among the updates, a bundle or a file of `slt adapters "
            f"save`; others are {', '.join(FUSIONS)}"
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
