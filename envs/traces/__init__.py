"""Readers of traces: utilisation becomes a `Trace`, VM requests a `RequestTrace`, whatever the source.

Importing this package is cheap: readers, cache and catalog import pyarrow and pooch when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy
from .base import Trace
from .formats.planetlab import read_planetlab
from .readers import (
    REQUEST_FORMATS,
    SERIES_FORMATS,
    TRACE_FORMATS,
    TraceSummary,
    check_trace,
    guess_format,
    read_trace,
)

if TYPE_CHECKING:
    from .cache import cache_dir
    from .catalog import CatalogEntry, fetch_traces, load_catalog
    from .formats.alibaba import read_alibaba
    from .formats.azure import read_azure
    from .formats.azure_packing import read_azure_packing
    from .formats.bitbrains import read_bitbrains
    from .formats.carbon import read_carbon
    from .formats.failure_trace import FailureTrace, read_failures
    from .formats.google import read_google
    from .formats.huawei import read_huawei, read_windows
    from .formats.opendc import read_opendc
    from .formats.synthetic import generate
    from .formats.synthetic_requests import generate_requests
    from .formats.table import convert_trace, read_table
    from .requests import RequestSummary, RequestTrace, check_requests, read_requests
    from .series import SeriesSummary, check_series

__all__ = [
    "REQUEST_FORMATS",
    "SERIES_FORMATS",
    "TRACE_FORMATS",
    "CatalogEntry",
    "FailureTrace",
    "RequestSummary",
    "RequestTrace",
    "SeriesSummary",
    "Trace",
    "TraceSummary",
    "cache_dir",
    "check_requests",
    "check_series",
    "check_trace",
    "convert_trace",
    "fetch_traces",
    "generate",
    "generate_requests",
    "guess_format",
    "load_catalog",
    "read_alibaba",
    "read_azure",
    "read_azure_packing",
    "read_bitbrains",
    "read_carbon",
    "read_failures",
    "read_google",
    "read_huawei",
    "read_opendc",
    "read_planetlab",
    "read_requests",
    "read_table",
    "read_trace",
    "read_windows",
]

__getattr__ = lazy(
    __name__,
    {
        "CatalogEntry": "catalog",
        "FailureTrace": "formats.failure_trace",
        "RequestSummary": "requests",
        "RequestTrace": "requests",
        "SeriesSummary": "series",
        "cache_dir": "cache",
        "check_requests": "requests",
        "check_series": "series",
        "convert_trace": "formats.table",
        "fetch_traces": "catalog",
        "generate": "formats.synthetic",
        "generate_requests": "formats.synthetic_requests",
        "load_catalog": "catalog",
        "read_alibaba": "formats.alibaba",
        "read_azure": "formats.azure",
        "read_azure_packing": "formats.azure_packing",
        "read_bitbrains": "formats.bitbrains",
        "read_carbon": "formats.carbon",
        "read_failures": "formats.failure_trace",
        "read_google": "formats.google",
        "read_huawei": "formats.huawei",
        "read_opendc": "formats.opendc",
        "read_requests": "requests",
        "read_table": "formats.table",
        "read_windows": "formats.huawei",
    },
)
