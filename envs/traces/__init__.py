"""Readers of traces: utilisation becomes a `Trace`, VM requests a `RequestTrace`, whatever the source.

Importing this package is cheap: readers, cache and catalog import pyarrow and pooch when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .base import Trace
from .planetlab import read_planetlab
from .readers import REQUEST_FORMATS, TRACE_FORMATS, TraceSummary, check_trace, guess_format, read_trace

if TYPE_CHECKING:
    from .cache import cache_dir
    from .catalog import CatalogEntry, fetch_traces, load_catalog
    from .huawei import read_huawei, read_windows
    from .requests import RequestTrace, read_requests
    from .synthetic import generate
    from .table import convert_trace, read_table

__all__ = [
    "REQUEST_FORMATS",
    "TRACE_FORMATS",
    "CatalogEntry",
    "RequestTrace",
    "Trace",
    "TraceSummary",
    "cache_dir",
    "check_trace",
    "convert_trace",
    "fetch_traces",
    "generate",
    "guess_format",
    "load_catalog",
    "read_huawei",
    "read_planetlab",
    "read_requests",
    "read_table",
    "read_trace",
    "read_windows",
]

_LAZY = {
    "CatalogEntry": "catalog",
    "RequestTrace": "requests",
    "cache_dir": "cache",
    "convert_trace": "table",
    "fetch_traces": "catalog",
    "generate": "synthetic",
    "load_catalog": "catalog",
    "read_huawei": "huawei",
    "read_requests": "requests",
    "read_table": "table",
    "read_windows": "huawei",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
