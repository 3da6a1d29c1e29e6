"""Updates of models that work in half precision, under autocast or by their own weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adapter_models import drawn_update, frames, tower
from torch import Tensor

from slt_residual_adapters.fusion import GateFusion
from slt_residual_adapters.residual_adapters import ResidualAdapters

MODES = ("sum", "average", "attention", "gate", "stack")
CLOSE: dict[str, Any] = {"rtol": 0.1, "atol": 0.1}  # bfloat16 has eight bits, and errors pass three blocks


def worn(mode: Any, *, folds: bool = True) -> tuple[Any, ResidualAdapters]:
    model = tower()
    adapters = ResidualAdapters(
        updates=[drawn_update(model, name) for name in ("monday", "friday")], fusion=mode, folds=folds
    )
    torch.manual_seed(0)  # the attention's queries start at random
    adapters.attach(model)
    for site in adapters.sites.values():
        if isinstance(site.fusion, GateFusion):
            torch.nn.init.constant_(site.fusion.rows["friday"], 0.1)
    return model, adapters


def output(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(x)
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("folds", [True, False])
def test_under_autocast_updates_do_what_they_do_without(mode: Any, folds: bool) -> None:
    """As validation calls them in a run with `precision: bfloat16`."""
    model, adapters = worn(mode, folds=folds)
    x = frames(3, 5)
    with adapters.use({"updates": [["monday"], ["monday", "friday"], []]}):
        expected = output(model, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = output(model, x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, **CLOSE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("folds", [True, False])
def test_a_model_that_becomes_half_keeps_its_updates(mode: Any, folds: bool) -> None:
    x = frames(3, 5)
    expected = output(worn(mode, folds=folds)[0], x)
    model, _ = worn(mode, folds=folds)
    found = output(model.bfloat16(), x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, **CLOSE)
