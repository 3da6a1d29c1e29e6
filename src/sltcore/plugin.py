"""The plugin author's page: everything a distribution needs to announce its components.

A plugin is a pip-installable distribution with one entry point in group `sltcore`. It points at a module that holds
hook implementations; `slt_components` is the only one most plugins write:

    from sltcore.plugin import Component, hookimpl

    SLT_API = (1, 0)

    @hookimpl
    def slt_components():
        return [Component("decoder", "shout", impl="slt_shout.build:shout", config="slt_shout.config:ShoutConfig",
                          summary="the best path in capitals")]

The module is imported by every `slt` command, so it imports sltcore and the standard library only. What `impl` and
`config` name is imported on first use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pluggy

from sltcore.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from sltcore.types import Port

API_VERSION = (1, 0)
"""(major, minor) of this page. A plugin states the version it was written for as `SLT_API`; it is refused when the
major differs or its minor is newer."""

ENTRY_POINT_GROUP = "sltcore"

KINDS = (
    "encoder",
    "decoder",
    "quantizer",
    "accelerator",
    "adapter",
    "privacy",
    "reranker",
    "vocoder",
    "objective",
    "augmentation",
    "metric",
)
"""The kinds of component, closed: each is a contract in `sltcore.interfaces`. Names within a kind are open."""

hookspec = pluggy.HookspecMarker("sltcore")
hookimpl = pluggy.HookimplMarker("sltcore")


@dataclass(frozen=True)
class Component:
    """One technique of a plugin, as plain data.

    - `kind`: one of `KINDS`; `name`: lower-case words joined by hyphens, the `use:` of a spec.
    - `impl`: `"module:function"`, a builder `build(config, ports) -> object` whose object keeps the kind's promises.
    - `config`: `"module:Class"`, a subclass of `sltcore.spec.Config`.
    - `summary`: what it does, in one line; `source`: the paper or standard, as arXiv:…, doi:… or a citation.
    - `version`: raised when the meaning of its configuration or weights changes; a bundle records it.
    - `small`: `{"config": {...}, "contexts": [{...}, ...]}`, a configuration that runs in seconds and the call contexts
      to try, for the conformance kit; `"skip": {"promise": "reason"}` names promises that cannot hold.

    Raises `PluginError` when the kind is unknown, the name is not lower-case words, or `impl` or `config` do not read
    `module:name`.
    """

    kind: str
    name: str
    impl: str
    config: str
    summary: str
    source: str = ""
    version: int = 1
    small: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PluginError(
                f"component '{self.name}': no kind is named '{self.kind}'; kinds: {', '.join(KINDS)}."
                f"{did_you_mean(self.kind, KINDS)}"
            )
        words = self.name.split("-")
        if not all(word.isalnum() and word == word.lower() and word.isascii() for word in words):
            raise PluginError(
                f"component '{self.name}': a name is lower-case words joined by hyphens, such as 'ctc-beam'"
            )
        for what, value in (("impl", self.impl), ("config", self.config)):
            _refuse_place(f"component '{self.name}': {what}", value)


def _refuse_place(what: str, value: Any) -> None:
    module, _, attribute = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not attribute or not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise PluginError(f"{what} is {value!r}, expected 'module:name'")


@dataclass(frozen=True)
class Command:
    """A sub-command of `slt` that a plugin adds: `impl` is `"module:app"`, a typer application, imported on use.

    `checks` names the kinds of file that the plugin reads besides specs, each with what `slt check` calls for a file that
    begins with `kind: NAME`: `{"chip": "module:function"}`, a function of the path that raises `SpecError` with one line
    for each problem. Raises `PluginError` when it does not read `module:function`.
    """

    name: str
    impl: str
    summary: str
    checks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, impl in self.checks.items():
            _refuse_place(f"command '{self.name}': the check of kind '{kind}'", impl)


@dataclass(frozen=True)
class Ports:
    """What a builder may know of its surroundings.

    - `upstream`: what the stage before produces; None for the first stage of a pipeline.
    - `slots`: the built component of each slot field of the config, by field name (a list for list slots, None where
      the field is empty).
    - `offers`: what the components before this one offer for sharing, by full path such as `encoder.head`. A builder
      that finds `None` in an optional field may take its default from here.
    - `folder`: the bundle that is being loaded, or None: files that `save_files` wrote are read from here.
    """

    upstream: Port | None = None
    slots: Mapping[str, Any] = field(default_factory=dict)
    offers: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


class Hooks:
    """The hooks, all of them. An implementation may ask for fewer arguments than listed."""

    @hookspec
    def slt_components(self) -> Sequence[Component]:  # type: ignore[empty-body]
        """The components of this plugin. Runs while plugins are listed, so it returns data and imports nothing heavy."""

    @hookspec
    def slt_commands(self) -> Sequence[Command]:  # type: ignore[empty-body]
        """Sub-commands for the command line. Runs while plugins are listed."""

    @hookspec
    def slt_pipeline_built(self, pipeline: Any) -> None:
        """Called once after a pipeline was assembled and before its first call."""

    @hookspec
    def slt_before_stage(self, stage: str, batch: int) -> None:
        """called before a stage ("read", "encoder", "decoder", "long", …) works on a batch of so many utterances."""

    @hookspec
    def slt_after_stage(self, stage: str, batch: int, seconds: float) -> None:
        """Called after a stage finished, with its wall time in seconds."""

    @hookspec
    def slt_stage_error(self, stage: str, error: BaseException) -> None:
        """Called when a stage raised; the error is raised on afterwards, a hook cannot swallow it."""

    @hookspec
    def slt_bundle_saving(self, pipeline: Any, folder: Path) -> None:
        """Called when a bundle's files are written and before they are signed; may add files to `folder`."""
