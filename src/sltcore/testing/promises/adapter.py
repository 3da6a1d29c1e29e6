"""The promises of adapters, as tests on plain models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest
from torch import Tensor

from sltcore.interfaces import Adapter
from sltcore.testing.case import Case, listed
from sltcore.testing.difference import difference
from sltcore.testing.promises.promise import promise
from sltcore.testing.promises.transform import TransformPromises, Worn, call, plain, practise, wear


class AdapterPromises(TransformPromises):
    """What `sltcore.interfaces.Adapter` promises."""

    kind: ClassVar[str] = "adapter"
    promises: ClassVar[Mapping[str, str]] = Adapter.promises

    @promise(
        "give only the adapter's own tensors in parameter_groups, and add the update in forward instead of into the weight"
    )
    def test_frozen(self, case: Case) -> str | None:
        for worn in wear(case):
            given = {id(p) for group in worn.transform.parameter_groups() for p in group["params"]}
            taken = [
                name
                for name, p in worn.model.named_parameters()
                if id(p) in given and any(p is q for q in worn.base_parameters)
            ]
            if taken:
                return f"on {worn.what}, parameter_groups holds the base's own {listed(taken)}"
            kept = [(name, tensor, tensor.detach().clone()) for name, tensor in base_tensors(worn)]
            practise(case, worn)
            changed = [name for name, tensor, before in kept if difference(before, tensor.detach())]
            if changed:
                return f"on {worn.what}, training changed {listed(changed)}"
        return None

    @promise("start with an update of zero (one factor zero), or set starts_as_identity = False and say why")
    def test_identity(self, case: Case) -> str | None:
        for worn in wear(case):
            if not worn.transform.starts_as_identity:
                pytest.skip("it does not start as identity, and says so")
            expected = plain(worn).repeat(len(case.contexts), *[1] * (plain(worn).ndim - 1))
            found = difference(expected, call(case, worn))
            if found:
                return f"{worn.what} with a freshly attached adapter: {found}"
        return None


def base_tensors(worn: Worn) -> list[tuple[str, Tensor]]:
    """The parameters and buffers that the base brought, as they are now, by the names they had."""
    names = [name for name, _ in worn.base.named_parameters()]
    found: list[tuple[str, Tensor]] = list(zip(names, worn.base_parameters, strict=True))
    buffers = dict(worn.model.named_buffers())
    return found + [(name, buffers[name]) for name, _ in worn.base.named_buffers() if name in buffers]
