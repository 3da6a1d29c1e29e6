"""The promises of every component, and those of the kind `adapter`, on the kit's plain models."""

from sltcore.testing import AdapterPromises, ComponentPromises


class TestComponents(ComponentPromises):
    plugin = "residual-adapters"


class TestResidual(AdapterPromises):
    plugin = "residual-adapters"
    component = "residual"


class TestLora(AdapterPromises):
    plugin = "residual-adapters"
    component = "lora"
