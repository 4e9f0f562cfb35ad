"""From readings at any time to the even samples of a `Trace`: time-weighted means, gaps, over-capacity rows.

Published traces hold intervals: a value and the time during which it held, VM by VM, on no common grid. The
sample k of VM v is the mean over the covered part of its cell ``[k, k + 1) * sample_s``:

    x[k, v] = sum_i o_i x_i / sum_i o_i,   o_i = overlap of interval i with the cell, in cells

so that the work of a VM, the integral of its demand, is conserved over every fully covered stretch, and
values that lie on the grid already are kept bit for bit. What the source does not say is never made up in
silence: cells of a living VM that are covered by less than half are gaps, and gaps are an error unless the
caller allows a repair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..sim.errors import TraceError
from .base import LONGEST_S, Trace, check_cells, check_moments

__all__ = [
    "FILLS",
    "OVERS",
    "Readings",
    "Vms",
    "build_trace",
    "check_choice",
    "check_positive",
    "count_vcpus",
    "hold_until_next",
    "tell_times",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FILLS = (None, "previous", "zero")
"""What may be put into a gap: nothing (an error), the sample before it (0 before the first), or 0.

In a cell that is covered in part, ``previous`` keeps the mean of that part, ``zero`` counts the rest as 0.
"""
OVERS = ("keep", "clip", "error")
"""What becomes of a row above its VM's capacity: kept, cut to 1, or an error."""

_MAX_CORES = 65_536
_CHUNK = 4_000_000
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Readings:
    """Rows of a source: what held for which VM from when to when.

    Attributes:
        source: Path, for messages.
        format: Name of the format, for messages.
        vm: VM of each row, shape (N,), an index into ``names``.
        start_s: Start of each interval, s, shape (N,); the trace starts at 0.
        end_s: End of each interval, s, shape (N,), after its start.
        util: CPU, fraction of the VM's nominal CPU, shape (N,); NaN where the source has no value.
        names: One name per VM.
        where: Names file and line of a row, for messages.
        signals: Further columns by name, shape (N,); NaN where the source has no value.
    """

    source: str
    format: str
    vm: Ints
    start_s: Floats
    end_s: Floats
    util: Floats
    names: Sequence[str]
    where: Callable[[int], str]
    signals: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class Vms:
    """Lives and sizes of the VMs, shape (V,) each; None = not known.

    Attributes:
        arrival_s: Arrival, s; by default the start of the first reading.
        departure_s: Departure, s; by default the end of the last reading.
        vcpus: Virtual CPUs.
        cpu_mhz: Nominal CPU, MHz.
        memory_mib: Memory, MiB.
    """

    arrival_s: Floats | None = None
    departure_s: Floats | None = None
    vcpus: NDArray[np.int32] | None = None
    cpu_mhz: Floats | None = None
    memory_mib: Floats | None = None


def check_positive(format: str, **options: float | None) -> None:
    """Raise a `TraceError` unless every option that is given is positive and finite."""
    for key, value in options.items():
        if value is not None and not 0 < value <= LONGEST_S:
            raise TraceError(
                f"{format}: {key} must be positive, is {value}; at most {LONGEST_S:g} is allowed"
            )


def count_vcpus(source: str, cores: Floats) -> NDArray[np.int32]:
    """Return virtual CPUs, at least 1, from cores that may be a fraction, shape (V,).

    Raises:
        TraceError: If a VM has more cores than any machine.
    """
    if not cores.max() <= _MAX_CORES:
        raise TraceError(f"{source}: a VM has {cores.max():g} cores; at most {_MAX_CORES} are allowed")
    vcpus: NDArray[np.int32] = np.maximum(np.ceil(cores - 1e-9), 1).astype(np.int32)
    return vcpus


def check_choice(format: str, key: str, value: object, allowed: Sequence[object]) -> None:
    """Raise a `TraceError` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        listed = ", ".join("none" if choice is None else str(choice) for choice in allowed)
        raise TraceError(f"{format}: {key} must be one of {listed}; is {value!r}")


def hold_until_next(
    vm: Ints, time_s: Floats, sample_s: float, longest_s: float = math.inf
) -> tuple[Floats, float]:
    """Say until when each reading holds: until the next one of its VM, unless that is a gap away.

    The period of the readings is the median distance between two of one VM. A reading holds until the next
    if that comes within 1.5 periods or one sample, whichever is longer; else, and after the last, for one
    period.

    Args:
        vm: VM of each reading, shape (N,).
        time_s: Time of each reading, s, shape (N,), in any order.
        sample_s: Sampling period of the trace to be, s.
        longest_s: Period that the source documents, s; the readings' own is not taken for longer.

    Returns:
        The ends, s, shape (N,), and the period of the readings, s.
    """
    order = np.lexsort((time_s, vm))
    step = np.diff(time_s[order])
    same = np.diff(vm[order]) == 0
    forward = step[same & (step > 0)]
    period = min(float(np.median(forward)) if forward.size else sample_s, longest_s)
    limit = max(1.5 * period, sample_s)
    hold = np.full(vm.shape, period)
    holds = same & (step <= limit)
    hold[:-1][holds] = step[holds]
    # Two readings of one time: the first holds for nothing, `build_trace` leaves it out.
    ends = np.empty(vm.shape)
    ends[order] = time_s[order] + hold
    return ends, period


def build_trace(
    readings: Readings,
    vms: Vms,
    *,
    name: str,
    sample_s: float,
    fill: str | None,
    over: str,
    notes: Sequence[str] = (),
) -> Trace:
    """Lay readings on the grid and make a trace of them.

    Args:
        readings: The rows.
        vms: Lives and sizes of the VMs. A VM that is there at the end of the trace never leaves.
        name: Name of the trace.
        sample_s: Sampling period, s.
        fill: One of `FILLS`.
        over: One of `OVERS`.
        notes: What the reader has to say already.

    Returns:
        The trace, with notes on over-capacity rows, overlaps, gaps and repairs.

    Raises:
        TraceError: If an option is not allowed, or gaps or over-capacity rows are not.
    """
    check_choice(readings.format, "fill", fill, FILLS)
    check_choice(readings.format, "over", over, OVERS)
    check_positive(readings.format, sample_s=sample_s)
    said = list(notes)
    util = _check_capacity(readings, over, said)
    first, last = _span_of(readings, np.isfinite(util))
    arrival_s = first if vms.arrival_s is None else vms.arrival_s
    departure_s = last if vms.departure_s is None else vms.departure_s
    samples = _count_samples(readings, sample_s)
    _tell_overlaps(readings, np.isfinite(util), said)
    gaps = _Gaps(readings, fill, sample_s, _life_of_cells(arrival_s, departure_s, samples, sample_s))
    matrices = {
        key: gaps.close(key, *_average(readings, values, samples, sample_s))
        for key, values in {"": util, **readings.signals}.items()
    }
    gaps.tell(said)
    return Trace(
        name=name,
        format=readings.format,
        source=readings.source,
        sample_s=float(sample_s),
        util=matrices.pop(""),
        vm_names=tuple(readings.names),
        arrival_s=arrival_s,
        departure_s=np.where(departure_s >= samples * sample_s * (1 - _ROUNDING), np.inf, departure_s),
        vcpus=vms.vcpus,
        cpu_mhz=vms.cpu_mhz,
        memory_mib=vms.memory_mib,
        signals=matrices,
        notes=tuple(said),
    )


def _count_samples(readings: Readings, sample_s: float) -> int:
    samples = float(readings.end_s.max()) / sample_s - 1e-6
    advice = "choose a longer sample_s, fewer VMs or a shorter time"
    check_cells(readings.source, samples, len(readings.names), readings.vm.size, sample_s, advice)
    return max(math.ceil(samples), 1)


def tell_times(start_ms: float) -> str:
    """Return the note that says which moment is time 0, from ms since 1970 (UTC)."""
    check_moments("time 0", np.array(start_ms))
    moment = np.datetime64(round(start_ms), "ms")
    return f"time 0 is {np.datetime_as_string(moment, unit='s')}Z"


def _check_capacity(readings: Readings, over: str, notes: list[str]) -> Floats:
    high = readings.util > 1 + _ROUNDING
    count = int(np.count_nonzero(high))
    if count == 0:
        return np.minimum(readings.util, 1.0)  # 1 + a rounding is 1
    row = int(np.argmax(high))
    most = float(np.nanmax(readings.util))
    if over == "error":
        raise TraceError(
            f"{readings.where(row)}: vm {readings.names[readings.vm[row]]!r} uses {readings.util[row]:.6g} "
            f"times its CPU, as {count} rows do; allow that with the option over=keep or over=clip"
        )
    rows = readings.util.size
    what = "kept" if over == "keep" else "cut to the capacity (over=clip)"
    notes.append(
        f"over capacity: {count} of {rows} rows ({100 * count / rows:.2g} %), up to {most:.4g} times; {what}"
    )
    return readings.util if over == "keep" else np.minimum(readings.util, 1.0)


def _span_of(readings: Readings, known: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    vms = len(readings.names)
    first = np.full(vms, np.inf)
    last = np.full(vms, -np.inf)
    np.minimum.at(first, readings.vm[known], readings.start_s[known])
    np.maximum.at(last, readings.vm[known], readings.end_s[known])
    silent = np.flatnonzero(~np.isfinite(first))
    if silent.size:
        row = int(np.argmax(readings.vm == silent[0]))
        raise TraceError(f"{readings.where(row)}: vm {readings.names[silent[0]]!r} has no CPU reading at all")
    return first, last


def _tell_overlaps(readings: Readings, known: NDArray[np.bool_], notes: list[str]) -> None:
    rows = np.flatnonzero(known)
    order = rows[np.lexsort((readings.start_s[rows], readings.vm[rows]))]
    late = readings.start_s[order][1:] < readings.end_s[order][:-1] * (1 - 1e-12) - 1e-6
    overlaps = int(np.count_nonzero(late & (np.diff(readings.vm[order]) == 0)))
    if overlaps:
        notes.append(
            f"overlaps: {overlaps} rows begin before the last of their VM ends; the mean holds there"
        )


def _life_of_cells(
    arrival_s: Floats, departure_s: Floats, samples: int, sample_s: float
) -> NDArray[np.float32]:
    """Return which part of each cell its VM lives, 0 to 1, shape (S, V)."""
    starts = np.arange(samples)[:, None] * 1.0
    life = np.minimum(starts + 1, departure_s / sample_s) - np.maximum(starts, arrival_s / sample_s)
    lived: NDArray[np.float32] = np.maximum(life, 0.0).astype(np.float32)
    return lived


def _average(
    readings: Readings, values: Floats, samples: int, sample_s: float
) -> tuple[Floats, NDArray[np.float32]]:
    """Return the mean of each covered cell (0 elsewhere) and the covered part of each cell, shapes (S, V)."""
    vms = len(readings.names)
    rows = np.flatnonzero(np.isfinite(values) & (readings.end_s > readings.start_s))
    total = np.zeros(samples * vms)
    cover = np.zeros(samples * vms)
    starts, ends = readings.start_s / sample_s, readings.end_s / sample_s
    first = np.floor(starts[rows] + _ROUNDING).astype(np.int64)
    cells = np.maximum(np.ceil(ends[rows] - _ROUNDING).astype(np.int64), first + 1) - first
    edges = np.searchsorted(np.cumsum(cells), np.arange(0, int(cells.sum()) + _CHUNK, _CHUNK), side="left")
    for low, high in zip(edges[:-1], np.append(edges[1:-1], rows.size)):
        count = cells[low:high]
        row = np.repeat(rows[low:high], count)
        offset = np.arange(row.size) - np.repeat(np.cumsum(count) - count, count)
        cell = np.repeat(first[low:high], count) + offset
        part = np.minimum(ends[row], cell + 1.0) - np.maximum(starts[row], cell)
        part = np.where(part > 1 - _ROUNDING, 1.0, np.maximum(part, 0.0))
        flat = np.minimum(cell, samples - 1) * vms + readings.vm[row]
        np.add.at(total, flat, part * values[row])
        np.add.at(cover, flat, part)
    np.divide(total, cover, out=total, where=cover > 0)
    if rows.size:
        np.minimum(total, values[rows].max(), out=total)  # a mean may exceed its terms by a rounding
    return total.reshape(samples, vms), cover.astype(np.float32).reshape(samples, vms)


class _Gaps:
    """Finds and closes the cells of living VMs about which the source says too little."""

    def __init__(
        self, readings: Readings, fill: str | None, sample_s: float, life: NDArray[np.float32]
    ) -> None:
        self._readings = readings
        self._fill = fill
        self._sample_s = sample_s
        self._life = life
        self._said: list[str] = []

    def close(self, key: str, matrix: Floats, cover: NDArray[np.float32]) -> Floats:
        """Fill the gaps of one matrix in place, or raise; key "" is the CPU."""
        alive = self._life > 1e-6
        gaps = alive & (cover < 0.5 * self._life - 1e-6)
        count = int(np.count_nonzero(gaps))
        if count == 0:
            return matrix
        what = self._describe(key, gaps, count)
        if self._fill is None:
            vm = int(np.argmax(gaps.any(axis=0)))
            time = int(np.argmax(gaps[:, vm])) * self._sample_s
            who = f"{self._readings.source}: vm {self._readings.names[vm]!r}"
            raise TraceError(
                f"{who} has no reading for time_s={time:g}; {what}; "
                "allow a repair with the option fill=previous or fill=zero"
            )
        if self._fill == "zero":  # what is known of a cell counts for as long as it held
            matrix[gaps] *= cover[gaps] / self._life[gaps]
        else:
            source = np.where(~gaps & (cover > 0), np.arange(len(matrix), dtype=np.int32)[:, None], -1)
            np.maximum.accumulate(source, axis=0, out=source)
            step, vms = np.nonzero(gaps & (cover == 0) & (source >= 0))
            matrix[step, vms] = matrix[source[step, vms], vms]
        self._said.append(f"{what}; filled (fill={self._fill})")
        return matrix

    def tell(self, notes: list[str]) -> None:
        """Append what was found and repaired."""
        notes.extend(self._said or ["gaps: none"])

    def _describe(self, key: str, gaps: NDArray[np.bool_], count: int) -> str:
        step = np.arange(len(gaps), dtype=np.int32)[:, None]
        covered = np.maximum.accumulate(np.where(gaps, np.int32(-1), step), axis=0)
        longest = int((step - covered).max())
        label = f"gaps in {key}" if key else "gaps"
        alive = int(np.count_nonzero(self._life > 1e-6))
        hours = longest * self._sample_s / 3600
        vms = int(np.count_nonzero(gaps.any(axis=0)))
        return (
            f"{label}: {count} of {alive} samples ({100 * count / alive:.2g} %) of {vms} VMs, "
            f"the longest {hours:.3g} h"
        )
