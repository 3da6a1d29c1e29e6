"""An update can be trained behind every kind of module that is named in the documentation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from adapter_models import WIDTH, frames
from torch import Tensor, nn

from slt_residual_adapters.outputs import first_tensor
from slt_residual_adapters.residual_adapters import ResidualAdapters


class Around(nn.Module):
    """One module between two linear layers; `swaps` for modules that take channels in front."""

    def __init__(self, part: nn.Module, *, swaps: bool = False, more: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.before, self.part, self.after = nn.Linear(WIDTH, WIDTH), part, nn.Linear(WIDTH, 2)
        self.swaps, self.more = swaps, more

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        y = first_tensor(self.part(x.mT if self.swaps else x, *self.more), "part")
        result: Tensor = self.after(y.mT if self.swaps else y)
        return result


class Named(nn.Module):
    """A layer that returns the `ModelOutput` or the tuple of `transformers`."""

    def __init__(self, returns: str) -> None:
        super().__init__()
        self.linear, self.returns = nn.Linear(WIDTH, WIDTH), returns

    def forward(self, x: Tensor) -> Any:
        if self.returns == "tuple":
            return self.linear(x), None
        outputs = pytest.importorskip("transformers.modeling_outputs")
        return outputs.BaseModelOutput(last_hidden_state=self.linear(x))


def conformer() -> Around:
    block = pytest.importorskip("slt_speech.conformer").ConformerBlock
    settings = {"position": "relative", "reach": "centered", "norm": "layer", "dropout": 0.1}
    return Around(block(WIDTH, 2, ffn=12, kernel=3, **settings), more=(torch.ones(4, 7, dtype=torch.bool), None))


MODELS: dict[str, Any] = {
    "linear": lambda: Around(nn.Linear(WIDTH, WIDTH)),
    "conv1d": lambda: Around(nn.Conv1d(WIDTH, WIDTH, 3, padding=1), swaps=True),
    "gru": lambda: Around(nn.GRU(WIDTH, WIDTH, batch_first=True)),
    "lstm": lambda: Around(nn.LSTM(WIDTH, WIDTH, num_layers=2, dropout=0.5, batch_first=True)),
    "both ways": lambda: Around(nn.GRU(WIDTH, WIDTH // 2, bidirectional=True, batch_first=True)),
    "transformer": lambda: Around(nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.5, batch_first=True)),
    "conformer": conformer,
    "model output": lambda: Around(Named("ModelOutput")),
    "tuple": lambda: Around(Named("tuple")),
}


@pytest.mark.parametrize("what", MODELS)
def test_an_update_learns_behind_it_and_the_base_stays(what: str) -> None:
    torch.manual_seed(0)
    model = MODELS[what]().eval()
    before = copy.deepcopy(model.state_dict())
    x, target = frames(4, 7), torch.randn(4, 7, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(x)
    adapters = ResidualAdapters(
        "monday", place=["part"], rank=4, d=WIDTH if what in ("model output", "tuple") else None
    )
    adapters.attach(model)
    with torch.no_grad():
        assert torch.equal(model(x), plain)
    own = [parameter for group in adapters.parameter_groups() for parameter in group["params"]]
    optimizer = torch.optim.Adam(own, lr=0.05)
    losses = []
    for _ in range(8):
        model.train()
        with adapters.use({}):
            loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    adapters.finish()
    with torch.no_grad():
        changed = model.eval()(x)
        again = copy.deepcopy(adapters.update("monday"))
        adapters.detach()
        assert torch.equal(model(x), plain)
        ResidualAdapters(updates=[again]).attach(model)
        torch.testing.assert_close(model(x), changed, rtol=1e-5, atol=1e-5)
