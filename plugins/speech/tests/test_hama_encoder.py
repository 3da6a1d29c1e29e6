"""The pretrained recogniser as a component: what it offers, streams and leaves in a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slt_speech import build_encoders
from slt_speech.config_encoders import HamaConformerConfig
from slt_speech.hama import network, weights
from slt_speech.hama_encoder import HamaEncoder
from sltcore.errors import PortError, ShapeError, StreamError
from sltcore.plugin import Ports
from sltcore.types import Encoded, Waveform


@pytest.fixture(scope="module")
def encoder() -> HamaEncoder:
    return build_encoders.hama_conformer(HamaConformerConfig(), Ports()).eval()


def sound(samples: int) -> Waveform:
    values = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    return Waveform(values, torch.tensor([samples]), 16000)


def test_head_and_phones_are_on_offer(encoder: HamaEncoder) -> None:
    offers = encoder.offers()
    labels = offers["vocabulary"]
    assert (labels.kind, labels.blank, labels.boundary, len(labels)) == ("phones", 190, 189, 191)
    assert labels.decode(labels.encode("t ɛ s t")) == "t ɛ s t"
    assert labels.decode([0, 1, 2, 3, 189, 190]) == ""
    encoded = encoder(sound(8000), {})
    assert offers["head"](encoded.values).shape == (1, int(encoded.lengths[0]), 191)


def test_stream_equals_offline() -> None:
    short = build_encoders.hama_conformer(HamaConformerConfig(window_s=2.0, overlap_s=0.5), Ports()).eval()
    x = sound(5 * 16000)
    with torch.no_grad():
        offline = short(x, {}).values
    session = short.open({})
    pieces = [Waveform(piece, torch.tensor([piece.shape[1]]), 16000) for piece in x.samples.split(7777, 1)]
    parts: list[Encoded | None] = [*map(session.push, pieces), session.finish()]
    assert torch.allclose(torch.cat([part.values for part in parts if part is not None], 1), offline, atol=1e-4)
    with pytest.raises(StreamError, match="finished"):
        session.finish()


def test_a_wrapper_may_ask_for_layers_later() -> None:
    model = build_encoders.hama_conformer(HamaConformerConfig(weights="random", window_s=2.0, overlap_s=0.5), Ports())
    assert model.depths == 4
    model.keep_layers([0, 2])
    model.keep_layers([4])
    x = sound(5 * 16000)
    with torch.no_grad():
        out = model.eval()(x, {})
    assert list(out.layers) == [0, 2, 4]
    assert torch.equal(out.layers[4], out.values)
    assert len({float(layer.sum()) for layer in out.layers.values()}) == 3
    session = model.open({})
    parts = [part for part in (session.push(x), session.finish()) if part is not None]
    for depth, layer in out.layers.items():
        assert torch.allclose(torch.cat([part.layers[depth] for part in parts], 1), layer, atol=1e-4)
    with pytest.raises(PortError, match="hama-conformer: layer 5 is asked for; depths run from 0 to 4"):
        model.keep_layers([5])


def test_bundle_needs_no_package(encoder: HamaEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in encoder.save_files().items():
        (tmp_path / name).write_bytes(content)

    def missing(*_: object) -> None:
        raise AssertionError("the package was read")

    monkeypatch.setattr(weights, "package_file", missing)
    monkeypatch.setattr(network, "pretrained_state", missing)
    again = build_encoders.hama_conformer(HamaConformerConfig(), Ports(folder=tmp_path)).eval()
    again.load_state_dict(encoder.state_dict())
    assert again.vocabulary == encoder.vocabulary
    with torch.no_grad():
        assert torch.equal(again(sound(9000), {}).values, encoder(sound(9000), {}).values)


def test_wrong_input_and_windows_are_refused(encoder: HamaEncoder) -> None:
    with pytest.raises(ShapeError, match="hama-conformer consumes 16000 Hz, but the waveform has 8000 Hz"):
        encoder(sound(500)._replace(sample_rate_hz=8000), {})
    with pytest.raises(ValueError, match="overlap_s 4 is more than half of window_s 5"):
        HamaConformerConfig(window_s=5)
