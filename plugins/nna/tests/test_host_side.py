"""What is promised of what stays on the host, and of calls around the model: it is as without a chip."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slt_nna.audit import audit
from slt_nna.chip import load_chip
from slt_nna.nna import Nna
from slt_nna.ranges import Ranges
from slt_nna.singles import singles

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def chip(**options: Any) -> Any:
    return load_chip({"name": "t", "description": "t", **options})


@pytest.mark.parametrize(("exclude", "host"), [(("1",), ()), ((), ("batch_norm",))])
def test_a_batch_norm_in_float_learns_its_statistics(exclude: tuple[str, ...], host: tuple[str, ...]) -> None:
    found = []
    for on_chip in (False, True):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
        if on_chip:
            Nna(chip(host=host), exclude=exclude).attach(module, iter([X + 3]))
        module(X + 3)
        found.append(module[1].running_mean)
        assert module[1].training
    torch.testing.assert_close(*found, rtol=0.05, atol=0.05)


def test_a_batch_norm_on_the_chip_keeps_its_statistics() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    Nna("mixed-8-16").attach(module, iter([X]))
    module(X + 3)
    assert not module[1].running_mean.any()


def test_cost_and_audit_leave_every_module_in_its_mode() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4)).train()
    module[1].eval()
    transform = Nna("harsh")
    transform.attach(module, iter([X]))
    transform.cost(module, X)
    audit(transform, module, [X], each=False)
    assert [part.training for part in module] == [True, False, True]
    assert module.training


class Mixed(nn.Module):
    """A host layer, a layer, and a last one on the chip."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.host = nn.ConvTranspose1d(4, 4, 2)
        self.middle: nn.Module = nn.Linear(4, 4) if kind == "linear" else nn.LSTM(4, 4, batch_first=True)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        y = self.middle(self.host(x).transpose(1, 2))
        return self.last(y[0] if isinstance(y, tuple) else y)


@pytest.mark.parametrize("kind", ["linear", "lstm"])
def test_autocast_reaches_what_stays_on_the_host(kind: str) -> None:
    module, x = Mixed(kind).eval(), torch.randn(2, 4, 10)
    transform = Nna(chip(host=["lstm"]), exclude=["middle"])
    transform.attach(module, iter([x]))
    with torch.no_grad():
        expected = module(x)
        with torch.autocast("cpu", torch.bfloat16):
            kinds = []
            handle = module.middle.register_forward_hook(
                lambda part, given, output: kinds.append((output[0] if kind == "lstm" else output).dtype)
            )
            found = module(x)
            handle.remove()
            assert (x.new_ones(2, 2) @ x.new_ones(2, 2)).dtype == torch.bfloat16
    assert kinds == [torch.bfloat16]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


def test_autocast_is_on_again_behind_an_error() -> None:
    module = nn.Sequential(nn.Linear(4, 4))
    transform = Nna("mixed-8-16")
    transform.attach(module, iter([X]))
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError):
            module(torch.randn(2, 5))
        assert torch.is_autocast_enabled("cpu")


class Joined(nn.Module):
    """Outputs of two layers, of which the second is scaled, side by side."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.factor = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), factor

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        return torch.cat([y, self.c(self.b(y)) * self.factor, y * self.factor / self.factor], -1)


@pytest.mark.parametrize("factor", [0.5, 0.25, 2.0, 0.1, 0.3])
@pytest.mark.parametrize("scales", ["free", "power_of_two"])
def test_what_calibration_saw_runs_whatever_the_factors(factor: float, scales: str) -> None:
    module = Joined(factor).eval()
    transform = Nna(chip(scales=scales), range="max")
    transform.attach(module, iter([X]))
    with torch.no_grad():
        assert torch.equal(module(X), transform.lower(module)(X))


def test_no_stand_in_is_a_power_of_two_times_another() -> None:
    ranges = Ranges(load_chip("mixed-8-16"))
    ranges.begin()
    scales = [-ranges.grid(f"grid {index}", 8).scale for index in range(2000)]
    assert len({torch.frexp(torch.tensor(each, dtype=torch.float64))[0].item() for each in scales}) == 2000


class Timed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, lengths: Tensor | None = None, attention_mask: Tensor | None = None) -> Any:
        return self.layer(x)


@pytest.mark.parametrize("named", ["lengths", "attention_mask"])
def test_padding_in_a_dict_moves_no_range(named: str) -> None:
    x = torch.randn(2, 10, 4)
    loud = x.clone()
    loud[1, 5:] = 50.0
    lengths = torch.tensor([10, 5])
    given = lengths if named == "lengths" else (torch.arange(10)[None] < lengths[:, None]).long()
    found = []
    for each in (x, loud):
        transform = Nna("mixed-8-16", range="max")
        transform.attach(Timed(), iter([{"x": each, named: given}]))
        found.append(float(transform.state()["range.layer:input"]))
        transform.detach()
    assert found[0] == found[1] < 10


def test_a_dict_is_cut_where_its_time_is() -> None:
    mask = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 0]])
    batch = {
        "x": torch.arange(9).view(3, 3),
        "attention_mask": mask,
        "decoder_ids": torch.arange(9).view(3, 3),
        "speaker": torch.tensor([7, 8, 9]),
        "scale": 2.0,
    }
    first, second = singles(batch)
    assert first["x"].tolist() == [[0, 1, 2]]
    assert second["x"].tolist() == [[4, 5]]
    assert second["attention_mask"].tolist() == [[1, 1]]
    assert second["decoder_ids"].tolist() == [[3, 4, 5]]
    assert second["speaker"].tolist() == [8]
    assert second["scale"] == 2.0


def test_a_dict_without_the_time_of_its_lengths_is_told() -> None:
    batch = {"x": torch.zeros(2, 4, 3), "attention_mask": torch.ones(2, 9)}
    with pytest.warns(UserWarning, match=r"no tensor among x, attention_mask has the time axis"):
        assert list(singles(batch)) == [batch]
