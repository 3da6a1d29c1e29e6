"""LSTM and GRU: layers, directions, packed sequences and single cells, one backend call for each layer and direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from slt_nna.backend import Kernels, RecurrentGrids
from slt_nna.dispatch.arrangement import joined
from slt_nna.dispatch.dispatcher import Dispatcher
from slt_nna.dispatch.elementwise import dropout
from slt_nna.grid import Grid
from slt_nna.names import Place
from slt_nna.tags import KEPT, Tag, put, tag_of


class Stack(NamedTuple):
    """The kernels of all layers and directions, direction by direction within a layer."""

    kernels: list[Kernels]
    places: list[Place]
    directions: int


def lstm(d: Dispatcher, function: Any, *args: Any) -> Any:
    """torch.lstm, padded or packed."""
    return _recurrent(d, function, args, "lstm")


def gru(d: Dispatcher, function: Any, *args: Any) -> Any:
    """torch.gru, padded or packed."""
    return _recurrent(d, function, args, "gru")


def _recurrent(d: Dispatcher, function: Any, args: tuple[Any, ...], operator: str) -> Any:
    packed = isinstance(args[3], list | tuple)  # data, batch_sizes, hx, params, ... or input, hx, params, ...
    x, hx, params = (args[0], args[2], args[3]) if packed else args[:3]
    biased, layers, drop, train, both = args[4:9] if packed else args[3:8]
    first = not packed and bool(args[8])
    stack = _stack(d, list(params), biased, layers, both)
    if stack is None:
        return NotImplemented
    sites = [place.site for place in stack.places]
    if not all(d.runs(operator, site) for site in sites) or _without_tables(d):
        weights = tuple(each for kernels in stack.kernels for each in (kernels.weight_ih, kernels.weight_hh))
        order = stack.places[-1].order
        return d.host(function, args, {}, operator=operator, site=sites[0], order=order, weights=weights)
    if first:
        x = d.run(torch.Tensor.transpose, x, 0, 1)
    sizes = args[1] if packed else None
    states = [_picked(d, state, len(sites)) for state in (hx if operator == "lstm" else (hx,))]
    finals: list[list[Tensor]] = [[] for _ in states]
    for layer in range(layers):
        outputs = []
        first_site = sites[layer * stack.directions]
        x, gx = d.operand(x, f"{first_site}:input", d.chip.words.activation)
        for index in range(layer * stack.directions, (layer + 1) * stack.directions):
            given = [state[index] for state in states]
            y, last = _one(d, operator, x, gx, stack, index, given, sizes)
            outputs.append(y)
            for kept, final in zip(finals, last, strict=True):
                kept.append(final)
        x = outputs[0] if len(outputs) == 1 else joined(d, outputs, lambda parts: (torch.cat, (list(parts), -1), {}))
        if drop and train and layer < layers - 1:
            x = _dropped(d, x, drop)
    if first:
        x = d.run(torch.Tensor.transpose, x, 0, 1)
    return (x, *(_stacked(d, kept) for kept in finals))


def cell_lstm(
    d: Dispatcher, function: Any, input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None
) -> Any:
    """torch.lstm_cell: one frame of an LSTM."""
    return _cell(d, function, "lstm", input, hx, w_ih, w_hh, b_ih, b_hh)


def cell_gru(
    d: Dispatcher, function: Any, input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None
) -> Any:
    """torch.gru_cell: one frame of a GRU."""
    return _cell(d, function, "gru", input, hx, w_ih, w_hh, b_ih, b_hh)


def _cell(d: Dispatcher, function: Any, operator: str, x: Tensor, hx: Any, *params: Any) -> Any:
    stack = _stack(d, [each for each in params if each is not None], params[2] is not None, 1, False)
    if stack is None:
        return NotImplemented
    site = stack.places[0].site
    if not d.runs(operator, site) or _without_tables(d):
        weights = (stack.kernels[0].weight_ih, stack.kernels[0].weight_hh)
        return d.host(
            function, (x, hx, *params), {}, operator=operator, site=site, order=stack.places[0].order, weights=weights
        )
    x = d.run(torch.unsqueeze, x, 0)
    given: list[Tensor | None] = list(hx) if operator == "lstm" else [hx]
    x, gx = d.operand(x, f"{site}:input", d.chip.words.activation)
    y, last = _one(d, operator, x, gx, stack, 0, given, None)
    result = d.run(torch.squeeze, y, 0)
    return (result, last[1]) if operator == "lstm" else result


def _one(
    d: Dispatcher,
    operator: str,
    x: Tensor,
    gx: Grid,
    stack: Stack,
    index: int,
    given: Sequence[Tensor | None],
    sizes: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """One layer and direction: outputs, and last states, all marked."""
    kernels, place, words = stack.kernels[index], stack.places[index], d.chip.words
    site = place.site
    hidden = d.grid(site, words.activation)
    grids = RecurrentGrids(
        hidden,
        d.grid(f"{site}:pre", words.preactivation),
        d.grid(f"{site}:state", words.state) if operator == "lstm" else None,
        d.grid(f"{site}:cell", words.activation) if kernels.projection is not None else None,
    )
    kept = [hidden] if grids.state is None else [hidden, grids.state]
    known = any(each is not None for each in given)
    widths = (kernels.weight_hh.value.shape[1], kernels.weight_hh.value.shape[0] // 4)
    batch = next((each.shape[0] for each in given if each is not None), 0)
    states = None
    if known:
        full = [
            torch.zeros(batch, width, device=x.device) if each is None else each
            for each, width in zip(given, widths, strict=False)
        ]
        states = [_state(d, each, grid, site) for each, grid in zip(full, kept, strict=True)]
    reverse = stack.directions == 2 and index % 2 == 1
    backend = d.begin(operator, site)
    if operator == "lstm":
        pair = None if states is None else (states[0], states[1])
        y, *last = backend.lstm(x, gx, kernels, grids, pair, reverse=reverse, batch_sizes=sizes)
    else:
        state = None if states is None else states[0]
        y, *last = backend.gru(x, gx, kernels, grids, state, reverse=reverse, batch_sizes=sizes)
    weights = tuple(each for each in (kernels.weight_ih, kernels.weight_hh, kernels.projection) if each is not None)
    d.result(y, operator, site, hidden, place.order, ((x, gx),), weights=weights)
    for value, grid in zip(last, kept, strict=True):
        put(value, Tag(site, grid, place.order))
    return y, list(last)


def _state(d: Dispatcher, value: Tensor, grid: Grid, site: str) -> Tensor:
    """A first state on its grid: what is on it stays, another chip tensor is requantized, a host tensor enters."""
    tag = tag_of(value)
    if tag is None or tag.grid is None:
        return d.enter_on(value, site, grid, silent=True)[0]
    value = d.settled(value, tag)
    if tag.grid == grid:
        return value
    return d.begin("concatenate", site).requantize(value, tag.grid, grid)


def _picked(d: Dispatcher, state: Tensor, count: int) -> list[Tensor | None]:
    """The first state of each layer and direction; None for zeros on the host."""
    tag = tag_of(state)
    if tag is None and not state.requires_grad and not bool(state.any()):
        return [None] * count
    return [d.run(torch.Tensor.select, state, 0, index) for index in range(count)]


def _stacked(d: Dispatcher, kept: list[Tensor]) -> Tensor:
    """Last states [layers*directions b p]: on the chip where they have one grid, else exactly as float on the host."""
    tags = [tag_of(each) for each in kept]
    first = tags[0]
    assert first is not None
    if all(tag is not None and tag.grid == first.grid for tag in tags):
        return _kept(put(d.backend.shape(torch.stack, (kept,), {}), first), first)
    left = [d.leave(each, tag, silent=True) for each, tag in zip(kept, tags, strict=True) if tag is not None]
    return _kept(put(torch.stack(left), first.host), first)


def _kept(state: Tensor, tag: Tag) -> Tensor:
    assert tag.grid is not None
    setattr(state, KEPT, tag.grid.bits)
    return state


def _stack(d: Dispatcher, params: list[Tensor], biased: bool, layers: int, both: bool) -> Stack | None:
    directions = 2 if both else 1
    each = len(params) // (layers * directions)
    found: list[Kernels] = []
    places: list[Place] = []
    for start in range(0, len(params), each):
        part = params[start : start + each]
        own = [d.names.place(value) for value in part]
        if own[0] is None or own[1] is None:
            return None
        first_bias, second_bias = (part[2], part[3]) if biased else (None, None)
        projected = len(part) - (4 if biased else 2)
        projection = d.weight(part[-1], own[-1]) if projected and own[-1] is not None else None
        first, second = d.weight(part[0], own[0]), d.weight(part[1], own[1])
        found.append(Kernels(first, second, first_bias, second_bias, projection))
        places.append(own[0])
    return Stack(found, places, directions)


def _without_tables(d: Dispatcher) -> bool:
    return d.chip.tables.sigmoid is None or d.chip.tables.tanh is None


def _dropped(d: Dispatcher, x: Tensor, p: float) -> Tensor:
    result = dropout(d, functional.dropout, x, p, True)
    dropped: Tensor = d.host(functional.dropout, (x, p, True), {}) if result is NotImplemented else result
    return dropped
