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
    from .azure_packing import read_azure_packing
    from .cache import cache_dir
    from .catalog import CatalogEntry, fetch_traces, load_catalog
    from .huawei import read_huawei, read_windows
    from .requests import RequestSummary, RequestTrace, check_requests, read_requests
    from .synthetic import generate
    from .synthetic_requests import generate_requests
    from .table import convert_trace, read_table

__all__ = [
    "REQUEST_FORMATS",
    "TRACE_FORMATS",
    "CatalogEntry",
    "RequestSummary",
    "RequestTrace",
    "Trace",
    "TraceSummary",
    "cache_dir",
    "check_requests",
    "check_trace",
    "convert_trace",
    "fetch_traces",
    "generate",
    "generate_requests",
    "guess_format",
    "load_catalog",
    "read_azure_packing",
    "read_huawei",
    "read_planetlab",
    "read_requests",
    "read_table",
    "read_trace",
    "read_windows",
]

_LAZY = {
    "CatalogEntry": "catalog",
    "RequestSummary": "requests",
    "RequestTrace": "requests",
    "cache_dir": "cache",
    "check_requests": "requests",
    "convert_trace": "table",
    "fetch_traces": "catalog",
    "generate": "synthetic",
    "generate_requests": "synthetic_requests",
    "load_catalog": "catalog",
    "read_azure_packing": "azure_packing",
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
