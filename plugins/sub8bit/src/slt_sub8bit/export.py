"""ONNX files of finished models, with the weights as codes, checked in ONNX Runtime against the model itself."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slt_sub8bit.onnx_operators import Traceable
from slt_sub8bit.onnx_weights import store_codes
from slt_sub8bit.packed import HELD, packed_weights
from sltcore.errors import PluginError
from sltcore.table_weights import TABLES

TOLERANCE = 1e-3
"""Largest difference between ONNX Runtime and the model, relative to the largest output, that an export may have."""
EXACT = {"session.qdq_matmulnbits_accuracy_level": "1"}
"""ONNX Runtime's setting for float activations before weights of DequantizeLinear."""
EXPORTED_OPSET = 20  # the newest that torch's exporter writes

Example = Tensor | Sequence[Tensor]


class Exported(NamedTuple):
    """What an export wrote.

    `difference` is the largest absolute difference of a floating-point output between ONNX Runtime and the model on the
    examples, with float activations in ONNX Runtime; `default_difference` the same with ONNX Runtime's own settings, which round
    activations to 8 bits before weights stored as int4 or int8; `largest` is the model's largest output. `float_bytes` is
    the file with float weights, `file_bytes` the one written; `kernels` names the quantized weights found in it and the
    type of their codes.
    """

    path: Path
    difference: float
    default_difference: float
    largest: float
    float_bytes: int
    file_bytes: int
    kernels: Mapping[str, str]


def export_onnx(
    model: nn.Module,
    example: Example,
    path: str | Path,
    *,
    further: Sequence[Example] = (),
    names: Sequence[str] = (),
    outputs: Sequence[str] = (),
    free: Mapping[str, Mapping[int, str]] | None = None,
) -> Exported:
    """Write a finished model as ONNX, with codes and tables in the place of the quantized weights.

    Codes are stored in the smallest type of ONNX that holds them: uint2 up to 2 bits, uint4 up to 4, uint8 above; tables by
    Gather, uniform grids by DequantizeLinear where that takes no more bytes. ONNX Runtime unfolds tables when it loads the
    file, so that it is the file that is small. A layer of `compute: int8` keeps its table on the 8-bit grid, but its
    activations are float there: the difference to the model is then that of rounding them, and what is refused is a
    difference to the same model with float activations.

    - `example`: inputs of one call, all tensors; `further`: more of them, of other lengths, to check with.
    - `names`, `outputs`: of the inputs and outputs; `free`: for each name the axes that may differ, with a name for each.

    **Raises** `PluginError` for a model whose quantizer is attached and not finished, one that torch cannot export, without
    `onnx` and `onnxruntime`, and when ONNX Runtime's outputs differ by more than 1e-3 of the largest.
    """
    onnx, runtime = _peer("onnx"), _peer("onnxruntime")
    _refuse_attached(model)
    plain = float_copy(model).eval()
    names = list(names) or [f"input_{place}" for place in range(len(_arguments(example)))]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings(), torch.no_grad(), Traceable():
            warnings.simplefilter(
                "ignore"
            )  # of Python values that stay as they were traced; the check below is what counts
            torch.onnx.export(
                plain,
                _arguments(example),
                str(path),
                dynamo=False,
                opset_version=EXPORTED_OPSET,
                input_names=names,
                output_names=list(outputs) or None,
                dynamic_axes={name: dict(axes) for name, axes in (free or {}).items()},
            )
    except Exception as error:
        raise PluginError(
            f"{type(model).__name__} cannot be exported: torch says '{' '.join(str(error).split())[:200]}'; export a part of it"
        ) from error
    float_bytes = path.stat().st_size
    graph = onnx.load(str(path))
    path.unlink()
    tables = {name: packed.table_weight() for name, packed in packed_weights(model).items()}
    graph, kernels = store_codes(graph, tables)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
    examples = [example, *further]
    exact = _compared(runtime, plain, path, names, examples, EXACT)
    if not exact.difference <= TOLERANCE * max(exact.largest, 1e-30):
        path.unlink()
        raise PluginError(
            f"{path}: ONNX Runtime's outputs differ from those of {type(model).__name__} by {exact.difference:.3g} (largest "
            f"output {exact.largest:.3g}){exact.reason}; its forward does what a traced graph cannot: export a part of it"
        )
    like, default = (_compared(runtime, model.eval(), path, names, examples, settings) for settings in (EXACT, {}))
    return Exported(path, like.difference, default.difference, exact.largest, float_bytes, path.stat().st_size, kernels)


def float_copy(model: nn.Module) -> nn.Module:
    """A copy of a finished model, of plain modules with the decoded weights as parameters."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        held = module.__dict__.get(HELD)
        if not held:
            continue
        weights = {attribute: packed.reference() for attribute, (_, packed) in held.items()}
        del module.__dict__[HELD]
        module.__dict__.pop(TABLES, None)
        for attribute in weights:
            for part in [name for name in module._buffers if name.startswith(f"{attribute}_")]:
                del module._buffers[part]
        module.__class__ = type(module)._slt_plain  # type: ignore[attr-defined]
        for attribute, weight in weights.items():
            module.register_parameter(attribute, nn.Parameter(weight, requires_grad=False))
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
    return copied


def _refuse_attached(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if module.__dict__.get(TABLES) and not module.__dict__.get(HELD):
            raise PluginError(
                f"{path or type(model).__name__} has a quantizer attached that is not finished; call its finish() first"
            )


class _Compared(NamedTuple):
    difference: float
    largest: float
    reason: str = ""


def _compared(
    runtime: Any,
    model: nn.Module,
    path: Path,
    names: Sequence[str],
    examples: Sequence[Example],
    settings: Mapping[str, str],
) -> _Compared:
    """The largest difference, and the largest output, over all examples; whole numbers must be equal."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = max(1, torch.get_num_threads())
    options.log_severity_level = 4
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    with torch.no_grad():
        outputs = [model(*_arguments(example)) for example in examples]
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        taken = {given.name for given in session.get_inputs()}
        difference, largest = 0.0, 0.0
        for example, output in zip(examples, outputs, strict=True):
            expected = [output] if isinstance(output, Tensor) else [y for y in output if isinstance(y, Tensor)]
            feeds = {name: x.numpy() for name, x in zip(names, _arguments(example), strict=True) if name in taken}
            for found, y in zip(map(torch.from_numpy, session.run(None, feeds)), expected, strict=True):
                if found.shape != y.shape or (not y.is_floating_point() and not torch.equal(found, y)):
                    return _Compared(float("inf"), largest, f": {list(found.shape)} beside {list(y.shape)}")
                if y.is_floating_point() and y.numel():
                    difference = max(difference, float((found.double() - y.double()).abs().max()))
                    largest = max(largest, float(y.double().abs().max()))
    except Exception as error:  # of ONNX Runtime, whose errors have no class of their own to import
        return _Compared(float("inf"), 0.0, f": {' '.join(str(error).split())[:160]}")
    return _Compared(difference, largest)


def _arguments(example: Example) -> tuple[Tensor, ...]:
    return (example,) if isinstance(example, Tensor) else tuple(example)


def _peer(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise PluginError(
            f"an ONNX export needs {name}; install it with: pip install 'sltcore-sub8bit[onnx]'"
        ) from None
