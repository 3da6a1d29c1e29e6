"""What the three kinds of transform have in common: attach to plain models, call, train a little, finish, carry away."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sltcore.errors import SltError
from sltcore.testing.case import Case, listed, seeded
from sltcore.testing.difference import difference
from sltcore.testing.inputs import frames, generator
from sltcore.testing.promises.component import through_safetensors
from sltcore.testing.promises.promise import Promises, promise, raised
from sltcore.testing.toys import WIDTH, models

STEPS = 3
LEARNING_RATE = 0.05


@dataclass
class Worn:
    """A plain model that a transform is attached to, and what the model was before."""

    what: str
    model: nn.Module
    base: nn.Module
    transform: Any
    example: Tensor

    def own_parameters(self) -> list[nn.Parameter]:
        """What training may change beyond the base's own parameters."""
        base = {id(p) for p in self.base_parameters}
        found = [p for group in self.transform.parameter_groups() for p in group["params"]]
        return [p for p in found if id(p) not in base]

    base_parameters: tuple[nn.Parameter, ...] = ()


def wear(case: Case) -> list[Worn]:
    """The transform, freshly attached to each of the kit's models that it accepts. Skips where it accepts none."""
    worn, _ = attempts(case)
    if not worn:
        pytest.skip("it attaches to none of the kit's models, see the promise 'foreign'")
    return worn


def attempts(case: Case) -> tuple[list[Worn], list[str]]:
    """Attached models, and why the others were refused."""
    worn: list[Worn] = []
    refusals: list[str] = []
    for what, model, example in models(case.small.get("model")):
        base = copy.deepcopy(model)
        transform = case.fresh()
        own = tuple(model.parameters())
        try:
            with seeded(0):
                transform.attach(model, calibration(example))
        except Exception as error:
            refusals.append(f"{what}: {raised(error)}")
            continue
        model.eval()
        worn.append(Worn(what, model, base, transform, example, own))
    return worn, refusals


def calibration(example: Tensor) -> Iterator[Tensor]:
    """Three inputs like the example."""
    for seed in range(3):
        yield example + 0.1 * torch.randn(example.shape, generator=generator(seed))


def call(case: Case, worn: Worn, x: Tensor | None = None, *, noise: int = 0, model: nn.Module | None = None) -> Tensor:
    """The model's output in evaluation, for all small contexts, one after the other."""
    x = worn.example if x is None else x
    model = worn.model if model is None else model
    outputs = []
    for raw in case.contexts:
        with seeded(noise), torch.no_grad(), worn.transform.use(case.context(worn.transform, raw, len(x))):
            outputs.append(model(x))
    return torch.cat(outputs)


def plain(worn: Worn, x: Tensor | None = None) -> Tensor:
    """What the untouched base says, as often as there are contexts."""
    with seeded(0), torch.no_grad():
        output: Tensor = worn.base(worn.example if x is None else x)
    return output


def practise(case: Case, worn: Worn) -> None:
    """A few steps of training, of the transform's own parameters alone."""
    own = worn.own_parameters()
    worn.model.train()
    if own:
        optimizer = worn.transform.wrap_optimizer(torch.optim.SGD(own, lr=LEARNING_RATE))
        for turn in range(STEPS):
            worn.transform.step(turn / STEPS)
            optimizer.zero_grad()
            lesson(case, worn).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    worn.transform.step(1.0)
    worn.model.eval()


def lesson(case: Case, worn: Worn) -> Tensor:
    """A loss that every output enters, with the penalty of the transform."""
    total = torch.zeros(())
    for seed, raw in enumerate(case.contexts):
        x = worn.example + 0.1 * torch.randn(worn.example.shape, generator=generator(seed))
        with seeded(seed), worn.transform.use(case.context(worn.transform, raw, len(x))):
            output = worn.model(x)
        total = total + (output - torch.randn(output.shape, generator=generator(seed))).square().mean()
    penalty = worn.transform.penalty()
    return total if penalty is None else total + penalty


class TransformPromises(Promises):
    """What `sltcore.interfaces.Transform` promises; a quantizer, an accelerator and an adapter promise more."""

    @promise("keep what attach replaces and put the same objects back; write into no parameter or buffer of the base")
    def test_detach(self, case: Case) -> str | None:
        for worn in wear(case):
            call(case, worn)
            practise(case, worn)
            worn.transform.detach()
            worn.model.eval()
            found = difference(plain(worn), call_plain(worn))
            if found:
                return f"{worn.what} gives other outputs after detach: {found}"
            before, after = worn.base.state_dict(), worn.model.state_dict()
            if set(before) != set(after):
                return f"{worn.what} has other parameters or buffers: {listed(sorted(set(before) ^ set(after)))}"
            changed = [name for name in before if difference(before[name], after[name])]
            if changed:
                return f"{worn.what}: detach left {listed(changed)} changed"
            kinds = [(name, type(module).__name__) for name, module in worn.base.named_modules()]
            now = [(name, type(module).__name__) for name, module in worn.model.named_modules()]
            if kinds != now:
                return f"{worn.what} has other modules: {listed([str(pair) for pair in set(kinds) ^ set(now)] or ['in another order'])}"
            frozen = [name for name, p in worn.model.named_parameters() if not p.requires_grad]
            if frozen:
                return f"{worn.what}: detach left {listed(frozen)} without requires_grad"
        return None

    @promise(
        "put everything that outputs depend on into state(), and use nothing else in restore: no calibration, no config"
    )
    def test_restore(self, case: Case) -> str | None:
        for stage in ("attached", "finished"):
            for worn in wear(case):
                practise(case, worn)
                if stage == "finished":
                    worn.transform.finish()
                expected = call(case, worn)
                state = worn.transform.state()
                other = Worn(worn.what, copy.deepcopy(worn.base), worn.base, case.fresh(seed=1), worn.example)
                other.transform.restore(other.model, through_safetensors(state))
                other.model.eval()
                found = difference(expected, call(case, other))
                if found:
                    return f"{worn.what}, {stage}, restored on a fresh copy of the base: {found}"
        return None

    @promise("use every parameter of parameter_groups in the attached model's forward or in penalty, without detach")
    def test_gradient(self, case: Case) -> str | None:
        tried = False
        for worn in wear(case):
            own = [p for group in worn.transform.parameter_groups() for p in group["params"]]
            if not own:
                continue
            tried = True
            worn.model.train()
            worn.transform.step(0.5)
            with torch.no_grad():
                for p in own:
                    p += 0.01 * torch.randn(p.shape, generator=generator(1))
            lesson(case, worn).backward()  # type: ignore[no-untyped-call]
            missing = [p for p in own if p.grad is None or not bool(p.grad.abs().sum() > 0)]
            if missing:
                names = {id(p): name for name, p in worn.model.named_parameters()}
                told = [names.get(id(p), f"a parameter of shape {tuple(p.shape)}") for p in missing]
                return f"on {worn.what}, no gradient reaches {listed(told)}"
        if not tried:
            pytest.skip("it has no parameters of its own")
        return None

    @promise("find modules by type and name pattern, and ask a model for nothing that a plain nn.Module does not have")
    def test_foreign(self, case: Case) -> str | None:
        worn, refusals = attempts(case)
        for one in worn:
            call(case, one)
        return None if worn else f"it refused every model: {'; '.join(refusals)}"

    @promise("switch dropout and stochastic rounding off in evaluation")
    def test_deterministic(self, case: Case) -> str | None:
        for worn in wear(case):
            found = difference(call(case, worn), call(case, worn, noise=1))
            if found:
                return f"on {worn.what}, two calls with the same input differ: {found}"
        return None

    @promise("accept 0 <= progress <= 1 and raise PluginError otherwise; call super().step(progress), which does so")
    def test_progress(self, case: Case) -> str | None:
        worn = wear(case)[0]
        for progress in (0.0, 0.01, 0.5, 0.99, 1.0):
            worn.transform.step(progress)
        for progress in (-0.01, 1.01, math.nan):
            try:
                worn.transform.step(progress)
            except SltError:
                continue
            return f"step({progress}) was accepted"
        return None


def call_plain(worn: Worn, x: Tensor | None = None) -> Tensor:
    """What the model says without entering `use`: for models that nothing is attached to any more."""
    with seeded(0), torch.no_grad():
        output: Tensor = worn.model(worn.example if x is None else x)
    return output


def line(features: int = WIDTH) -> tuple[nn.Module, Tensor]:
    """A model of one linear layer 8 -> 5 without bias, and an input [2 3 8]."""
    with seeded(0):
        return nn.Sequential(nn.Linear(features, 5, bias=False)).eval(), frames((3, 3), features)
