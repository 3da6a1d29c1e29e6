"""A plugin of an objective, an augmentation and a privacy mechanism, for the tests of specs that learn."""

from __future__ import annotations

from pathlib import Path

from fake_plugins import Site

PLUGIN = """
from sltcore.plugin import Component, hookimpl
SLT_API = (1, 0)
def _component(kind, name, config):
    return Component(kind, name, impl="slt_learning.build:build", config="slt_learning.config:" + config, summary=name)
@hookimpl
def slt_components():
    return [
        _component("objective", "distance", "Distance"),
        _component("augmentation", "noise", "Noise"),
        _component("privacy", "clip", "Clip"),
    ]
"""
CONFIG = '''
from typing import Annotated
from pydantic import Field
from sltcore.spec import Config, Ref, Slot

class Distance(Config):
    """How far two frames lie apart."""
    power: float = Field(2.0, ge=1, le=8, description="of the norm")
    to: Annotated[Ref | None, Slot()] = Field(None, description="what frames are compared with")

class Noise(Config):
    snr_db: float = Field(20.0, ge=-10, le=60, description="signal to noise")

class Clip(Config):
    epsilon: float = Field(8.0, gt=0, le=1000, description="of differential privacy")
'''


def write_learning(folder: Path) -> Site:
    """Install the plugin in a folder."""
    site = Site(folder)
    site.add("learning", PLUGIN, files={"config.py": CONFIG})
    return site
