"""The weights that the installed package `hama` carries: found without importing it, checked, and read as tensors."""

from __future__ import annotations

import hashlib
import math
import struct
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sltcore.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

VERSION = "1.7.0"
WEIGHTS_FILE = "assets/asr_waveform.hama"
# Earlier and later releases hold other networks under the same file name.
WEIGHTS_SHA256 = "a9fcfe73e179ca48e399cd76a90a6b3e1887bf5037ecc52b778d13a149563328"
REMEDY = f'pip install "hama=={VERSION}"'

_MAGIC = b"HAMAPK\x01\x02"
_DTYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
_DATA_ALIGNMENT = 16
# The exporter numbers its anonymous matrices; per block: ffn1.fc1, ffn1.fc2, in_proj, out_proj, ffn2.fc1, ffn2.fc2.
_MATRICES = (
    (829, 830, 831, 835, 836, 837),
    (838, 839, 840, 844, 845, 846),
    (847, 848, 849, 853, 854, 855),
    (856, 857, 858, 862, 863, 864),
)
_MATRIX_NAMES = ("ffn1.fc1", "ffn1.fc2", "attn.in_proj", "attn.out_proj", "ffn2.fc1", "ffn2.fc2")
_DEPTHWISE = (804, 807, 810, 813)
_PREFIX = "acoustic_model.model."


def package_file(name: str) -> Path:
    """The path of file `name` inside the installed package `hama`, which is located but not imported.

    Raises:
        DataError: the package, or the file in it, is not installed.
    """
    spec = util.find_spec("hama")
    roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not roots:
        raise DataError(
            f"hama-conformer reads its weights from the package hama {VERSION}, which is not installed: {REMEDY}"
        )
    for root in roots:
        if (path := Path(root) / name).is_file():
            return path
    raise DataError(f"the installed package hama {_installed_version()} has no {name}; {VERSION} has it: {REMEDY}")


def read_weights() -> dict[str, np.ndarray]:
    """Every tensor of the installed package's recogniser, after its sha256 has been checked.

    Raises:
        DataError: the package is missing, or its weights are not those of 1.7.0.
    """
    path = package_file(WEIGHTS_FILE)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != WEIGHTS_SHA256:
        raise DataError(
            f"hama-conformer needs {WEIGHTS_FILE} of hama {VERSION} (sha256 {WEIGHTS_SHA256[:12]}…), but the installed "
            f"hama {_installed_version()} has another (sha256 {found[:12]}…) at {path}: {REMEDY}"
        )
    return read_tensors(content, str(path))


def read_tensors(content: bytes, origin: str) -> dict[str, np.ndarray]:
    """The named arrays of a `.hama` file, float32 or float16 as stored, as read-only views of `content`.

    Layout, little-endian: 8 bytes of magic; u32 count; for each tensor u16 length of the name, the name, u8 dtype
    (0 float32, 1 float16), u8 number of axes, u32 sizes, u64 offset, u64 bytes. Offsets count from the end of this
    header rounded up to a multiple of 16: without the rounding every tensor is shifted and still looks plausible.

    Raises:
        DataError: `content` is cut short or is no such file; `origin` names it in the message.
    """
    if content[:8] != _MAGIC:
        raise DataError(f"{origin} is not a .hama file: it starts with {content[:8]!r}, expected {_MAGIC!r}: {REMEDY}")
    try:
        entries, end = _read_header(content)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{origin} has a broken header ({error}): {REMEDY}") from error
    start = -(-end // _DATA_ALIGNMENT) * _DATA_ALIGNMENT
    tensors = {}
    for name, dtype, shape, offset, size in entries:
        count = math.prod(shape)
        if count * dtype.itemsize != size or start + offset + size > len(content):
            raise DataError(
                f"{origin}: tensor {name} {shape} takes {size} bytes at {start + offset}, which a file of "
                f"{len(content)} bytes does not hold: {REMEDY}"
            )
        tensors[name] = np.frombuffer(content, dtype, count, start + offset).reshape(shape)
    return tensors


def pretrained_state() -> dict[str, Tensor]:
    """The state dict of `HamaConformer`, float32, from the installed package.

    Raises:
        DataError: the package is missing, or its weights are not those of 1.7.0.
    """
    import torch

    stored = read_weights()
    renamed = {
        "front_end.mel_filters": stored["mel_fb"],
        "front_end.real_kernel": stored["stft_real_kernel"][:, 0],
        "front_end.imag_kernel": stored["stft_imag_kernel"][:, 0],
        "stem.weight": stored["onnx::Conv_801"],
        "stem.bias": stored["onnx::Conv_802"],
        "head.weight": stored[_PREFIX + "proj.weight"][..., 0],
        "head.bias": stored[_PREFIX + "proj.bias"],
    }
    for block, (numbers, depthwise) in enumerate(zip(_MATRICES, _DEPTHWISE, strict=True)):
        for name, number in zip(_MATRIX_NAMES, numbers, strict=True):
            # Stored for x @ W; nn.Linear keeps the transpose.
            renamed[f"blocks.{block}.{name}.weight"] = stored[f"onnx::MatMul_{number}"].T
        renamed[f"blocks.{block}.conv.depthwise.weight"] = stored[f"onnx::Conv_{depthwise}"]
        renamed[f"blocks.{block}.conv.depthwise.bias"] = stored[f"onnx::Conv_{depthwise + 1}"]
    for name, array in stored.items():
        if name.startswith(_PREFIX + "blocks."):
            # Pointwise convolutions of width 1 are linear maps.
            matrix = array[..., 0] if array.ndim == 3 else array
            renamed[name.removeprefix(_PREFIX).replace("in_proj_bias", "in_proj.bias")] = matrix
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in renamed.items()}


def _read_header(content: bytes) -> tuple[list[tuple[str, np.dtype[Any], tuple[int, ...], int, int]], int]:
    """One (name, dtype, shape, offset, bytes) for each tensor, and the position where the header ends."""
    position = len(_MAGIC)
    (count,) = struct.unpack_from("<I", content, position)
    position += 4
    entries = []
    for _ in range(count):
        (length,) = struct.unpack_from("<H", content, position)
        position += 2
        name = content[position : position + length].decode()
        position += length
        dtype, axes = _DTYPES[content[position]], content[position + 1]
        position += 2
        shape = struct.unpack_from(f"<{axes}I", content, position)
        position += 4 * axes
        offset, size = struct.unpack_from("<QQ", content, position)
        position += 16
        entries.append((name, dtype, shape, offset, size))
    return entries, position


def _installed_version() -> str:
    try:
        return metadata.version("hama")
    except metadata.PackageNotFoundError:
        return "(version unknown)"
