"""What a learned fusion is outside of training: one file, tied to the updates and the base that it was learned over."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from slt_residual_adapters.base_hash import differing_parts, hash_tensors, short
from slt_residual_adapters.update import Update, updates_in, write_file
from sltcore.bundle import provenance, weights
from sltcore.errors import PluginError

FORMAT = 1
KEY = "slt_fusion"
INSIDE = re.compile(r"(?:transforms\.(\d+)\.)?fusion\.(.+)")


@dataclass(frozen=True)
class LearnedFusion:
    """`attention` or `gate` over some updates: `tensors` by place and part.

    - `base`: sha256 of each part of the base; `updates`: sha256 of each update by name, see `fingerprint`.
    - `factors`: the updates' weights in training, 1 for those not named; `card`: plain facts of its training data.
    """

    mode: str
    base: Mapping[str, str]
    updates: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    factors: Mapping[str, float] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def fingerprint(update: Update) -> str:
    """sha256 of what an update computes: its tensors, method, activation, eps and scale; not its words or card."""
    how = f"{update.method}\0{update.activation}\0{update.eps!r}\0{update.scale!r}\0"
    flat = {f"update.{place}.{part}": t for place, parts in update.tensors.items() for part, t in parts.items()}
    return hashlib.sha256((how + hash_tensors(flat).get("update", "")).encode()).hexdigest()


def holds_fusion(path: str | Path) -> bool:
    """Whether a file, or the bundle that training left, is a learned fusion; False for what cannot be read."""
    from safetensors import SafetensorError, safe_open

    source = Path(path)
    try:
        with safe_open(source / weights.NAME if source.is_dir() else source, framework="pt") as file:
            if not source.is_dir():
                return KEY in (file.metadata() or {})
            return bool(_inside(file.keys()))
    except (OSError, SafetensorError):
        return False


def read_fusion(path: str | Path) -> LearnedFusion:
    """A fusion from its file, or from the bundle that training left.

    **Raises** `PluginError` for what is none, or was not trained to its end; `BundleError` for a damaged bundle.
    """
    source = Path(path)
    return _of_bundle(source) if source.is_dir() else _of_file(source)


def save_fusion(fusion: LearnedFusion, path: str | Path) -> Path:
    """Write one file, all or nothing. **Raises** `BundleError` when it cannot be written."""
    target = Path(path)
    write_file(target, to_bytes(fusion))
    return target


def to_bytes(fusion: LearnedFusion) -> bytes:
    """The content of a fusion's file."""
    from safetensors.torch import save

    facts = {"format": FORMAT, **{name: value for name, value in fusion.__dict__.items() if name != "tensors"}}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(fusion.tensors.items())}
    return save(tensors, metadata={KEY: json.dumps(facts, sort_keys=True, ensure_ascii=False)})


def refuse_unfit(fusion: LearnedFusion, updates: Mapping[str, Update], base: Mapping[str, str], *, what: str) -> None:
    """**Raises** `PluginError` where the updates or the base at hand are not those that the fusion was learned over."""
    differing = differing_parts(fusion.base, base)
    if differing:
        raise PluginError(
            f"the {fusion.mode} fusion was learned on another base than {what}: {', '.join(differing)} "
            f"(sha256 {short(fusion.base, differing[0])} then, {short(base, differing[0])} here); train it on this base"
        )
    missing = sorted(fusion.updates.keys() - updates.keys())
    more = sorted(updates.keys() - fusion.updates.keys())
    if missing or more:
        said = f"'{missing[0]}' is not added" if missing else f"'{more[0]}' was not among them"
        raise PluginError(
            f"{what}: the {fusion.mode} fusion was learned over {', '.join(fusion.updates)}, but {said}; add exactly those, or "
            f"train a fusion over the updates that are there"
        )
    for name, update in updates.items():
        if fingerprint(update) != fusion.updates[name]:
            raise PluginError(
                f"{what}: the {fusion.mode} fusion was learned over another update '{name}' (sha256 "
                f"{fusion.updates[name][:8]}… then, {fingerprint(update)[:8]}… here); train it over this one"
            )


def _of_file(path: Path) -> LearnedFusion:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise PluginError(f"fusion {path}: it cannot be read: {' '.join(str(error).split())}") from None
    if text is None:
        raise PluginError(
            f"fusion {path}: it is no learned fusion; make one with `slt adapters save BUNDLE {path.name}`"
        )
    try:
        facts = dict(json.loads(text))
        found = facts.pop("format")
    except (ValueError, KeyError, TypeError):
        raise PluginError(f"fusion {path}: its facts cannot be read; copy the file again") from None
    if found != FORMAT:
        raise PluginError(
            f"fusion {path}: format {found} is not {FORMAT}, which this version reads. Next: pip install -U sltcore-residual-adapters"
        )
    try:
        return LearnedFusion(tensors=tensors, **facts)
    except TypeError as error:
        raise PluginError(f"fusion {path}: its facts are not complete ({error}); copy the file again") from None


def _of_bundle(folder: Path) -> LearnedFusion:
    facts = provenance.read(folder)
    stored = weights.read_weights(folder / weights.NAME)
    inside = _inside(stored)
    if not inside:
        raise PluginError(f"bundle {folder} holds no learned fusion; give the bundle that training one left")
    finished = torch.tensor(True)
    for name, place in inside.items():
        if place == "finished":
            finished = stored[name]
    tensors = {place: stored[name] for name, place in inside.items() if place != "finished"}
    if not bool(finished):
        raise PluginError(f"bundle {folder}: its fusion is still being trained; give the bundle that a whole run left")
    updates = updates_in(stored, str(folder))
    training = facts.get("training") or {}
    card = {key: training[key] for key in ("data", "fingerprint", "steps", "values") if key in training}
    return LearnedFusion(
        mode="gate" if any(".rows." in place for place in tensors) else "attention",
        base=next(iter(updates.values())).base,
        updates={name: fingerprint(update) for name, update in updates.items()},
        tensors=tensors,
        factors=_factors(folder, next(iter(inside))),
        card=card,
    )


def _inside(names: Any) -> dict[str, str]:
    """A fusion's own tensors, by name in the bundle; none where nothing is learned but the updates."""
    found = {name: match[2] for name in names if (match := INSIDE.fullmatch(name))}
    return found if set(found.values()) - {"finished"} else {}


def _factors(folder: Path, name: str) -> dict[str, float]:
    """The updates' weights in the bundle's spec; `name`: of one of the fusion's tensors."""
    match = INSIDE.fullmatch(name)
    spec = yaml.safe_load((folder / "spec.yaml").read_text(encoding="utf-8"))
    blocks = spec.get("transforms") or []
    place = int(match[1] or 0) if match is not None else 0
    return {key: float(value) for key, value in (blocks[place].get("weights") or {}).items()}
