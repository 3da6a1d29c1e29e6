"""Loaded by every pytest run where sltcore is installed: the option `--slt-plugin` and the fixture `case`.

Imports nothing heavy; the kit itself is imported by the test files that use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sltcore.registry import Row
    from sltcore.testing.case import Case

CONFORMANCE = "sltcore.testing.conformance"
KIT = "sltcore.testing.promises."


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--slt-plugin NAME`, which may be repeated."""
    parser.getgroup("sltcore").addoption(
        "--slt-plugin",
        action="append",
        default=[],
        metavar="NAME",
        dest="slt_plugins",
        help=f"check the promises of this plugin's components, with: pytest --pyargs {CONFORMANCE} (may be repeated)",
    )


def pytest_collection(session: pytest.Session) -> None:
    """Say once, before anything is collected, what is missing: the name of a plugin, or the plugin."""
    named = tuple(session.config.getoption("slt_plugins"))
    if named:
        rows_of(named)
    elif any(CONFORMANCE in arg.replace("/", ".") for arg in session.config.args):
        raise pytest.UsageError(f"which plugin? Give --slt-plugin NAME; installed: {installed()}")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> list[Any] | None:
    """Collect no tests of a kind that none of the named plugins brings, rather than skip each."""
    if not getattr(obj, "is_promises", False) or not isinstance(obj, type):
        return None
    if obj.__module__.startswith(KIT):
        return []
    return None if cases(obj, collector.config) else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One round of a kind's promises for each component; excused promises are expected to fail."""
    if "case" not in metafunc.fixturenames or not getattr(metafunc.cls, "is_promises", False):
        return
    promise = metafunc.definition.name.removeprefix("test_").replace("_", "-")
    parameters = []
    for case in cases(metafunc.cls, metafunc.config):
        reason = case.excused.get(promise)
        marks = [pytest.mark.xfail(reason=reason, strict=False)] if reason else []
        parameters.append(pytest.param(case, id=f"{case.kind}/{case.name}", marks=marks))
    metafunc.parametrize("case", parameters)


def cases(promises: Any, config: pytest.Config) -> list[Case]:
    """The components that a class of promises runs for, one `Case` each, kept for the whole run.

    **Raises** `pytest.UsageError` for a plugin or component that is not installed, or one that does not load.
    """
    kept: dict[Any, list[Case]] = config.stash.setdefault(CASES, {})
    plugins = (promises.plugin,) if promises.plugin else tuple(config.getoption("slt_plugins"))
    key = (promises.kind, plugins, promises.component)
    if key not in kept:
        kept[key] = found_cases(promises, plugins)
    return kept[key]


CASES = pytest.StashKey[dict[Any, "list[Case]"]]()


def found_cases(promises: Any, plugins: tuple[str, ...]) -> list[Case]:
    """The cases of plugins, restricted to the class's kind and component where it names them."""
    from sltcore.registry import default_registry
    from sltcore.testing.case import Case

    registry = default_registry()
    if not plugins:
        if not promises.component:
            raise pytest.UsageError(
                f"{promises.__name__}: which component? State plugin and component in the class, or give --slt-plugin NAME"
            )
        return [Case.of(promises.kind, promises.component, registry=registry)]
    rows = rows_of(plugins)
    found = [
        Case.of(component.kind, f"{row.distribution}/{component.name}", registry=registry)
        for row in rows
        for component in row.components
        if promises.kind in ("", component.kind) and promises.component in (None, component.name)
    ]
    if promises.component and not found:
        names = ", ".join(sorted(f"{c.kind} '{c.name}'" for row in rows for c in row.components))
        raise pytest.UsageError(
            f"{promises.__name__}: {' and '.join(plugins)} bring no {promises.kind} '{promises.component}'; they bring: {names}"
        )
    return found


def rows_of(plugins: tuple[str, ...]) -> list[Row]:
    """The rows of plugins. **Raises** `pytest.UsageError` for one that is not installed or does not load."""
    from sltcore.registry import default_registry

    found: list[Row] = []
    for plugin in plugins:
        rows = [row for row in default_registry().rows if plugin in (row.plugin, row.distribution)]
        if not rows:
            raise pytest.UsageError(f"no plugin is named '{plugin}'; installed: {installed()}")
        for row in rows:
            if not row.usable:
                raise pytest.UsageError(f"plugin '{plugin}' is {row.status}: {row.problem}. Next: {row.remedy}")
        found += rows
    return found


def installed() -> str:
    """Names of the plugins that can be used, for a message."""
    from sltcore.registry import default_registry

    return ", ".join(sorted({row.plugin for row in default_registry().rows if row.usable})) or "none"
