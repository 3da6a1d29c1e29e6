"""A chip for the tests of what surrounds the arithmetic: float operators whose results are rounded to their grids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from slt_nna.floating import Floating
from slt_nna.grid import Grid
from slt_nna.nna import Nna


class Rounded(Floating):
    """Every result of a float operator, rounded to its grid with straight-through gradients."""

    def enter(self, x: Tensor, out: Grid) -> Tensor:
        return _on(x, out)

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in ("linear", "convolution", "matmul", "add", "multiply", "gate", "layer_norm", "requantize"):
            return method

        def rounded(*args: Any, **kwargs: Any) -> Tensor:
            grids = [each for each in args if isinstance(each, Grid)]
            return _on(method(*args, **kwargs), grids[-1])

        return rounded


def _on(x: Tensor, grid: Grid) -> Tensor:
    codes = torch.floor(x.detach().double() / grid.scale + 0.5).clamp(grid.least, grid.most)
    value = (codes * grid.scale).float()
    value = torch.where(x == -torch.inf, x, value)
    return x + (value - x).detach() if x.requires_grad else value


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Nna]:
    """Makes an `Nna` that rounds, whatever the arithmetic of the chip is."""
    monkeypatch.setattr("slt_nna.nna._emulation", lambda chip, table_gradient: Rounded(chip))
    return lambda chip="mixed-8-16", **options: Nna(chip, **options)
