"""The conformance kit: every promise of `sltcore.interfaces` as a test, for plugins that have tests and for those that
have none.

    pytest --pyargs sltcore.testing.conformance --slt-plugin shout

runs the promises of every component of a plugin. An author who wants them beside other tests writes

    from sltcore.testing import DecoderPromises

    class TestShout(DecoderPromises):
        plugin = "shout"
        component = "shout"

What the kit needs to know stands in `Component.small` (see `sltcore.testing.case.Case`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "AcceleratorPromises": "promises.accelerator",
    "AdapterPromises": "promises.adapter",
    "AugmentationPromises": "promises.augmentation",
    "Case": "case",
    "ComponentPromises": "promises.component",
    "DecoderPromises": "promises.decoder",
    "EncoderPromises": "promises.encoder",
    "MetricPromises": "promises.metric",
    "ObjectivePromises": "promises.objective",
    "PrivacyPromises": "promises.privacy",
    "Promises": "promises.promise",
    "QuantizerPromises": "promises.quantizer",
    "RerankerPromises": "promises.reranker",
    "VocoderPromises": "promises.vocoder",
    "breaches": "promises.promise",
    "broken": "promises.promise",
    "new_plugin": "template",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__
