"""One door to every trace format: guess the format, check the options, call the reader."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..sim.errors import TraceError
from .base import Trace
from .planetlab import read_planetlab
from .synthetic import generate

__all__ = ["TRACE_FORMATS", "guess_format", "read_trace"]

TRACE_FORMATS: Mapping[str, str] = {
    "planetlab": "folder of one file per VM, 288 integer percentages each (CoMon project, 2011)",
    "synthetic": "embedded generator, seeded, calibrated to PlanetLab statistics; needs no path",
}
"""Formats that can be read now: name to one line of description."""


def read_trace(path: str | os.PathLike[str] | None = None, format: str = "auto", **options: Any) -> Trace:
    """Read a trace of any known format.

    Args:
        path: File or folder; None for ``synthetic``.
        format: A name of `TRACE_FORMATS`, or ``auto`` to guess it from the path.
        **options: Keyword arguments of the format's reader (``expected``, ``n_vms``, ``seed``, ...).

    Returns:
        The trace.

    Raises:
        TraceError: If the format is unknown, an option does not exist, or the trace is malformed.
    """
    name = guess_format(path) if format == "auto" else format
    if name not in TRACE_FORMATS:
        near = difflib.get_close_matches(name, TRACE_FORMATS, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise TraceError(
            f"trace format {name!r} is not available{hint} available are: {', '.join(TRACE_FORMATS)}"
        )
    if name == "synthetic":
        return _generate(options)
    if path is None:
        raise TraceError(f"the trace format {name} needs a path to a file or folder")
    reader = read_planetlab
    _check_options(name, reader, options)
    return reader(path, **options)


def guess_format(path: str | os.PathLike[str] | None) -> str:
    """Guess the format of ``path`` from names alone; None means ``synthetic``, the embedded default."""
    if path is None:
        return "synthetic"
    return "planetlab"


def _check_options(name: str, reader: Callable[..., Trace], options: Mapping[str, Any]) -> None:
    allowed = [key for key in inspect.signature(reader).parameters if key not in ("path", "rng")]
    for key in options:
        if key not in allowed:
            raise TraceError(f"{name}: no option {key!r}; allowed are: {', '.join(allowed)}")


def _generate(options: Mapping[str, Any]) -> Trace:
    rest = dict(options)
    seed = rest.pop("seed", 0)
    rng = rest.pop("rng", None)
    _check_options("synthetic", generate, rest)
    return generate(np.random.default_rng(seed) if rng is None else rng, **rest)
