"""What a bundle's quantized weights take, to the byte: kernel by kernel, in the file and in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from slt_sub8bit.packed import packed_weights
from slt_sub8bit.packing import packed_bytes
from slt_sub8bit.quantizer import ALLOCATION, ALLOCATION_BYTES, Sub8bit
from sltcore.bundle import load_bundle
from sltcore.bundle.weights import NAME as WEIGHTS
from sltcore.bundle.weights import read_header
from sltcore.errors import BundleError, PluginError

FLOAT_BYTES = 4
"""Bytes of a float32, in which tables and scales are stored."""
MOST_SHOWN = 3


class KernelBytes(NamedTuple):
    """One quantized kernel: bytes of its packed codes, of its table, of its scales, and of the same weights in float32."""

    name: str
    shape: tuple[int, ...]
    bits: int
    levels: int
    code_bytes: int
    table_bytes: int
    scale_bytes: int
    float_bytes: int

    @property
    def stored_bytes(self) -> int:
        """Codes, table and scales."""
        return self.code_bytes + self.table_bytes + self.scale_bytes

    @property
    def share(self) -> float:
        """What is stored over what float32 takes."""
        return self.stored_bytes / self.float_bytes


class BundleReport(NamedTuple):
    """What a bundle takes.

    `file_bytes` is the size of weights.safetensors: a header of `header_bytes`, and `tensor_bytes`. `disk_bytes` and
    `memory_bytes` are what `Quantizer.report` says of the loaded model: its tensors once every quantizer is finished, and
    those in memory with what is made anew there. `other_bytes` of the model's tensors in the file are no quantized kernels,
    `largest_others` the largest of them. `untouched` are the modules that keep a float matrix, `reasons` say why. Where
    `is_finished` is false the file still holds float weights, and rows and `disk_bytes` say what finishing would leave.
    `errors` are the predicted and the measured error of each quantizer whose bits were chosen for a budget.
    """

    kernels: tuple[KernelBytes, ...]
    untouched: tuple[str, ...]
    is_finished: bool
    file_bytes: int
    header_bytes: int
    tensor_bytes: int
    disk_bytes: int
    memory_bytes: int
    other_bytes: int
    largest_others: Mapping[str, int]
    reasons: Mapping[str, str]
    errors: tuple[tuple[float, float], ...]

    @property
    def kernel_bytes(self) -> int:
        """Codes, tables and scales of all kernels."""
        return sum(kernel.stored_bytes for kernel in self.kernels)

    @property
    def kernel_float_bytes(self) -> int:
        """The same weights in float32."""
        return sum(kernel.float_bytes for kernel in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        rows = [
            {
                **kernel._asdict(),
                "shape": list(kernel.shape),
                "stored_bytes": kernel.stored_bytes,
                "share": kernel.share,
            }
            for kernel in self.kernels
        ]
        totals = {name: getattr(self, name) for name in ("kernel_bytes", "kernel_float_bytes")}
        errors = [{"predicted": predicted, "measured": measured} for predicted, measured in self.errors]
        return {**self._asdict(), "kernels": rows, "untouched": list(self.untouched), "errors": errors, **totals}


def report_bundle(folder: str | Path) -> BundleReport:
    """Account for every byte of a bundle's weights.

    **Raises** `BundleError` for a folder that is no bundle, or is damaged, and `PluginError` for one without a quantizer
    of this plugin.
    """
    folder = Path(folder)
    _refuse_other(folder)
    pipeline = load_bundle(folder)
    quantizers = [transform for transform in pipeline.transforms if isinstance(transform, Sub8bit)]
    if not quantizers:
        raise PluginError(
            f"bundle {folder} has no quantizer of sub8bit, its transforms are: {_transforms(pipeline)}; train it on with one, "
            f"by `pipeline: {folder}` and `set: {{transforms: [{{use: sub8bit, bits: 4}}]}}` in a spec for slt train"
        )
    sizes = [quantizer.report(pipeline.model) for quantizer in quantizers]
    rows = [_rows(quantizer, pipeline.model) for quantizer in quantizers]
    left = set.intersection(*(set(size.untouched) for size in sizes))
    unpacked = zip(quantizers[1:], rows[1:], strict=True)  # the first one's report counts these in float
    saved = sum(_float_bytes(quantizer) - sum(r.stored_bytes for r in own) for quantizer, own in unpacked)
    stored = {name: last - first for name, (first, last) in _offsets(folder)}
    tensors, file_bytes = sum(stored.values()), (folder / WEIGHTS).stat().st_size
    kernels = {f"model.{place.name}" for q in quantizers for kernel in q.kernels.values() for place in kernel.places}
    others = [name for name in stored if name.startswith("model.") and name not in kernels]
    measured = [name for name in stored if re.fullmatch(rf"transforms\.\d+\.{ALLOCATION}", name)]
    return BundleReport(
        tuple(row for own in rows for row in own),
        tuple(name for name in sizes[0].untouched if name in left),
        all(quantizer.is_finished for quantizer in quantizers),
        file_bytes,
        file_bytes - tensors,
        tensors,
        sizes[0].disk_bytes - saved + ALLOCATION_BYTES * sum(q.allocation is not None for q in quantizers[1:]),
        sizes[0].memory_bytes - saved,
        sum(stored[name] for name in (*others, *measured)),
        {n.removeprefix("model."): stored[n] for n in sorted(others, key=lambda n: -stored[n])[:MOST_SHOWN]},
        {name: why for name, why in quantizers[0].reasons(pipeline.model).items() if name in left},
        tuple((found.predicted, found.measured) for q in quantizers if (found := q.allocation) is not None),
    )


def _offsets(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Where each tensor of the weights' file begins and ends."""
    return ((name, tensor["data_offsets"]) for name, tensor in read_header(folder / WEIGHTS).items())


def _rows(quantizer: Sub8bit, model: nn.Module) -> list[KernelBytes]:
    """The kernels of one quantizer, finished or attached, in the order of the model."""
    rows = []
    held = packed_weights(model)
    order = {name: place for place, (name, _) in enumerate(model.named_parameters(remove_duplicate=False))}
    for name, kernel in sorted(quantizer.kernels.items(), key=lambda item: order.get(item[0], 0)):
        if quantizer.is_finished:
            levels, scales, bits = len(held[name].table), held[name].scale.numel(), held[name].bits
        else:
            found = quantizer.table(name)
            levels, scales, bits = len(found.table), found.scale.numel(), quantizer.widths[name]
        codes, in_float = packed_bytes(kernel.numel, bits), FLOAT_BYTES * kernel.numel
        rows.append(
            KernelBytes(name, kernel.shape, bits, levels, codes, FLOAT_BYTES * levels, FLOAT_BYTES * scales, in_float)
        )
    return rows


def _float_bytes(quantizer: Sub8bit) -> int:
    """What the float parameters of an attached quantizer's kernels take; of a finished one what they take packed."""
    if quantizer.is_finished:
        kept = [tensor for name, tensor in quantizer.state().items() if name != ALLOCATION]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)
    found = (kernel.parameter for kernel in quantizer.kernels.values())
    return sum(parameter.numel() * parameter.element_size() for parameter in found)


def _refuse_other(folder: Path) -> None:
    """**Raises** `BundleError` for what is not there, and for a file."""
    if not folder.exists():
        raise BundleError(f"bundle {folder}: there is no such folder; give one that `slt train` or `slt pack` wrote")
    if not folder.is_dir():
        raise BundleError(f"{folder} is a file, expected the folder of a bundle; make one with: slt pack {folder} DIR")


def _transforms(pipeline: Any) -> str:
    blocks = pipeline.spec.model.transforms
    return ", ".join(block.entry.component.name for block in blocks) or "none"
