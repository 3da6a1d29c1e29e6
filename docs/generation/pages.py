"""All generated pages, by their path in the site."""

from __future__ import annotations

from generation.commands import commands_page
from generation.components import catalogue_page, fields_page
from generation.kinds import interfaces_page
from sltcore.registry import Registry, default_registry

PYTHON = """# Python

```python
import sltcore

sltcore.__all__
```

## Pipelines

::: sltcore.bundle.open.load
::: sltcore.bundle.bundle.save_bundle
::: sltcore.pipeline.Pipeline
::: sltcore.pipeline.Prepared
::: sltcore.pipeline.PipelineSession
::: sltcore.pipeline.build_component

## Values

::: sltcore.types
::: sltcore.table_weights
::: sltcore.vocabulary.Vocabulary

## Side information

::: sltcore.context

## The plugin author's page

::: sltcore.plugin

## Configurations

::: sltcore.spec.Config
::: sltcore.spec.Slot
::: sltcore.spec.Ref
::: sltcore.spec.Block
"""


def generated_pages(registry: Registry | None = None) -> dict[str, str]:
    """Markdown by path; the same installation gives the same text."""
    found = registry if registry is not None else default_registry()
    return {
        "reference/components.md": fields_page(found),
        "reference/plugins.md": catalogue_page(found),
        "reference/commands.md": commands_page(),
        "reference/interfaces.md": interfaces_page(),
        "reference/python.md": PYTHON,
    }
