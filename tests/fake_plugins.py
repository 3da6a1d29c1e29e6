"""Installable dummy distributions for tests: a package folder and its .dist-info, in a folder of their own."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

PLUGIN = """
from sltcore.plugin import Component, hookimpl
SLT_API = (1, 0)
@hookimpl
def slt_components():
    return [Component("{kind}", "{name}", impl="{package}.build:build", config="{package}.config:Made", summary="dummy {name}")]
"""
CONFIG = '''
from pydantic import Field
from sltcore.spec import Config
class Made(Config):
    """What it takes."""
    size: int = Field(4, ge=1, le=64, description="how large")
'''
BUILD = '''
def build(config, ports):
    """Builds nothing."""
    return config
'''


class Site:
    """A folder like site-packages."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def add(
        self,
        name: str,
        plugin: str | None = None,
        *,
        kind: str = "decoder",
        component: str | None = None,
        package: str | None = None,
        entry: str | None = None,
        points: str | None = None,
        version: str = "1.0",
        files: Mapping[str, str] | None = None,
        metadata: bool = True,
    ) -> str:
        """Install distribution `sltcore-NAME` with package `slt_NAME`; the source of its plugin.py may be given.

        `points` replaces the whole entry_points.txt. Gives the distribution's name.
        """
        package = package or "slt_" + name.replace("-", "_")
        distribution = f"sltcore-{name}"
        source = plugin if plugin is not None else PLUGIN.format(kind=kind, name=component or name, package=package)
        root = self.folder / package
        root.mkdir(exist_ok=True)
        contents = {"__init__.py": "", "plugin.py": source, "config.py": CONFIG, "build.py": BUILD, **(files or {})}
        for file, text in contents.items():
            (root / file).write_text(textwrap.dedent(text), encoding="utf-8")
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        text = points if points is not None else f"[sltcore]\n{entry or name} = {package}.plugin\n"
        (info / "entry_points.txt").write_text(text, encoding="utf-8")
        if metadata:
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n\nA dummy.\n", encoding="utf-8"
            )
        importlib.invalidate_caches()
        return distribution

    def environment(self, **settings: str) -> dict[str, str]:
        """This process's environment with the folder importable."""
        return {**os.environ, "PYTHONPATH": str(self.folder), **settings}


class Slt:
    """`slt` in a child process."""

    def __call__(
        self, *arguments: str | Path, site: Site | None = None, cwd: Path | None = None, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        environment = site.environment(**settings) if site is not None else {**os.environ, **settings}
        return subprocess.run(
            [sys.executable, "-c", "from sltcore.cli import main; main()", *map(str, arguments)],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def several(
        self, commands: Sequence[Sequence[str | Path]], *, site: Site, **settings: str
    ) -> list[tuple[int, str, str]]:
        """Exit code, output and errors of several commands, run one after another in one child process."""
        done = subprocess.run(
            [sys.executable, "-c", SEVERAL],
            input=json.dumps([[str(word) for word in command] for command in commands]),
            env=site.environment(**settings),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return [(code, output, errors) for code, output, errors in json.loads(done.stdout)]


SEVERAL = """
import contextlib, io, json, sys
from sltcore.cli import main
results = []
for command in json.load(sys.stdin):
    sys.argv = ["slt", *command]
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as done:
            code = done.code or 0
    results.append([code, output.getvalue(), errors.getvalue()])
print(json.dumps(results))
"""

DEMO_PLUGIN = """
from sltcore.plugin import Component, hookimpl
SLT_API = (1, 0)
def _component(kind, name, config, summary, **more):
    return Component(kind, name, impl="slt_demo.build:build", config="slt_demo.config:" + config, summary=summary, **more)
@hookimpl
def slt_components():
    return [
        _component("encoder", "frames", "Frames", "sound to frames"),
        _component("encoder", "stack", "Stack", "an encoder on an encoder", source="arXiv:0000.00000"),
        _component("encoder", "chorus", "Chorus", "several encoders side by side"),
        _component("decoder", "search", "Search", "beam search over labels"),
        _component("decoder", "counter", "Counter", "an n-gram model"),
        _component("reranker", "order", "Counter", "another order"),
        _component("quantizer", "bits", "Bits", "fewer bits"),
        _component("adapter", "low-rank", "Rank", "a small update"),
        _component("metric", "rate", "Rate", "errors over words"),
        _component("vocoder", "phase", "Counter", "frames to sound"),
    ]
"""
DEMO_CONFIG = '''
from typing import Annotated, Literal
from pydantic import Field, model_validator
from sltcore.spec import Block, Config, EnvText, File, Ref, Slot

class Frames(Config):
    """Frames of so many numbers."""
    bands: int = Field(80, ge=1, le=256, description="numbers in a frame")
    shift_s: float = Field(0.01, gt=0, le=1, description="between frames, in seconds")
    window: Literal["hann", "hamming"] = Field("hann", description="shape of the window")
    dither: bool = Field(False, description="whether noise is added")

class Stack(Config):
    base: Annotated[Block, Slot("encoder")] = Field("frames", description="what stands below")
    flow: Annotated[Ref | None, Slot()] = Field(None, description="shared with another stage")
    layers: tuple[int, ...] = Field((), max_length=8, description="which layers are kept")
    scale: int | str | None = Field(None, description="a number or a name")

class Chorus(Config):
    voices: list[Annotated[Block, Slot("encoder")]] = Field(min_length=1, max_length=8, description="the encoders")
    weights: dict[str, float] = Field(default_factory=dict, description="weight by name")

class Pruning(Config):
    """When a path is given up."""
    threshold: float = Field(10.0, ge=0, description="difference in log score")
    most: int = Field(16, ge=1, description="how many stay")
    extra: Annotated[Block | None, Slot("decoder")] = Field(None, description="another opinion")

class Search(Config):
    beam: int = Field(8, ge=1, le=1024, description="paths kept")
    head: Annotated[Ref | None, Slot()] = Field(None, description="shared output layer")
    lm: Annotated[Block | None, Slot("decoder")] = Field(None, description="language model")
    pruning: Pruning = Field(default_factory=Pruning, description="when paths are given up")
    lexicon: File | None = Field(None, description="pronunciations")
    token: EnvText = Field("", description="access token")
    phrases: list[str] = Field(default_factory=list, description="what is preferred")
    alpha: float = Field(0.5, ge=0, le=10, description="weight of the language model")

class Counter(Config):
    order: int = Field(3, ge=1, le=9, description="words in a row")
    path: File = Field(description="where the counts are")

class Bits(Config):
    bits: Literal[1, 2, 4, 8] = Field(4, description="bits of a weight")
    only: list[str] = Field(default_factory=list, description="names of modules")

class Rank(Config):
    rank: int = Field(4, ge=1, description="of the update")

class Rate(Config):
    lower: bool = Field(True, description="whether case is ignored")
    low: float = Field(0.0, description="lowest")
    high: float = Field(1.0, description="highest")
    @model_validator(mode="after")
    def _in_order(self):
        if self.low > self.high:
            raise ValueError(f"low {self.low} lies above high {self.high}; exchange them")
        return self
'''
DEMO_BUILD = '''
class Built:
    """What is built: nothing but its config.

    It says so in two paragraphs.
    """

def build(config, ports) -> Built:
    """Builds it."""
    return Built()
'''


def write_demo(site: Site) -> None:
    """The plugin `demo`: nested slots, references, lists of slots, files, texts from the environment."""
    site.add("demo", DEMO_PLUGIN, files={"config.py": DEMO_CONFIG, "build.py": DEMO_BUILD})
