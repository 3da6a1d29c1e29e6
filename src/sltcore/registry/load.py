"""Loading one plugin so that whatever goes wrong becomes its row."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import pkgutil
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from types import ModuleType
from typing import TypeVar

import pluggy

from sltcore.errors import did_you_mean, nearest
from sltcore.plugin import API_VERSION, Command, Component, Hooks
from sltcore.registry.found import Found
from sltcore.registry.rows import Row, describe_error, one_line

T = TypeVar("T")

SLOW_S = 0.5
HEAVY = ("torch", "numpy", "datasets", "transformers", "numba", "scipy", "pandas", "pydantic")
HOOKS = tuple(name for name in vars(Hooks) if name.startswith("slt_"))
MAX_ANSWERS = 1000
_VALUE = re.compile(r"(\w+(?:\.\w+)*)\s*(?::\s*(\w+(?:\.\w+)*))?\s*(?:\[.*\])?")
_TEXTS = ("kind", "name", "impl", "config", "summary", "source")


def new_manager() -> pluggy.PluginManager:
    """A plugin manager that knows the hooks and no plugin."""
    manager = pluggy.PluginManager("sltcore")
    manager.add_hookspecs(Hooks)
    return manager


def load_plugin(found: Found, manager: pluggy.PluginManager) -> Row:
    """Import, check and register one plugin; never raises, except for KeyboardInterrupt."""
    row = row_of(found)
    if found.problem:
        return _broken(row, found.problem, found.remedy)
    value = _VALUE.fullmatch(found.value.strip())
    if value is None:
        return replace(
            row,
            status="misspelt",
            problem=f"its entry point reads '{one_line(found.value)}', which is no module's name",
            remedy="write package.module there, such as slt_x.plugin, and reinstall it",
        )
    before = set(sys.modules)
    start = time.perf_counter()
    try:
        module = _import(value[1])
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _failed_import(row, value[1], error)
    try:
        row = _examined(row, found, module, value[2], manager)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _forget(manager, found)
        return _broken(row, f"slt_components raised {describe_error(error)}", "mend or uninstall it")
    row = replace(row, seconds=round(time.perf_counter() - start, 4))
    if row.status == "ok" and row.seconds > SLOW_S:
        heavy = [name for name in HEAVY if name in sys.modules and name not in before]
        cause = f" and pulls in {', '.join(heavy)}" if heavy else ""
        return replace(
            row,
            status="slow",
            problem=f"importing {value[1]} takes {row.seconds:.1f} s{cause}",
            remedy="import heavy modules inside the builder, not in plugin.py",
        )
    return row


def row_of(found: Found) -> Row:
    """The row of a plugin about which nothing but its announcement is known."""
    return Row(
        plugin=found.plugin,
        distribution=found.distribution,
        version=found.version,
        module=found.value,
        location=found.location,
        shadowed=found.shadowed,
    )


def disabled_row(found: Found, setting: str) -> Row:
    """The row of a plugin that a setting keeps out."""
    return replace(
        row_of(found),
        status="disabled",
        problem=f"kept out by {setting}={os.environ.get(setting, '')!r}",
        remedy=f"change or unset {setting}",
    )


def _import(name: str) -> ModuleType:
    module = importlib.import_module(name)
    if not isinstance(module, ModuleType):
        raise TypeError(f"{name} replaced itself by a {type(module).__name__}, expected a module that holds the hooks")
    return module


def _examined(row: Row, found: Found, module: ModuleType, attribute: str | None, manager: pluggy.PluginManager) -> Row:
    target: object = module
    for part in attribute.split(".") if attribute else ():
        if not hasattr(target, part):
            names = [name for name in dir(target) if not name.startswith("_")]
            return replace(
                row,
                status="misspelt",
                problem=f"its entry point names '{found.value}', but {module.__name__} has no '{attribute}'",
                remedy=f"correct the entry point in its pyproject.toml and reinstall it.{did_you_mean(part, names)}",
            )
        target = getattr(target, part)
    if not isinstance(target, ModuleType):
        return _broken(
            row,
            f"{found.value} is a {type(target).__name__}, expected a module that holds the hooks",
            f"let the entry point name the module alone: {module.__name__}",
        )
    return _api_problem(row, target) or _register(row, found, target, manager)


def _failed_import(row: Row, module_name: str, error: BaseException) -> Row:
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing and (module_name == missing or module_name.startswith(missing + ".")):
        siblings = _siblings(module_name)
        exists = f"; {module_name.rpartition('.')[0]} holds {', '.join(siblings)}" if siblings else ""
        return replace(
            row,
            status="misspelt",
            problem=f"its entry point names module '{module_name}', but there is no '{missing}'{exists}",
            remedy=f"correct the entry point in its pyproject.toml and reinstall it.{did_you_mean(module_name.rpartition('.')[2], siblings)}",
        )
    if missing:
        return _broken(
            row,
            describe_error(error),
            f"pip install the distribution that brings '{missing}', or set SLT_DISABLE={row.plugin}",
        )
    return _broken(
        row,
        describe_error(error),
        f"mend or update it (pip install -U {row.distribution}), or set SLT_DISABLE={row.plugin}",
    )


def _siblings(module_name: str) -> list[str]:
    package = module_name.rpartition(".")[0]
    if not package:
        return []
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    places = list(spec.submodule_search_locations or ()) if spec else []
    return sorted(module.name for module in pkgutil.iter_modules(places))


def _api_problem(row: Row, module: ModuleType) -> Row | None:
    stated = getattr(module, "SLT_API", None)
    ours = f"{API_VERSION[0]}.{API_VERSION[1]}"
    if not (isinstance(stated, tuple) and len(stated) == 2 and all(isinstance(part, int) for part in stated)):
        return _broken(
            row,
            f"{module.__name__} states no SLT_API" if stated is None else f"{module.__name__}.SLT_API is {stated!r}",
            f"write SLT_API = {API_VERSION} beside its hooks",
        )
    major, minor = stated
    if major > API_VERSION[0] or (major == API_VERSION[0] and minor > API_VERSION[1]):
        return replace(
            row,
            status="too-new",
            problem=f"it is written for plugin API {major}.{minor}, this is {ours}",
            remedy="pip install -U sltcore-lib",
        )
    if major < API_VERSION[0]:
        return replace(
            row,
            status="too-old",
            problem=f"it is written for plugin API {major}.{minor}, this is {ours}",
            remedy=f"pip install -U {row.distribution}",
        )
    return None


def _register(row: Row, found: Found, module: ModuleType, manager: pluggy.PluginManager) -> Row:
    problem = _hook_problem(row, module, manager)
    if problem is not None:
        return problem
    if manager.is_registered(module):
        return _broken(row, f"module {module.__name__} is announced twice", "keep one of its entry points")
    try:
        manager.register(module, name=found.key)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        _forget(manager, found)
        return _broken(row, one_line(str(error)), "compare its hooks with `sltcore.plugin.Hooks`")
    components: list[Component] = []
    commands: list[Command] = []
    junk = _collect(manager, module, "slt_components", Component, components)
    junk = junk or _collect(manager, module, "slt_commands", Command, commands)
    if junk:
        _forget(manager, found)
        return _broken(
            row, junk, f"compare it with sltcore.plugin.{'Command' if 'slt_commands' in junk else 'Component'}"
        )
    for what, names in (
        ("component", [f"{component.kind}/{component.name}" for component in components]),
        ("command", [command.name for command in commands]),
    ):
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            _forget(manager, found)
            return _broken(
                row, f"it declares {', '.join(repeated)} more than once", f"give each {what} a name of its own"
            )
    return replace(
        row,
        components=tuple(components),
        commands=tuple((command.name, command.impl, command.summary) for command in commands),
        checks={kind: impl for command in commands for kind, impl in command.checks.items()},
    )


def _hook_problem(row: Row, module: ModuleType, manager: pluggy.PluginManager) -> Row | None:
    marked = [name for name in vars(module) if manager.parse_hookimpl_opts(module, name) is not None]
    for name in marked:
        if name not in HOOKS:
            return replace(
                row,
                status="misspelt",
                problem=f"{module.__name__} implements '{name}', which is no hook; hooks: {', '.join(HOOKS)}",
                remedy=f"rename it.{did_you_mean(name, HOOKS)}",
            )
    unmarked = [
        name for name in vars(module) if name.startswith("slt_") and callable(vars(module)[name]) and name not in marked
    ]
    for name in unmarked:
        if nearest(name, HOOKS):
            return replace(
                row,
                status="misspelt",
                problem=f"{module.__name__}.{name} is not marked as a hook",
                remedy=f"put @sltcore.plugin.hookimpl above it{'' if name in HOOKS else '.' + did_you_mean(name, HOOKS)}",
            )
    if not marked:
        return _broken(
            row, f"{module.__name__} implements no hook", "write slt_components with @sltcore.plugin.hookimpl"
        )
    return None


def _collect(manager: pluggy.PluginManager, module: ModuleType, hook: str, kind: type[T], into: list[T]) -> str:
    """Put a hook's answers into a list; what is wrong with them, or nothing."""
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        if implementation.plugin is not module:
            continue
        answers = implementation.function()
        if isinstance(answers, str | bytes) or not isinstance(answers, Iterable):
            return f"{hook} returned a {type(answers).__name__}, expected a list of {kind.__name__}"
        for index, answer in enumerate(itertools.islice(answers, MAX_ANSWERS + 1)):
            if index == MAX_ANSWERS:
                return f"{hook} returned more than {MAX_ANSWERS} items"
            if not isinstance(answer, kind):
                return (
                    f"{hook} returned a list whose item {index} is a {type(answer).__name__}, expected {kind.__name__}"
                )
            for name, value in vars(answer).items():
                wanted: type = str if name in _TEXTS else int if name == "version" else object
                if not isinstance(value, wanted):
                    return f"{hook} returned an item whose {name} is {one_line(repr(value))}, expected {'text' if wanted is str else 'a whole number'}"
            into.append(answer)
    return ""


def _forget(manager: pluggy.PluginManager, found: Found) -> None:
    if manager.has_plugin(found.key):
        manager.unregister(name=found.key)


def _broken(row: Row, problem: str, remedy: str) -> Row:
    return replace(row, status="broken", problem=problem, remedy=remedy)
