"""Readers of utilisation traces: whatever the source, the result is a `Trace`.

Importing this package is cheap: readers, cache and catalog import pyarrow and pooch when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .base import Trace
from .planetlab import read_planetlab
from .readers import TRACE_FORMATS, TraceSummary, check_trace, guess_format, read_trace

if TYPE_CHECKING:
    from .cache import cache_dir
    from .catalog import CatalogEntry, fetch_traces, load_catalog
    from .synthetic import generate
    from .table import convert_trace, read_table

__all__ = [
    "TRACE_FORMATS",
    "CatalogEntry",
    "Trace",
    "TraceSummary",
    "cache_dir",
    "check_trace",
    "convert_trace",
    "fetch_traces",
    "generate",
    "guess_format",
    "load_catalog",
    "read_planetlab",
    "read_table",
    "read_trace",
]

_LAZY = {
    "CatalogEntry": "catalog",
    "cache_dir": "cache",
    "convert_trace": "table",
    "fetch_traces": "catalog",
    "generate": "synthetic",
    "load_catalog": "catalog",
    "read_table": "table",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
