"""Loading one plugin so that whatever goes wrong becomes its row."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import time
from dataclasses import replace
from types import ModuleType
from typing import TypeVar

import pluggy

from sltcore.errors import did_you_mean, nearest
from sltcore.plugin import API_VERSION, Command, Component, Hooks
from sltcore.registry.rows import Row
from sltcore.registry.scan import Found

T = TypeVar("T")

SLOW_S = 0.5
HEAVY = ("torch", "numpy", "datasets", "transformers", "numba", "scipy", "pandas", "pydantic")
HOOKS = tuple(name for name in vars(Hooks) if name.startswith("slt_"))


def new_manager() -> pluggy.PluginManager:
    """A plugin manager that knows the hooks and no plugin."""
    manager = pluggy.PluginManager("sltcore")
    manager.add_hookspecs(Hooks)
    return manager


def load_plugin(found: Found, manager: pluggy.PluginManager) -> Row:
    """Import, check and register one plugin; never raises, except for KeyboardInterrupt."""
    row = Row(
        plugin=found.plugin,
        distribution=found.distribution,
        version=found.version,
        module=found.value,
        location=found.location,
        shadowed=found.shadowed,
    )
    before = set(sys.modules)
    start = time.perf_counter()
    try:
        module = _import(found)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _failed_import(row, found, error)
    row = replace(row, seconds=time.perf_counter() - start)
    problem = _api_problem(row, module)
    if problem is not None:
        return problem
    try:
        row = _register(row, found, module, manager)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _forget(manager, found)
        return _broken(row, f"slt_components raised {_describe(error)}", "mend or uninstall it")
    if row.status == "ok" and row.seconds > SLOW_S:
        heavy = [name for name in HEAVY if name in sys.modules and name not in before]
        cause = f" and pulls in {', '.join(heavy)}" if heavy else ""
        return replace(
            row,
            status="slow",
            problem=f"importing {module.__name__} takes {row.seconds:.1f} s{cause}",
            remedy="import heavy modules inside the builder, not in plugin.py",
        )
    return row


def _import(found: Found) -> ModuleType:
    module_name, _, attribute = found.value.partition(":")
    module = importlib.import_module(module_name.strip())
    target: object = module
    for part in attribute.split(".") if attribute else ():
        target = getattr(target, part.strip())
    if not isinstance(target, ModuleType):
        raise TypeError(f"{found.value} is a {type(target).__name__}, expected a module that holds the hooks")
    return target


def _failed_import(row: Row, found: Found, error: BaseException) -> Row:
    module_name = found.value.partition(":")[0].strip()
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing and (module_name == missing or module_name.startswith(missing + ".")):
        siblings = _siblings(module_name)
        exists = f"; {module_name.rpartition('.')[0]} holds {', '.join(siblings)}" if siblings else ""
        return replace(
            row,
            status="misspelt",
            problem=f"its entry point names module '{found.value}', but there is no '{missing}'{exists}",
            remedy=f"correct the entry point in its pyproject.toml and reinstall it.{did_you_mean(module_name.rpartition('.')[2], siblings)}",
        )
    if missing:
        return _broken(
            row,
            _describe(error),
            f"pip install the distribution that brings '{missing}', or set SLT_DISABLE={found.plugin}",
        )
    return _broken(
        row,
        _describe(error),
        f"mend or update it (pip install -U {found.distribution}), or set SLT_DISABLE={found.plugin}",
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
        return _broken(row, " ".join(str(error).split()), "compare its hooks with `sltcore.plugin.Hooks`")
    components = _answer(manager, module, "slt_components", Component)
    commands = _answer(manager, module, "slt_commands", Command)
    names = [f"{component.kind}/{component.name}" for component in components]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        _forget(manager, found)
        return _broken(
            row, f"it declares {', '.join(repeated)} more than once", "give each component a name of its own"
        )
    return replace(
        row,
        components=tuple(components),
        commands=tuple((command.name, command.impl, command.summary) for command in commands),
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


def _answer(manager: pluggy.PluginManager, module: ModuleType, hook: str, kind: type[T]) -> list[T]:
    answers: list[T] = []
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        if implementation.plugin is module:
            answers.extend(implementation.function())
    for answer in answers:
        if not isinstance(answer, kind):
            raise TypeError(f"{hook} gave a {type(answer).__name__}, expected {kind.__name__}")
    return answers


def _forget(manager: pluggy.PluginManager, found: Found) -> None:
    if manager.has_plugin(found.key):
        manager.unregister(name=found.key)


def _broken(row: Row, problem: str, remedy: str) -> Row:
    return replace(row, status="broken", problem=problem, remedy=remedy)


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
