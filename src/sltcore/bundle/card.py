"""The model card of a bundle, written from what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME = "README.md"


def model_card(spec: Mapping[str, Any], provenance: Mapping[str, Any], parameters: int) -> str:
    """Markdown: what it is, what it is made of, how to use it, and what nobody has said about it."""
    title = spec.get("name") or "sltcore pipeline"
    rows = [
        f"| `{path}` | {info['kind']} `{info['name']}` v{info['version']} | {info['distribution']} {info['distribution_version']} | {info['source'] or 'not stated'} |"
        for path, info in provenance["components"].items()
    ]
    overrides = ", ".join(f"`{setting}`" for setting in provenance["overrides"]) or "none"
    return "\n".join(
        [
            "---",
            "library_name: sltcore",
            "tags: [speech, sltcore]",
            "---",
            f"# {title}",
            "",
            spec.get("description") or "No description was given in the spec.",
            "",
            "## Use",
            "",
            "```python",
            "import sltcore",
            "",
            'pipeline = sltcore.load("PATH/OF/THIS/FOLDER")',
            "```",
            "",
            "## Made of",
            "",
            "| place | component | distribution | source |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            f"{parameters:,} parameters; overrides: {overrides}; seed {spec.get('seed', 0)}; torch {provenance['torch']}, Python {provenance['python']}.",
            "",
            "## Data, measures, limits",
            "",
            *_training(provenance.get("training")),
            "Measure it on recordings of your own before you rely on it: `slt run DIR MANIFEST`.",
            "",
        ]
    )


def _training(facts: Mapping[str, Any] | None) -> list[str]:
    """What is known of how the weights were made."""
    if not facts:
        return [
            "Not stated by the spec: which data the weights were trained on, how well it works, and for whom it does not."
        ]
    lines = [f"Trained for {facts['steps']:,} steps on {facts['data']}."]
    if facts.get("values"):
        measured = ", ".join(f"{name} {value:.4g}" for name, value in facts["values"].items())
        lines.append(f"On its development data: {measured}.")
    if facts.get("privacy"):
        lines.append("Privacy: " + ", ".join(f"{name} {value}" for name, value in facts["privacy"].items()) + ".")
    return [*lines, "Not stated: for whom it does not work."]
