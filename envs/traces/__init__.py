"""Readers of traces: utilisation becomes a `Trace`, VM requests a `RequestTrace`, whatever the source.

Importing this package is cheap: readers, cache and catalog import pyarrow and pooch when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy
from .base import Trace
from .readers import TRACE_FORMATS, check_trace, read_trace

if TYPE_CHECKING:
    from .formats.huawei import read_windows
    from .formats.table import convert_trace
    from .requests import check_requests, read_requests

__all__ = [
    "TRACE_FORMATS",
    "Trace",
    "check_requests",
    "check_trace",
    "convert_trace",
    "read_requests",
    "read_trace",
    "read_windows",
]

__getattr__ = lazy(
    __name__,
    {
        "check_requests": "requests",
        "convert_trace": "formats.table",
        "read_requests": "requests",
        "read_windows": "formats.huawei",
    },
)
