"""The one door to a pipeline: a spec file, a spec as a dict, or a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sltcore.bundle.bundle import load_bundle
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
    registry = registry if registry is not None else default_registry()
    if isinstance(source, str | Path) and "\n" not in str(source) and Path(source).is_dir():
        pipeline = load_bundle(Path(source), overrides=tuple(overrides), registry=registry)
    else:
        spec = load_spec(source, overrides=overrides, registry=registry)
        pipeline = Pipeline(build_spec(spec, registry), spec, registry)
        for transform in pipeline.transforms:
            transform.attach(pipeline.model)
    return pipeline.to(device) if device else pipeline
