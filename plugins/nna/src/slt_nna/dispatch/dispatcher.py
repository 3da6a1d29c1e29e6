"""What every handler needs: placing, grids, crossings, marks and events."""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slt_nna.backend import Weight
from slt_nna.dispatch.autocast import Autocast
from slt_nna.dispatch.in_place import MARKS, current, observe, replaced
from slt_nna.events import ENTER, LEAVE, Event
from slt_nna.grid import Grid, NotFiniteError, grid_of
from slt_nna.host_products import work
from slt_nna.tags import KEPT, Tag, behind, put, tag_of
from sltcore.errors import PluginError, did_you_mean
from sltcore.table_weights import origin_of, table_weight

if TYPE_CHECKING:
    from slt_nna.backend import Backend
    from slt_nna.chip import Chip
    from slt_nna.names import Names, Place
    from slt_nna.ranges import Ranges

FLOAT = 32
MASKED = -1e4
"""A number as low as this in a mask, or in masked_fill, excludes an entry from the softmax behind it."""
Listener = Callable[[Event], None]
Arguments = tuple[Any, ...]


class Dispatcher:
    """A chip with its backend, ranges and names, and the patterns of what stays on the host.

    `include` and `exclude` are patterns (fnmatch) over sites; a site is meant with its module's name too, so that
    `encoder.*` means an LSTM's layers and the operators without weights behind a module as well.
    """

    def __init__(
        self,
        chip: Chip,
        backend: Backend,
        ranges: Ranges,
        names: Names,
        *,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
    ) -> None:
        self.chip = chip
        self.backend = backend
        self.ranges = ranges
        self.names = names
        self.include = tuple(include)
        self.exclude = tuple(exclude)
        self.listeners: list[Listener] = []
        self.moved = False  # whether a tensor was ever changed in place while gradients were kept
        self.autocast = Autocast()
        self.tables = False  # whether weights come with their codebooks even when nobody listens
        self.table: Mapping[Any, Any] = {}
        self._placed: dict[tuple[str, str], bool] = {}
        self._outputs: dict[str, int] = {}

    # -- placing

    def runs(self, operator: str, site: str) -> bool:
        """Whether the operator at that site runs on the chip."""
        found = self._placed.get((operator, site))
        if found is None:
            names = _names(site)
            found = (
                operator not in self.chip.host and _matches(self.include, names) and not _matches(self.exclude, names)
            )
            self._placed[operator, site] = found
        return found

    @property
    def used(self) -> bool:
        """Whether an operator ran on the chip since `forget`."""
        return any(self._placed.values())

    def forget(self) -> None:
        """Forget which operators there were."""
        self._placed.clear()

    def check_patterns(self, modules: Iterable[str]) -> None:
        """**Raises** `PluginError` for an `include` or `exclude` pattern that matches none of the modules, and no site of
        an operator that ran."""
        names = dict.fromkeys(modules)
        names.update(dict.fromkeys(each for _, site in self._placed for each in _names(site)))
        names.pop("", None)
        for option, patterns in (("include", self.include), ("exclude", self.exclude)):
            for pattern in patterns:
                if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                    shown = ", ".join(list(names)[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
                    raise PluginError(
                        f"nna: {option}: the pattern '{pattern}' matches no module and no operator's site; there are "
                        f"{shown}.{did_you_mean(pattern, list(names))}"
                    )

    def output_bits(self, site: str) -> int:
        """The word of what a layer with weights hands on."""
        found = self._outputs.get(site)
        if found is None:
            words = self.chip.words
            found = words.output if _matches(self.chip.output_modules, _names(site)) else words.activation
            self._outputs[site] = found
        return found

    def lead(self, values: Iterable[Any]) -> Tag | None:
        """The mark of the operand with the latest weighted operator; among equals of the longest site."""
        found: Tag | None = None
        for value in values:
            tag = tag_of(value) if isinstance(value, Tensor) else None
            if tag is not None and (found is None or _later(tag, found)):
                found = tag
        return found

    def weight(self, value: Tensor, place: Place) -> Weight:
        """The weight in use; its codebook, which takes work to make, where it is wanted."""
        origin = origin_of(value) if self.listeners or self.tables else None
        return Weight(place.name, value, None if origin is None else table_weight(*origin))

    # -- grids and crossings

    def grid(self, name: str, bits: int) -> Grid:
        """The grid of that name."""
        return self.ranges.grid(name, bits)

    def begin(self, operator: str, site: str) -> Backend:
        """The backend, told what comes."""
        backend = self.backend
        backend.operator, backend.site = operator, site
        return backend

    def enter(self, value: Tensor, name: str, bits: int, *, silent: bool = False) -> tuple[Tensor, Grid]:
        """A host tensor on the grid of that name."""
        if self.ranges.observing:
            self.ranges.observe(name, value)
        return self.enter_on(value, name, self.grid(name, bits), silent=silent)

    def enter_on(self, value: Tensor, name: str, grid: Grid, *, silent: bool = False) -> tuple[Tensor, Grid]:
        """A host tensor on a given grid; `silent` for what a chip would have kept (recurrent states)."""
        backend = self.backend
        before, backend.site = backend.site, name
        if torch.is_grad_enabled() and not silent:
            _check_finite(value)
        result = backend.enter(value, grid)
        backend.site = before
        if result is value:
            result = value.view_as(value)
        if self.listeners and not silent and not hasattr(value, KEPT):
            self.tell(Event(ENTER, name, True, (value,), (result,), (FLOAT, grid.bits)))
        return result, grid

    def leave(self, value: Tensor, tag: Tag, *, silent: bool = False) -> Tensor:
        """A chip tensor in float; other tensors as they are."""
        if tag.grid is None:
            return value
        result = self.backend.leave(value, tag.grid)
        if self.listeners and not silent:
            self.tell(Event(LEAVE, tag.site, True, (value,), (result,), (tag.grid.bits, FLOAT)))
        return result

    def operand(self, value: Tensor, name: str, bits: int) -> tuple[Tensor, Grid]:
        """A tensor of the chip as it is, another one entered."""
        tag = tag_of(value)
        if tag is not None and tag.grid is not None:
            return self.settled(value, tag), tag.grid
        return self.enter(value, name, bits)

    def settled(self, value: Tensor, tag: Tag) -> Tensor:
        """A chip tensor for an operator that computes with every entry: excluded ones take the least code."""
        if not tag.masked or tag.grid is None:
            return value
        return put(self.backend.settle(value, tag.grid), tag._replace(masked=False))

    # -- results

    def mark(self, value: Tensor, site: str, grid: Grid | None, order: int) -> Tensor:
        """The same tensor with a mark."""
        return put(value, Tag(site, grid, order))

    def result(
        self,
        value: Tensor,
        operator: str,
        site: str,
        grid: Grid,
        order: int,
        inputs: Sequence[tuple[Tensor, Grid]],
        *,
        measured: bool = True,
        weights: tuple[Weight, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """The result of an operator on the chip: observed, marked and told. `measured` where its grid has a range."""
        if measured and self.ranges.observing:
            self.ranges.observe(site, value)
        put(value, Tag(site, grid, order))
        if self.listeners:
            tensors = tuple(each for each, _ in inputs)
            bits = (*(each.bits for _, each in inputs), grid.bits)
            self.tell(Event(operator, site, True, tensors, (value,), bits, weights, options or {}))
        return value

    def tell(self, event: Event) -> None:
        """Let the listeners hear it."""
        for listener in list(self.listeners):
            listener(event)

    # -- running

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A torch function as the interception would run it: by its handler, else on the host."""
        handler = self.table.get(function)
        if handler is not None:
            result = handler(self, function, *args, **kwargs)
            if result is not NotImplemented:
                return result
        return self.host(function, args, kwargs)

    def host(
        self,
        function: Callable[..., Any],
        args: Arguments,
        kwargs: Mapping[str, Any],
        *,
        operator: str | None = None,
        site: str | None = None,
        order: int | None = None,
        weights: tuple[Weight, ...] = (),
    ) -> Any:
        """Run a torch function in float: chip tensors leave, and results know where they come from."""
        found: list[Tensor] = []
        gather((args, kwargs), found)
        lead = self.lead(found)
        name = operator or str(getattr(function, "__name__", function)).strip("_")
        if site is None:
            site = behind(lead, name) if lead is not None else name
        if order is None:
            order = -1 if lead is None else lead.order
        if lead is None and not weights:
            with self.autocast.resumed():
                return function(*args, **kwargs)
        out = kwargs.get("out")
        if isinstance(out, Tensor) and grid_of(out) is not None:
            rest = {key: value for key, value in kwargs.items() if key != "out"}
            result = self.host(function, args, rest, operator=operator, site=site, order=order, weights=weights)
            return self.replaced(out, result)
        inputs = tuple(each for each in found if each.is_floating_point() and not isinstance(each, torch.nn.Parameter))
        if self.listeners:
            self._fetched(found)
        target = args[0] if args and changes(function) and isinstance(args[0], Tensor) else None
        left = self.left(args)
        own = None if target is None else tag_of(target)
        if (
            own is not None and own.grid is not None
        ):  # what is on the chip is changed by what comes back, not by the host
            left = (left[0].clone(), *left[1:])
        with self.autocast.resumed():
            result = function(*left, **self.left(dict(kwargs)))
        if target is not None:
            target = self._changed(target, left[0], site, order)
        outputs: list[Tensor] = []
        gather(result, outputs)
        outputs = [each for each in outputs if each.is_floating_point()]
        for each in outputs:
            if each is not target and not isinstance(each, torch.nn.Parameter):
                put(each, Tag(site, None, order))
        if self.listeners and outputs:
            bits = (FLOAT,) * (len(inputs) + len(outputs))
            self.tell(
                Event(name, site, False, inputs, tuple(outputs), bits, weights, work(function, args, kwargs, result))
            )
        return target if target is not None and result is not None else result

    def _fetched(self, values: Iterable[Tensor]) -> None:
        """Last states that a chip keeps as words of several grids, which the host reads now."""
        for value in values:
            bits: int | None = getattr(value, KEPT, None)
            tag = tag_of(value)
            if bits is not None and tag is not None and tag.grid is None:
                self.tell(Event(LEAVE, tag.site, True, (value,), (value,), (bits, FLOAT)))
                delattr(value, KEPT)

    def left(self, value: Any) -> Any:
        """The same structure with every chip tensor in float on the host."""
        if isinstance(value, Tensor):
            tag = tag_of(value)
            return value if tag is None or tag.grid is None else self.leave(value, tag)
        return rebuilt(value, self.left)

    # -- in place

    def replaced(self, target: Tensor, result: Tensor) -> Tensor:
        """What `target` is from now on: an in-place function, or one with `out=`, made `result` of it."""
        return replaced(self, target, result)

    def _changed(self, target: Tensor, left: Tensor, site: str, order: int) -> Tensor:
        """`target`, or its float form, was changed in place on the host: what was on the chip goes back to its grid."""
        tag = tag_of(target)
        if tag is None or tag.grid is None:
            return put(target, Tag(site, None, order))
        observe(self, tag, left)
        hidden = left.detach() == -math.inf if tag.masked else None
        value, _ = self.enter_on(left if hidden is None else left.masked_fill(hidden, 0.0), tag.site, tag.grid)
        if hidden is not None:
            value = self.backend.exclude(value, tag.grid, hidden)
        return self.replaced(target, put(value, tag))


def _check_finite(value: Tensor) -> None:
    """In training what has no code must show: the chip would make 0 of nan and its largest number of inf, and go on.

    **Raises** `NotFiniteError`. It looks once at what comes from the host, not at every layer: on the chip nothing else arises.
    """
    if not value.numel():
        return
    low, high = (float(each) for each in torch.aminmax(value.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NotFiniteError(f"a value from the host is {low if not math.isfinite(low) else high}")


def gather(value: Any, found: list[Tensor]) -> None:
    """Append every tensor of a structure of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, tuple | list):
        for each in value:
            gather(each, found)
    elif isinstance(value, dict):
        for each in value.values():
            gather(each, found)


def rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same tuple, named tuple, list or dict with changed members; anything else as it is."""
    if isinstance(value, tuple):
        members = [change(each) for each in value]
        return type(value)(*members) if hasattr(value, "_fields") else type(value)(members)
    if isinstance(value, list):
        return [change(each) for each in value]
    if isinstance(value, dict):
        changed = copy.copy(value)
        for key, each in value.items():
            changed[key] = change(each)
        return changed
    return value


def settled(value: Any) -> Any:
    """The same structure with every tensor as it is after the in-place functions that were called on it."""
    if isinstance(value, Tensor):
        return current(value)
    if isinstance(value, tuple | list | dict):
        found: list[Tensor] = []
        gather(value, found)
        return rebuilt(value, settled) if any(_moved(each) for each in found) else value
    return value


def _moved(value: Tensor) -> bool:
    return any(hasattr(value, mark) for mark in MARKS)


def changes(function: Any) -> bool:
    """Whether a torch function changes its first argument."""
    name = str(getattr(function, "__name__", ""))
    if name.startswith("__"):
        return name == "__setitem__" or (
            name.startswith("__i") and name not in ("__invert__", "__index__", "__int__", "__iter__")
        )
    return name.endswith("_")


def _later(tag: Tag, other: Tag) -> bool:
    return (tag.order, tag.site.count("|"), tag.site) > (other.order, other.site.count("|"), other.site)


def _names(site: str) -> tuple[str, ...]:
    first = site.split("|")[0]
    return (site, first, first.split(":")[0])


def _matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)
