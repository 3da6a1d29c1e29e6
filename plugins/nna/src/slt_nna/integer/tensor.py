"""Integer codes that code written for float tensors can carry around."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slt_nna.grid import Grid
from slt_nna.integer.kernels import EXCLUDED
from slt_nna.integer.numbers import Codes
from slt_nna.tags import put, tag_of
from sltcore.errors import PluginError


class IntegerTensor(torch.Tensor):
    """A tensor that says it is float32 and holds int32 codes, of which the interception's marks know the grid.

    The interception computes with the codes. Wherever else it is used, its values leave the chip as float32 numbers;
    changing it in place is refused there.
    """

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
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func._schema.is_mutable:
            raise PluginError(
                f"{func} would change integer codes in place outside the chip; call the lowered model, use `with "
                "lowered.running():`, or clone the tensor first"
            )
        return func(*_left(tuple(args)), **_left(dict(kwargs or {})))

    def numpy(self, *, force: bool = False) -> Any:
        """The values, as an array of their own."""
        return self.values().numpy()

    def tolist(self) -> Any:
        """The values, as a list."""
        return self.values().tolist()

    def values(self) -> Tensor:  # type: ignore[override]
        """The values in float32. **Raises** `PluginError` for codes whose grid is not known."""
        tag = tag_of(self)
        if tag is None or tag.grid is None:
            raise PluginError("integer codes outside the chip have no grid; take results of the lowered model's calls")
        return values_of(self.codes, tag.grid)


def values_of(codes: Tensor, grid: Grid) -> Tensor:
    """Codes times scale, rounded to float32 once; minus infinity for excluded entries."""
    values = (codes.double() * grid.scale).float()
    return values.masked_fill(codes == EXCLUDED, -torch.inf)


def codes_of(value: Tensor) -> Codes:
    """The codes of a chip tensor; of one of the emulation, such as a state from before, those that it stands for."""
    if isinstance(value, IntegerTensor):
        return value.codes.numpy()  # type: ignore[no-any-return]
    tag = tag_of(value)
    if tag is None or tag.grid is None:
        raise PluginError(f"a {type(value).__name__} without a grid met the integer form of a model")
    codes = torch.round(value.detach().cpu().double() / tag.grid.scale)
    return codes.clamp(min=EXCLUDED).to(torch.int32).numpy()  # type: ignore[no-any-return]


def wrapped(codes: npt.NDArray[Any], shape: Sequence[int] | None = None) -> IntegerTensor:
    """Codes as a chip tensor, in a shape."""
    found = torch.from_numpy(np.ascontiguousarray(codes, dtype=np.int32))
    return IntegerTensor(found if shape is None else found.reshape(tuple(shape)))


def _left(value: Any) -> Any:
    """The same structure with values in the place of codes."""
    if isinstance(value, IntegerTensor):
        return value.values()
    if isinstance(value, tuple | list):
        return type(value)(_left(each) for each in value)
    return {key: _left(each) for key, each in value.items()} if isinstance(value, dict) else value


def arranged(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A torch function that only arranges entries, of codes instead of values."""
    inside, named = _inside(tuple(args)), _inside(dict(kwargs))
    try:
        return _outside(function(*inside, **named))
    except RuntimeError:  # pooling is not made for integers; doubles hold codes too
        doubles = function(*_cast(inside, torch.int32, torch.float64), **named)
        return _outside(_cast(doubles, torch.float64, torch.int32))


def _inside(value: Any) -> Any:
    """The same structure with codes in the place of chip tensors."""
    if isinstance(value, IntegerTensor):
        return value.codes
    if isinstance(value, Tensor):
        tag = tag_of(value)
        return value if tag is None or tag.grid is None else torch.from_numpy(codes_of(value))
    if isinstance(value, tuple | list):
        return type(value)(_inside(each) for each in value)
    if isinstance(value, dict):
        return {key: _inside(each) for key, each in value.items()}
    return value


def _cast(value: Any, old: torch.dtype, new: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(new) if value.dtype == old else value
    return type(value)(_cast(each, old, new) for each in value) if isinstance(value, tuple | list) else value


def _outside(value: Any) -> Any:
    """The same structure with chip tensors in the place of codes; sizes and lengths have other types."""
    if isinstance(value, Tensor):
        return IntegerTensor(value) if value.dtype == torch.int32 else value
    if isinstance(value, tuple | list):
        return type(value)(_outside(each) for each in value)
    return value
