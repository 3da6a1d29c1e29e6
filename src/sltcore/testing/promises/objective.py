"""The promises of objectives, as tests on a toy encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sltcore.errors import PortError
from sltcore.interfaces import Objective
from sltcore.testing import inputs
from sltcore.testing.case import Case, jitter, listed, seeded, without_gradient
from sltcore.testing.difference import difference
from sltcore.testing.promises.promise import Promises, promise
from sltcore.testing.toys import Stranger, ToyEncoder
from sltcore.types import Port

TOLERANCE = 1e-4
STEPS = 15
LEARNING_RATE = 0.01


class ObjectivePromises(Promises):
    """What `sltcore.interfaces.Objective` promises."""

    kind: ClassVar[str] = "objective"
    promises: ClassVar[Mapping[str, str]] = Objective.promises

    @promise(
        "average over an utterance's own frames and return [b]; guard an utterance of which nothing is masked or predicted"
    )
    def test_loss_shape(self, case: Case) -> str | None:
        part = case.part
        for x in (batch(part), batch(part, short=True)):
            size = inputs.size_of(x)
            for raw in case.contexts:
                found = loss(case, part, toy(part), x, raw)
                if not isinstance(found, Tensor) or found.shape != (size,) or not found.is_floating_point():
                    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                    return f"loss returned {shape} for {size} utterances, expected float32 of shape ({size},)"
                if not bool(found.isfinite().all()):
                    return f"the losses are {[round(value, 4) for value in found.tolist()]}"
        return None

    @promise(
        "use the named parameters in loss, and leave the encoder's output attached: no detach, no no_grad around it"
    )
    def test_gradient(self, case: Case) -> str | None:
        part = case.fresh()
        encoder = toy(part)
        if isinstance(part, nn.Module):
            jitter(part)
        for seed, raw in enumerate(case.contexts):
            x = batch(part)
            with seeded(seed):
                part.loss(encoder, x, case.context(part, raw, inputs.size_of(x), seed=seed)).sum().backward()
        missing = [f"encoder.{name}" for name in without_gradient(encoder)]
        if isinstance(part, nn.Module):
            missing += without_gradient(part)
        return f"no gradient reaches {listed(missing)}" if missing else None

    @promise("mask frames behind each length out of the sum and out of whatever the loss contrasts with")
    def test_padding(self, case: Case) -> str | None:
        part = case.part
        encoder, x = toy(part), batch(part)
        for raw in case.contexts:
            found = difference(
                loss(case, part, encoder, x, raw),
                loss(case, part, encoder, inputs.with_junk(x, extra=0), raw),
                tolerance=TOLERANCE,
            )
            if found:
                return f"with noise in the padding, {found}"
        return None

    @promise("pass generator=context['generator'] to every random call of torch, and use no other source")
    def test_deterministic(self, case: Case) -> str | None:
        part = case.part
        encoder, x = toy(part), batch(part)
        for raw in case.contexts:
            found = difference(loss(case, part, encoder, x, raw), loss(case, part, encoder, x, raw, noise=1))
            if found:
                return f"two calls with the same batch and generator seed differ: {found}"
        return None

    @promise("raise PortError in check, naming the encoder's class, what it lacks and what would do")
    def test_refusal(self, case: Case) -> str | None:
        part = case.part
        part.check(toy(part))
        other = Port("Text") if part.consumes.type != "Text" else Port("Waveform", {"sample_rate_hz": 16000})
        try:
            part.check(Stranger(other))
        except PortError as error:
            text = str(error)
            if "Stranger" not in text or len(text.split()) < 4 or len(text.splitlines()) != 1:
                return f"the refusal of an encoder of class Stranger reads: {text}"
            return None
        return f"batches are {part.consumes}, yet it accepts an encoder that consumes {other}"

    @promise("check the sign of the loss, and that its targets do not move with what is trained")
    def test_learns(self, case: Case) -> str | None:
        part = case.fresh()
        encoder, x = toy(part), batch(part)
        parameters = [p for p in encoder.parameters() if p.requires_grad]
        if isinstance(part, nn.Module):
            parameters += [p for p in part.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
        raw = case.contexts[0]
        before = float(loss(case, part, encoder, x, raw).mean())
        for _ in range(STEPS):
            optimizer.zero_grad()
            with seeded(0):
                part.loss(encoder, x, case.context(part, raw, inputs.size_of(x))).mean().backward()
            optimizer.step()
        after = float(loss(case, part, encoder, x, raw).mean())
        if not after < before:
            return f"{STEPS} steps of Adam at {LEARNING_RATE:g} took the loss of one batch from {before:.5g} to {after:.5g}"
        return None


def toy(part: Any) -> ToyEncoder:
    """A fresh causal encoder that consumes what the objective's batches are."""
    with seeded(0):
        return ToyEncoder(part.consumes)


def batch(part: Any, *, short: bool = False) -> Any:
    """Three utterances; or two, one of which has a few frames only."""
    if not short:
        return inputs.batch(part.consumes)
    if part.consumes.type == "Waveform":
        rate_hz = inputs.sample_rate_hz(part.consumes)
        return inputs.batch(part.consumes, lengths=[rate_hz // 2, rate_hz // 33])
    return inputs.batch(part.consumes, lengths=[31, 3])


def loss(
    case: Case, part: Any, encoder: ToyEncoder, x: Any, raw: Mapping[str, Any] | None = None, *, noise: int = 0
) -> Any:
    """The loss without a graph; `noise` seeds the global generators, which nothing should read."""
    with seeded(noise), torch.no_grad():
        return part.loss(encoder, x, case.context(part, raw or {}, inputs.size_of(x)))
