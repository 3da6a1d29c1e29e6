"""The promises of vocoders, as tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from sltcore.interfaces import Vocoder
from sltcore.testing import inputs
from sltcore.testing.case import Case, seeded
from sltcore.testing.difference import difference
from sltcore.testing.promises.promise import Promises, promise
from sltcore.types import Features, Port, Waveform

TOLERANCE = 1e-4  # of samples in [-1, 1]


class VocoderPromises(Promises):
    """What `sltcore.interfaces.Vocoder` promises."""

    kind: ClassVar[str] = "vocoder"
    promises: ClassVar[Mapping[str, str]] = Vocoder.promises

    @promise("trim or pad each utterance to output_lengths of its frames, and return those as lengths")
    def test_duration(self, case: Case) -> str | None:
        part = case.part
        features = frames_of(part)
        shortened = features._replace(lengths=torch.tensor([features.values.shape[1], 5, 1]))
        for given in (features, shortened):
            waveform = synthesize(part, given)
            law = part.output_lengths(given.lengths)
            if waveform.lengths.tolist() != law.tolist():
                return f"{given.lengths.tolist()} frames gave {waveform.lengths.tolist()} samples, output_lengths says {law.tolist()}"
            if int(law.max()) > waveform.samples.shape[1]:
                return f"samples has room for {waveform.samples.shape[1]}, the longest utterance has {int(law.max())}"
        return None

    @promise("put a floor under energies before taking logarithms, and give unvoiced frames no level of their own")
    def test_silence(self, case: Case) -> str | None:
        part = case.part
        quiet = Waveform(
            torch.zeros(1, part.sample_rate_hz // 2), torch.tensor([part.sample_rate_hz // 2]), part.sample_rate_hz
        )
        with seeded(0), torch.no_grad():
            features = part.analyze(quiet)
        if not bool(features.values.isfinite().all()):
            return "analyze gives NaN or infinity for silence"
        samples = synthesize(part, features).samples
        loudest = float(samples.abs().max())
        if not loudest <= part.silence_level:
            return f"the loudest sample is {loudest:.3g}, silence_level is {part.silence_level:g}"
        return None

    @promise("clamp what goes into exponentials, divisions and logarithms")
    def test_finite(self, case: Case) -> str | None:
        part = case.part
        features = frames_of(part)
        noise = torch.randn(features.values.shape, generator=inputs.generator(2))
        for what, values in {
            "analyzed frames": features.values,
            "ten times those": 10 * features.values,
            "zeros": torch.zeros_like(features.values),
            "noise of deviation 5": 5 * noise,
        }.items():
            samples = synthesize(part, features._replace(values=values)).samples
            if not bool(samples.isfinite().all()):
                return f"{what} gave {int((~samples.isfinite()).sum())} samples that are NaN or infinite"
        return None

    @promise("use one frame shift in analyze and synthesize, and the same rule for the ends")
    def test_round_trip(self, case: Case) -> str | None:
        part = case.part
        features = frames_of(part)
        with seeded(0), torch.no_grad():
            again = part.analyze(synthesize(part, features))
        gaps = (again.lengths - features.lengths).abs()
        if int(gaps.max()) > 1:
            return f"{features.lengths.tolist()} frames came back as {again.lengths.tolist()}"
        return None

    @promise("set what stands after each length to silence before frames overlap")
    def test_padding(self, case: Case) -> str | None:
        part = case.part
        features = frames_of(part)
        found = difference(
            synthesize(part, features), synthesize(part, inputs.with_junk(features, extra=7)), tolerance=TOLERANCE
        )
        return f"with noise in the padding, {found}" if found else None

    @promise("start phases from a fixed value or from a generator seeded by the configuration")
    def test_deterministic(self, case: Case) -> str | None:
        part = case.part
        features = frames_of(part)
        found = difference(synthesize(part, features), synthesize(part, features, noise=1))
        return f"two calls with the same features differ: {found}" if found else None

    @promise(
        "state in `consumes` the f and the frame_shift_s of what analyze returns, and in `produces` the sample rate"
    )
    def test_port(self, case: Case) -> str | None:
        part = case.part
        features = frames_of(part)
        port: Port = part.consumes
        if port.type != "Features" or not isinstance(features, Features):
            return f"it consumes {port}, and analyze returns {type(features).__name__}; both should be Features"
        for name, actual in (("f", features.values.shape[2]), ("frame_shift_s", features.frame_shift_s)):
            if name in port.attributes and abs(port.attributes[name] - actual) > 1e-9:
                return f"it consumes {port}, but analyze gives {name}={actual}"
        if "f" not in port.attributes:
            return f"it consumes {port}, which does not name f; analyze gives f={features.values.shape[2]}"
        if part.produces.type != "Waveform" or part.produces.attributes.get("sample_rate_hz") != part.sample_rate_hz:
            return f"it produces {part.produces}, expected Waveform(sample_rate_hz={part.sample_rate_hz})"
        return None


def frames_of(part: Any) -> Features:
    """Features of three recordings, analyzed by the vocoder itself."""
    rate_hz = part.sample_rate_hz
    with seeded(0), torch.no_grad():
        features: Features = part.analyze(inputs.sound([rate_hz * 6 // 10, rate_hz * 2 // 5, rate_hz // 4], rate_hz))
    return features


def synthesize(part: Any, features: Features, *, noise: int = 0) -> Waveform:
    """One call; `noise` seeds the global generators, which nothing should read."""
    with seeded(noise), torch.no_grad():
        waveform: Waveform = part.synthesize(features)
    return waveform
