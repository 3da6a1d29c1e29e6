"""The promises of quantizers, as tests on plain models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from sltcore.interfaces import Quantizer, Size
from sltcore.testing.case import Case
from sltcore.testing.difference import difference
from sltcore.testing.promises.promise import promise
from sltcore.testing.promises.transform import TransformPromises, call, practise, wear

EXTRA = 7 * 5 * 4
"""Bytes of the float32 weight of a linear layer 7 -> 5 that nobody quantized."""


class QuantizerPromises(TransformPromises):
    """What `sltcore.interfaces.Quantizer` promises."""

    kind: ClassVar[str] = "quantizer"
    promises: ClassVar[Mapping[str, str]] = Quantizer.promises

    @promise(
        "round in the attached model, in evaluation, as the deployed form does, or state a larger finish_tolerance"
    )
    def test_finish(self, case: Case) -> str | None:
        for worn in wear(case):
            practise(case, worn)
            attached = call(case, worn)
            worn.transform.finish()
            worn.model.eval()
            found = difference(attached, call(case, worn), tolerance=worn.transform.finish_tolerance)
            if found:
                return f"{worn.what} attached and finished: {found}"
        return None

    @promise(
        "walk over module.named_modules() in report: packed bits and tables for what is quantized, element_size() * numel() for the rest"
    )
    def test_report(self, case: Case) -> str | None:
        for stage in ("attached", "finished"):
            for worn in wear(case):
                practise(case, worn)
                if stage == "finished":
                    worn.transform.finish()
                size = worn.transform.report(worn.model)
                if not isinstance(size, Size) or size.disk_bytes <= 0 or size.memory_bytes <= 0:
                    return f"{worn.what}, {stage}: report gives {size}"
                stranger = nn.Linear(7, 5, bias=False)
                grown = worn.transform.report(nn.ModuleDict({"model": worn.model, "stranger": stranger}))
                disk, memory = grown.disk_bytes - size.disk_bytes, grown.memory_bytes - size.memory_bytes
                if (disk, memory) != (EXTRA, EXTRA):
                    return (
                        f"{worn.what}, {stage}: beside a float32 layer of {EXTRA} bytes that it leaves alone, report grows by "
                        f"{disk} bytes on disk and {memory} in memory"
                    )
                if "stranger" not in grown.untouched:
                    return (
                        f"{worn.what}, {stage}: a layer that it left alone is missing in untouched: {grown.untouched}"
                    )
                names = {name for name, _ in worn.model.named_modules()}
                unknown = [name for name in size.untouched if name not in names]
                if unknown:
                    return f"{worn.what}, {stage}: untouched names {unknown[0]!r}, which is no module"
        return None
