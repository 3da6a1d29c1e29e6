"""How a promise becomes a test, and how a broken one is told: the promise, the reason, and how to mend it."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import pytest

from sltcore.errors import PluginError

if TYPE_CHECKING:
    from sltcore.testing.case import Case

Check = Callable[[Any, "Case"], str | None]
Test = Callable[[Any, "Case"], None]
PREFIX = "test_"
GUARD = "test_every_promise_stands"


def broken(promise: str, reason: str, mend: str) -> NoReturn:
    """Fail the running test with one paragraph, without a traceback."""
    pytest.fail(
        f"Broken promise: {sentence(promise)} Reason: {sentence(reason)} To mend: {sentence(mend)}", pytrace=False
    )


def sentence(text: str) -> str:
    """One line that ends in a full stop."""
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."


def promise(mend: str) -> Callable[[Check], Test]:
    """Make a test of a check that returns the reason why a promise is broken, or None where it is kept.

    The promise is the one that the test is named after: `test_input_kept` checks `input-kept`. An error that the
    component raises breaks the promise, and is named with the line it came from.
    """

    def wrap(check: Check) -> Test:
        @functools.wraps(check)
        def test(self: Promises, case: Case) -> None:
            try:
                reason = check(self, case)
            except Exception as error:
                reason = raised(error)
            if reason is not None:
                broken(f"{case.kind} '{case.name}': {self.promises[promise_of(check.__name__)]}", reason, mend)

        test.__doc__ = check.__doc__ or f"To mend: {mend}"
        return test

    return wrap


def raised(error: BaseException) -> str:
    """What was raised, in one line, with the innermost line of the component that raised it."""
    told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    frames = traceback.extract_tb(error.__traceback__)
    kit = str(Path(__file__).parent.parent)
    own = [frame for frame in frames if not frame.filename.startswith(kit) and "site-packages" not in frame.filename]
    if not own:
        return f"it raised {told}"
    return f"it raised {told} (at {own[-1].filename}:{own[-1].lineno}, in {own[-1].name})"


def promise_of(test_name: str) -> str:
    """The promise that a test checks: `test_input_kept` -> `input-kept`."""
    return test_name.removeprefix(PREFIX).replace("_", "-")


def name_of_test(promise_name: str) -> str:
    """The test that checks a promise: `input-kept` -> `test_input_kept`."""
    return PREFIX + promise_name.replace("-", "_")


class Promises:
    """The promises of one kind as tests.

    A subclass states `component` (and `plugin`, where two plugins offer the name); without one, the tests run for every
    component of this kind of the plugins named by `--slt-plugin`. A subclass may override a promise's test only under
    `@pytest.mark.xfail(reason=...)`.
    """

    kind: ClassVar[str] = ""
    promises: ClassVar[Mapping[str, str]] = {}
    plugin: ClassVar[str | None] = None
    component: ClassVar[str | None] = None
    is_promises: ClassVar[bool] = True

    def test_every_promise_stands(self, case: Case) -> None:
        """No promise was dropped, overridden without a reason, or excused under a name that is none."""
        reason = fallen(type(self), case.excused)
        if reason is not None:
            broken(
                f"{case.kind} '{case.name}': every promise of the kind has its test, and every exception has a reason",
                reason,
                "remove the override or the entry, or give a reason: @pytest.mark.xfail(reason='...') on the test, or "
                "small={'skip': {promise: reason}} in the Component",
            )


def fallen(cls: type[Promises], excused: Mapping[str, str]) -> str | None:
    """Why the class does not stand for all promises of its kind, or None."""
    kit = next(
        c for c in cls.__mro__ if issubclass(c, Promises) and c.__module__.startswith("sltcore.testing.promises.")
    )
    names = {name_of_test(name) for name in kit.promises}
    tests = {name for name in dir(kit) if name.startswith(PREFIX)} - {GUARD}
    if names != tests:
        return f"{kit.__name__} and the promises of {kit.kind} differ in {', '.join(sorted(names ^ tests))}"
    for name in (*sorted(tests), GUARD):
        actual = getattr(cls, name, None)
        if actual is getattr(kit, name):
            continue
        if actual is None or name == GUARD:
            return f"{cls.__name__} {'drops' if actual is None else 'overrides'} {name}"
        marks = [mark for mark in getattr(actual, "pytestmark", []) if mark.name == "xfail"]
        if not any(mark.kwargs.get("reason") for mark in marks):
            return f"{cls.__name__} overrides {name} without xfail(reason=...)"
    if kit.kind:  # the generic promises and the kind's own share one `skip`
        from sltcore.testing.promises.component import PROMISES

        known = {*kit.promises, *PROMISES}
        for name, why in excused.items():
            if name not in known:
                return f"small excuses {name!r}, which is no promise; promises: {', '.join(sorted(known))}"
            if not (isinstance(why, str) and why.strip()):
                return f"small excuses {name!r} without a reason"
    return None


def breaches(promises: type[Promises], case: Case) -> dict[str, str]:
    """The promises that `case` breaks, each with the whole message; excused ones and those that do not apply are left out.

    >>> from sltcore.testing import breaches                                              # doctest: +SKIP
    >>> breaches(DecoderPromises, Case.of("decoder", "shout"))                            # doctest: +SKIP
    {}
    """
    if not promises.promises:
        raise PluginError(f"{promises.__name__} has no promises; take the class of a kind, such as EncoderPromises")
    found: dict[str, str] = {}
    tests = promises()
    for name in promises.promises:
        if name in case.excused:
            continue
        try:
            getattr(tests, name_of_test(name))(case)
        except pytest.fail.Exception as failure:
            found[name] = str(failure)
        except pytest.skip.Exception:
            continue
    return found
