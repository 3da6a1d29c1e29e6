"""Every error sltcore raises on purpose: one line that says what was given, where, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class SltError(Exception):
    """Something the user can mend; the text is one line and complete."""


class PluginError(SltError):
    """A plugin is missing, broken, too new, or breaks a promise of its kind."""


class SpecError(SltError):
    """A spec is wrong; the text lists every problem, one line each, with file, line and column."""


class PortError(SltError):
    """Two neighbouring components do not fit: what one produces is not what the other consumes."""


class ContextError(SltError):
    """A call's side information is unknown, has the wrong type, or the wrong length."""


class VocabularyError(SltError):
    """A text or phrase cannot be written in the decoder's labels."""


class AudioError(SltError):
    """A recording cannot be read: missing, empty, truncated, not audio, or holding NaN."""


class DataError(SltError):
    """A corpus or manifest cannot be found, fetched, verified or read."""


class BundleError(SltError):
    """A bundle is incomplete, was edited after it was saved, or cannot be written."""


class ShapeError(SltError):
    """A tensor has another shape or type than the promise of its kind."""


class PrivacyError(SltError):
    """A release or training run was refused, because it would exceed the privacy budget."""


class TrainError(SltError):
    """A training run cannot begin, go on, or be written; what was reached is kept."""


class StreamError(SltError):
    """A streaming session was used after its end, or the component cannot stream."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that differs least from `name`, or None when nothing is near.

    >>> nearest("ctc-bean", ["ctc-beam", "ctc-greedy"])
    'ctc-beam'
    """
    from difflib import get_close_matches

    found = get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A sentence with the nearest choice, or nothing; ready to be appended to a message."""
    choice = nearest(name, choices)
    return f" Did you mean '{choice}'?" if choice else ""
