"""What decides the results of a run beside its inputs, as one short text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sltcore.pipeline import Pipeline

PROVENANCE = "provenance.json"
NO_EFFECT = ("batch", "name", "description")  # how inputs are batched changes no result


def fingerprint(source: Any, pipeline: Pipeline, context: Mapping[str, Any], reference: str | None = None) -> str:
    """Sixteen hexadecimal digits of the spec, the content of the files that it names, the saved weights of a bundle
    `source`, and the side information."""
    from sltcore.experiment.keys import content_digest
    from sltcore.experiment.plan import paths_of

    filled = {name: value for name, value in pipeline.spec.filled().items() if name not in NO_EFFECT}
    saved = Path(source) / PROVENANCE if isinstance(source, str | Path) else None
    weights = json.loads(saved.read_bytes())["self"] if saved is not None and saved.is_file() else None
    files = sorted({str(path): content_digest(path) for path in paths_of(pipeline.spec.model)}.values())
    text = json.dumps([filled, files, context, reference, weights], sort_keys=True, default=_content)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _content(value: Any) -> str:
    """Arrays by what is in them, for their text leaves out the middle."""
    samples = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    if hasattr(samples, "tobytes") and hasattr(samples, "shape"):
        return f"{samples.shape} {samples.dtype} {hashlib.sha256(samples.tobytes()).hexdigest()}"
    return str(value)
