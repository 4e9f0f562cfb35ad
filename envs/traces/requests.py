"""Request traces: VMs that ask for cores and memory, each with an arrival and a lifetime.

A utilisation `Trace` says how busy known VMs are; a `RequestTrace` says which VMs want a place. Whatever the
source, the result is checked once, here, so that no environment has to.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from .base import LARGEST, LONGEST_S

DOUBLE_ABOVE_GIB = 10.0
"""A VM with strictly more memory than this spans two NUMA nodes in the placement protocol, GiB."""


@dataclass(frozen=True, eq=False)
class RequestTrace:
    """Requests for VMs in the order of their arrival.

    Attributes:
        name: Short name for result rows.
        format: The reader that made it (``huawei``, ``azure_packing``, ``synthetic_requests``).
        source: Path or description of where it came from.
        cores: Cores asked for, shape (R,), float64, positive; Azure's are fractions of a core, too.
        memory_gib: Memory asked for, GiB, shape (R,), float64, positive.
        arrival_s: Arrival time, s, shape (R,), float64, at least 0, non-decreasing.
        lifetime_s: Time from placement to departure, s, shape (R,), float64, at least 0; inf = never leaves.
        vm_ids: The source's number of each VM, shape (R,), int64; distinct unless a VM came back.
        notes: What the reader found or repaired, one sentence each.
    """

    name: str
    format: str
    source: str
    cores: NDArray[np.float64]
    memory_gib: NDArray[np.float64]
    arrival_s: NDArray[np.float64]
    lifetime_s: NDArray[np.float64]
    vm_ids: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes, ranges and the order.

        Raises:
            TraceError: If there is no request, a shape does not agree, or a value is not allowed; the text
                names the first such request, counted from 0.
        """
        rows = self.cores.shape
        if len(rows) != 1 or rows[0] == 0:
            raise TraceError(f"{self.source}: the trace has no requests")
        for key in ("memory_gib", "arrival_s", "lifetime_s", "vm_ids"):
            if getattr(self, key).shape != rows:
                raise TraceError(
                    f"{self.source}: {key} has shape {getattr(self, key).shape}, expected {rows}"
                )
        for key in ("cores", "memory_gib"):
            column = getattr(self, key)
            self._require((column > 0) & (column <= LARGEST), key, "finite and positive")
        in_time = (self.arrival_s >= 0) & (self.arrival_s <= LONGEST_S)
        self._require(in_time, "arrival_s", f"finite, at least 0, at most {LONGEST_S:g} s")
        in_order = np.concatenate(([True], np.diff(self.arrival_s) >= 0))
        self._require(in_order, "arrival_s", "not before the previous request's")
        self._require(self.lifetime_s >= 0, "lifetime_s", "at least 0 (inf: never leaves)")

    def _require(self, good: NDArray[np.bool_], key: str, allowed: str) -> None:
        if not good.all():
            row = int(np.argmin(good))
            raise TraceError(
                f"{self.source}: request {row}: {key} must be {allowed}, is {getattr(self, key)[row]}"
            )

    @property
    def n_requests(self) -> int:
        """Number of requests, R."""
        return int(self.cores.size)

    @property
    def span_s(self) -> float:
        """Time from the first to the last arrival, s."""
        return float(self.arrival_s[-1] - self.arrival_s[0])


def read_requests(
    path: str | os.PathLike[str] | None = None, format: str = "auto", **options: Any
) -> RequestTrace:
    """Read a request trace of any known format.

    Args:
        path: File; None for ``synthetic_requests``.
        format: ``huawei``, ``azure_packing``, ``synthetic_requests`` (or ``synthetic``, for short), or
            ``auto`` to guess it from the file.
        **options: Keyword arguments of the format's reader: ``machine_id``, ``cores_per_host`` and
            ``memory_gib_per_host`` for azure_packing; ``seed`` and those of `generate_requests` for
            synthetic.

    Returns:
        The requests.

    Raises:
        TraceError: If the format is unknown, an option does not exist, or the trace is malformed; the text
            names file and line.
    """
    from .readers import REQUEST_FORMATS, call_reader, check_options, find_reader, guess_format

    guessed = path is not None and format == "auto"
    name = (
        guess_format(path) if guessed else "synthetic_requests" if format in ("auto", "synthetic") else format
    )
    reader = find_reader(REQUEST_FORMATS, name, path if guessed else None)
    check_options(name, reader, options)
    if name == "synthetic_requests":
        seed = options.pop("seed", 0)
        if seed < 0:
            raise TraceError(f"{name}: seed must be at least 0, is {seed}")
        made: RequestTrace = reader(np.random.default_rng(seed), **options)
        return made
    if path is None:
        raise TraceError(f"the trace format {name} needs a path to a file")
    return call_reader(name, reader, path, options, RequestTrace)


@dataclass(frozen=True)
class RequestSummary:
    """What `check_requests` found.

    Attributes:
        name: The trace's name.
        format: Format it was read as.
        source: Path, or what it was generated from.
        requests: Number of requests, R.
        span_s: Time from the first to the last arrival, s.
        flavours: Number of different pairs of cores and memory.
        usual: The most frequent such pair: cores, GiB.
        usual_share: Its share of the requests.
        mean_cores: Mean of the cores.
        mean_memory_gib: Mean of the memory, GiB.
        max_cores: Most cores of a VM.
        max_memory_gib: Most memory of a VM, GiB.
        double: Share of VMs above 10 GiB, which the placement protocol splits over two NUMA nodes.
        lifetimes_s: 10th, 50th, 90th and 99th percentile of the lifetimes, s; inf where VMs never leave.
        stay: Share of VMs that never leave.
        bursts: Number of different times of arrival.
        largest_burst: Most requests at one time.
        notes: What the reader found or repaired.
    """

    name: str
    format: str
    source: str
    requests: int
    span_s: float
    flavours: int
    usual: tuple[float, float]
    usual_share: float
    mean_cores: float
    mean_memory_gib: float
    max_cores: float
    max_memory_gib: float
    double: float
    lifetimes_s: tuple[float, float, float, float]
    stay: float
    bursts: int
    largest_burst: int
    notes: tuple[str, ...]


def check_requests(
    path: str | os.PathLike[str] | None = None, format: str = "auto", **options: Any
) -> RequestSummary:
    """Read a request trace and describe it.

    Args:
        path: File; None for ``synthetic_requests``.
        format: As of `read_requests`.
        **options: As of `read_requests`.

    Returns:
        The summary.

    Raises:
        TraceError: As `read_requests`.
    """
    return describe_requests(read_requests(path, format, **options))


def describe_requests(trace: RequestTrace) -> RequestSummary:
    """Summarise sizes, lifetimes and bursts."""
    pairs = np.stack([trace.cores, trace.memory_gib], axis=1)
    flavours, of_flavour = np.unique(pairs, axis=0, return_counts=True)
    usual = int(np.argmax(of_flavour))
    _, at_once = np.unique(trace.arrival_s, return_counts=True)
    ordered = np.sort(trace.lifetime_s)
    # The nearest rank: between a number and inf there is nothing to interpolate.
    ranks = [int(np.ceil(share * ordered.size)) - 1 for share in (0.1, 0.5, 0.9, 0.99)]
    p10, p50, p90, p99 = (float(ordered[rank]) for rank in ranks)
    return RequestSummary(
        name=trace.name,
        format=trace.format,
        source=trace.source,
        requests=trace.n_requests,
        span_s=trace.span_s,
        flavours=len(flavours),
        usual=(float(flavours[usual, 0]), float(flavours[usual, 1])),
        usual_share=float(of_flavour[usual]) / trace.n_requests,
        mean_cores=float(trace.cores.mean()),
        mean_memory_gib=float(trace.memory_gib.mean()),
        max_cores=float(trace.cores.max()),
        max_memory_gib=float(trace.memory_gib.max()),
        double=float(np.mean(trace.memory_gib > DOUBLE_ABOVE_GIB)),
        lifetimes_s=(p10, p50, p90, p99),
        stay=float(np.mean(np.isinf(trace.lifetime_s))),
        bursts=int(at_once.size),
        largest_burst=int(at_once.max()),
        notes=trace.notes,
    )
