"""The hash that ties an update to the base it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sltcore.bundle import provenance, weights
from sltcore.errors import PluginError

ROOT = "model"
"""Name of the part that holds tensors of the model itself, outside of its children."""


def hash_model(model: nn.Module) -> dict[str, str]:
    """sha256 of each child of `model` by name, over the parameters and buffers that a bundle keeps.

    Each tensor counts with its name, dtype, shape and bytes; their order does not, nor does the device.
    """
    return hash_tensors(model.state_dict())


def hash_bundle(folder: Path) -> dict[str, str]:
    """The same of the model in a bundle, read from its file. **Raises** `BundleError` for a damaged bundle."""
    facts = provenance.read(folder)
    stored = weights.read_weights(folder / weights.NAME)
    stored.update({alias: stored[name] for alias, name in facts["aliases"].items()})
    inside = {name.removeprefix("model."): tensor for name, tensor in stored.items() if name.startswith("model.")}
    return hash_tensors(inside)


def hash_tensors(tensors: Mapping[str, Any]) -> dict[str, str]:
    """sha256 for each first part of the tensors' dotted names; what is no tensor (torch's extra state) is passed over."""
    parts: dict[str, Any] = {}
    for name, tensor in sorted(tensors.items()):
        if not isinstance(tensor, Tensor):
            continue
        child, dot, _ = name.partition(".")
        digest = parts.setdefault(child if dot else ROOT, hashlib.sha256())
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(_bytes(tensor))
    return {child: digest.hexdigest() for child, digest in sorted(parts.items())}


def _bytes(tensor: Tensor) -> Any:
    """Something hashlib reads without a copy."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()


def refuse_other_base(name: str, expected: Mapping[str, str], found: Mapping[str, str], *, what: str) -> None:
    """**Raises** `PluginError` naming the parts in which the base at hand is not the one that an update belongs to."""
    differing = differing_parts(expected, found)
    if differing:
        raise PluginError(
            f"update '{name}' was trained on another base than {what}: {', '.join(differing)} "
            f"{'differs' if len(differing) == 1 else 'differ'} (sha256 {short(expected, differing[0])} of the update's base, "
            f"{short(found, differing[0])} here); train it on this base, or add it to its own"
        )


def differing_parts(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Names of the parts that are not the same in both."""
    names: Iterable[str] = sorted({*expected, *found})
    return [name for name in names if expected.get(name) != found.get(name)]


def short(hashes: Mapping[str, str], part: str) -> str:
    """The first digits of a part's hash, as messages show it."""
    return f"{hashes[part][:8]}…" if part in hashes else "none"
