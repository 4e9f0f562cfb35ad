"""A hook of MkDocs: puts the pages of the reference into the site, under ``reference/``.

MkDocs loads it by its path (``mkdocs.yml``).
"""

from __future__ import annotations

from typing import Any


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that are made from the code.

    Args:
        files: Files of the site, ``mkdocs.structure.files.Files``.
        config: Configuration of the site.

    Returns:
        The files with the pages.
    """
    from mkdocs.structure.files import File

    from virtgym.experiments.reference.pages import HEAD, PAGES

    for name, make in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=HEAD + make()))
    return files
