"""The promises of encoders, as tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sltcore.interfaces import Encoder, Part, overrides
from sltcore.testing import inputs
from sltcore.testing.case import Case, jitter, listed, seeded, without_gradient
from sltcore.testing.difference import between_frames, difference, joined
from sltcore.testing.promises.contexts import empty_contexts
from sltcore.testing.promises.promise import Promises, promise
from sltcore.types import Encoded, Features, Waveform

CHUNKS = (0.3, 0.07, 0.011)  # seconds; uneven on purpose, the last shorter than most windows


class EncoderPromises(Promises):
    """What `sltcore.interfaces.Encoder` promises."""

    kind: ClassVar[str] = "encoder"
    promises: ClassVar[Mapping[str, str]] = Encoder.promises

    @promise(
        "compute the lengths that forward returns by calling output_lengths itself, and check its rounding against the "
        "layer that shortens the sequence"
    )
    def test_lengths(self, case: Case) -> str | None:
        part = case.part
        for x in (inputs.batch(part.consumes), *odd_lengths(part.consumes)):
            out = run(case, part, x)
            lengths = out.lengths
            if lengths.dtype != torch.int64 or lengths.shape != (inputs.size_of(x),):
                return f"lengths is {lengths.dtype} {tuple(lengths.shape)}, expected int64 ({inputs.size_of(x)},)"
            if int(lengths.max()) > out.values.shape[1] or int(lengths.min()) < 0:
                return f"lengths are {lengths.tolist()}, but values has room for 0 to {out.values.shape[1]} frames"
            given = inputs.lengths_of(x)
            if given is not None:
                law = part.output_lengths(given)
                if law.tolist() != lengths.tolist():
                    return f"for input lengths {given.tolist()}, output_lengths says {law.tolist()}, forward {lengths.tolist()}"
        return None

    @promise(
        "set what stands after each length to zero before anything mixes frames: attention, convolution, norm over time"
    )
    def test_padding(self, case: Case) -> str | None:
        part = case.part
        x = inputs.batch(part.consumes)
        if inputs.lengths_of(x) is None:
            pytest.skip(f"{part.consumes} has no padding")
        for raw in case.contexts:
            clean, dirty = (
                run(case, part, x, raw),
                run(case, part, inputs.with_junk(x, extra=inputs.array_of(x).shape[1] // 3), raw),
            )
            found = difference(clean, dirty, tolerance=part.padding_tolerance)
            if found:
                return f"with noise in the padding instead of zeros, {found}"
        return None

    @promise("let no utterance read another one: normalise over an utterance's own frames, and mask by its own length")
    def test_batch(self, case: Case) -> str | None:
        part = case.part
        x = inputs.batch(part.consumes)
        together = run(case, part, x)
        for row in range(inputs.size_of(x)):
            single = run(case, part, inputs.alone(x, row))
            if int(single.lengths[0]) != int(together.lengths[row]):
                return f"utterance {row} has {int(single.lengths[0])} frames alone and {int(together.lengths[row])} in a batch"
            length = int(single.lengths[0])
            found = between_frames(
                single.values[0, :length], together.values[row, :length], tolerance=part.padding_tolerance
            )
            if found:
                return f"utterance {row} alone and in a batch: {found}"
        return None

    @promise(
        "use the named parameters in forward, freeze them (requires_grad_(False)), or add to small a context that reaches "
        "them"
    )
    def test_gradient(self, case: Case) -> str | None:
        part = case.fresh()
        if not trainable(part):
            pytest.skip("it has no trainable parameters")
        jitter(part)
        part.train()
        for seed in range(2):
            x = inputs.batch(part.consumes, seed=seed)
            for raw in case.contexts:
                with seeded(seed):
                    out = part(x, case.context(part, raw, inputs.size_of(x), seed=seed))
                valid = torch.arange(out.values.shape[1])[None] < out.lengths[:, None]
                weights = torch.randn(out.values.shape, generator=inputs.generator(seed))
                (out.values * weights * valid[..., None]).sum().backward()
        missing = without_gradient(part)
        return f"no gradient reaches {listed(missing)}" if missing else None

    @promise("switch dropout off in evaluation, and draw randomness only from context['generator']")
    def test_deterministic(self, case: Case) -> str | None:
        part = case.part
        x = inputs.batch(part.consumes)
        for raw in case.contexts:
            found = difference(run(case, part, x, raw), run(case, part, x, raw, noise=1))
            if found:
                return f"two calls with the same input differ: {found}"
        return None

    @promise("raise lookahead_frames to what the layers really see, or make them causal")
    def test_lookahead(self, case: Case) -> str | None:
        part = case.part
        ahead = part.lookahead_frames
        x = inputs.batch(part.consumes)
        if ahead is None or inputs.lengths_of(x) is None:
            pytest.skip("it states no look-ahead")
        other = inputs.batch(part.consumes, seed=5)
        whole = run(case, part, x)
        array = inputs.array_of(x)
        for cut in (array.shape[1] // 2, 3 * array.shape[1] // 4):
            changed = array.clone()
            changed[:, cut:] = 3 * inputs.array_of(other)[:, cut:]
            inside = torch.arange(array.shape[1])[None] < x.lengths[:, None]
            changed[~inside] = 0
            out = run(case, part, inputs.with_array(x, changed))
            settled = part.output_lengths(x.lengths.clamp(max=cut)) - ahead
            for row, stop in enumerate(settled.clamp(min=0).tolist()):
                if int(x.lengths[row]) <= cut or stop == 0:
                    continue
                found = between_frames(
                    whole.values[row, :stop], out.values[row, :stop], tolerance=part.padding_tolerance
                )
                if found:
                    return (
                        f"lookahead_frames is {ahead}, but changing input from unit {cut} on changes earlier frames of "
                        f"utterance {row} than {stop}: {found}"
                    )
        return None

    @promise("treat a missing key, None and an empty list as no side information: take no other path through the code")
    def test_context_identity(self, case: Case) -> str | None:
        part = case.part
        x = inputs.batch(part.consumes)
        empties = empty_contexts(part, inputs.size_of(x))
        missing = run(case, part, x)
        if difference(missing, run(case, part, x)):
            pytest.skip("it is not deterministic")
        for empty in empties:
            found = difference(missing, run(case, part, x, empty))
            if found:
                return f"without context and with {empty}, {found}"
        return None

    @promise(
        "return float32 values [b t d] with the d (or f) that `produces` names, and guard logarithms and divisions"
    )
    def test_shape(self, case: Case) -> str | None:
        part = case.part
        x = inputs.batch(part.consumes)
        for raw in case.contexts:
            reason = shape_problem(part, x, run(case, part, x, raw))
            if reason:
                return reason
        return None

    @promise(
        "carry state and the last window's rest over to the next chunk, and flush in finish what offline padding yields"
    )
    def test_streaming(self, case: Case) -> str | None:
        part = case.part
        if not overrides(part, "open", Part):
            pytest.skip("it does not stream")
        x = inputs.batch(part.consumes)
        for raw in case.contexts:
            for row in range(inputs.size_of(x)):
                one = inputs.alone(x, row)
                offline = run(case, part, one, raw)
                streamed = joined(stream(case, part, one, raw))
                if streamed is None:
                    return (
                        f"the session of utterance {row} returned nothing, offline has {int(offline.lengths[0])} frames"
                    )
                found = difference(offline, streamed, tolerance=part.padding_tolerance)
                if found:
                    return f"utterance {row} offline and streamed: {found}"
        return None


def run(case: Case, part: Any, x: Any, raw: Mapping[str, Any] | None = None, *, noise: int = 0) -> Any:
    """One call in evaluation; `noise` seeds the global generators, which nothing should read."""
    with seeded(noise), torch.no_grad():
        return part(x, case.context(part, raw or {}, inputs.size_of(x)))


def stream(case: Case, part: Any, one: Any, raw: Mapping[str, Any]) -> list[Any]:
    """What a session returns for one utterance in uneven chunks."""
    seconds_per_unit = 1 / one.sample_rate_hz if isinstance(one, Waveform) else one.frame_shift_s
    sizes = [max(1, round(chunk / seconds_per_unit)) for chunk in CHUNKS]
    with seeded(0), torch.no_grad():
        session = part.open(case.context(part, raw, 1))
        pieces = [session.push(chunk) for chunk in inputs.chunks(one, sizes)]
        return [*pieces, session.finish()]


def odd_lengths(port: Any) -> list[Any]:
    """Batches of awkward lengths: a single unit, and a run of neighbours around every rounding border."""
    if port.type == "Waveform":
        rate_hz = inputs.sample_rate_hz(port)
        start = round(0.2 * rate_hz)
        return [inputs.batch(port, lengths=[start + step * rate_hz // 1600 + step % 3 for step in range(24)] + [1])]
    if port.type == "Text":
        return []
    return [inputs.batch(port, lengths=[*range(17, 0, -1)])]


def shape_problem(part: Any, x: Any, out: Any) -> str | None:
    """What is wrong with the type, shape, device or values of an encoding."""
    port = part.produces
    expected: Any = {"Encoded": Encoded, "Features": Features}.get(port.type)
    if expected is None or not isinstance(out, expected):
        return f"the port says {port}, forward returned {type(out).__name__}"
    values: Tensor = out.values
    if values.ndim != 3 or values.dtype != torch.float32:
        return f"values is {values.dtype} with {values.ndim} axes, expected float32 [b t d]"
    if values.shape[0] != inputs.size_of(x):
        return f"values has {values.shape[0]} rows for {inputs.size_of(x)} utterances"
    named = port.attributes.get("d" if port.type == "Encoded" else "f")
    if named is not None and values.shape[2] != named:
        return f"values is {values.shape[2]} wide, the port says {port}"
    shift = port.attributes.get("frame_shift_s")
    if shift is not None and abs(shift - out.frame_shift_s) > 1e-9:
        return f"frame_shift_s is {out.frame_shift_s}, the port says {port}"
    if inputs.lengths_of(x) is not None and values.device != inputs.array_of(x).device:
        return f"values is on {values.device}, the input on {inputs.array_of(x).device}"
    for row, length in enumerate(out.lengths.tolist()):
        bad = (~values[row, :length].isfinite()).any(dim=-1).nonzero().flatten()
        if len(bad):
            return f"frame {int(bad[0])} of utterance {row} holds NaN or infinity"
    return None


def trainable(part: Any) -> bool:
    """Whether it is a module with parameters to train."""
    return hasattr(part, "parameters") and any(p.requires_grad for p in part.parameters())
