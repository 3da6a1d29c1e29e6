"""Codes and tables in the place of float weights in an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slt_sub8bit.scheme import decoded
from sltcore.types import TableWeight

FEWEST = 64
"""Weights from which on a constant is looked at."""
OPSET = {2: 25, 4: 21, 8: 21}
"""The first opset with codes of so many bits."""
GATE_ORDERS = ((0,), (0, 3, 1, 2), (1, 0, 2))
"""Of a plain recurrent layer, an LSTM (input, output, forget, cell) and a GRU (update, reset, hidden), as places in torch's."""

Array = NDArray[Any]


class Codes(NamedTuple):
    """A constant as `table[codes] * scale`, of codes below 2^bits; `scale` broadcasts."""

    codes: Array
    table: Array
    scale: Array

    @property
    def bits(self) -> int:
        """The smallest width that ONNX has a type for."""
        return next(bits for bits in (2, 4, 8) if len(self.table) <= 2**bits)


def store_codes(model: Any, tables: Mapping[str, TableWeight]) -> tuple[Any, dict[str, str]]:
    """Replace every float constant of an ONNX model that holds quantized weights; the model, and what was found.

    Exporters transpose, stack and permute weights (an LSTM's gates stand in another order), so constants are known by
    what they hold: a matrix of `tables`, its transpose, or its gates in ONNX's order, or a stack of such; else few different
    values that all belong to one table. Values stay the same to the bit.
    """
    import onnx
    from onnx import numpy_helper, version_converter

    known = {key: (name, codes) for name, weight in tables.items() for key, codes in _forms(weight)}
    values = {value for weight in tables.values() if weight.scale.numel() == 1 for value in _values(weight)}
    replaced: dict[str, list[Codes]] = {}
    kinds: dict[str, str] = {}
    for constant in model.graph.initializer:
        if constant.data_type != onnx.TensorProto.FLOAT or len(constant.dims) < 2 or np.prod(constant.dims) < FEWEST:
            continue
        array = numpy_helper.to_array(constant)
        found = _recognized(array, known, values, constant.name)
        if found:
            replaced[constant.name] = [part for _, part in found]
            kinds.update({name: kind(part) for name, part in found})
    opset = max([OPSET[part.bits] for parts in replaced.values() for part in parts], default=0)
    if opset > max(entry.version for entry in model.opset_import if not entry.domain):
        model = version_converter.convert_version(model, opset)
    constants = [constant for constant in model.graph.initializer if constant.name not in replaced]
    nodes: list[Any] = []
    for name, parts in replaced.items():
        for node, new in _written(name, parts):
            nodes.extend(node)
            constants.extend(new)
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model, kinds


def kind(part: Codes) -> str:
    """How a constant is stored: `int8`, `int4` (a uniform grid), `uint2`, `uint4`, `uint8` (a table)."""
    grid = _grid(part)
    return f"uint{part.bits}" if grid is None else f"int{grid[2]}"


def _forms(weight: TableWeight) -> Iterator[tuple[bytes, Codes]]:
    """The weight as it stands, its transpose, and its gates in ONNX's order with an axis for directions before them."""
    codes, table = weight.indices.numpy(), weight.table.float().numpy()
    scale = weight.scale.float().numpy()
    value = decoded(weight).numpy()
    yield _key(value), Codes(codes, table, scale)
    if value.ndim != 2:
        return
    yield _key(value.T), Codes(codes.T, table, scale.T if scale.ndim == 2 else scale)
    for order in GATE_ORDERS:
        rows = len(value)
        if rows % len(order) == 0:
            places = np.arange(rows).reshape(len(order), -1)[list(order)].reshape(-1)
            yield (
                _key(value[None, places]),
                Codes(codes[None, places], table, scale[None, places] if scale.ndim == 2 else scale),
            )


def _key(array: Array) -> bytes:
    return repr(array.shape).encode() + np.ascontiguousarray(array, np.float32).tobytes()


def _values(weight: TableWeight) -> list[float]:
    return [float(value) for value in (weight.table * weight.scale.reshape(())).tolist()]


def _recognized(
    array: Array, known: Mapping[bytes, tuple[str, Codes]], values: set[float], name: str
) -> list[tuple[str, Codes]] | None:
    """The array as one part, or as parts along its first axis (the directions of a recurrent layer)."""
    whole = known.get(_key(array))
    if whole is not None:
        return [whole]
    if array.ndim == 3 and len(array) > 1:
        parts = [_recognized(part[None], known, values, f"{name}.{place}") for place, part in enumerate(array)]
        if all(parts):
            return [entry for part in parts if part is not None for entry in part]
    different = np.unique(array)
    if 1 < len(different) <= 256 and all(float(value) in values for value in different):
        codes = np.searchsorted(different, array).astype(np.uint8)
        return [(name, Codes(codes, different, np.ones((), np.float32)))]
    return None


def _grid(part: Codes) -> tuple[Array, Array, int] | None:
    """The part as integers times a step, int4 or int8, where that takes no more bytes than its codes do."""
    gaps = np.diff(part.table.astype(np.float64))
    gap = float(gaps.max(initial=0.0))
    if gap <= 0:
        return None
    for step in (gap, gap / 2):
        integers = np.rint(part.table / step)
        if (
            np.array_equal((integers * np.float64(step)).astype(np.float32), part.table)
            and np.abs(integers).max() <= 127
        ):
            bits = 4 if integers.min() >= -8 and integers.max() <= 7 else 8
            if bits > part.bits or part.scale.size > max(part.codes.shape):
                return None
            scale = (part.scale * np.float32(step)).astype(np.float32)
            whole = integers.astype(np.int8)[part.codes]
            exact = whole.astype(np.float32) * scale == part.table[part.codes] * part.scale
            return (whole, scale, bits) if bool(exact.all()) else None
    return None


def _written(name: str, parts: list[Codes]) -> Iterator[tuple[list[Any], list[Any]]]:
    """Nodes and constants that give the constant `name` again."""
    from onnx import TensorProto, helper, numpy_helper

    places = [name] if len(parts) == 1 else [f"{name}.{place}" for place in range(len(parts))]
    for place, part in zip(places, parts, strict=True):
        grid = _grid(part)
        if grid is not None:
            integers, scale, bits = grid
            type_: int = TensorProto.INT4 if bits == 4 else TensorProto.INT8
            axis = int(np.argmax(scale.shape)) if scale.size > 1 else None
            constants = [
                _constant(f"{place}.codes", type_, integers, bits),
                numpy_helper.from_array(scale.reshape(-1) if scale.size > 1 else scale.reshape(()), f"{place}.scale"),
            ]
            options: dict[str, Any] = {} if axis is None else {"axis": axis}
            yield (
                [helper.make_node("DequantizeLinear", [f"{place}.codes", f"{place}.scale"], [place], **options)],
                constants,
            )
            continue
        type_ = {2: getattr(TensorProto, "UINT2", 0), 4: TensorProto.UINT4, 8: TensorProto.UINT8}[part.bits]
        constants = [
            _constant(f"{place}.codes", type_, part.codes, part.bits),
            numpy_helper.from_array(part.table.astype(np.float32), f"{place}.table"),
        ]
        one = part.scale.size == 1 and float(part.scale.reshape(-1)[0]) == 1.0
        nodes = [
            helper.make_node("Cast", [f"{place}.codes"], [f"{place}.places"], to=TensorProto.INT32),
            helper.make_node("Gather", [f"{place}.table", f"{place}.places"], [place if one else f"{place}.levels"]),
        ]
        if not one:
            constants.append(numpy_helper.from_array(part.scale.astype(np.float32), f"{place}.scale"))
            nodes.append(helper.make_node("Mul", [f"{place}.levels", f"{place}.scale"], [place]))
        yield nodes, constants
    if len(parts) > 1:
        yield [helper.make_node("Concat", places, [name], axis=0)], []


def _constant(name: str, type_: int, values: Array, bits: int) -> Any:
    """A constant of whole numbers; ONNX packs those below 8 bits, the first in the lowest bits of a byte."""
    from onnx import TensorProto

    flat = np.ascontiguousarray(values).reshape(-1)
    if bits < 8:
        each = 8 // bits
        filled = np.zeros(-(-len(flat) // each) * each, np.uint8)
        filled[: len(flat)] = flat.astype(np.uint8) & (2**bits - 1)
        shifted = filled.reshape(-1, each) << np.arange(0, 8, bits, dtype=np.uint8)
        raw = np.bitwise_or.reduce(shifted, axis=1).tobytes()
    else:
        raw = flat.tobytes()
    return TensorProto(name=name, data_type=type_, dims=list(values.shape), raw_data=raw)
