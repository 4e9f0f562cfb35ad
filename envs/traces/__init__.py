"""Readers of utilisation traces: whatever the source, the result is a `Trace`."""

from __future__ import annotations

from .base import Trace
from .readers import TRACE_FORMATS, guess_format, read_trace

__all__ = ["TRACE_FORMATS", "Trace", "guess_format", "read_trace"]
