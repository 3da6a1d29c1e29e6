"""The promises of every component of the plugin, and those of the kind `privacy`."""

from sltcore.testing import ComponentPromises, PrivacyPromises


class TestComponents(ComponentPromises):
    plugin = "pate"


class TestPate(PrivacyPromises):
    plugin = "pate"
    component = "pate"


class TestDpSgd(PrivacyPromises):
    plugin = "pate"
    component = "dp-sgd"
