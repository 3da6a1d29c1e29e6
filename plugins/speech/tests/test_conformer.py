"""The Conformer: equal frames alone, in a batch and in a stream; attention and convolution against loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from slt_speech.attention import Chunks, SelfAttention
from slt_speech.config_encoders import ConformerConfig
from slt_speech.conformer import Conformer
from slt_speech.convolution import ConvolutionModule, MaskedBatchNorm, Subsampling
from slt_speech.log_mel import LogMel
from slt_speech.mel_settings import kaldi, whisper
from sltcore.errors import PortError, ShapeError, SpecError, StreamError
from sltcore.types import Encoded, Features, Waveform

TOLERANCE = 1e-4
OFFLINE: dict[str, dict[str, Any]] = {
    "relative": {},
    "rotary": {"position": "rotary", "subsampling": 2},
    "batch norm": {"norm": "batch", "convolution": "causal", "kernel": 4},
    "subsampled by 8": {"subsampling": 8, "subsampling_channels": 3},
}
CHUNKED: dict[str, dict[str, Any]] = {
    "chunks": {"chunk_frames": 4, "left_chunks": 2, "convolution": "chunk"},
    "causal rotary": {
        "chunk_frames": 4,
        "left_chunks": 1,
        "convolution": "causal",
        "position": "rotary",
        "subsampling": 2,
    },
    "no past": {"chunk_frames": 3, "left_chunks": 0, "convolution": "causal", "subsampling": 8, "norm": "batch"},
    "no subsampling": {"chunk_frames": 5, "left_chunks": 1, "convolution": "chunk", "subsampling": 1},
    "single frames": {"chunk_frames": 1, "left_chunks": 7, "convolution": "causal"},
}
ALL = {**OFFLINE, **CHUNKED}


def jittered(module: nn.Module, seed: int = 1) -> Any:
    """The module with no parameter or statistic left at a special value."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=source)
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer += 0.5 * torch.rand(buffer.shape, generator=source)
    return module.eval()


def encoder(frontend: Any = 20, **settings: Any) -> Conformer:
    torch.manual_seed(0)
    return jittered(Conformer(frontend, 16, layers=3, heads=2, ffn=24, **{"kernel": 5, **settings}))


def features(count: int, seed: int = 0, batch: int = 1) -> Tensor:
    return torch.randn(batch, count, 20, generator=torch.Generator().manual_seed(seed))


def batch_of(values: Tensor, lengths: list[int] | None = None) -> Features:
    return Features(values, torch.tensor(lengths or [values.shape[1]] * len(values)), 0.01)


def concatenated(parts: list[Encoded | None]) -> Tensor:
    return torch.cat([part.values for part in parts if part is not None], 1)


@pytest.mark.parametrize("settings", ALL.values(), ids=ALL.keys())
def test_padding_never_leaks(settings: dict[str, Any]) -> None:
    model, lengths = encoder(**settings), [93, 57, 8, 1, 0]
    values = features(93, batch=5)
    together = model(batch_of(values, lengths), {})
    assert together.lengths.tolist() == model.output_lengths(torch.tensor(lengths)).tolist()
    for row, length in enumerate(lengths):
        alone = model(batch_of(values[row : row + 1, :length], [length]), {})
        count = int(together.lengths[row])
        assert int(alone.lengths[0]) == count == -(-length // model.subsampling.factor)
        assert torch.allclose(alone.values[0, :count], together.values[row, :count], atol=TOLERANCE)
        assert together.values[row, count:].abs().sum() == 0


@pytest.mark.parametrize("settings", ALL.values(), ids=ALL.keys())
def test_gradient_reaches_every_parameter(settings: dict[str, Any]) -> None:
    model = encoder(**settings).train()
    out = model(batch_of(features(60, batch=3), [60, 44, 0]), {}).values
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 1e-6, name


@pytest.mark.parametrize("settings", CHUNKED.values(), ids=CHUNKED.keys())
@pytest.mark.parametrize("sizes", [[1], [7, 64, 3], [1000]])
@pytest.mark.parametrize("count", [1, 16, 95, 128])
def test_stream_equals_offline(settings: dict[str, Any], sizes: list[int], count: int) -> None:
    model, values = encoder(**settings, return_layers=[0, 2]), features(count)
    offline = model(batch_of(values), {})
    with torch.no_grad():
        session, parts, start, turn = model.open({}), [], 0, 0
        while start < count:
            piece = values[:, start : start + sizes[turn % len(sizes)]]
            parts.append(session.push(batch_of(piece)))
            start, turn = start + piece.shape[1], turn + 1
        parts.append(session.finish())
    assert torch.allclose(concatenated(parts), offline.values, atol=TOLERANCE)
    for depth in (0, 2):
        inner = torch.cat([part.layers[depth] for part in parts if part is not None], 1)
        assert torch.allclose(inner, offline.layers[depth], atol=TOLERANCE)
    said = [part for part in parts if part is not None]
    starts = [0, *torch.tensor([part.values.shape[1] for part in said]).cumsum(0).tolist()]
    for part, first in zip(said, starts, strict=False):
        assert part.offset_s == pytest.approx(first * model.frame_shift_s)


@pytest.mark.parametrize("front", [kaldi(n_mels=20), whisper(n_mels=20, dynamic_range=None)], ids=["kaldi", "centred"])
def test_stream_equals_offline_from_samples(front: Any) -> None:
    model = encoder(LogMel(front), **CHUNKED["chunks"])
    samples = 0.1 * torch.randn(1, 20011, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        offline = model(Waveform(samples, torch.tensor([20011]), 16000), {})
        session = model.open({})
        parts = [session.push(Waveform(p, torch.tensor([p.shape[1]]), 16000)) for p in samples.split(1237, 1)]
        parts.append(session.finish())
    assert torch.allclose(concatenated(parts), offline.values, atol=TOLERANCE)
    assert offline.offset_s == pytest.approx(front.offset_s)


@pytest.mark.parametrize("settings", CHUNKED.values(), ids=CHUNKED.keys())
def test_lookahead_is_how_much_of_a_prefix_may_change(settings: dict[str, Any]) -> None:
    """Brute force over prefixes: all but the last lookahead_frames stay, and one fewer would be too few."""
    model, values = encoder(**settings), features(120)
    whole = model(batch_of(values), {}).values[0]
    worst = 0
    period = model.subsampling.factor * settings["chunk_frames"]
    for cut in range(period, 2 * period + 1):
        prefix = model(batch_of(values[:, :cut]), {}).values[0]
        changed = (prefix - whole[: len(prefix)]).abs().amax(1) > TOLERANCE
        worst = max(worst, len(prefix) - int(changed.nonzero()[0]) if changed.any() else 0)
    assert worst == model.lookahead_frames


def test_lookahead_is_none_without_chunks_or_with_a_front_end_that_needs_everything() -> None:
    assert encoder().lookahead_frames is None
    assert encoder(LogMel(whisper(n_mels=20)), **CHUNKED["chunks"]).lookahead_frames is None


@pytest.mark.parametrize("settings", CHUNKED.values(), ids=CHUNKED.keys())
def test_state_is_bounded_and_as_stated(settings: dict[str, Any]) -> None:
    model = encoder(**settings)
    session = model.open({})
    sizes = []
    with torch.no_grad():
        for piece in features(400).split(40, 1):
            session.push(batch_of(piece))
            sizes.append(session.state_numbers)
    assert max(sizes) == sizes[-1] == model.state_numbers
    chunks, kernel = settings["chunk_frames"] * settings["left_chunks"], 5
    convolution = kernel - 1 if settings["convolution"] == "causal" else kernel // 2
    blocks = 3 * (2 * chunks + convolution) * 16
    image = {1: 0, 2: 20, 4: 20 + 16 * 10, 8: 20 + 16 * 10 + 16 * 5}[model.subsampling.factor]
    assert model.state_numbers == blocks + image


def seen_by(query: int, count: int, chunks: Chunks | None) -> list[int]:
    """The frames that a frame attends to, by definition."""
    if chunks is None:
        return list(range(count))
    mine = query // chunks.frames
    return [key for key in range(count) if mine - chunks.left <= key // chunks.frames <= mine]


@pytest.mark.parametrize("chunks", [None, Chunks(3, 1), Chunks(4, 0), Chunks(1, 2)])
def test_relative_attention_equals_the_formula(chunks: Chunks | None) -> None:
    """Equation of arXiv:1901.02860, section 3.3, terms (a) to (d), frame by frame."""
    torch.manual_seed(0)
    module, count, width = jittered(SelfAttention(8, 2)), 11, 4
    x = torch.randn(1, count, 8)
    query, key, value = (
        projection(x)[0].view(count, 2, width) for projection in (module.query, module.key, module.value)
    )
    expected = torch.zeros(count, 2, width)
    for i in range(count):
        keys = seen_by(i, count, chunks)
        for head in range(2):
            scores = []
            for j in keys:
                rates = [10000 ** (-pair / 8) for pair in (0, 2, 4, 6)]
                sinusoid = torch.tensor([f((i - j) * rate) for rate in rates for f in (math.sin, math.cos)])
                position = module.positions.project(sinusoid).view(2, width)[head]
                content = query[i, head] + module.positions.content_bias[head, 0]
                where = query[i, head] + module.positions.position_bias[head, 0]
                scores.append((content @ key[j, head] + where @ position) / math.sqrt(width))
            expected[i, head] = torch.stack(scores).softmax(0) @ value[keys, head]
    found = module(x, torch.ones(1, count, dtype=torch.bool), chunks)
    assert torch.allclose(found[0], module.out(expected.flatten(1)), atol=1e-5)


@pytest.mark.parametrize("chunks", [None, Chunks(3, 1)])
def test_rotary_attention_equals_the_formula(chunks: Chunks | None) -> None:
    """Equation 15 of arXiv:2104.09864 as complex numbers, with absolute positions."""
    torch.manual_seed(0)
    module, count, width = jittered(SelfAttention(8, 2, position="rotary")), 10, 4
    x = torch.randn(1, count, 8)
    query, key, value = (
        projection(x)[0].view(count, 2, width) for projection in (module.query, module.key, module.value)
    )
    rates = torch.tensor([10000 ** (-pair / width) for pair in (0, 2)])
    turn = torch.polar(torch.ones(count, 2), torch.arange(count)[:, None] * rates)[:, None]
    query, key = (torch.complex(*part.chunk(2, -1)) * turn for part in (query, key))
    expected = torch.zeros(count, 2, width)
    for i in range(count):
        keys = seen_by(i, count, chunks)
        scores = torch.einsum("he,khe->kh", query[i], key[keys].conj()).real / math.sqrt(width)
        expected[i] = torch.einsum("kh,khe->he", scores.softmax(0), value[keys])
    found = module(x, torch.ones(1, count, dtype=torch.bool), chunks)
    assert torch.allclose(found[0], module.out(expected.flatten(1)), atol=1e-5)


@pytest.mark.parametrize("position", ["relative", "rotary"])
def test_attention_knows_distances_only(position: Any) -> None:
    """With positions shifted by frames that are masked out, nothing changes."""
    module, x = jittered(SelfAttention(8, 2, position=position)), torch.randn(1, 6, 8)
    plain = module(x, torch.ones(1, 6, dtype=torch.bool))
    shifted = torch.cat([torch.randn(1, 5, 8), x], 1)
    mask = torch.arange(11)[None] >= 5
    assert torch.allclose(module(shifted, mask)[:, 5:], plain, atol=1e-5)


@pytest.mark.parametrize(("reach", "chunk"), [("centered", None), ("causal", 4), ("chunk", 4), ("chunk", 3)])
def test_convolution_reads_what_its_reach_says(reach: Any, chunk: int | None) -> None:
    """The depthwise sum, frame by frame."""
    torch.manual_seed(0)
    module, count, kernel = jittered(ConvolutionModule(6, 5, reach=reach)), 10, 5
    x = torch.randn(1, count, 6)
    gated = functional.glu(module.expand(x), -1)[0]
    mixed = torch.zeros(count, 6)
    for i in range(count):
        for tap in range(kernel):
            j = i + tap - (kernel - 1 if reach == "causal" else kernel // 2)
            in_chunk = reach != "chunk" or chunk is None or j < (i // chunk + 1) * chunk
            if 0 <= j < count and in_chunk:
                mixed[i] += module.depthwise.weight[:, 0, tap] * gated[j]
    expected = module.project(functional.silu(module.norm(mixed)))
    assert torch.allclose(module(x, torch.ones(1, count, dtype=torch.bool), chunk)[0], expected, atol=1e-5)


def test_masked_batch_norm_equals_torch_on_the_real_frames() -> None:
    torch.manual_seed(0)
    ours, theirs = MaskedBatchNorm(4), nn.BatchNorm1d(4)
    x, lengths = torch.randn(3, 9, 4), torch.tensor([9, 4, 0])
    mask = torch.arange(9)[None] < lengths[:, None]
    for _ in range(3):
        assert torch.allclose(ours(x, mask)[mask], theirs(x[mask]), atol=1e-5)
    assert torch.allclose(ours.running_mean, theirs.running_mean, atol=1e-6)
    assert torch.allclose(ours.running_var, theirs.running_var, atol=1e-6)
    assert torch.allclose(ours.eval()(x, mask)[mask], theirs.eval()(x[mask]), atol=1e-5)


def test_more_padding_changes_no_training_step_with_batch_norm() -> None:
    x, lengths = features(50, batch=2), [50, 31]
    results = []
    for extra in (0, 40):
        model = encoder(norm="batch", dropout=0.0).train()
        padded = functional.pad(x, (0, 0, 0, extra), value=7.0)
        model(batch_of(padded, lengths), {}).values.square().sum().backward()
        results.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_subsampling_frame_stands_where_its_input_stood(factor: int) -> None:
    """An impulse at input frame s·i moves output i most when the kernel looks at the middle only."""
    module = Subsampling(6, 5, factor=factor, channels=2)
    with torch.no_grad():
        for conv in module.convolutions:
            conv.weight.zero_()
            conv.weight[:, :, 1, 1] = 1.0
            conv.bias.zero_()
    x = torch.zeros(1, 32, 6)
    x[0, 16] = 1.0
    silent = module(torch.zeros_like(x), torch.tensor([32]))[0]
    moved = (module(x, torch.tensor([32]))[0] - silent).abs().sum(-1)[0]
    assert moved.nonzero().flatten().tolist() == [16 // factor]


def test_layers_are_returned_on_request() -> None:
    model = encoder(return_layers=[3, 1, 0])
    out = model(batch_of(features(40, batch=2), [40, 13]), {})
    assert list(out.layers) == [0, 1, 3]
    assert torch.equal(out.layers[3], out.values)
    assert out.layers[0][1, 4:].abs().sum() == 0
    assert not encoder()(batch_of(features(40)), {}).layers


def test_a_wrapper_may_ask_for_layers_later() -> None:
    model, values = encoder(**CHUNKED["chunks"], return_layers=[2]), features(40)
    model.keep_layers([0, model.depths])
    out = model(batch_of(values), {})
    assert list(out.layers) == [0, 2, 3]
    assert torch.equal(out.layers[model.depths], out.values)
    with torch.no_grad():
        session = model.open({})
        parts = [part for part in (session.push(batch_of(values)), session.finish()) if part is not None]
    for depth, layer in out.layers.items():
        assert torch.allclose(torch.cat([part.layers[depth] for part in parts], 1), layer, atol=TOLERANCE)
    with pytest.raises(PortError, match="conformer: layer 4 is asked for; depths run from 0 to 3"):
        model.keep_layers([1, 4])


def test_same_input_gives_the_same_output_in_evaluation() -> None:
    model, x = encoder(dropout=0.5), batch_of(features(40))
    assert torch.equal(model(x, {}).values, model(x, {}).values)
    assert not torch.equal(model.train()(x, {}).values, model(x, {}).values)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "d_model 16 does not divide by 3 heads"),
        ({"heads": 16, "position": "rotary"}, "16 / 16 heads gives 1 coordinates"),
        ({"kernel": 6}, "kernel 6 is even; a centered kernel has a middle"),
        ({"convolution": "chunk"}, "convolution is 'chunk', but there are no chunks; set chunk_frames"),
        ({"chunk_frames": 4}, "a centered convolution looks beyond a chunk"),
        ({"return_layers": [4]}, r"return_layers names 4; depths run from 0 \(subsampled\) to 3"),
        ({"subsampling": 3}, "subsampling is 3; expected one of 1, 2, 4, 8"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Conformer(20, 16, layers=3, **{"heads": 2, "kernel": 5, **settings})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 5}, "d_model 144 does not divide by heads 5"),
        ({"position": "rotary", "heads": 48}, "rotary needs an even number of coordinates a head"),
        ({"kernel": 8}, "kernel 8 is even; only a causal convolution has no middle"),
        ({"convolution": "chunk"}, "there are no chunks; set chunk_frames"),
        ({"convolution": "centered", "chunk_frames": 8}, "set convolution: causal or chunk"),
        ({"return_layers": [17]}, "return_layers names 17; depths run from 0 to 16"),
    ],
)
def test_configs_say_what_is_wrong(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConformerConfig(frontend=None, **fields)


def test_wrong_input_is_refused_in_one_line() -> None:
    model = encoder()
    with pytest.raises(ShapeError, match=r"expected \(b, t, f\) with f = 20; axes t and f look swapped"):
        model(batch_of(torch.zeros(1, 20, 7)), {})
    with pytest.raises(StreamError, match=r"conformer cannot stream, .* set chunk_frames: 16"):
        model.open({})
    with pytest.raises(StreamError, match="log-mel cannot stream with dynamic_range"):
        encoder(LogMel(whisper(n_mels=20)), **CHUNKED["chunks"]).open({})
    session = encoder(**CHUNKED["chunks"]).open({})
    assert session.finish() is None
    with pytest.raises(StreamError, match="conformer: the stream has finished"):
        session.push(batch_of(features(5)))
    with pytest.raises(ShapeError, match="a stream is one utterance"):
        encoder(**CHUNKED["chunks"]).open({}).push(batch_of(features(5, batch=2)))
