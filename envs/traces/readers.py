"""One door to every trace format: guess the format, check the options, call the reader through the cache."""

from __future__ import annotations

import importlib
import inspect
import itertools
import numbers
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..checks import hint
from ..errors import TraceError
from ..files import names_its_file, show_path
from ..registry import Registry, own_modules
from .base import Trace
from .sniffing import Look, name_look


def _make_registry(key: str, *returned: str) -> Registry:
    """Formats whose readers say by their annotation what they return: nothing else gets a path."""

    def accepts(thing: Any) -> bool:
        annotation = getattr(thing, "__annotations__", {}).get("return")
        return inspect.isfunction(thing) and _type_name(annotation).partition("[")[0] in returned

    return Registry(key, accepts, f"a function of a path, annotated as -> {returned[0]}", TraceError)


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


TRACE_FORMATS = _make_registry("trace format", "Trace")
REQUEST_FORMATS = _make_registry("request format", "RequestTrace")
SERIES_FORMATS = _make_registry("series format", "FailureTrace", "PowerMeter", "tuple")
"""Formats of utilisation, which `read_trace` reads; of VM requests, which `requests.read_requests` reads; and
of series beside the load, which `series.check_series` checks. A format is a function of a path and options,
and is recognised by the function ``sniff`` of the module that it is in, if there is one."""

for _registry, _name, _reader, _text in (
    (TRACE_FORMATS, "planetlab", "planetlab:read_planetlab",
     "folder with one file per VM, 288 integer percentages each (CoMon project, 2011)"),
    (TRACE_FORMATS, "table", "table:read_table",
     "your own CSV or Parquet: one row per VM and time (docs/traces.md)"),
    (TRACE_FORMATS, "bitbrains", "bitbrains:read_bitbrains",
     "folder with one CSV per VM (GWA-T-12 Bitbrains, 2013; GWA-T-13 Materna, 2015)"),
    (TRACE_FORMATS, "opendc", "opendc:read_opendc",
     "folder with OpenDC's Parquet files of tasks and fragments, OpenDC 2.0 and versions 1 to 5"),
    (TRACE_FORMATS, "azure", "azure:read_azure",
     "folder with Azure's VM table and CPU readings (public data set 2017, 2019)"),
    (TRACE_FORMATS, "google", "google:read_google",
     "folder with Google's task usage and events (ClusterData 2011, 2019)"),
    (TRACE_FORMATS, "alibaba", "alibaba:read_alibaba",
     "folder with Alibaba's container usage and sizes (cluster trace 2017, 2018)"),
    (TRACE_FORMATS, "synthetic", "synthetic:generate",
     "embedded generator, seeded, calibrated to PlanetLab statistics; needs no path"),
    (REQUEST_FORMATS, "huawei", "huawei:read_huawei",
     "VM requests, CSV: one line per VM (vmid,cpu,mem,at,lt) or event (vmid,cpu,memory,time,type)"),
    (REQUEST_FORMATS, "azure_packing", "azure_packing:read_azure_packing",
     "VM requests, the sqlite file of Azure Traces for Packing 2020"),
    (REQUEST_FORMATS, "synthetic_requests", "synthetic_requests:generate_requests",
     "VM requests, seeded generator calibrated to Huawei-East-1; needs no path"),
    (SERIES_FORMATS, "carbon", "carbon:load_carbon",
     "carbon intensity, gCO2eq/kWh: timestamp, carbon_intensity; or an Electricity Maps CSV"),
    (SERIES_FORMATS, "failures", "failure_trace:read_failures",
     "incidents, Parquet: failure_interval, failure_duration (ms), failure_intensity (OpenDC)"),
    (SERIES_FORMATS, "power", "meter:read_meter",
     "metered power, CSV or Parquet: time, watts, host or group (docs/power.md)"),
):  # fmt: skip
    _registry.register(_name, _text, f"virtgym.envs.traces.formats.{_reader}")

HOLDS = {
    TRACE_FORMATS.kind: (TRACE_FORMATS, "utilisation", "read_trace"),
    REQUEST_FORMATS.kind: (REQUEST_FORMATS, "VM requests", "read_requests"),
    SERIES_FORMATS.kind: (SERIES_FORMATS, "series", "check_series"),
}
"""What files of the formats hold, and which function takes them."""

_CHOICES = 8
T = TypeVar("T")
_PLAIN = inspect.Parameter("_", inspect.Parameter.POSITIONAL_OR_KEYWORD)


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
    known = [name for formats, *_ in HOLDS.values() for name in formats if "synthetic" not in name]
    raise TraceError(
        f"{show_path(path)}: no known format fits{what and f'; it looks like {what}'}; known are "
        f"planetlab (a folder of files of integers), {', '.join(known[1:])} (see virtgym traces list)"
    )


def _ask(look: Look) -> str | None:
    """Return the first format whose reader knows what is there; what may be a table is asked last."""
    entries = itertools.chain(*(formats.entries() for formats, *_ in HOLDS.values()))
    for entry in sorted(entries, key=lambda entry: entry.name == "table"):
        for module in entry.modules:
            sniff = getattr(importlib.import_module(module), "sniff", None)
            if sniff is not None and sniff(look):
                return entry.name
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
    reader = find_reader(TRACE_FORMATS, name, path if format == "auto" else None)
    if name == "synthetic":
        return _generate(reader, options)
    check_options(name, reader, options)
    if path is None:
        raise TraceError(f"the trace format {name} needs a path to a file or folder")
    found = _find(path)

    def read() -> Trace:
        return call_reader(name, reader, found, options, Trace)

    # What a reader of others makes of a file may change with its code.
    if not use_cache or own_modules(name):
        return read()
    from .cache import read_cached

    return read_cached(found, name, options, read)


def find_reader(
    formats: Registry, name: str, guessed_from: str | os.PathLike[str] | None
) -> Callable[..., Any]:
    """Look the reader of a format up.

    Args:
        formats: Formats of what is asked for.
        name: Its name, or the dotted path of a reader.
        guessed_from: The path if the name was guessed from it, for messages.

    Raises:
        TraceError: If there is none, or what is there is something else.
    """
    where = "" if guessed_from is None else f"{show_path(guessed_from)}: "
    for others, what, function in HOLDS.values():
        if name not in formats and name in others:
            wanted = HOLDS[formats.kind][1]
            raise TraceError(f"{where}{name} is a format of {what}, not of {wanted}; {function} takes it")
    try:
        reader: Callable[..., Any] = formats.find(name).factory
    except TraceError as error:
        raise TraceError(f"{where}{error}") from None
    return reader


def call_reader(
    name: str,
    reader: Callable[..., Any],
    path: str | os.PathLike[str],
    options: Mapping[str, Any],
    kind: type[T],
) -> T:
    """Read a file; whatever goes wrong is one line that names it, also in readers of others."""
    found = names_its_file(reader)(path, **options)
    if not isinstance(found, kind):
        raise TraceError(
            f"{show_path(path)}: the reader {name} must return a {kind.__name__}, not {type(found).__name__}"
        )
    return found


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


def check_options(name: str, reader: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check the names and types of a reader's options against its signature.

    Args:
        name: The format, for messages.
        reader: The function that reads it.
        options: What the user gave.

    Raises:
        TraceError: If there is no such option, or its value has another type.
    """
    own = dict(inspect.signature(reader).parameters)
    kinds = {key: _type_name(parameter.annotation) for key, parameter in own.items()}
    if "rng" in kinds:
        kinds["seed"] = "int"
    allowed = [
        key for key in list(kinds)[1:] if own.get(key, _PLAIN).kind in (_PLAIN.kind, _PLAIN.KEYWORD_ONLY)
    ]
    for key, value in options.items():
        if key not in allowed:
            raise TraceError(
                f"{name}: no option {key!r}{hint(key, allowed)}; allowed are: {', '.join(allowed)}"
            )
        if not any(_is_a(value, kind) for kind in kinds[key].split(" | ")):
            raise TraceError(f"{name}: {key} must be {kinds[key].replace(' | ', ' or ')}, is {value!r}")


def _is_a(value: object, kind: str) -> bool:
    """Whether a value fits an annotation; a config or command line may hand over anything."""
    if kind in ("int", "float"):
        wanted = numbers.Integral if kind == "int" else numbers.Real
        return isinstance(value, wanted) and not isinstance(value, bool)
    plain = {"bool": bool, "str": str, "None": type(None)}
    return kind not in plain or plain[kind] is type(value)  # a reader of others may take anything


def _generate(generate: Callable[..., Trace], options: Mapping[str, Any]) -> Trace:
    rest = dict(options)
    rng = rest.pop("rng", None)
    check_options("synthetic", generate, rest)
    seed = rest.pop("seed", 0)
    if seed < 0:
        raise TraceError(f"synthetic: seed must be at least 0, is {seed}")
    return generate(np.random.default_rng(seed) if rng is None else rng, **rest)
