"""Updates of a transducer: no search takes a way around them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from adapter_models import by_hand, drawn_update
from torch import Tensor, nn

from slt_residual_adapters.outputs import first_tensor, with_first_tensor
from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.update import Update
from sltcore.errors import PluginError
from sltcore.plugin import Ports
from sltcore.types import Encoded, NBest, Port

pytest.importorskip("slt_speech")

D, D_PREDICTION, D_JOINT, V = 5, 6, 8, 5
LONGEST = 80
WIDTHS = {
    "prediction": D_PREDICTION,
    "prediction.embedding": D_PREDICTION,
    "prediction.layers.0": D_PREDICTION,
    "prediction.mixing": D_PREDICTION,
    "joint": V,
    "joint.encoder_projection": D_JOINT,
    "joint.prediction_projection": D_JOINT,
    "joint.output": V,
}
KINDS = {"prediction.mixing": "stateless"}
RECURRENT = "prediction.layers.0"
PLACES = list(WIDTHS)
SEARCHES: dict[str, dict[str, Any]] = {"greedy": {}, "beam": {"search": "beam", "beam": 3, "n_best": 3}}


class Changed(nn.Module):
    """A module whose output an update changes, written out, for calls of whole sequences only."""

    def __init__(self, inner: nn.Module, update: Update, place: str) -> None:
        super().__init__()
        self.inner, self.update, self.place = inner, update, place

    def forward(self, *arguments: Tensor) -> Any:
        output = self.inner(*arguments)
        value = first_tensor(output, self.place)
        rows = value.mT if isinstance(self.inner, nn.Conv1d) else value
        change = by_hand(self.update, self.place, rows).to(value.dtype)
        return with_first_tensor(output, value + (change.mT if isinstance(self.inner, nn.Conv1d) else change))


class SlowPrediction:
    """The step interface of a prediction network whose state is the prefix itself: each step reads all of it again."""

    def __init__(self, network: nn.Module, device: Any) -> None:
        self.network, self.embedding = network, device

    def start(self, b: int) -> tuple[Tensor, ...]:
        return torch.ones(b, LONGEST, dtype=torch.int64), torch.zeros(b, dtype=torch.int64)

    def step(self, state: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        labels, told = state[0].clone(), state[1]
        rows = torch.arange(len(tokens))
        longer = told > 0  # what is told first is the blank before the sentence
        labels[rows[longer], told[longer] - 1] = tokens[longer]
        return self.network(labels)[rows, told], (labels, told + 1)


class SlowJoint:
    """A joint network that projects every pair of frame and prefix anew."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def project_encoder(self, encoded: Tensor) -> Tensor:
        return encoded

    def project_prediction(self, predicted: Tensor) -> Tensor:
        return predicted

    def combine(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        axes = torch.broadcast_tensors(encoded[..., 0], predicted[..., 0])[0].shape
        pairs = (each.expand(*axes, each.shape[-1]).reshape(-1, 1, each.shape[-1]) for each in (encoded, predicted))
        logits: Tensor = self.network(*pairs)
        return logits.reshape(*axes, V)


def transducer(seed: int, **config: Any) -> Any:
    """A small transducer that writes a few labels of random frames."""
    from slt_speech.build_rnnt import rnnt
    from slt_speech.config_rnnt import RnntConfig

    torch.manual_seed(seed)
    settings = RnntConfig(characters="abc", d_prediction=D_PREDICTION, d_joint=D_JOINT, max_symbols=3, **config)
    model = rnnt(settings, Ports(upstream=Port("Encoded", {"d": D}))).eval()
    with torch.no_grad():
        model.joint.output.weight.mul_(6)
        model.joint.output.bias[0] += 2.0
    return model


def heard(seed: int) -> Encoded:
    """Three utterances of unequal length."""
    values = 2 * torch.randn(3, 12, D, generator=torch.Generator().manual_seed(seed))
    return Encoded(values, torch.tensor([12, 7, 10]), 0.04, 0.02)


def with_update(model: nn.Module, place: str, **options: Any) -> Update:
    """Attach an update of random numbers."""
    update = drawn_update(model, "monday", places=(place,), d=WIDTHS[place])
    ResidualAdapters(updates=[update], **options).attach(model)
    return update


def modified(model: Any, update: Update, place: str) -> Any:
    """A copy in which the module at `place` is another that does what the update does, the searches without shortcuts."""
    other = copy.deepcopy(model)
    parent, _, name = place.rpartition(".")
    holder = other.get_submodule(parent)
    embedding = other.prediction.embedding
    setattr(holder, name, Changed(holder.get_submodule(name), update, place))
    slow = SlowPrediction(other.prediction, copy.deepcopy(embedding)), SlowJoint(other.joint)
    for part in ("prediction", "joint"):
        delattr(other, part)
    other.prediction, other.joint = slow
    return other


def told(lists: list[NBest]) -> list[list[tuple[Any, ...]]]:
    return [[(one.tokens, one.times) for one in nbest] for nbest in lists]


def scores(lists: list[NBest]) -> Tensor:
    return torch.tensor([one.score for nbest in lists for one in nbest])


def pushed(model: Any, x: Encoded, row: int) -> NBest:
    """What a stream in chunks of three frames ends with."""
    session, end = model.open({}), int(x.lengths[row])
    for begin in range(0, end, 3):
        piece = x.values[row : row + 1, begin : min(begin + 3, end)]
        session.push(x._replace(values=piece, lengths=torch.tensor([piece.shape[1]])))
    last: NBest = session.finish()
    return last


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("place", PLACES)
def test_every_search_hears_what_the_whole_network_says(place: str, search: str) -> None:
    moved = 0
    for seed in range(3):
        model = transducer(seed, prediction=KINDS.get(place, "lstm"), **SEARCHES[search])
        x = heard(seed)
        before = model.decode(x, {})
        plain = copy.deepcopy(model)
        update = with_update(model, place)
        found = model.decode(x, {})
        with torch.no_grad():
            expected = modified(plain, update, place).decode(x, {})
        assert told(found) == told(expected)
        torch.testing.assert_close(scores(found), scores(expected), rtol=1e-4, atol=1e-4)
        streamed = [pushed(model, x, row) for row in range(3)]
        assert told(streamed) == told(found)
        moved += abs(found[0].best.score - before[0].best.score) > 1e-2
    assert moved  # an update that changes nothing could not be missed


@pytest.mark.parametrize("place", PLACES)
def test_the_greedy_search_is_the_loop_over_frames(place: str) -> None:
    model = transducer(1, prediction=KINDS.get(place, "lstm"))
    with_update(model, place)
    x = heard(1)
    for row, nbest in enumerate(model.decode(x, {})):
        labels: list[int] = []
        with torch.no_grad():
            for frame in x.values[row, : int(x.lengths[row])]:
                for _ in range(3):
                    prefix = model.prediction(torch.tensor([labels], dtype=torch.int64))[:, -1:]
                    best = int(model.joint(frame[None, None], prefix).argmax())
                    if best == 0:
                        break
                    labels.append(best)
        assert list(nbest.best.tokens) == labels


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("place", [place for place in WIDTHS if place != RECURRENT])
def test_a_fresh_update_changes_no_bit_of_any_search(place: str, search: str) -> None:
    model = transducer(2, prediction=KINDS.get(place, "lstm"), **SEARCHES[search])
    x = heard(2)
    before, streams = model.decode(x, {}), [pushed(model, x, row) for row in range(3)]
    ResidualAdapters("monday", place=[place], rank=3, d=WIDTHS[place]).attach(model)
    assert model.decode(x, {}) == before
    assert [pushed(model, x, row) for row in range(3)] == streams


@pytest.mark.parametrize("search", SEARCHES)
def test_a_fresh_update_behind_a_recurrent_layer_changes_no_label(search: str) -> None:
    # A layer with hooks is called, where one without is computed as a cell: the last digits are others.
    model = transducer(2, **SEARCHES[search])
    x = heard(2)
    before = model.decode(x, {})
    ResidualAdapters("monday", place=[RECURRENT], rank=3).attach(model)
    after = model.decode(x, {})
    assert told(after) == told(before)
    torch.testing.assert_close(scores(after), scores(before), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_call_without_updates_is_the_base_bit_for_bit(search: str) -> None:
    model = transducer(3, **SEARCHES[search])
    x = heard(3)
    without, streams = model.decode(x, {}), [pushed(model, x, row) for row in range(3)]
    adapters = ResidualAdapters(updates=[drawn_update(model, "monday", places=("joint.output",), d=V)])
    adapters.attach(model)
    with adapters.use({"updates": []}):
        assert model.decode(x, {}) == without
        assert [pushed(model, x, row) for row in range(3)] == streams
    with adapters.use({"updates": ["monday"]}):
        assert model.decode(x, {}) != without


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("place", ["joint.output", RECURRENT])
def test_utterances_with_updates_of_their_own_are_heard_right_or_refused(place: str, search: str) -> None:
    """As many utterances as frames that the greedy search joins at a time: axes of both lengths."""
    from slt_speech.rnnt.greedy import AHEAD

    model = transducer(3, **SEARCHES[search])
    values = 2 * torch.randn(AHEAD, 40, D, generator=torch.Generator().manual_seed(3))
    x = Encoded(values, torch.tensor([40] * (AHEAD - 2) + [9, 23]), 0.04, 0.02)
    adapters = ResidualAdapters(updates=[drawn_update(model, "monday", places=(place,), d=WIDTHS[place])])
    adapters.attach(model)
    lists = [["monday"] if row % 2 else [] for row in range(AHEAD)]
    with adapters.use({"updates": lists}):
        try:
            found = model.decode(x, {})
        except PluginError as error:
            assert f"does not run over the {AHEAD} utterances" in str(error)
            if (place, search) == ("joint.output", "greedy"):  # when one had ended, and not by luck later
                assert f"has shape ({AHEAD - 1}, {AHEAD}, {V})" in str(error)
            return
    for row, names in enumerate(lists):
        own = x._replace(values=x.values[row : row + 1], lengths=x.lengths[row : row + 1])
        with adapters.use({"updates": names}):
            alone = model.decode(own, {})
        assert told(alone) == told(found[row : row + 1])
        torch.testing.assert_close(scores(found[row : row + 1]), scores(alone), rtol=1e-4, atol=1e-4)
