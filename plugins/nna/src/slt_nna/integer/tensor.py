"""Integer codes that code written for float tensors can carry around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_nna.integer.numbers import Codes
from slt_nna.tags import put, tag_of
from sltcore.errors import PluginError


class IntegerTensor(torch.Tensor):
    """A tensor that says it is float32 and holds int32 codes; only the interception computes with it."""

    codes: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, codes: Tensor) -> IntegerTensor:
        made: IntegerTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, codes.shape, strides=codes.stride(), dtype=torch.float32, device=codes.device
        )
        return made

    def __init__(self, codes: Tensor) -> None:
        self.codes = codes

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"IntegerTensor({self.codes})"

    def __deepcopy__(self, memo: Any) -> IntegerTensor:
        duplicate = IntegerTensor(self.codes.clone())
        tag = tag_of(self)
        if tag is not None:
            put(duplicate, tag)
        return duplicate

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise PluginError(
            f"{func} met integer codes outside the chip; call the lowered model, or use `with lowered.running():`"
        )


def codes_of(value: Tensor) -> Codes:
    """The codes of a chip tensor."""
    if not isinstance(value, IntegerTensor):
        raise PluginError(
            f"a {type(value).__name__} of the emulation met the integer form of a model; keep states of the two apart"
        )
    return value.codes.numpy()  # type: ignore[no-any-return]


def wrapped(codes: npt.NDArray[Any], shape: Sequence[int] | None = None) -> IntegerTensor:
    """Codes as a chip tensor, in a shape."""
    found = torch.from_numpy(np.ascontiguousarray(codes, dtype=np.int32))
    return IntegerTensor(found if shape is None else found.reshape(tuple(shape)))
