"""Names that a folder shows to others, loaded when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a folder's ``__getattr__``: nothing is imported before a name is used.

    Args:
        package: ``__name__`` of the folder.
        homes: Module of each name, relative to the folder.
    """

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f".{homes[name]}", package), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
