"""Saving and loading a pipeline as a folder that verifies itself."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltcore.bundle import additions, card, provenance, weights
from sltcore.errors import BundleError
from sltcore.interfaces import Part
from sltcore.registry import Registry, default_registry
from sltcore.spec.document import PathKey, dump_document, parse_document
from sltcore.spec.filled import fill
from sltcore.spec.load import load_spec
from sltcore.spec.overrides import parse_path
from sltcore.spec.problems import path_text
from sltcore.spec.slots import Block

if TYPE_CHECKING:
    from torch import Tensor

    from sltcore.pipeline import Pipeline

SPEC = "spec.yaml"


def save_bundle(
    pipeline: Pipeline, folder: str | Path, *, force: bool = False, training: Mapping[str, Any] | None = None
) -> Path:
    """Write `pipeline` to `folder`: the filled spec, the weights, files of its components, provenance and a model card.

    `training` holds plain facts of how the weights were made, kept in the provenance and told by the model card. Written
    beside the target and renamed, so a crash leaves the old bundle or none. **Raises** `BundleError` when the folder
    exists (and `force` is false), or cannot be written.
    """
    target = Path(folder)
    if target.exists() and not force:
        raise BundleError(f"{target} exists already; choose another folder, or replace it with --force")
    if target.exists() and not (target / provenance.NAME).exists():
        raise BundleError(f"{target} exists and is no bundle, so --force will not replace it; choose another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror}") from None
    try:
        _write(pipeline, work, training)
        _replace(work, target) if force else _place(work, target)
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _place(work: Path, target: Path) -> None:
    """Rename, unless another process was faster: `os.rename` would take the place of an empty folder or fail late."""
    if target.exists():
        raise BundleError(f"{target} was made by another process meanwhile; choose another folder")
    os.rename(work, target)


def _replace(work: Path, target: Path) -> None:
    if not target.exists():
        os.rename(work, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, old / "bundle")
    try:
        os.rename(work, target)
    except OSError:
        os.rename(old / "bundle", target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _write(pipeline: Pipeline, work: Path, training: Mapping[str, Any] | None) -> None:
    import torch

    work.chmod(0o755)
    filled = fill(pipeline.spec.model, portable=True)
    (work / SPEC).write_text(dump_document(filled), encoding="utf-8")
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in pipeline.model.state_dict().items()}
    for index, transform in enumerate(pipeline.transforms):
        tensors.update({f"transforms.{index}.{name}": tensor for name, tensor in transform.state().items()})
    aliases = weights.save_weights(work / weights.NAME, tensors)
    for path, part in pipeline.scope.objects.items():
        if isinstance(part, Part):
            for name, content in part.save_files().items():
                place = work / "files" / path / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
    data = {
        "aliases": aliases,
        "components": _components(pipeline),
        "distributions": _distributions(pipeline),
        "overrides": list(pipeline.spec.overrides),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seed": pipeline.spec.model.seed,
    }
    if training is not None:
        data["training"] = dict(training)
    parameters = sum(parameter.numel() for parameter in pipeline.model.parameters())
    (work / card.NAME).write_text(card.model_card(filled, data, parameters), encoding="utf-8")
    pipeline.registry.manager.hook.slt_bundle_saving(pipeline=pipeline, folder=work)
    provenance.write(work, data)


def blocks_of(config: Any, prefix: tuple[str | int, ...] = ()) -> dict[str, Block]:
    """Every block of a spec or config by path."""
    found: dict[str, Block] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        for index, item in enumerate(value) if isinstance(value, list | tuple) else [(None, value)]:
            if isinstance(item, Block):
                path = (*prefix, name) if index is None else (*prefix, name, index)
                found[path_text(path)] = item
                found.update(blocks_of(item.config, path))
    return found


def _components(pipeline: Pipeline) -> dict[str, Any]:
    return {
        path: {
            "kind": block.kind,
            "name": block.entry.component.name,
            "version": block.entry.component.version,
            "source": block.entry.component.source,
            "distribution": block.entry.distribution,
            "distribution_version": block.entry.version,
        }
        for path, block in blocks_of(pipeline.spec.model).items()
    }


def _distributions(pipeline: Pipeline) -> dict[str, Any]:
    names = {"sltcore-lib", "torch", "safetensors"} | {
        block.entry.distribution for block in blocks_of(pipeline.spec.model).values()
    }
    found = {}
    for name in sorted(names):
        try:
            distribution = metadata.distribution(name)
        except (metadata.PackageNotFoundError, ValueError):  # a component that no distribution brought has no name
            continue
        direct = distribution.read_text("direct_url.json")
        editable = bool(direct and json.loads(direct).get("dir_info", {}).get("editable"))
        found[name] = {"version": distribution.version, "editable": editable}
    return found


def load_bundle(folder: str | Path, *, overrides: Sequence[str] = (), registry: Registry | None = None) -> Pipeline:
    """The pipeline of a bundle, verified file by file; `overrides` swap parts of it without retraining.

    **Raises** `BundleError` for a damaged bundle, for overrides that need weights it does not hold, and where something was
    added to it that takes a plugin which is not there.
    """
    pipeline, loose = read_bundle(folder, overrides=overrides, registry=registry)
    for transform in loose:
        transform.attach(pipeline.model)
    return pipeline


def read_bundle(
    folder: str | Path, *, overrides: Sequence[str] = (), registry: Registry | None = None, fresh: bool = False
) -> tuple[Pipeline, list[Any]]:
    """The pipeline of a bundle, and those of its transforms that overrides brought, which are not attached yet.

    With `fresh` what overrides changed may stay as it was built where the bundle has no weights of its shape, as for a
    head over other labels; the start of a training run. **Raises** `BundleError` as `load_bundle` does, and where something
    was added to the bundle that takes a plugin which is not there.
    """
    from sltcore.pipeline.build import build_spec
    from sltcore.pipeline.pipeline import Pipeline

    folder = Path(folder)
    registry = registry if registry is not None else default_registry()
    facts = provenance.read(folder)
    additions.refuse_missing(folder, facts["sha256"], registry)
    data = _migrated_components(folder, facts["components"], registry)
    spec = load_spec(data, overrides=overrides, registry=registry, folder=folder.resolve(), kind="pipeline")
    pipeline = Pipeline(build_spec(spec, registry, folder), spec._replace(name=str(folder)), registry)
    stored = weights.read_weights(folder / weights.NAME)
    stored.update({alias: stored[name] for alias, name in facts["aliases"].items()})
    stored = weights.renamed(pipeline.model, stored)
    paths = [parse_path(setting.partition("=")[0].strip()) for setting in overrides]
    replaced = [path_text(path) for path in paths]
    loose = []
    for index, transform in enumerate(pipeline.transforms):
        if {"transforms", path_text(("transforms", index))} & set(replaced):
            loose.append(transform)  # what was saved belongs to another one
        else:
            transform.restore(pipeline.model, _below(stored, f"transforms.{index}."))
            for path in paths:
                if path[:2] == ("transforms", index):
                    _refuse_settled(folder, path, data["transforms"][index], spec.model.transforms[index], transform)
    weights.fill_model(pipeline.model, _below(stored, "model."), bundle=folder, replaced=replaced, fresh=fresh)
    return pipeline, loose


def _refuse_settled(folder: Path, path: PathKey, stored: Any, block: Block, transform: Any) -> None:
    """**Raises** `BundleError` for another value of a field that the stored tensors of a transform decide."""
    field = str(path[2])
    asked = {"use": block.use, **block.config.model_dump(mode="json")}[field]
    kept = stored.get(field, asked) if isinstance(stored, dict) else asked
    if asked != kept and transform.settles(field):
        raise BundleError(
            f"bundle {folder}: {path_text(path[:3])} is {kept} in its stored weights, asked for is {asked}, which would change "
            f"nothing; start from the bundle with float weights that it was made from, or leave the setting out"
        )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _read_spec(folder: Path) -> dict[str, Any]:
    """The saved spec, read as any spec is: a stranger's bundle may hold what no dump writes."""
    data = parse_document((folder / SPEC).read_bytes(), str(folder / SPEC)).data
    if not isinstance(data, dict):
        raise BundleError(f"bundle {folder}: {SPEC} is no map; save the bundle again")
    return data


def _migrated_components(folder: Path, components: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """The saved spec with the fields of older component versions brought up to date."""
    data = _read_spec(folder)
    for path, info in components.items():
        entry = registry.find(info["kind"], _addressed(registry, info))
        newest = entry.component.version
        if info["version"] > newest:
            raise BundleError(
                f"bundle {folder}: {path} was saved by {info['kind']} '{info['name']}' version {info['version']}, installed is "
                f"version {newest}. Next: pip install -U {info['distribution']}"
            )
        if info["version"] < newest:
            block = data
            for part in parse_path(path):
                block = block[part]  # type: ignore[index]
            use = block.pop("use")
            fields = entry.load_config().migrated(dict(block), info["version"])
            block.clear()
            block.update({"use": use, **fields})
    return data


def _addressed(registry: Registry, info: Mapping[str, Any]) -> str:
    name: str = info["name"]
    return name if name in registry.names(info["kind"]) else f"{info['distribution']}/{name}"


def describe_bundle(folder: str | Path) -> dict[str, Any]:
    """What `slt show` prints, read without torch: spec, provenance, tensors."""
    folder = Path(folder)
    facts = provenance.read(folder)
    return {
        "spec": _read_spec(folder),
        "provenance": facts,
        "tensors": {name: {"dtype": t["dtype"], "shape": t["shape"]} for name, t in weights_header(folder).items()},
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def weights_header(folder: Path) -> dict[str, Any]:
    """Names, types and shapes of a bundle's tensors, without torch."""
    return weights.read_header(folder / weights.NAME)
