"""Prediction network and joint of decoder `rnnt`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slt_speech.rnnt.beam import Beam
from slt_speech.rnnt.joint import Joint
from slt_speech.rnnt.prediction import PredictionNetwork
from sltcore.errors import SpecError


@pytest.mark.parametrize(("kind", "settings"), [("lstm", {"layers": 2}), ("stateless", {"context": 3})])
@pytest.mark.parametrize("axes", [(4,), (2, 2)])
def test_steps_give_what_the_whole_target_gives(kind: Any, settings: Any, axes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = PredictionNetwork(9, 6, kind=kind, blank=3, **settings).eval()
    labels = torch.randint(0, 9, (4, 7))
    with torch.no_grad():
        whole = network(labels)
        state = tuple(each.reshape(*axes, *each.shape[1:]) for each in network.start(4))
        for u in range(8):
            tokens = labels[:, u - 1] if u else torch.full((4,), 3)
            out, state = network.step(state, tokens.reshape(axes))
            torch.testing.assert_close(out.reshape(4, -1), whole[:, u], rtol=1e-5, atol=1e-6)


def test_a_watched_layer_is_called_as_a_module() -> None:
    torch.manual_seed(0)
    network = PredictionNetwork(5, 4).eval()
    tokens = torch.tensor([1, 2])
    with torch.no_grad():
        plain, state = network.step(network.start(2), tokens)
        seen: list[tuple[int, ...]] = []
        handle = network.layers[0].register_forward_hook(lambda module, x, out: seen.append(tuple(out[0].shape)))
        watched, other = network.step(network.start(2), tokens)
        handle.remove()
    assert seen == [(2, 1, 4)]
    for a, b in zip((plain, *state), (watched, *other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_stateless_prediction_forgets_all_but_its_context() -> None:
    network = PredictionNetwork(9, 6, kind="stateless", context=2).eval()
    a, b = network(torch.tensor([[1, 2, 3, 4]])), network(torch.tensor([[5, 6, 3, 4]]))
    assert torch.equal(a[:, 4], b[:, 4])
    assert not torch.equal(a[:, 3], b[:, 3])


def test_a_beam_asks_about_each_prefix_once_and_about_all_utterances_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of an LSTM tells its prefix, so a pair of state and label that comes twice would be work done twice."""
    torch.manual_seed(0)
    network, joint = PredictionNetwork(6, 7).eval(), Joint(5, 7, 8, 6).eval()
    with torch.no_grad():
        joint.output.weight.mul_(3)
        joint.output.bias[0] += 1
    prefixes: list[tuple[bytes, int]] = []
    cells: list[int] = []
    step, combine = network.step, joint.combine

    def watched_step(state: Any, tokens: torch.Tensor) -> Any:
        for row, token in enumerate(tokens.tolist()):
            prefixes.append((b"".join(each[row].numpy().tobytes() for each in state), token))
        return step(state, tokens)

    def watched_combine(frames: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        cells.append(len(frames))
        return combine(frames, predicted)

    monkeypatch.setattr(network, "step", watched_step)
    monkeypatch.setattr(joint, "combine", watched_combine)

    def search(values: torch.Tensor) -> int:
        """How often the joint was called."""
        prefixes.clear()
        cells.clear()
        with torch.no_grad():
            beam = Beam(network, joint, len(values), blank=0, beam=4, max_symbols=3)
            beam.push(values, torch.full((len(values),), values.shape[1]))
        return len(cells)

    values = 2 * torch.randn(3, 12, 5, generator=torch.Generator().manual_seed(0))
    alone = []
    for row in range(3):
        alone.append(search(values[row : row + 1]))
        assert len(prefixes) == len(set(prefixes))
        assert len(prefixes) < 0.7 * sum(cells)  # most are met in several frames
    assert search(values) == max(alone)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SpecError, match="prediction is 'gru', expected 'lstm' or 'stateless'"):
        PredictionNetwork(5, 4, kind="gru")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="layers is 0 and context 2, expected at least 1"):
        PredictionNetwork(5, 4, layers=0)


def test_projections_apart_give_the_joint() -> None:
    torch.manual_seed(0)
    joint = Joint(3, 4, 6, 5)
    frames, prefixes = torch.randn(2, 7, 3), torch.randn(2, 4, 4)
    whole = joint(frames, prefixes)
    assert whole.shape == (2, 7, 4, 5)
    inner = frames[1, 2] @ joint.encoder_projection.weight.T + joint.encoder_projection.bias
    inner = (inner + prefixes[1, 3] @ joint.prediction_projection.weight.T).tanh()
    torch.testing.assert_close(whole[1, 2, 3], inner @ joint.output.weight.T + joint.output.bias)
    apart = joint.combine(joint.project_encoder(frames)[1, 2], joint.project_prediction(prefixes)[1, 3])
    torch.testing.assert_close(whole[1, 2, 3], apart)
