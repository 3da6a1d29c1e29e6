"""Products that stay on the host are counted as torch's own flop counter counts them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.backends.opt_einsum
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from slt_nna.chip import load_chip
from slt_nna.cost import Account, account
from slt_nna.nna import Nna

CHIP = {**load_chip("mixed-8-16").model_dump(), "host": ["matmul", "convolution", "gru", "lstm"]}
Function = Callable[["Body", Tensor], Tensor]

FUNCTIONS: dict[str, Function] = {
    "matmul": lambda m, y: torch.matmul(y, y.transpose(1, 2)),
    "matmul of a parameter": lambda m, y: torch.matmul(m.square, y.transpose(1, 2)),
    "operator": lambda m, y: y @ m.square,
    "bmm": lambda m, y: torch.bmm(y, y.transpose(1, 2)),
    "mm by name": lambda m, y: torch.mm(input=y[0], mat2=m.square),
    "addmm": lambda m, y: torch.addmm(m.square[0], y[0], m.square, beta=0.5),
    "baddbmm": lambda m, y: torch.baddbmm(m.square[:7, :7], y, y.transpose(1, 2), beta=0.5),
    "einsum": lambda m, y: torch.einsum("btf,bsf->bts", y, y),
    "einsum with an ellipsis": lambda m, y: torch.einsum("...tf, gf -> ...tg", y, m.square),
    "einsum of a list": lambda m, y: torch.einsum("btf,gf->btg", [y, m.square]),
    "einsum of three": lambda m, y: torch.einsum("btf,gf,gh->bth", y, m.square, m.square),
    "einsum of four": lambda m, y: torch.einsum("btf,gf,gh,hk->bk", y, m.square, m.square, m.square),
    "einsum without an arrow": lambda m, y: torch.einsum("tf,fg", y[0], m.square),
    "tensordot": lambda m, y: torch.tensordot(y, m.square, dims=([2], [1])),
    "inner": lambda m, y: torch.inner(y[0], m.square),
    "linear of another weight": lambda m, y: functional.linear(y, m.square * 2.0),
    "conv1d": lambda m, y: m.layers["conv"](y.transpose(1, 2)),
    "conv3d": lambda m, y: m.layers["cube"](y[:, None, None]),
    "conv_transpose1d": lambda m, y: m.layers["up"](y.transpose(1, 2)),
    "conv_transpose2d": lambda m, y: m.layers["wide"](y[:, None]),
    "attention": lambda m, y: functional.scaled_dot_product_attention(y[:, None], y[:, None], y[:, None]),
    "multi head": lambda m, y: m.layers["heads"](y, y, y, need_weights=False)[0],
}


class Body(nn.Module):
    """A layer on the chip, and a function of what it gives, of shape [b t f]."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.square = nn.Parameter(torch.randn(8, 8))
        self.layers = nn.ModuleDict(
            {
                "conv": nn.Conv1d(8, 6, 3, stride=2, groups=2),
                "cube": nn.Conv3d(1, 2, (1, 2, 3)),
                "up": nn.ConvTranspose1d(8, 6, 4, stride=2, groups=2),
                "wide": nn.ConvTranspose2d(1, 3, (2, 3)),
                "heads": nn.MultiheadAttention(8, 2, batch_first=True),
            }
        )
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.first(x))


def counted(model: nn.Module, x: Tensor) -> Account:
    transform = Nna(CHIP)
    transform.attach(model, iter([x]))
    found = account(transform, model, x)
    transform.detach()
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("ordered", [False, True])
def test_products_on_the_host_are_those_of_a_flop_counter(
    name: str, ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.backends.opt_einsum, "enabled", ordered
    )  # whether torch asks it for an order, where it is
    model, x = Body(FUNCTIONS[name]).eval(), torch.randn(5, 7, 3)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)  # with gradients multi-head attention takes no shortcut that the counter does not see
    found = counted(model, x)
    assert found.macs == counter.get_total_flops() // 2 > 5 * 7 * 3 * 8
    assert found.host_macs > 0


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}])
def test_recurrent_layers_on_the_host_take_all_their_kernels_for_each_frame(
    kind: type[nn.Module], options: dict[str, int]
) -> None:
    model = nn.Sequential(nn.Linear(3, 8), kind(8, 6, batch_first=True, **options)).eval()
    kernels = sum(each.numel() for each in model[1].parameters() if each.ndim == 2)
    assert counted(model, torch.randn(5, 7, 3)).host_macs == 5 * 7 * kernels


def test_a_projection_counts_on_the_host_too() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.LSTM(8, 6, proj_size=2)).eval()
    kernels = sum(each.numel() for each in model[1].parameters() if each.ndim == 2)
    assert counted(model, torch.randn(5, 7, 3)).host_macs == 5 * 7 * kernels


def test_products_with_vectors_count() -> None:
    """These torch's counter leaves out."""
    matrix = counted(Body(lambda m, y: torch.mv(y[0], m.square[0])).eval(), torch.randn(5, 7, 3))
    assert matrix.host_macs == 7 * 8
    vector = counted(Body(lambda m, y: torch.dot(y[0, 0], m.square[0])).eval(), torch.randn(5, 7, 3))
    assert vector.host_macs == 8


def test_what_is_summed_first_is_no_product() -> None:
    """f stands in one operand alone: torch sums over it before it multiplies."""
    body = Body(lambda m, y: torch.einsum("btf,bg->btg", y, y[:, 0]))
    assert counted(body.eval(), torch.randn(5, 7, 3)).host_macs == 5 * 7 * 8


def test_functions_whose_products_are_not_counted_are_named() -> None:
    found = counted(Body(lambda m, y: torch.cdist(y, y).log_softmax(-1) * 2.0).eval(), torch.randn(5, 7, 3))
    assert found.uncounted == ["cdist", "log_softmax"]
    assert any(
        "one operation for each number that these host functions give, and no products in them: cdist, log_softmax"
        in each
        for each in found.assumptions()
    )
    without = counted(Body(FUNCTIONS["matmul"]).eval(), torch.randn(5, 7, 3))
    assert without.uncounted == []
    assert not any("host functions give" in each for each in without.assumptions())
