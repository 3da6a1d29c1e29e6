"""Contexts that say nothing, for the promise that saying nothing changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

EMPTY: dict[str, Any] = {"texts": [], "numbers": [], "mapping": {}}
"""What "nothing" is for each type of context value that has such a thing."""


def empty_contexts(part: Any, batch: int) -> list[dict[str, Any]]:
    """Every list and mapping that `part` reads, empty: one for all utterances, one for each, and None.

    Skips where the component reads none.
    """
    keys = [key for key in part.context_keys() if key.type in EMPTY]
    if not keys:
        pytest.skip("it reads no list or mapping from the context, so none can be empty")
    return [
        {key.name: EMPTY[key.type] for key in keys},
        {key.name: [EMPTY[key.type]] * batch if key.per_utterance else EMPTY[key.type] for key in keys},
        {key.name: None for key in keys},
    ]
