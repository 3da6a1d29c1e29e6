"""PrivacyMechanism: training and releases whose privacy loss is counted and bounded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from sltcore.interfaces.part import Part
from sltcore.types import Port, PrivacyCost

Fit = Callable[..., Any]
"""`fit(data, *, sampler=None, gradient=None) -> model`: training as the caller does it. In a run of `slt train` `fit.dev`
holds the development data, which every model's evaluation looks at, and `fit.start` the bundle that every model begins from,
or None."""


class PrivacyMechanism(Part):
    """Uses private data only through releases that it accounts for."""

    promises: ClassVar[Mapping[str, str]] = {
        "starts-at-zero": "before anything is released, spent gives epsilon 0",
        "monotone": "spent never falls, and more delta never costs more epsilon",
        "plan": "plan tells the data-independent cost of a run without touching data, and the run costs no more",
        "refusal": "a run that would exceed the budget on data-independent cost is refused before it begins",
        "unit": "spent names the protected unit and says whether it is data-dependent",
        "trains": "train calls the fit that is passed in and returns what it made",
    }

    @property
    def consumes(self) -> Port:
        """Hypotheses: what teachers say. Data sets come through `train`."""
        return Port("Hypotheses")

    @property
    def produces(self) -> Port:
        """Hypotheses: what is released."""
        return Port("Hypotheses")

    @abstractmethod
    def train(self, fit: Fit, private: Any, public: Any) -> Any:
        """Train with `fit(data, *, sampler=None, gradient=None)` on private and public data; returns the model that may
        be published. **Raises** `PrivacyError` before anything private is read, when the budget would be exceeded."""

    @abstractmethod
    def release(self, *args: Any, **options: Any) -> Any:
        """One noisy release. **Raises** `PrivacyError` before it happens, when the budget would be exceeded."""

    @abstractmethod
    def spent(self, delta: float) -> PrivacyCost:
        """The privacy loss so far at `delta`. **Raises** `PrivacyError` when delta is not between 0 and 1."""

    @abstractmethod
    def plan(self, delta: float, **sizes: int) -> PrivacyCost:
        """The data-independent cost of a whole run of the given sizes, touching no data."""
