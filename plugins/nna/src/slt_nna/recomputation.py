"""Gradient checkpointing: the forward pass that runs again inside the backward pass is on the chip too."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Any

import torch

from sltcore.errors import PluginError

CHECKPOINT = "torch.utils.checkpoint"
FOLLOWED = "_nna_followed"


class _Following(threading.local):
    """How many checkpoints of one thread run again, inside each other."""

    depth = 0


_FOLLOWING = _Following()


def recomputing() -> bool:
    """Whether a checkpoint's forward pass runs again; else what runs inside a backward pass computes gradients."""
    return _FOLLOWING.depth > 0


def follow(interception: AbstractContextManager[Any]) -> None:
    """Inside a checkpoint, let its second forward pass run in the interception, whatever it calls.

    Torch has no public place for that but `context_fn`, which belongs to whoever wrote the model: its frame is found
    through the hook that it puts on saved tensors. With a torch that keeps it elsewhere `refuse_reentrant` refuses.
    """
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if top is None or getattr(top[0], "__module__", None) != CHECKPOINT:
        return
    cells = dict(zip(top[0].__code__.co_freevars, top[0].__closure__ or (), strict=True))
    frame = cells["frame"].cell_contents if "frame" in cells else None
    again = getattr(frame, "recompute_fn", None)
    if again is None or hasattr(frame, FOLLOWED):
        return

    def followed(*inputs: Any) -> Any:
        _FOLLOWING.depth += 1
        try:
            with torch._C._EnableTorchFunction(), interception:  # gradients run where functions are not heard
                return again(*inputs)
        finally:
            _FOLLOWING.depth -= 1

    setattr(frame, FOLLOWED, True)
    frame.recompute_fn = followed  # type: ignore[union-attr]


def refuse_reentrant(name: str) -> None:
    """**Raises** `PluginError` when a module runs inside a backward pass outside a checkpoint that is followed: the older
    kind hands on detached inputs, and what a chip knows of a tensor is not on them."""
    if torch._C._current_graph_task_id() != -1 and not recomputing():
        raise PluginError(
            f"nna: module '{name}' runs inside a backward pass, as gradient checkpointing with use_reentrant=True does, which "
            "loses the grids of its inputs; give checkpoint(..., use_reentrant=False)"
        )
