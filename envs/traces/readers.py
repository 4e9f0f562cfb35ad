"""One door to every trace format: guess the format, check the options, call the reader through the cache."""

from __future__ import annotations

import difflib
import importlib
import inspect
import numbers
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TraceError
from ..files import names_its_file, show_path
from .base import Trace
from .sniffing import Look, name_look

TRACE_FORMATS: Mapping[str, str] = {
    "planetlab": "folder with one file per VM, 288 integer percentages each (CoMon project, 2011)",
    "table": "your own CSV or Parquet: one row per VM and time (docs/traces.md)",
    "bitbrains": "folder with one CSV per VM (GWA-T-12 Bitbrains, 2013; GWA-T-13 Materna, 2015)",
    "opendc": "folder with OpenDC's Parquet files of tasks and fragments, OpenDC 2.0 and versions 1 to 5",
    "azure": "folder with Azure's VM table and CPU readings (public data set 2017, 2019)",
    "google": "folder with Google's task usage and events (ClusterData 2011, 2019)",
    "alibaba": "folder with Alibaba's container usage and sizes (cluster trace 2017, 2018)",
    "synthetic": "embedded generator, seeded, calibrated to PlanetLab statistics; needs no path",
}
"""Formats that can be read: name to one line of description."""

REQUEST_FORMATS: Mapping[str, str] = {
    "huawei": "VM requests, CSV: one line per VM (vmid,cpu,mem,at,lt) or event (vmid,cpu,memory,time,type)",
    "azure_packing": "VM requests, the sqlite file of Azure Traces for Packing 2020",
    "synthetic_requests": "VM requests, seeded generator calibrated to Huawei-East-1; needs no path",
}
"""Formats of VM requests, which `requests.read_requests` reads: name to one line of description."""

SERIES_FORMATS: Mapping[str, str] = {
    "carbon": "carbon intensity, gCO2eq/kWh: timestamp, carbon_intensity; or an Electricity Maps CSV",
    "failures": "incidents, Parquet: failure_interval, failure_duration (ms), failure_intensity (OpenDC)",
}
"""Formats of series beside the load, which `series.check_series` checks: name to one line of description."""

# Imported when used: a command that reads no table should not wait for pyarrow.
_READERS = {
    "planetlab": ("formats.planetlab", "read_planetlab"),
    "table": ("formats.table", "read_table"),
    "bitbrains": ("formats.bitbrains", "read_bitbrains"),
    "opendc": ("formats.opendc", "read_opendc"),
    "azure": ("formats.azure", "read_azure"),
    "google": ("formats.google", "read_google"),
    "alibaba": ("formats.alibaba", "read_alibaba"),
    "synthetic": ("formats.synthetic", "generate"),
}
# Modules of all readers in the order in which they are asked; those of folders first, as they are cheap.
_SNIFFERS = {
    "planetlab": "formats.planetlab",
    "azure": "formats.azure",
    "google": "formats.google",
    "alibaba": "formats.alibaba",
    "opendc": "formats.opendc",
    "huawei": "formats.huawei",
    "bitbrains": "formats.bitbrains",
    "azure_packing": "formats.azure_packing",
    "failures": "formats.failure_trace",
    "carbon": "formats.carbon",
    "table": "formats.table",
}
_CHOICES = 8


@dataclass(frozen=True)
class TraceSummary:
    """What `check_trace` found.

    Attributes:
        name: The trace's name.
        format: Format it was read as.
        source: Path, or what it was generated from.
        vms: Number of VMs, V.
        samples: Samples per VM, S.
        sample_s: Sampling period, s.
        span_s: Length of the trace, s.
        unit: What a value means.
        mean: Mean of all samples.
        sd: Standard deviation of all samples.
        maximum: Largest sample.
        zeros: Share of samples that are 0.
        arrivals: VMs that arrive after the start.
        departures: VMs that leave before the end.
        columns: Which optional columns the trace has.
        notes: What the reader found or repaired.
    """

    name: str
    format: str
    source: str
    vms: int
    samples: int
    sample_s: float
    span_s: float
    unit: str
    mean: float
    sd: float
    maximum: float
    zeros: float
    arrivals: int
    departures: int
    columns: tuple[str, ...]
    notes: tuple[str, ...]


def read_trace(path: str | os.PathLike[str] | None = None, format: str = "auto", **options: Any) -> Trace:
    """Read a trace of any known format, through the user's cache of parsed traces.

    A path that does not exist but is a name of the catalog (``planetlab/20110303``) means that trace as
    fetched into the cache folder.

    Args:
        path: File or folder; None for ``synthetic``.
        format: A name of `TRACE_FORMATS`, or ``auto`` to guess it from the path.
        **options: Keyword arguments of the format's reader: ``expected`` and ``sample_s`` for planetlab;
            ``sample_s``, ``fill`` and ``over`` for table and the published formats, some of which have more
            (see their readers); those of `generate` and ``seed`` for synthetic.

    Returns:
        The trace.

    Raises:
        TraceError: If the format is unknown, an option does not exist, or the trace is malformed.
    """
    return _read(path, format, options, use_cache=True)


def guess_format(path: str | os.PathLike[str] | None) -> str:
    """Ask all readers whether ``path`` is of their format; None means ``synthetic``.

    Args:
        path: File, folder, or name of a fetched trace.

    Returns:
        A name that may be one of `REQUEST_FORMATS` or `SERIES_FORMATS`, so that an error can say what the
        file is.

    Raises:
        TraceError: If there is nothing at ``path``, or no format fits; the text says what it looks like.
    """
    if path is None:
        return "synthetic"
    root = Path(_find(path))
    if not root.exists():
        raise TraceError(f"{show_path(path)}: no such file or folder")
    look = Look(root)
    found = _ask(look)
    if found is not None:
        return found
    choices = list(_find_choices(look, 2)) if look.is_dir else []
    if choices:
        listed = ", ".join(choices[:_CHOICES]) + (", …" if len(choices) > _CHOICES else "")
        raise TraceError(f"{show_path(path)}: this folder holds traces, pick one of them: {listed}")
    what = name_look(look)
    known = [name for name in [*TRACE_FORMATS, *REQUEST_FORMATS, *SERIES_FORMATS] if "synthetic" not in name]
    raise TraceError(
        f"{show_path(path)}: no known format fits{what and f'; it looks like {what}'}; known are "
        f"planetlab (a folder of files of integers), {', '.join(known[1:])} (see virtgym traces list)"
    )


def _ask(look: Look) -> str | None:
    """Return the first format whose reader knows what is there."""
    for name, module in _SNIFFERS.items():
        if importlib.import_module(f".{module}", __package__).sniff(look):
            return name
    return None


def _find_choices(look: Look, depth: int) -> Iterator[str]:
    """Yield what in a folder, or in the folders in it, is of a known format."""
    for name in look.names[:50]:
        inner = Look(look.root / name)
        found = _ask(inner)
        if found is not None:
            yield f"{show_path(name)} ({found})"
        elif inner.is_dir and depth > 1:
            yield from (f"{show_path(name)}/{choice}" for choice in _find_choices(inner, depth - 1))


def guess_request_format(path: str | os.PathLike[str] | None) -> str:
    """Guess the format of a file that should hold VM requests; None means the generator.

    Returns:
        A name that may be no format of requests, so that the error can say what the file is.

    Raises:
        TraceError: As `guess_format`.
    """
    return "synthetic_requests" if path is None else guess_format(path)


def check_trace(
    path: str | os.PathLike[str] | None = None, format: str = "auto", **options: Any
) -> TraceSummary:
    """Read a trace from its source, past the cache, and describe it.

    Args:
        path: File or folder; None for ``synthetic``.
        format: A name of `TRACE_FORMATS`, or ``auto``.
        **options: As of `read_trace`.

    Returns:
        The summary.

    Raises:
        TraceError: As `read_trace`.
    """
    trace = _read(path, format, options, use_cache=False)
    present = [key for key in ("vcpus", "cpu_mhz", "memory_mib") if getattr(trace, key) is not None]
    return TraceSummary(
        name=trace.name,
        format=trace.format,
        source=trace.source,
        vms=trace.n_vms,
        samples=trace.n_samples,
        sample_s=trace.sample_s,
        span_s=trace.span_s,
        unit="fraction of the VM's nominal CPU",
        mean=float(trace.util.mean()),
        sd=float(trace.util.std()),
        maximum=float(trace.util.max()),
        zeros=float(np.mean(trace.util == 0)),
        arrivals=int(np.count_nonzero(trace.arrival_s > 0)),
        departures=int(np.count_nonzero(trace.departure_s < trace.span_s)),
        columns=(*present, *trace.signals),
        notes=trace.notes,
    )


def _read(
    path: str | os.PathLike[str] | None, format: str, options: Mapping[str, Any], *, use_cache: bool
) -> Trace:
    name = guess_format(path) if format == "auto" else format
    if name not in TRACE_FORMATS:
        raise _unknown_format(name, path if format == "auto" else None)
    module, function = _READERS[name]
    reader = getattr(importlib.import_module(f".{module}", __package__), function)
    if name == "synthetic":
        return _generate(reader, options)
    check_options(name, reader, options)
    if path is None:
        raise TraceError(f"the trace format {name} needs a path to a file or folder")
    found = _find(path)

    def read() -> Trace:
        # Readers of this package name their file themselves, those of others may not.
        trace: Trace = names_its_file(reader)(found, **options)
        return trace

    if not use_cache:
        return read()
    from .cache import read_cached

    return read_cached(found, name, options, read)


def _find(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return ``path``, or where the catalog's trace of that name was fetched to if there is no such path."""
    if os.path.lexists(path):
        return path
    from .catalog import fetched_path, load_catalog

    entry = load_catalog().get(os.fspath(path))
    if entry is None:
        return path
    fetched = fetched_path(entry)
    if not fetched.is_dir():
        raise TraceError(
            f"{show_path(path)}: no such file or folder; to download it: virtgym traces fetch {entry.name}"
        )
    return fetched


def _unknown_format(name: str, guessed_from: str | os.PathLike[str] | None) -> TraceError:
    if name in REQUEST_FORMATS:
        which = "the path" if guessed_from is None else show_path(guessed_from)
        return TraceError(
            f"{which}: {name} is a format of VM requests, not of utilisation; read it with read_requests"
        )
    if name in SERIES_FORMATS:
        which = "the path" if guessed_from is None else show_path(guessed_from)
        return TraceError(f"{which}: {name} is a series beside the load, not utilisation")
    near = difflib.get_close_matches(name, TRACE_FORMATS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    where = "" if guessed_from is None else f"{show_path(guessed_from)}: "
    return TraceError(
        f"{where}trace format {name!r} is not available{hint}; there are: {', '.join(TRACE_FORMATS)}"
    )


def unknown_request_format(name: str, guessed_from: str | os.PathLike[str] | None) -> TraceError:
    """Return the error for a format that is not one of VM requests."""
    near = difflib.get_close_matches(name, REQUEST_FORMATS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    where = "" if guessed_from is None else f"{show_path(guessed_from)}: "
    return TraceError(
        f"{where}{name!r} is not a format of VM requests{hint}; there are: {', '.join(REQUEST_FORMATS)}"
    )


def check_options(name: str, reader: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check the names and types of a reader's options against its signature.

    Args:
        name: The format, for messages.
        reader: The function that reads it.
        options: What the user gave.

    Raises:
        TraceError: If there is no such option, or its value has another type.
    """
    kinds = {
        key: str(parameter.annotation) for key, parameter in inspect.signature(reader).parameters.items()
    }
    if "rng" in kinds:
        kinds["seed"] = "int"
    allowed = [key for key in kinds if key not in ("path", "rng")]
    for key, value in options.items():
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise TraceError(f"{name}: no option {key!r}{hint}; allowed are: {', '.join(allowed)}")
        if not any(_is_a(value, kind) for kind in kinds[key].split(" | ")):
            raise TraceError(f"{name}: {key} must be {kinds[key].replace(' | ', ' or ')}, is {value!r}")


def _is_a(value: object, kind: str) -> bool:
    """Whether a value fits an annotation; a config or command line may hand over anything."""
    if kind in ("int", "float"):
        wanted = numbers.Integral if kind == "int" else numbers.Real
        return isinstance(value, wanted) and not isinstance(value, bool)
    return {"bool": bool, "str": str, "None": type(None)}[kind] is type(value)


def _generate(generate: Callable[..., Trace], options: Mapping[str, Any]) -> Trace:
    rest = dict(options)
    rng = rest.pop("rng", None)
    check_options("synthetic", generate, rest)
    seed = rest.pop("seed", 0)
    if seed < 0:
        raise TraceError(f"synthetic: seed must be at least 0, is {seed}")
    return generate(np.random.default_rng(seed) if rng is None else rng, **rest)
