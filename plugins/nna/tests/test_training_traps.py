"""What goes wrong quietly in training on a chip elsewhere: recomputed layers, numbers that are none, dropout, copies."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from slt_nna.nna import Nna
from sltcore.errors import PluginError


def attached(model: nn.Module, example: Tensor, chip: Any = "mixed-8-16", **options: Any) -> Nna:
    transform = Nna(chip, **options)
    transform.attach(model, iter([example]))
    return transform


class Body(nn.Module):
    """A norm, then a function with operators of its own around two layers, then a module; both may be recomputed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.block = nn.Sequential(nn.Linear(6, 6), nn.SiLU(), nn.Dropout(0.5))
        self.reentrant: bool | None = None

    def inner(self, x: Tensor) -> Tensor:
        return x * 0.5 + self.second(functional.silu(self.first(x)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if self.reentrant is None:
            result: Tensor = self.block(self.inner(x))
        else:
            again = checkpoint(self.inner, x, use_reentrant=self.reentrant)
            result = checkpoint(self.block, again, use_reentrant=self.reentrant)
        return result


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    x.grad = None
    torch.manual_seed(3)
    model(x).square().sum().backward()
    return [each.grad.clone() for each in (*model.parameters(), x) if each.grad is not None]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("chip", ["generous-8bit", "harsh"])
def test_checkpointed_layers_have_the_gradients_of_others(chip: str, inside: bool) -> None:
    torch.manual_seed(0)
    model, x = Body(), torch.randn(5, 6, requires_grad=True)
    transform = attached(model, x.detach(), chip)
    model.train()
    expected = gradients(model, x)
    model.reentrant = False
    if inside:
        with transform.use({}):
            found = gradients(model, x)
    else:
        found = gradients(model, x)
    assert len(found) == len(expected) == 9
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_the_older_kind_of_checkpoint_is_refused_with_the_one_to_take() -> None:
    model, x = Body(), torch.randn(5, 6, requires_grad=True)
    attached(model, x.detach())
    model.reentrant = True
    with pytest.raises(PluginError, match=r"module 'block' runs inside a backward pass.*use_reentrant=False"):
        gradients(model, x)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("own", "what"), [("weight", "a weight or constant is"), ("bias", "a bias is nan or inf")])
def test_a_parameter_that_is_no_number_names_its_layer(own: str, what: str, value: float) -> None:
    model, x = Body(), torch.randn(5, 6)
    attached(model, x)
    with torch.no_grad():
        getattr(model.block[0], own)[0] = value
    with pytest.raises(PluginError, match=rf"nna: {what}.* at 'block.0', and no code stands for it"):
        model(x)
    lowered = copy.deepcopy(Body())
    with torch.no_grad():
        lowered.first.weight[1, 1] = value
    with pytest.raises(PluginError, match="parameter 'first.weight' holds nan or inf, which no code of chip 'harsh'"):
        attached(lowered, x, "harsh")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_input_that_is_no_number_stops_training_and_not_a_running_recognizer(value: float) -> None:
    model, x = Body().eval(), torch.randn(5, 6)
    attached(model, x)
    broken = x.clone()
    broken[2, 3] = value
    with pytest.raises(PluginError, match=rf"nna: a value from the host is {value} at 'norm:input', and no code"):
        model(broken)
    with torch.no_grad():
        assert model(broken).isfinite().all()


def test_masks_of_minus_infinity_still_train() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8)
    mask = torch.zeros(5, 5).masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -math.inf)

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layer(x, x, x, attn_mask=mask, need_weights=False)[0]
            return result

    model = Masked()
    attached(model, x)
    model(x).sum().backward()
    assert all(each.grad is not None and bool(each.grad.isfinite().all()) for each in model.parameters())


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_clips_nothing_that_it_makes_larger(p: float) -> None:
    """Kept values are 1 / (1 - p) times what they were, to half a step of their grid, at the very end of the range too."""

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            before = self.layer(x)
            after = functional.dropout(before, p, self.training)
            self.seen = [before, after]
            return after * 2.0

    torch.manual_seed(0)
    model, x = Dropped(), torch.randn(100, 6).repeat(20, 1)
    transform = attached(model, x, "generous-8bit", range="max")
    step = transform.ranges.grid("layer", 8).scale
    model.train()
    model(x)
    before, after = (each.detach().clone() for each in model.seen)
    kept = after != 0
    assert float(before.abs().max()) > 100 * step, "the range is used up"
    assert float((after - before / (1 - p))[kept].abs().max()) <= step / 2 + 1e-6
    assert float(after.abs().max()) > 127 * step
    model.eval()
    model(x)
    assert torch.equal(model.seen[0], model.seen[1])


def test_padding_has_no_gradient() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 4, padding_idx=1)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.table(x))
            return result

    torch.manual_seed(0)
    model, words = Words(), torch.tensor([[0, 1, 2, 1]])
    model(words).sum().backward()
    expected = [index for index in range(5) if bool(model.table.weight.grad[index].any())]  # type: ignore[index]
    model.zero_grad()
    attached(model, words)
    model(words).sum().backward()
    found = [index for index in range(5) if bool(model.table.weight.grad[index].any())]  # type: ignore[index]
    assert found == expected == [0, 2]


def test_an_embedding_alone_can_be_on_the_chip() -> None:
    model, words = nn.Embedding(5, 4), torch.tensor([0, 3])
    attached(model, words)
    assert not torch.equal(model(words), functional.embedding(words, model.weight))


def test_a_copy_of_a_chip_has_its_ranges_and_options() -> None:
    model, x = Body(), torch.randn(5, 6)
    transform = attached(model, x, "harsh", exclude=["first"], start=0.25)
    with pytest.raises(
        PluginError, match="chip 'harsh' is attached to a Body, and a copy of it would be attached to nothing"
    ):
        copy.deepcopy(transform)
    model.eval()
    with torch.no_grad():
        expected = model(x)
    transform.detach()
    for other in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert (other.chip, other.start, other.dispatcher.exclude) == (transform.chip, 0.25, ("first",))
        other.restore(model, transform.state())
        with torch.no_grad():
            assert torch.equal(model(x), expected)
        other.detach()


def test_a_copy_of_an_attached_model_runs_on_the_chip_and_its_pickle_is_refused() -> None:
    model, x = Body().eval(), torch.randn(5, 6)
    attached(model, x)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(model)(x), model(x))
    with pytest.raises(PluginError, match=r"cannot be pickled.*save model.state_dict\(\)"):
        torch.save(model, io.BytesIO())
    torch.save(model.state_dict(), io.BytesIO())


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused_with_what_there_is(option: str) -> None:
    model, x = Body(), torch.randn(5, 6)
    with pytest.raises(
        PluginError,
        match=rf"nna: {option}: the pattern 'blok.\*' matches no module and no operator's site; there are norm, first",
    ):
        attached(model, x, **{option: ["*", "blok.*"]} if option == "include" else {option: ["blok.*"]})
    attached(model, x, exclude=["block.0", "norm|*", "*silu"]).detach()
