"""The reference of the interfaces: each kind's promises, and what its methods take, give and raise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generation.tables import code, table
from sltcore.interfaces import INTERFACES
from sltcore.testing.promises.component import PROMISES

HEAD = """# Interfaces and promises

A kind is a contract: an abstract base class in `sltcore.interfaces` and a list of promises. The conformance kit has one
test for each promise, so `pytest --pyargs sltcore.testing.conformance --slt-plugin NAME` says which one a plugin
breaks, why, and how to mend it. Put the interface before `nn.Module` in the bases.

## Every component

Whatever its kind, a component promises:"""


def interfaces_page() -> str:
    """The promises of all components, then one section for each kind."""
    parts = [HEAD, _promises(PROMISES)]
    parts += ["## Part", "What all kinds but the transforms have in common.", _document("Part"), _document("Session")]
    parts += ["## Transform", "The protocol of quantizers, accelerators and adapters.", _document("Transform")]
    interface: Any
    for kind, interface in INTERFACES.items():
        parts += [f"## {kind}", _promises(interface.promises), _document(interface.__name__)]
    for name in ("Value", "Size", "Cost"):
        parts.append(_document(name))
    return "\n\n".join(parts) + "\n"


def _promises(promises: Mapping[str, str]) -> str:
    return table(["promise", "what it says"], [[code(name), text] for name, text in promises.items()])


def _document(name: str) -> str:
    return f"::: sltcore.interfaces.{name}"
