"""Tensors that are changed in place, and the views through which they, and what they are a part of, are seen.

Without gradients the memory is changed, which every view of it sees; with them nothing is overwritten, since it may be
saved for the backward pass: every later use of a tensor, or of a view of it, finds what is there now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slt_nna.tags import Tag, put, tag_of

if TYPE_CHECKING:
    from slt_nna.dispatch.dispatcher import Dispatcher

NOW = "_nna_now"
"""On a tensor that an in-place function gave another shape, or brought to the chip: the tensor that it is now."""

VALUES = "_nna_values"
"""On a chip tensor that was changed, itself or through a view: the tensor that has its new values."""

ROOT = "_nna_root"
"""On a view of a chip tensor: that tensor, never a view of it."""

HELD = "_nna_held"
"""On a view that was made anew of what it is a view of: the one that a program holds."""

VERSION = "_nna_version"
"""Beside `NOW`, on a host tensor whose memory has the same values: its version then."""

MARKS = (NOW, VALUES, ROOT)


def remember(result: Any, source: Tensor) -> None:
    """Let a view of a chip tensor, or each one of several, know what it is a view of."""
    if isinstance(result, tuple | list):
        for each in result:
            remember(each, source)
        return
    if not isinstance(result, Tensor) or result is source or _memory(result) != _memory(source):
        return
    if not torch.is_grad_enabled() or result.requires_grad == source.requires_grad:  # a detached one stands alone
        setattr(result, ROOT, getattr(source, ROOT, source))


def current(value: Tensor) -> Tensor:
    """What a tensor is after the in-place functions that were called on it, or on what it is a view of."""
    now: Tensor | None = getattr(value, NOW, None)
    if now is not None and not _outdated(value):
        return current(now)
    changed: Tensor | None = getattr(value, VALUES, None)
    if changed is not None:
        return current(changed)
    root: Tensor | None = getattr(value, ROOT, None)
    return value if root is None else _seen(value, root)


def replaced(d: Dispatcher, target: Tensor, result: Tensor) -> Tensor:
    """What `target` is from now on: an in-place function, or one with `out=`, made `result` of it.

    A view of a part stays on the grid of the whole, or on the host with it. What is seen whole goes where the result is.
    """
    if result is target:
        return target
    d.moved = True
    own = tag_of(target)
    if target.shape != result.shape or getattr(result, ROOT, None) is _root(target):
        held: Tensor | None = target
        while held is not None:  # another shape: unsqueeze_, or an empty tensor as out=
            setattr(held, NOW, result)
            held = getattr(held, HELD, None)
        return result
    if own is None or own.grid is None:
        return _brought(d, target, result)
    return _changed(d, target, result)


def _brought(d: Dispatcher, target: Tensor, result: Tensor) -> Tensor:
    """A host tensor that was made a result of the chip."""
    tag = tag_of(result)
    memory = not torch.is_grad_enabled() or target._is_view()
    if tag is None or target.element_size() * target.numel() != target.untyped_storage().nbytes():
        target.copy_(d.left(result))
        return target if tag is None else put(target, tag.host)
    if memory:  # beside what is on the chip, for whoever sees it in another way: no crossing
        target.copy_(d.leave(result, tag, silent=True))
    setattr(target, NOW, result)
    if memory and not target.is_inference():
        setattr(target, VERSION, target._version)
    return result


def _changed(d: Dispatcher, target: Tensor, result: Tensor) -> Tensor:
    """A chip tensor, or a view of one."""
    root, tag = _root(target), tag_of(result)
    there = tag_of(root) or tag_of(target)
    whole = target.numel() == root.numel()
    assert there is not None
    assert there.grid is not None
    if not whole:
        result, tag = _onto(d, result, there)
    assert tag is not None
    trained = torch.is_grad_enabled() and (root.requires_grad or result.requires_grad)
    if tag.grid is None or trained:
        return _beside(target, root, result, there, tag, whole)
    d.backend.overwrite(target, result, tag.grid)
    if root is not target:
        put(root, tag if whole else there._replace(masked=there.masked or tag.masked))
    return put(target, tag)


def _beside(target: Tensor, root: Tensor, result: Tensor, there: Tag, tag: Tag, whole: bool) -> Tensor:
    """The new values in a tensor of their own, in which views are seen as in the root."""
    if root is target:
        setattr(root, VALUES, result)
        return result
    fresh = torch.empty_strided(root.size(), root.stride(), dtype=root.dtype, device=result.device)
    if not whole:
        fresh.copy_(root)
    _place(fresh, target, root).copy_(result)
    put(fresh, tag if whole else there._replace(masked=there.masked or tag.masked))
    setattr(root, VALUES, fresh)
    return current(target)


def _onto(d: Dispatcher, result: Tensor, there: Tag) -> tuple[Tensor, Tag]:
    """A result on the grid of what it becomes a part of; in calibration that grid is to hold it."""
    tag, grid = tag_of(result), there.grid
    assert grid is not None
    observe(d, there, result)
    if tag is None or tag.grid is None:
        result = d.enter_on(result, there.site, grid)[0]
    elif tag.grid != grid:
        result = d.begin("concatenate", there.site).requantize(result, tag.grid, grid)
    tag = there._replace(masked=tag is not None and tag.masked)
    return put(result, tag), tag


def observe(d: Dispatcher, there: Tag, value: Tensor) -> None:
    """In calibration, what is written into a chip tensor has a part in the range of its grid."""
    if d.ranges.observing and there.site in d.ranges.asked:
        d.ranges.observe(there.site, value)


def _seen(view: Tensor, root: Tensor) -> Tensor:
    """A view as it is now: of the new values, where there are some; on the grid that they came to."""
    latest = root
    while hasattr(latest, VALUES):
        latest = getattr(latest, VALUES)
    tag = tag_of(latest)
    if latest is root:
        if tag is not None and tag != tag_of(view):
            put(view, tag)
        return view
    assert tag is not None
    if latest.stride() != root.stride():
        like = torch.empty_strided(root.size(), root.stride(), dtype=latest.dtype, device=latest.device)
        latest = put(like.copy_(latest), tag)
    found = put(_place(latest, view, root), tag)
    setattr(found, HELD, view)
    if tag.grid is not None:
        setattr(found, ROOT, latest)
    return found


def _place(whole: Tensor, view: Tensor, root: Tensor) -> Tensor:
    """The part of `whole` that `view` is of `root`."""
    start = int(_inner(view).storage_offset()) - int(_inner(root).storage_offset())
    return whole.as_strided(view.size(), view.stride(), int(whole.storage_offset()) + start)


def _root(value: Tensor) -> Tensor:
    root: Tensor = getattr(value, ROOT, value)
    return root


def _outdated(value: Tensor) -> bool:
    """Whether a host tensor was written to since its values came to the chip: by whoever owns it, between calls."""
    version: int | None = getattr(value, VERSION, None)
    if version is None or value._version == version:
        return False
    delattr(value, NOW)
    delattr(value, VERSION)
    return True


def _inner(value: Tensor) -> Tensor:
    """The tensor that has the memory: of integer codes, those."""
    inner: Tensor = getattr(value, "codes", value)
    return inner


def _memory(value: Tensor) -> int:
    memory: int = _inner(value).untyped_storage()._cdata
    return memory
