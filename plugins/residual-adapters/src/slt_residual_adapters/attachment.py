"""How places are watched: a hook on forward, and the other methods by which streams and searches call a module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

METHODS = ("step", "combine")
"""Beside `forward`: one chunk of a stream or one label of a search, and the cheap half of a joint network."""

Change = Callable[[str, Any, tuple[Any, ...]], Any]


class Attachment:
    """Lets `change(name, output, arguments)` replace what the named modules return, until `remove`.

    Where a module calls itself (a `step` that uses `forward`), only what leaves it is changed.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], change: Change) -> None:
        modules = dict(model.named_modules())
        self._handles: list[Any] = []
        self._wrapped: list[tuple[nn.Module, str]] = []
        self._depth: Counter[str] = Counter()
        for name in names:
            self._watch(name, modules[name], change)

    def _watch(self, name: str, module: nn.Module, change: Change) -> None:
        def enter(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            self._depth[name] += 1

        def leave(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
            self._depth[name] -= 1
            if self._depth[name] or output is None:  # None: forward raised
                return None
            return change(name, output, arguments or tuple(named.values()))

        # first of all, so that nothing can fail between a call and its count
        self._handles.append(module.register_forward_pre_hook(enter, prepend=True))
        self._handles.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
        for method in METHODS:
            own = getattr(module, method, None)
            if callable(own) and hasattr(type(module), method):
                setattr(module, method, self._wrapper(name, own, change))
                self._wrapped.append((module, method))

    def _wrapper(self, name: str, own: Callable[..., Any], change: Change) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._depth[name] += 1
            try:
                output = own(*arguments, **named)
            finally:
                self._depth[name] -= 1
            return output if self._depth[name] else change(name, output, arguments or tuple(named.values()))

        return call

    def remove(self) -> None:
        """Leave the modules as they were."""
        for handle in self._handles:
            handle.remove()
        for module, method in self._wrapped:
            delattr(module, method)
