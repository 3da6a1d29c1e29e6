"""The promises of augmentations, as tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sltcore.interfaces import Augmentation
from sltcore.testing import inputs
from sltcore.testing.case import Case, seeded
from sltcore.testing.difference import difference
from sltcore.testing.promises.promise import Promises, promise

TOLERANCE = 1e-5
DRAWS = 8  # an augmentation that is applied with probability 1/2 stays out of all draws once in 256


class AugmentationPromises(Promises):
    """What `sltcore.interfaces.Augmentation` promises."""

    kind: ClassVar[str] = "augmentation"
    promises: ClassVar[Mapping[str, str]] = Augmentation.promises

    @promise("pass generator=generator to every random call of torch, and use no other source")
    def test_deterministic(self, case: Case) -> str | None:
        part = case.part
        x = inputs.batch(part.consumes)
        for raw in case.contexts:
            found = difference(augment(case, part, x, raw), augment(case, part, x, raw, noise=1))
            if found:
                return f"two calls with the same generator state differ: {found}"
        return None

    @promise(
        "draw from the generator that is passed in, instead of seeding one of its own; check that ranges are not empty"
    )
    def test_random(self, case: Case) -> str | None:
        part = case.part
        x = inputs.batch(part.consumes)
        first = augment(case, part, x)
        if all(difference(first, augment(case, part, x, seed=seed)) is None for seed in range(1, DRAWS)):
            return f"{DRAWS} generator states gave one result"
        return None

    @promise("return x._replace(...) with the same dtype, and guard divisions by the energy of silence")
    def test_type(self, case: Case) -> str | None:
        part = case.part
        for x in (inputs.batch(part.consumes), silent(inputs.batch(part.consumes))):
            for raw in case.contexts:
                out = augment(case, part, x, raw)
                if type(out) is not type(x):
                    return f"{type(x).__name__} went in, {type(out).__name__} came out"
                if inputs.size_of(out) != inputs.size_of(x):
                    return f"{inputs.size_of(x)} utterances went in, {inputs.size_of(out)} came out"
                if inputs.lengths_of(x) is not None:
                    reason = array_problem(inputs.array_of(x), inputs.array_of(out))
                    if reason:
                        return reason
        return None

    @promise("return the lengths that output_lengths states, or None from output_lengths where chance decides")
    def test_duration(self, case: Case) -> str | None:
        part = case.part
        x = inputs.batch(part.consumes)
        given = inputs.lengths_of(x)
        if given is None:
            pytest.skip(f"{part.consumes} has no lengths")
        law = part.output_lengths(given)
        for seed in range(3):
            out = augment(case, part, x, seed=seed)
            if law is not None and out.lengths.tolist() != law.tolist():
                return f"lengths {given.tolist()} became {out.lengths.tolist()}, output_lengths says {law.tolist()}"
            if int(out.lengths.max()) > inputs.array_of(out).shape[1]:
                return f"lengths are {out.lengths.tolist()}, with room for {inputs.array_of(out).shape[1]}"
        return None

    @promise("compute levels and means over an utterance's own length, and draw numbers independent of the padded size")
    def test_padding(self, case: Case) -> str | None:
        part = case.part
        x = inputs.batch(part.consumes)
        if inputs.lengths_of(x) is None:
            pytest.skip(f"{part.consumes} has no padding")
        for raw in case.contexts:
            found = difference(
                augment(case, part, x, raw), augment(case, part, inputs.with_junk(x, extra=0), raw), tolerance=TOLERANCE
            )
            if found:
                return f"with noise in the padding, {found}"
        return None

    @promise("work on a copy: no operation that ends in an underscore, no assignment to x's own tensor")
    def test_input_kept(self, case: Case) -> str | None:
        part = case.part
        x = inputs.batch(part.consumes)
        before = inputs.batch(part.consumes)
        for raw in case.contexts:
            augment(case, part, x, raw)
            found = difference(before, x)
            if found:
                return f"the input changed: {found}"
        return None


def augment(
    case: Case, part: Any, x: Any, raw: Mapping[str, Any] | None = None, *, seed: int = 0, noise: int = 0
) -> Any:
    """One call with a generator at `seed`; `noise` seeds the global generators, which nothing should read."""
    with seeded(noise):
        context = case.context(part, raw or {}, inputs.size_of(x), seed=seed)
        return part(x, context, inputs.generator(seed))


def silent(x: Any) -> Any:
    """The same batch with zeros where it has numbers."""
    if inputs.lengths_of(x) is None:
        return x
    return inputs.with_array(x, torch.zeros_like(inputs.array_of(x)))


def array_problem(given: Tensor, out: Tensor) -> str | None:
    """What is wrong with the dtype, axes or values of the changed tensor."""
    if out.dtype != given.dtype or out.ndim != given.ndim:
        return f"{given.dtype} with {given.ndim} axes became {out.dtype} with {out.ndim}"
    if not bool(out.isfinite().all()):
        return f"{int((~out.isfinite()).sum())} values are NaN or infinite"
    return None
