"""Where a quantizer leaves a codebook weight for an accelerator behind it in `transforms:`.

A quantizer that puts another tensor in the place of a parameter marks that tensor with the parameter's module and name
(`mark_origin`), and offers the codebook form of it (`offer_table`). An accelerator asks `origin_of` a weight that it does
not know, and `table_weight` for indices and table. Both work on any `nn.Module`, attached or finished.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sltcore.errors import PluginError
from sltcore.types import TableWeight

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

ORIGIN = "_slt_origin"
TABLES = "_slt_tables"


def mark_origin(tensor: Tensor, module: Module, name: str) -> Tensor:
    """The same tensor, which now says that it stands for the parameter `name` of `module`."""
    setattr(tensor, ORIGIN, (module, name))
    return tensor


def origin_of(tensor: Tensor) -> tuple[Module, str] | None:
    """The module and the name of the parameter that a tensor stands for, or None."""
    found: tuple[Module, str] | None = getattr(tensor, ORIGIN, None)
    return found


def offer_table(module: Module, name: str, make: Callable[[], TableWeight]) -> None:
    """Let `table_weight(module, name)` give what `make` returns at that moment. **Raises** `PluginError` when the weight
    has a codebook already: two quantizers on one weight would hide each other."""
    tables = module.__dict__.setdefault(TABLES, {})
    if name in tables:
        raise PluginError(
            f"{type(module).__name__}.{name} has a codebook of another quantizer already; quantize it once, or exclude it"
        )
    tables[name] = make


def withdraw_table(module: Module, name: str) -> None:
    """Undo `offer_table`; nothing happens where none was offered."""
    tables = module.__dict__.get(TABLES, {})
    tables.pop(name, None)
    if not tables:
        module.__dict__.pop(TABLES, None)


def table_weight(module: Module, name: str) -> TableWeight | None:
    """The codebook form of a weight as it is now, or None where no quantizer offers one.

    `table[indices] * scale` is the weight in use; **shapes** of `sltcore.types.TableWeight`.
    """
    make: Callable[[], TableWeight] | None = module.__dict__.get(TABLES, {}).get(name)
    return None if make is None else make()
