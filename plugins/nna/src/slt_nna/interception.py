"""The interception: while it is active, torch functions go to their handlers, and the chip computes what it can."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slt_nna.backend import Backend, Kernels, RecurrentGrids, Weight
from slt_nna.dispatch.arrangement import assigned, shape
from slt_nna.dispatch.dispatcher import Dispatcher, changes, gather, rebuilt, settled
from slt_nna.dispatch.table import OPERATORS, handlers, queries
from slt_nna.events import LEAVE, Event
from slt_nna.grid import NotFiniteError
from slt_nna.host_products import work
from slt_nna.recomputation import follow, recomputing, refuse_reentrant
from slt_nna.tags import DATA, KEPT, put, tag_of
from sltcore.errors import PluginError

__all__ = ["Backend", "Entrance", "Interception", "Kernels", "RecurrentGrids", "Weight", "unhook"]


class _Active(threading.local):
    """The interception that runs in this thread: of several inside each other the innermost, alone."""

    current: Interception | None = None


_ACTIVE = _Active()


class Interception(TorchFunctionMode):
    """A `with` block in which torch functions on a model's tensors run on the chip of `dispatcher`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self.dispatcher = dispatcher
        dispatcher.table = handlers()
        self._before: list[Interception | None] = []

    def __enter__(self) -> Interception:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._before.append(_ACTIVE.current)
        _ACTIVE.current = self
        return self

    def __exit__(self, *exception: object) -> None:
        _ACTIVE.current = self._before.pop()
        super().__exit__(*exception)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """One torch function: to its handler, past it, or to the host."""
        given = {} if kwargs is None else kwargs
        if _ACTIVE.current is not self or func in _QUERIES:
            return func(*args, **given)
        if (
            torch._C._current_graph_task_id() != -1
        ):  # backwards: functions of gradients, or a checkpoint's forward again
            if not recomputing():
                return func(*args, **given)
        elif torch.is_grad_enabled():
            follow(self)
        handler = _HANDLERS.get(func)
        if self.dispatcher.moved:
            args, given = settled(args), settled(given)
        if handler is None:
            return self._other(func, args, given)
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            with self.dispatcher.autocast.suspended():
                result = self._handled(handler, func, args, given)
        else:
            result = self._handled(handler, func, args, given)
        return self._other(func, args, given) if result is NotImplemented else result

    def _handled(
        self, handler: Callable[..., Any], func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        named = {key: value for key, value in kwargs.items() if key not in ("out", "inplace", "_stacklevel")}
        target = kwargs.get("out")
        if target is None and (kwargs.get("inplace") or (changes(func) and handler is not assigned)):
            target = args[0] if args else named.get("input")
            tag = tag_of(target)
            if handler is shape and tag is not None and tag.grid is not None:  # squeeze_ and the like
                func = getattr(torch.Tensor, func.__name__[:-1])
        try:
            result = handler(self.dispatcher, func, *args, **named)
        except NotFiniteError as error:
            raise PluginError(
                f"nna: {error} at '{self.dispatcher.backend.site}', and no code stands for it; look for what diverged: a "
                "learning rate that is too large, or log(0) in an input"
            ) from None
        if result is NotImplemented:
            return result
        return result if not isinstance(target, Tensor) else self.dispatcher.replaced(target, result)

    def _other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A function without a handler, or whose handler does not want it."""
        found: list[Tensor] = []
        gather((args, dict(kwargs)), found)
        if any(tag_of(each) is not None for each in found):
            if getattr(func, "__name__", "") in ("__set__", "__get__"):
                return func(*args, **kwargs)
            return self.dispatcher.host(func, args, kwargs, operator=self._operator(func))
        result = func(*args, **kwargs)
        if self.dispatcher.listeners:
            self._told(func, found, result, work(func, args, kwargs, result))
        return result

    def _operator(self, func: Callable[..., Any]) -> str | None:
        handler = _HANDLERS.get(func)
        return None if handler is None else OPERATORS.get(handler)

    def _told(self, func: Callable[..., Any], inputs: list[Tensor], result: Any, options: Mapping[str, Any]) -> None:
        """Work in float on the call's inputs that never was near the chip, such as a front end."""
        outputs: list[Tensor] = []
        gather(result, outputs)
        outputs = [each for each in outputs if each.is_floating_point()]
        inputs = [each for each in inputs if each.is_floating_point() and not isinstance(each, nn.Parameter)]
        if not outputs or not any(hasattr(each, DATA) for each in inputs):
            return
        for each in outputs:
            setattr(each, DATA, True)
        name = self._operator(func) or str(getattr(func, "__name__", func)).strip("_")
        if _HANDLERS.get(func) is shape or name in ("get", "set"):
            return
        bits = (32,) * (len(inputs) + len(outputs))
        self.dispatcher.tell(Event(name, name, False, tuple(inputs), tuple(outputs), bits, (), options))


_HANDLERS = handlers()
_QUERIES = queries()


class Entrance:
    """Lets calls of a model, or of any module in it, run inside the interception; `hold` does so for a block.

    Hooks come before all others, keep the stack of running modules, let batch norms use their running statistics in
    training too, and are taken away by `remove`. A deep copy of the
    model runs on the same chip, under the same names and ranges.
    """

    def __init__(self, dispatcher: Dispatcher, *, convert: bool = False) -> None:
        self.dispatcher = dispatcher
        self.convert = convert
        self.enabled: Callable[[], bool] = lambda: True
        self._depths = _Depths()
        self._handles: list[Any] = []
        self.frozen: list[nn.Module] = []
        self._root: nn.Module | None = None

    def install(self, model: nn.Module, prefix: str = "") -> None:
        """Put the hooks on; `prefix` is the qualified name of a part of a model. **Raises** `PluginError` when the model has those of another chip."""
        if any(isinstance(hook, _Before | _After) for module in model.modules() for hook in _hooks(module)):
            raise PluginError(
                f"{type(model).__name__} is on a chip already; detach that one first, a model runs on one chip at a time"
            )
        self.dispatcher.names.learn(model, prefix)
        self._root = model
        for name, module in model.named_modules(prefix=prefix):
            if not isinstance(module, torch.jit.ScriptModule):
                before, after = _Before(self, name), _After(self)
                self._handles += [
                    module.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
                    module.register_forward_hook(after, always_call=True),
                ]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._root = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Intercept in a block; inside another such block, or a call of the model, nothing changes."""
        if not self.enabled():
            yield
            return
        self.push()
        try:
            yield
        finally:
            self.pop()

    def push(self) -> None:
        """One level deeper; the first one begins the interception."""
        depths = self._depths
        if not depths.modes:
            depths.modes.append(Interception(self.dispatcher))
        if depths.depth == 0:
            depths.modes[0].__enter__()
        depths.depth += 1

    def pop(self) -> None:
        """One level up; the last one ends the interception."""
        self._depths.depth -= 1
        if self._depths.depth == 0:
            self._depths.modes[0].__exit__(None, None, None)

    def released(self, output: Any, module: nn.Module) -> Any:
        """What leaves the chip with the model's output: told, and turned into float where `convert` says so."""
        if self.dispatcher.moved:
            output = settled(output)
        if self.convert and self._depths.depth == 1:
            return self._converted(output)
        if module is self._root and self.dispatcher.listeners:
            found: list[Tensor] = []
            gather(output, found)
            for value in found:
                tag = tag_of(value)
                if tag is not None and tag.grid is not None and not hasattr(value, KEPT):
                    self.dispatcher.tell(Event(LEAVE, tag.site, True, (value,), (value,), (tag.grid.bits, 32)))
        return output

    def _converted(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return rebuilt(value, self._converted)
        tag = tag_of(value)
        if tag is None or tag.grid is None:
            return value
        return put(self.dispatcher.leave(value, tag), tag.host)


class _Depths(threading.local):
    """How deep a thread is inside a model."""

    def __init__(self) -> None:
        self.depth = 0
        self.modes: list[Interception] = []


class _Before:
    """The hook before a module's forward."""

    def __init__(self, entrance: Entrance, name: str) -> None:
        self.entrance = entrance
        self.name = name

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        entrance = self.entrance
        if not entrance.enabled():
            return
        refuse_reentrant(self.name)
        names = entrance.dispatcher.names
        if not names.knows(module):
            names.learn(module, self.name)
        if entrance.dispatcher.listeners and not names.running:
            _known((args, kwargs))
        names.running.append(module)
        entrance.push()
        if module.training and "running_mean" in module._buffers and self._on_chip():
            module.training = False  # the chip folds running statistics into the layer, in training as in evaluation
            entrance.frozen.append(module)

    def _on_chip(self) -> bool:
        """Whether the chip computes this batch norm; in float it learns its statistics as ever."""
        return self.entrance.dispatcher.runs("batch_norm", self.name or "model")

    def __deepcopy__(self, memo: Any) -> _Before:
        return self

    def __reduce__(self) -> Any:
        raise _pickled()


class _After:
    """The hook behind a module's forward, which comes after errors too."""

    def __init__(self, entrance: Entrance) -> None:
        self.entrance = entrance

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        entrance = self.entrance
        running = entrance.dispatcher.names.running
        if not running or running[-1] is not module:
            return None
        if module in entrance.frozen[-1:]:
            entrance.frozen.pop().training = True
        result = entrance.released(output, module)
        running.pop()
        entrance.pop()
        return result

    def __deepcopy__(self, memo: Any) -> _After:
        return self

    def __reduce__(self) -> Any:
        raise _pickled()


def _pickled() -> PluginError:
    return PluginError(
        "nna: a model on a chip cannot be pickled, since the chip is no part of it; save model.state_dict() and the chip's "
        "state(), or a bundle, or detach the chip first"
    )


def _known(inputs: Any) -> None:
    """Mark the tensors of a call's inputs as data."""
    found: list[Tensor] = []
    gather(inputs, found)
    for each in found:
        if each.is_floating_point():
            setattr(each, DATA, True)


def unhook(model: nn.Module) -> None:
    """Take every hook of a chip off a (deep copy of a) model."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _Before | _After)]:
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)
                module._forward_pre_hooks_with_kwargs.pop(key, None)


def _hooks(module: nn.Module) -> list[Any]:
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
