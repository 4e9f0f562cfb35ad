"""What every trace reader returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError

LARGEST = 1e18
"""Largest number that is taken from a file, in whatever unit: what is more has no meaning, and overflows."""
SHORTEST_S, LONGEST_S = 1e-3, 1e11
"""Shortest period and longest time, s: a millisecond and three thousand years."""
# A wrong unit of time would otherwise ask for all the memory there is: cells of a trace, in all, for each
# reading, and for the few readings of a small one.
_MOST_CELLS = 200_000_000
_MOST_CELLS_PER_ROW = 1000
_FEW_CELLS = 4_000_000
_MOMENTS_MS = (-62_135_596_800_000.0, 253_402_300_799_000.0)


def check_cells(source: str, samples: float, vms: int, rows: int, sample_s: float, advice: str) -> None:
    """Raise a `TraceError` before a matrix of samples x VMs is made that nobody could mean.

    Args:
        source: For the message.
        samples: Number of samples; may be infinite.
        vms: Number of VMs.
        rows: Number of readings that shall fill the cells.
        sample_s: Sampling period, s.
        advice: What the user may do.
    """
    most = min(_MOST_CELLS, max(_FEW_CELLS, _MOST_CELLS_PER_ROW * rows))
    if not samples * vms <= most or not samples * sample_s <= LONGEST_S:
        raise TraceError(
            f"{source}: {samples:.4g} samples of {sample_s:g} s of {vms:,} VMs are too many for "
            f"{rows:,} rows (at most {most:,}, and {LONGEST_S:g} s); {advice}"
        )


def check_moments(source: str, moments_ms: NDArray[np.generic]) -> None:
    """Raise a `TraceError` for moments, ms since 1970, outside of the years 1 to 9999."""
    low, high = float(moments_ms.min()), float(moments_ms.max())
    if not (_MOMENTS_MS[0] <= low and high <= _MOMENTS_MS[1]):
        worst = high if high > _MOMENTS_MS[1] else low
        raise TraceError(f"{source}: {worst:g} ms since 1970 is no moment of the years 1 to 9999")


@dataclass(frozen=True)
class Trace:
    """A utilisation trace as read from its source, before a scenario gives it VM types and a cluster.

    Attributes:
        name: Short name for result rows (the day or file name).
        format: The reader that made it (``planetlab``, ``synthetic``, ``table``, ...).
        source: Path or description of where it came from.
        sample_s: Sampling period, s; sample ``k`` holds during ``[k, k + 1) * sample_s``.
        util: CPU utilisation, shape (S, V), time-major, float64, fraction of the VM's nominal CPU.
        vm_names: One name per VM, in the order of the columns of ``util``.
        vcpus: Virtual CPUs, shape (V,), int32; None where the trace does not say.
        cpu_mhz: Nominal CPU capacity, MHz, shape (V,); None where the trace does not say.
        memory_mib: Configured memory, MiB, shape (V,); None where the trace does not say.
        arrival_s: Arrival time, s, shape (V,).
        departure_s: Departure time, s, shape (V,); inf = never.
        vm_class: Service class, index into ``cost.VM_CLASSES``, shape (V,), int8, -1 where a VM has none;
            None where the trace does not say.
        signals: Optional further (S, V) matrices by name (memory activity, dirty rate, I/O rates).
        notes: What the reader found or repaired, one sentence each.
    """

    name: str
    format: str
    source: str
    sample_s: float
    util: NDArray[np.float64]
    vm_names: tuple[str, ...]
    arrival_s: NDArray[np.float64]
    departure_s: NDArray[np.float64]
    vcpus: NDArray[np.int32] | None = None
    cpu_mhz: NDArray[np.float64] | None = None
    memory_mib: NDArray[np.float64] | None = None
    vm_class: NDArray[np.int8] | None = None
    signals: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes and ranges, so that no later layer has to.

        Raises:
            TraceError: If a shape does not agree, or a value is not finite or negative.
        """
        samples, vms = self.util.shape
        if samples == 0 or vms == 0:
            raise TraceError(f"{self.source}: the trace is empty ({samples} samples, {vms} VMs)")
        if not SHORTEST_S <= self.sample_s <= LONGEST_S:
            allowed = f"from {SHORTEST_S:g} to {LONGEST_S:g} s"
            raise TraceError(f"{self.source}: sample_s must be {allowed}, is {self.sample_s}")
        if len(self.vm_names) != vms:
            raise TraceError(f"{self.source}: {len(self.vm_names)} VM names for {vms} columns")
        for key, matrix in {"utilisation": self.util, **self.signals}.items():
            low, high = float(matrix.min()), float(matrix.max())  # NaN if any value is
            if not (low >= -LARGEST and high <= LARGEST):
                raise TraceError(f"{self.source}: {key} must be finite, at most {LARGEST:g}")
        if float(self.util.min()) < 0:
            raise TraceError(f"{self.source}: utilisation must be at least 0")
        for key in ("arrival_s", "departure_s", "vcpus", "cpu_mhz", "memory_mib", "vm_class"):
            column = getattr(self, key)
            if column is not None and column.shape != (vms,):
                raise TraceError(f"{self.source}: {key} has shape {column.shape}, expected ({vms},)")
        for key in ("vcpus", "cpu_mhz", "memory_mib"):
            column = getattr(self, key)
            if column is not None and not (float(column.max()) <= LARGEST and float(column.min()) > 0):
                raise TraceError(f"{self.source}: {key} must be finite and positive")
        if not (np.isfinite(self.arrival_s).all() and bool((self.departure_s > self.arrival_s).all())):
            raise TraceError(f"{self.source}: every departure must come after its (finite) arrival")

    @property
    def n_vms(self) -> int:
        """Number of VMs."""
        return int(self.util.shape[1])

    @property
    def n_samples(self) -> int:
        """Number of samples of each VM."""
        return int(self.util.shape[0])

    @property
    def span_s(self) -> float:
        """Length of the trace, s."""
        return self.n_samples * self.sample_s
