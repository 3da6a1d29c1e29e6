"""The first two keys of a spec, its version and its kind, which decide what the rest means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sltcore.errors import did_you_mean, nearest
from sltcore.migrate import MIGRATIONS, migrate
from sltcore.spec.document import Document, PathKey
from sltcore.spec.grammar import SPEC_KINDS, SPEC_VERSION
from sltcore.spec.problems import Origin, Problem, shown, spec_error

COMMANDS = {"pipeline": "run", "train": "train", "experiment": "reproduce"}


def checked_head(
    data: Any, document: Document, replaced: Mapping[PathKey, Origin] = {}, *, expected: str | None = None
) -> dict[str, Any]:
    """`data` brought to the newest version. Its first two keys decide what the rest means, so they come first.

    **Raises** `SpecError` for a wrong version or kind (another than the `expected` one, too), and for an old spec that
    cannot be brought to the newest version.
    """
    if not isinstance(data, dict):
        raise spec_error(
            [Problem((), f"a spec is a map that begins with `slt: {SPEC_VERSION}`, got {shown(data)}")], document
        )
    problems = []
    version = data.get("slt")
    if "slt" not in data:
        near = nearest("slt", data)
        meant = f" Did you mean 'slt' by {shown(near)}?" if near else ""
        problems.append(
            Problem((near,) if near else (), f"the spec's version is missing; begin with `slt: {SPEC_VERSION}`.{meant}")
        )
    elif isinstance(version, bool) or not isinstance(version, int):
        problems.append(Problem(("slt",), f"expected the version number {SPEC_VERSION}, got {shown(version)}"))
    elif version > SPEC_VERSION:
        problems.append(
            Problem(
                ("slt",),
                f"version {version} is newer than this sltcore reads ({SPEC_VERSION}). Next: pip install -U sltcore-lib",
            )
        )
    elif version < SPEC_VERSION and version not in MIGRATIONS:
        problems.append(Problem(("slt",), f"there is no version {version}; write slt: {SPEC_VERSION}"))
    problems += _kind_problems(data, document, expected)
    if problems:
        raise spec_error(problems, document, replaced)
    try:
        return migrate(data)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = f"this spec of version {version} cannot be brought to version {SPEC_VERSION}: {type(error).__name__}: {error}"
        raise spec_error([Problem((), " ".join(problem.split()))], document, replaced) from None


def _kind_problems(data: Mapping[str, Any], document: Document, expected: str | None) -> Iterator[Problem]:
    kind = data.get("kind")
    if "kind" not in data:
        yield Problem((), f"the spec's kind is missing; write kind: {expected or ' or '.join(SPEC_KINDS)}")
    elif kind not in SPEC_KINDS:
        near = did_you_mean(str(kind)[:40], SPEC_KINDS)
        yield Problem(("kind",), f"expected one of: {', '.join(SPEC_KINDS)}, got {shown(kind)}.{near}")
    elif expected not in (None, kind):
        name = "SPEC" if document.name.startswith("<") else document.name
        yield Problem(
            ("kind",), f"this is a spec of kind '{kind}', expected kind '{expected}'. Next: slt {COMMANDS[kind]} {name}"
        )
