"""The one door to a pipeline: a spec file, a spec as a dict, or a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sltcore.bundle.bundle import read_bundle
from sltcore.pipeline.build import build_spec
from sltcore.pipeline.pipeline import Pipeline
from sltcore.registry import Registry, default_registry
from sltcore.spec.load import Source, load_spec


def load(
    source: Source, *, overrides: Iterable[str] = (), device: str | None = None, registry: Registry | None = None
) -> Pipeline:
    """A pipeline from a spec file, a spec as a dict, or a bundle folder.

    `overrides` are `PATH=VALUE` as `--set` takes them. **Raises** `SpecError`, `PluginError`, `PortError`, or
    `BundleError` for a damaged bundle.
    """
    pipeline, loose = load_unattached(source, overrides=overrides, registry=registry)
    for transform in loose:
        transform.attach(pipeline.model)
    return pipeline.to(device) if device else pipeline


def load_unattached(
    source: Source, *, overrides: Iterable[str] = (), registry: Registry | None = None, fresh: bool = False
) -> tuple[Pipeline, list[Any]]:
    """As `load`, but transforms that no bundle brings back are returned beside the pipeline, not yet attached.

    With `fresh` what overrides of a bundle changed may keep new weights, see `read_bundle`.
    """
    registry = registry if registry is not None else default_registry()
    if isinstance(source, str | Path) and "\n" not in str(source) and Path(source).is_dir():
        return read_bundle(Path(source), overrides=tuple(overrides), registry=registry, fresh=fresh)
    spec = load_spec(source, overrides=overrides, registry=registry, kind="pipeline")
    pipeline = Pipeline(build_spec(spec, registry), spec, registry)
    return pipeline, list(pipeline.transforms)
