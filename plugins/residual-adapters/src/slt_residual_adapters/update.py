"""An update: what was trained, for what and on which base, in one safetensors file."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slt_residual_adapters.branches import EPS
from sltcore.bundle import provenance, weights
from sltcore.errors import BundleError, PluginError

FORMAT = 1
KEY = "slt_update"
SUFFIX = ".safetensors"
META = "meta"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Update:
    """One update: `tensors` by place and part (`down`, `up`, ...), and everything there is to know about it.

    - `name`: lower-case letters, digits, hyphens; `words`: what it teaches; `card`: plain facts of its training data.
    - `base`: sha256 of each part of the base, as `hash_model` gives it.
    - `method`: "residual" or "lora"; `activation`, `eps`: of its bottlenecks; `scale`: of its low-rank products.
    - `placement`: the patterns that chose the places.
    """

    name: str
    base: Mapping[str, str]
    tensors: Mapping[str, Mapping[str, Tensor]]
    words: tuple[str, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    placement: tuple[str, ...] = ()
    method: str = "residual"
    activation: str = "silu"
    eps: float = EPS
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """The largest width of its bottlenecks."""
        return max((len(parts["down"]) for parts in self.tensors.values() if "down" in parts), default=0)

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(tensor.numel() for parts in self.tensors.values() for tensor in parts.values())

    def facts(self) -> dict[str, Any]:
        """Everything but the tensors, as plain data."""
        kept = {name: value for name, value in self.__dict__.items() if name != "tensors"}
        return {"format": FORMAT, **json.loads(json.dumps(kept)), "places": sorted(self.tensors)}


def check_name(name: str) -> str:
    """`name` itself. **Raises** `PluginError` for what cannot be the name of an update."""
    if not NAME.fullmatch(name):
        raise PluginError(
            f"update '{name}': a name has lower-case letters, digits, - and _, at most 64, such as 'monday-brands'"
        )
    return name


def to_tensors(update: Update) -> dict[str, Tensor]:
    """An update as named tensors alone, its facts among them as the bytes of JSON."""
    facts = json.dumps(update.facts(), sort_keys=True, ensure_ascii=False).encode()
    found = {META: torch.frombuffer(bytearray(facts), dtype=torch.uint8)}
    for place, parts in update.tensors.items():
        found.update({f"{place}.{part}": tensor for part, tensor in parts.items()})
    return found


def from_tensors(tensors: Mapping[str, Tensor], where: str) -> Update:
    """What `to_tensors` wrote. **Raises** `PluginError` where the facts are missing or of another format."""
    if META not in tensors:
        raise PluginError(f"{where}: it holds no facts of an update; train it anew")
    rest = {name: tensor for name, tensor in tensors.items() if name != META}
    return _assembled(bytes(tensors[META].cpu().tolist()).decode(), rest, where)


def _assembled(text: str, tensors: Mapping[str, Tensor], where: str) -> Update:
    try:
        facts = dict(json.loads(text))
        found = facts.pop("format")
        facts.pop("places")
    except (ValueError, KeyError, TypeError):
        raise PluginError(f"{where}: the facts of the update cannot be read; copy the file again") from None
    if found != FORMAT:
        raise PluginError(
            f"{where}: format {found} is not {FORMAT}, which this version reads. Next: pip install -U sltcore-residual-adapters"
        )
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        place, _, part = name.rpartition(".")
        parts.setdefault(place, {})[part] = tensor
    try:
        facts.update({key: tuple(facts[key]) for key in ("words", "placement")})
        return Update(tensors=parts, **facts)
    except (KeyError, TypeError) as error:
        raise PluginError(f"{where}: the facts of the update are not complete ({error}); copy the file again") from None


def save_update(update: Update, path: str | Path) -> Path:
    """Write one file, beside the place and renamed. **Raises** `BundleError` when it cannot be written."""
    from safetensors.torch import save

    target = Path(path)
    facts = json.dumps(update.facts(), sort_keys=True, ensure_ascii=False)
    tensors = {
        f"{place}.{part}": tensor.detach().cpu().contiguous()
        for place, parts in sorted(update.tensors.items())
        for part, tensor in sorted(parts.items())
    }
    write_file(target, save(tensors, metadata={KEY: facts}))
    return target


def write_file(target: Path, content: bytes) -> None:
    """All of a file or nothing. **Raises** `BundleError` when it cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(name, 0o644)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror or error}") from None


def read_update(path: str | Path) -> Update:
    """An update from its file, or from the bundle that training left.

    **Raises** `PluginError` for what is no update, or a bundle that holds none or several; `BundleError` for a damaged
    bundle.
    """
    source = Path(path)
    return _of_bundle(source) if source.is_dir() else _of_file(source)


def _of_file(path: Path) -> Update:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise PluginError(f"update {path}: there is no such file; give a file of `slt adapters save`") from None
    except (SafetensorError, OSError) as error:
        raise PluginError(f"update {path}: it cannot be read: {' '.join(str(error).split())}") from None
    if facts is None:
        raise PluginError(
            f"update {path}: it is a safetensors file, but no update; make one with `slt adapters save BUNDLE {path.name}`"
        )
    return _assembled(facts, tensors, f"update {path}")


def _of_bundle(folder: Path) -> Update:
    facts = provenance.read(folder)
    found = updates_in(weights.read_weights(folder / weights.NAME), str(folder))
    if len(found) != 1:
        held = f"{len(found)} updates ({', '.join(found)})" if found else "no update"
        raise PluginError(f"bundle {folder} holds {held}, expected one; give the bundle that training one update left")
    (update,) = found.values()
    training = facts.get("training") or {}
    card = {key: training[key] for key in ("data", "fingerprint", "steps", "values") if key in training}
    return Update(**{**update.__dict__, "card": {**card, **update.card}})


def updates_in(stored: Mapping[str, Tensor], where: str) -> dict[str, Update]:
    """The updates among a bundle's tensors, by name."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        place = re.fullmatch(r"(?:transforms\.\d+\.)?updates\.([^.]+)\.(.+)", name)
        if place is not None:
            parts.setdefault(place[1], {})[place[2]] = tensor
    return {name: from_tensors(tensors, f"{where}: update '{name}'") for name, tensors in parts.items()}
