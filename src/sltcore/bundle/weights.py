"""Weights to and from one safetensors file, shared tensors stored once."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltcore.errors import BundleError
from sltcore.interfaces import Part, overrides

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "weights.safetensors"


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Write `tensors`; returns alias -> first name for those that are one and the same tensor.

    Views that show another part or shape of a stored tensor are stored beside it. **Raises** `BundleError` for a value
    that is no tensor (torch's extra state).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    from torch import Tensor

    first: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise BundleError(
                f"{name} is a {type(tensor).__name__}, but a bundle holds tensors only; keep it in save_files"
            )
        key = (
            tensor.device,
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tuple(tensor.shape),
            tensor.stride(),
            tensor.dtype,
        )
        if tensor.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        kept[name] = tensor.detach().cpu().clone().contiguous()
    try:
        save_file(kept, path, metadata={"format": "pt"})
    except SafetensorError as error:  # its name for an OSError, a full disk among them
        raise BundleError(f"{path} cannot be written: {' '.join(str(error).split())}") from None
    return aliases


def read_weights(path: Path) -> dict[str, Tensor]:
    """All stored tensors; **Raises** `BundleError` when the file is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def read_header(path: Path) -> dict[str, Any]:
    """Names, types and shapes of the tensors, without torch; **Raises** `BundleError` when the header is damaged."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise BundleError(f"{path}: the header cannot be read: {error}") from None
    header.pop("__metadata__", None)
    return dict(header)


def renamed(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a bundle, `model.*` and `transforms.N.*`, under the names that the components of `model` have for
    them today; see `Part.renamed`."""
    parts = [
        (f"{name}.", module)
        for name, module in model.named_modules()
        if name and isinstance(module, Part) and overrides(module, "renamed", Part)
    ]
    found = {}
    for name, tensor in tensors.items():
        head = re.match(r"model\.|transforms\.\d+\.", name)
        start, rest = ("", name) if head is None else (head[0], name[head.end() :])
        for prefix, part in parts:
            if rest.startswith(prefix):
                rest = prefix + part.renamed(rest.removeprefix(prefix))
        found[start + rest] = tensor
    return found


def fill_model(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    bundle: Path,
    replaced: Iterable[str] = (),
    fresh: bool = False,
) -> None:
    """Copy `tensors` into `model`. Below the spec paths in `replaced` a stored tensor may go unused, and with `fresh` a
    tensor of the model whose stage (or whose list entry) one of them changes may stay as it is where none of its shape
    is stored; and where such a stage now holds the stored one inside, as a wrapper does, its tensors go there.

    **Raises** `BundleError` when the model needs a tensor that the bundle lacks, has another shape, or leaves one unused
    elsewhere.
    """
    replaced = tuple(replaced)
    paths = [path + "." for path in replaced]
    wanted = model.state_dict()
    if fresh:
        tensors = _in_wrappers(tensors, wanted, replaced)
        wanted = {name: tensor for name, tensor in wanted.items() if not _stays(name, tensor, tensors, replaced)}
        paths += [name for name in tensors if _changed(name, replaced) and name not in wanted]
    missing = [name for name in wanted if name not in tensors]
    if missing:
        hint = "; the overrides ask for weights that were never saved" if paths else ""
        raise BundleError(
            f"bundle {bundle}: {NAME} holds no {missing[0]}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}, which the model needs{hint}"
        )
    unused = [name for name in tensors if name not in wanted and not any(name.startswith(path) for path in paths)]
    if unused:
        raise BundleError(
            f"bundle {bundle}: {NAME} holds {unused[0]}{f' and {len(unused) - 1} more' if len(unused) > 1 else ''}, for which this model has no place; the installed plugin may be another version, see `slt show {bundle}`"
        )
    for name, tensor in wanted.items():
        if tensors[name].dtype.is_floating_point != tensor.dtype.is_floating_point:
            raise BundleError(
                f"bundle {bundle}: {name} holds {tensors[name].dtype}, but the model expects {tensor.dtype}; the installed plugin may be another version"
            )
        if tuple(tensors[name].shape) != tuple(tensor.shape):
            raise BundleError(
                f"bundle {bundle}: {name} has shape {tuple(tensors[name].shape)}, but the model expects {tuple(tensor.shape)}; did an override change a size?"
            )
    model.load_state_dict({name: tensors[name] for name in wanted}, strict=not fresh)


def _in_wrappers(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], replaced: Sequence[str]
) -> dict[str, Tensor]:
    """`tensors`, those of a stage that now stands inside another component under the names that they have there."""
    moved = dict(tensors)
    for stage in {name.partition(".")[0] for name in tensors}:
        own = {name.removeprefix(f"{stage}."): t for name, t in tensors.items() if name.startswith(f"{stage}.")}
        if not _changed(f"{stage}.", replaced) or any(f"{stage}.{rest}" in wanted for rest in own):
            continue
        longest = max(own, key=len)
        ends = [name.removesuffix(longest) for name in wanted if name.endswith(f".{longest}")]
        inside = [place for place in ends if place.startswith(f"{stage}.") and _fits(own, wanted, place)]
        if len(inside) == 1:
            for rest in own:
                moved[inside[0] + rest] = moved.pop(f"{stage}.{rest}")
    return moved


def _fits(own: Mapping[str, Tensor], wanted: Mapping[str, Tensor], place: str) -> bool:
    return all(place + rest in wanted and wanted[place + rest].shape == tensor.shape for rest, tensor in own.items())


def _stays(name: str, tensor: Tensor, tensors: Mapping[str, Tensor], replaced: Sequence[str]) -> bool:
    """Whether a tensor of a changed component has no counterpart in the bundle."""
    stored = tensors.get(name)
    return (stored is None or stored.shape != tensor.shape) and _changed(name, replaced)


def _changed(name: str, replaced: Sequence[str]) -> bool:
    """Whether a setting is about the component that holds the tensor: `decoder.characters` about `decoder.head.bias`."""
    stage = name.partition(".")[0]
    return any(path.partition(".")[0].partition("[")[0] == stage for path in replaced)
