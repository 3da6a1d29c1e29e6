"""The site's hook: adds the pages that are generated from the installed package, as virtual files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from generation.pages import generated_pages
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs once it knows the files of `docs/`."""
    for path, text in generated_pages().items():
        files.append(File.generated(config, path, content=text))
    return files
