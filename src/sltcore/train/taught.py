"""Side information that components draw for the batches they are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sltcore.context import check_context
from sltcore.errors import ContextError, PluginError
from sltcore.interfaces import Part
from sltcore.pipeline import Pipeline


class Taught:
    """The components of a run that say themselves what stands in the context of a training batch.

    They are the pipeline's stages, the components nested in their slots, and `also` (objectives and augmentations).
    """

    def __init__(self, pipeline: Pipeline, also: Sequence[Part] = ()) -> None:
        self.keys = pipeline.context_keys
        self.parts = [
            part for part in _parts(pipeline, also) if type(part).training_context is not Part.training_context
        ]
        self._all = list(_parts(pipeline, also))

    def learn_texts(self, texts: Sequence[str]) -> None:
        """Tell every component the texts of the training data."""
        for part in self._all:
            part.learn_texts(texts)

    def context(self, texts: Sequence[str], context: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
        """What the components add, later ones seeing what earlier ones added.

        **Raises** `PluginError` naming a component that gives something nobody reads, or of the wrong type or length.
        """
        added: dict[str, Any] = {}
        for part in self.parts:
            given = part.training_context(texts, {**context, **added}, seeds)
            own = {key.name: key for key in part.context_keys()}
            try:
                check_context(given, {**own, **self.keys}, len(texts))
            except ContextError as error:
                raise PluginError(f"{type(part).__name__}.training_context: {error}") from error
            added.update(given)
        return added


def _parts(pipeline: Pipeline, also: Sequence[Part]) -> Iterator[Part]:
    seen: set[int] = set()
    for part in (*pipeline.parts.values(), *pipeline.model.modules(), *also):
        if isinstance(part, Part) and id(part) not in seen:
            seen.add(id(part))
            yield part
