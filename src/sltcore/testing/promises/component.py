"""What every component promises, whatever its kind: its configuration, ports, keys, imports and files."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, get_args
from unittest import mock

import pytest
import torch

from sltcore.context import check_context, merge_keys
from sltcore.errors import SltError
from sltcore.interfaces import INTERFACES, TRANSFORM_KINDS
from sltcore.spec import Config
from sltcore.spec.slots import Slot
from sltcore.testing.case import Case, jitter
from sltcore.testing.difference import difference
from sltcore.testing.promises.outputs import outputs
from sltcore.testing.promises.promise import Promises, promise
from sltcore.types import CONTEXT_TYPES, PORT_TYPES, Port

BUILD_SECONDS = 10.0
HEAVY = ("torch", "numpy", "datasets", "transformers", "scipy", "numba", "pandas", "sklearn", "tensorflow", "jax")
PROMISES: Mapping[str, str] = {
    "described": "every field of the configuration has a description and a default",
    "fields-read": "every field of the configuration is read when the component is built",
    "config-errors": "a field that does not exist, or a value of the wrong type, gives one line that names the field",
    "light-import": "the plugin's module and its config import no torch, numpy or datasets",
    "quick": "the small configuration is well-formed and builds within seconds",
    "interface": "the builder returns an instance of its kind's interface",
    "ports": "consumes and produces are ports of types that the kind allows, with plain attributes",
    "context-keys": "context keys have a name, a known type and a meaning, and small's contexts use no others",
    "source": "its docstring names its source",
    "reload": "saved weights and files give the same output bit for bit in a new instance",
}
FRAMES = ("Waveform", "Features", "Encoded", "Text")
ALLOWED: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "encoder": (FRAMES, ("Encoded", "Features")),
    "decoder": ((*FRAMES, "Hypotheses"), ("Hypotheses", "Features", "Encoded", "Text")),
    "privacy": (("Hypotheses",), ("Hypotheses",)),
    "reranker": (("Hypotheses",), ("Hypotheses",)),
    "vocoder": (("Features",), ("Waveform",)),
    "objective": (FRAMES, ("Scores",)),
    "augmentation": (("Waveform", "Features", "Text"), ("Waveform", "Features", "Text")),
    "metric": (PORT_TYPES, ("Scores",)),
}
"""What each kind may consume, and produce. Transforms have no ports."""


class ComponentPromises(Promises):
    """What every component promises."""

    promises: ClassVar[Mapping[str, str]] = PROMISES

    @promise("give the field Field(default, description='...'): `slt explain` and the schema print it")
    def test_described(self, case: Case) -> str | None:
        for name, field in config_of(case).model_fields.items():
            if not (field.description or "").strip():
                return f"field '{name}' has no description"
            if field.is_required():
                return f"field '{name}' has no default, so a bare `use: {case.name}` cannot work"
        return None

    @promise("pass the field on in build.py, or delete it: a setting without effect misleads")
    def test_fields_read(self, case: Case) -> str | None:
        model = config_of(case)
        with recorded(model) as read:
            case.fresh()
        unread = [name for name, field in model.model_fields.items() if name not in read and not is_slot(field)]
        return f"nothing reads {', '.join(unread)} while it is built" if unread else None

    @promise(
        "give fields exact types (int, float, Literal[...]), and raise SltError with one line from checks of your own"
    )
    def test_config_errors(self, case: Case) -> str | None:
        wrong: dict[str, Any] = {"no_such_field": 1}
        for name, field in config_of(case).model_fields.items():
            if field.annotation in (int, float, str, bool):
                wrong[name] = {"not": "a value"}
        for name, value in wrong.items():
            try:
                case.fresh(config={**case.config, name: value})
            except SltError as error:
                lines = str(error).strip().splitlines()
                if len(lines) != 1 or name not in lines[0]:
                    return (
                        f"with {name}={value!r}, the error has {len(lines)} lines or does not name the field: {error}"
                    )
            except Exception as error:
                return f"with {name}={value!r}, it raised {type(error).__name__} instead of an SltError"
            else:
                return f"it was built with {name}={value!r}"
        return None

    @promise(
        "import torch and the like inside build.py and the modules it uses, never in plugin.py, config.py or __init__.py"
    )
    def test_light_import(self, case: Case) -> str | None:
        if not case.modules:
            pytest.skip("it is not installed as a plugin")
        heavy = loaded_by(case.modules)
        return f"importing {' and '.join(case.modules)} in a fresh process loads {', '.join(heavy)}" if heavy else None

    @promise(
        "make the small configuration smaller: few layers, few units; see sltcore.testing.case.SMALL_KEYS for its keys"
    )
    def test_quick(self, case: Case) -> str | None:
        if not all(isinstance(raw, Mapping) for raw in case.contexts):
            return "small's contexts are no list of mappings"
        case.fresh()  # imports count once for the whole process
        start = time.process_time()
        case.fresh()
        seconds = time.process_time() - start
        return (
            f"building took {seconds:.1f} s of CPU, allowed are {BUILD_SECONDS:g}" if seconds > BUILD_SECONDS else None
        )

    @promise("let the class inherit from its interface, before nn.Module, and return an instance from the builder")
    def test_interface(self, case: Case) -> str | None:
        interface = INTERFACES[case.kind]
        part = case.fresh()
        return (
            None
            if isinstance(part, interface)
            else f"it built a {type(part).__name__}, which is no {interface.__name__}"
        )

    @promise(f"return Port(type, attributes) with a type of {', '.join(PORT_TYPES)}")
    def test_ports(self, case: Case) -> str | None:
        if case.kind not in ALLOWED:
            pytest.skip("a transform has no ports")
        part = case.part
        for what, allowed in zip(("consumes", "produces"), ALLOWED[case.kind], strict=True):
            port = getattr(part, what)
            if not isinstance(port, Port):
                return f"{what} is {port!r}, not a Port"
            if port.type not in allowed:
                return f"{what} is {port}, a {case.kind} {what} {' or '.join(allowed)}"
            for name, value in port.attributes.items():
                if not (name.isidentifier() and isinstance(value, str | int | float | bool)):
                    return f"{what} has the attribute {name}={value!r}, expected a name and a plain value"
        if case.kind == "augmentation" and part.consumes.type != part.produces.type:
            return f"it consumes {part.consumes} and produces {part.produces}, expected the same type"
        return None

    @promise("declare what you read: ContextKey(name, type, meaning) with a type of " + ", ".join(CONTEXT_TYPES))
    def test_context_keys(self, case: Case) -> str | None:
        keys = case.part.context_keys()
        for key in keys:
            if not (key.name.isidentifier() and key.name == key.name.lower()) or key.name == "generator":
                return f"the key {key.name!r} is not a lower-case word of its own ('generator' is always allowed)"
            if key.type not in CONTEXT_TYPES:
                return f"the key '{key.name}' has the unknown type {key.type!r}"
            if not key.meaning.strip():
                return f"the key '{key.name}' has no meaning"
        merged = merge_keys([(case.name, keys)])
        for raw in case.contexts:
            spread = case.context(case.part, raw, 1)
            check_context(spread, merged, 1)
        return None

    @promise("end the class's docstring with 'Source: author, title, year, arXiv or doi', or 'Source: own' and why")
    def test_source(self, case: Case) -> str | None:
        part = case.part
        documents = (type(part).__doc__, sys.modules[type(part).__module__].__doc__)
        if any("source:" in (text or "").lower().replace("*", "") for text in documents):
            return None
        return f"neither {type(part).__name__} nor its module has a 'Source:' in its docstring"

    @promise(
        "register tensors as parameters or buffers, and write what else was learned in save_files, read from ports.folder"
    )
    def test_reload(self, case: Case) -> str | None:
        first = case.fresh(seed=0)
        if case.kind == "privacy":
            pytest.skip("a bundle carries no weights of it")
        if case.kind in TRANSFORM_KINDS:
            pytest.skip("state and restore carry a transform through a bundle, see the promise 'restore'")
        has_weights = isinstance(first, torch.nn.Module)
        if has_weights:
            jitter(first)
        expected = outputs(case, first)
        with tempfile.TemporaryDirectory() as folder:
            for name, data in first.save_files().items():
                if not isinstance(data, bytes) or Path(name).name != name:
                    return f"save_files has {name!r} of type {type(data).__name__}, expected plain file names and bytes"
                (Path(folder) / name).write_bytes(data)
            second = case.fresh(seed=1, folder=Path(folder))
        if has_weights:
            second.load_state_dict(through_safetensors(first.state_dict()))
        for before, after in zip(expected, outputs(case, second), strict=True):
            found = difference(before, after)
            if found:
                return f"a new instance with the saved weights and files differs: {found}"
        return None


def config_of(case: Case) -> type[Config]:
    """The config class. Skips where the case was not made from an installed component."""
    if case.entry is None:
        pytest.skip("it is not installed as a plugin")
    loaded: type[Config] = case.entry.load_config()
    return loaded


def is_slot(field: Any) -> bool:
    """Whether a field takes a component, which the pipeline reads for the builder."""

    def marks(annotation: Any) -> Iterator[Any]:
        yield from getattr(annotation, "__metadata__", ())
        for argument in get_args(annotation):
            yield from marks(argument)

    return any(isinstance(mark, Slot) for mark in (*field.metadata, *marks(field.annotation)))


@contextmanager
def recorded(model: type[Config]) -> Iterator[set[str]]:
    """The names of fields that anybody but the core reads from any instance of `model` meanwhile."""
    read: set[str] = set()
    fields = set(model.model_fields)
    plain = model.__getattribute__

    def recording(self: Any, name: str) -> Any:
        reader = sys._getframe(1).f_globals.get("__name__", "")
        if not reader.startswith(("pydantic", "sltcore.pipeline", "sltcore.spec")):
            if name in fields:
                read.add(name)
            elif name in ("model_dump", "__dict__", "__iter__"):
                read.update(fields)
        return plain(self, name)

    with mock.patch.object(model, "__getattribute__", recording):
        yield read


@functools.cache
def loaded_by(modules: tuple[str, ...]) -> tuple[str, ...]:
    """The heavy packages that a fresh process has loaded after importing `modules`."""
    code = (
        "import importlib, json, sys; "
        f"[importlib.import_module(name) for name in {list(modules)!r}]; "
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"importing {', '.join(modules)} failed: {done.stderr.strip().splitlines()[-1]}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def through_safetensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors after a way through a safetensors file, as in a bundle."""
    from safetensors.torch import load, save

    data = save({name: tensor.detach().clone().contiguous() for name, tensor in state.items()})
    loaded: dict[str, torch.Tensor] = load(data)
    return loaded
