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
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from ..arrays import F8, I8
from ..errors import TraceError
from .base import LONGEST_S, Trace, check_cells, check_moments
from .repairs import Repairs, carry_forward

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
    vm: I8
    start_s: F8
    end_s: F8
    util: F8
    names: Sequence[str]
    where: Callable[[int], str]
    signals: Mapping[str, F8] = field(default_factory=dict)


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

    arrival_s: F8 | None = None
    departure_s: F8 | None = None
    vcpus: NDArray[np.int32] | None = None
    cpu_mhz: F8 | None = None
    memory_mib: F8 | None = None


def check_positive(format: str, **options: float | None) -> None:
    """Raise a `TraceError` unless every option that is given is positive and finite."""
    for key, value in options.items():
        if value is not None and not 0 < value <= LONGEST_S:
            raise TraceError(
                f"{format}: {key} must be positive, is {value}; at most {LONGEST_S:g} is allowed"
            )


def count_vcpus(source: str, cores: F8) -> NDArray[np.int32]:
    """Return virtual CPUs, at least 1, from cores that may be a fraction, shape (V,).

    Raises:
        TraceError: If a VM has more cores than any machine.
    """
    if not cores.max() <= _MAX_CORES:
        raise TraceError(f"{source}: a VM has {cores.max():g} cores; at most {_MAX_CORES} are allowed")
    vcpus: NDArray[np.int32] = np.maximum(np.ceil(cores - 1e-9), 1).astype(np.int32)
    return vcpus


def hold_until_next(vm: I8, time_s: F8, sample_s: float, longest_s: float = math.inf) -> tuple[F8, float]:
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
    repairs: Repairs,
    keep: NDArray[np.bool_] | None = None,
) -> Trace:
    """Lay readings on the grid and make a trace of them.

    Args:
        readings: The rows.
        vms: Lives and sizes of the VMs. A VM that is there at the end of the trace never leaves.
        name: Name of the trace.
        sample_s: Sampling period, s.
        repairs: What may be repaired, and what the reader has to say already.
        keep: VMs that are part of the trace, shape (V,); None = all. Of these, the ones that have no CPU
            reading, or leave when they arrive, are left out.

    Returns:
        The trace, with notes on over-capacity rows, repeated rows, overlaps, gaps and repairs.

    Raises:
        TraceError: If an option is not allowed, or gaps, times or over-capacity rows are not.
    """
    check_positive(readings.format, sample_s=sample_s)
    readings, vms = _choose_vms(readings, vms, keep, repairs)
    repairs.check_times(readings.start_s, readings.end_s, readings.where)
    readings = _drop_copies(readings, repairs)
    util = repairs.cap(
        readings.util, lambda row: f"{readings.where(row)}: vm {readings.names[readings.vm[row]]!r}"
    )
    known = np.isfinite(util)
    first, last = _span_of(readings)
    arrival_s = first if vms.arrival_s is None else vms.arrival_s
    departure_s = last if vms.departure_s is None else vms.departure_s
    samples = _count_samples(readings, sample_s)
    _tell_overlaps(readings, known, repairs.notes)
    gaps = _Gaps(readings, repairs, sample_s, _life_of_cells(arrival_s, departure_s, samples, sample_s))
    matrices = {
        key: gaps.close(key, values, *_average(readings, values, samples, sample_s))
        for key, values in {"": util, **readings.signals}.items()
    }
    gaps.tell()
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
        notes=tuple(repairs.notes),
    )


def _choose_vms(
    readings: Readings, vms: Vms, keep: NDArray[np.bool_] | None, repairs: Repairs
) -> tuple[Readings, Vms]:
    """Leave out the VMs that are not to be kept, and those that do nothing; the others keep their order."""
    keep = np.ones(len(readings.names), dtype=bool) if keep is None else keep
    heard = np.bincount(readings.vm[np.isfinite(readings.util)], minlength=keep.size) > 0
    silent = keep & ~heard
    repairs.leave_out(int(np.count_nonzero(silent)), "VMs have no CPU reading at all")
    keep = keep & heard
    first, last = _span_of(readings)
    arrival_s = first if vms.arrival_s is None else vms.arrival_s
    departure_s = last if vms.departure_s is None else vms.departure_s
    lives = np.ones(keep.size, dtype=bool)
    lives[keep] = repairs.check_lives(arrival_s[keep], departure_s[keep])
    keep = keep & lives
    if keep.all():
        return readings, vms
    if not keep.any():
        raise TraceError(f"{readings.source}: no VM is left ({'; '.join(repairs.notes)})")
    chosen = np.flatnonzero(keep[readings.vm])
    code = np.cumsum(keep) - 1
    sizes = {item.name: getattr(vms, item.name) for item in fields(vms)}
    return replace(
        readings,
        vm=code[readings.vm[chosen]],
        start_s=readings.start_s[chosen],
        end_s=readings.end_s[chosen],
        util=readings.util[chosen],
        names=[name for name, kept in zip(readings.names, keep) if kept],
        where=lambda row: readings.where(int(chosen[row])),
        signals={key: values[chosen] for key, values in readings.signals.items()},
    ), Vms(**{key: None if values is None else values[keep] for key, values in sizes.items()})


def _drop_copies(readings: Readings, repairs: Repairs) -> Readings:
    """Let a row that repeats another hold for no time; note them, and those that a later one corrects."""
    order = np.lexsort((readings.start_s, readings.vm))
    one, two = order[:-1], order[1:]
    again = (readings.vm[one] == readings.vm[two]) & (readings.start_s[one] == readings.start_s[two])
    if not again.any():
        return readings
    one, two = one[again], two[again]
    equal = np.ones(one.size, dtype=bool)
    for values in (readings.util, *readings.signals.values()):
        equal &= (values[one] == values[two]) | (np.isnan(values[one]) & np.isnan(values[two]))
    replaced = readings.end_s[one] <= readings.start_s[one]
    copies = equal & (replaced | (readings.end_s[one] == readings.end_s[two]))
    repairs.count_repeats(int(np.count_nonzero(copies)), int(np.count_nonzero(replaced & ~copies)))
    end_s = readings.end_s.copy()
    end_s[one[copies]] = readings.start_s[one[copies]]
    return replace(readings, end_s=end_s)


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


def _span_of(readings: Readings) -> tuple[F8, F8]:
    """Return when each VM's first row starts and its last one ends, with a value or not, s, shape (V,)."""
    vms = len(readings.names)
    first = np.full(vms, np.inf)
    last = np.full(vms, -np.inf)
    np.minimum.at(first, readings.vm, readings.start_s)
    np.maximum.at(last, readings.vm, readings.end_s)
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


def _life_of_cells(arrival_s: F8, departure_s: F8, samples: int, sample_s: float) -> NDArray[np.float32]:
    """Return which part of each cell its VM lives, 0 to 1, shape (S, V)."""
    starts = np.arange(samples)[:, None] * 1.0
    life = np.minimum(starts + 1, departure_s / sample_s) - np.maximum(starts, arrival_s / sample_s)
    lived: NDArray[np.float32] = np.maximum(life, 0.0).astype(np.float32)
    return lived


def _average(readings: Readings, values: F8, samples: int, sample_s: float) -> tuple[F8, NDArray[np.float32]]:
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
        self, readings: Readings, repairs: Repairs, sample_s: float, life: NDArray[np.float32]
    ) -> None:
        self._readings = readings
        self._repairs = repairs
        self._sample_s = sample_s
        self._life = life
        self._said: list[str] = []

    def close(self, key: str, values: F8, matrix: F8, cover: NDArray[np.float32]) -> F8:
        """Fill the gaps of the matrix that rows make in place, or raise; key "" is the CPU."""
        alive = self._life > 1e-6
        gaps = alive & (cover < 0.5 * self._life - 1e-6)
        count = int(np.count_nonzero(gaps))
        if count == 0:
            return matrix
        what = self._describe(key, gaps, count)
        fill = self._repairs.fill
        if fill is None:
            vm = int(np.argmax(gaps.any(axis=0)))
            raise self._repairs.refuse_gap(
                f"{self._name_gap(key, values, vm, int(np.argmax(gaps[:, vm])))}; {what}"
            )
        if fill == "zero":  # what is known of a cell counts for as long as it held
            matrix[gaps] *= cover[gaps] / self._life[gaps]
        else:
            carry_forward(matrix, ~gaps & (cover > 0), gaps & (cover == 0))
        self._said.append(f"{what}; filled (fill={fill})")
        return matrix

    def _name_gap(self, key: str, values: F8, vm: int, cell: int) -> str:
        """Name a gap, and its first row if the source has one, but without a value."""
        r, start = self._readings, cell * self._sample_s
        empty = (r.vm == vm) & np.isnan(values) & (r.start_s < start + self._sample_s) & (r.end_s > start)
        where = r.where(int(np.argmax(empty))) if empty.any() else r.source
        return f"{where}: vm {r.names[vm]!r} has no reading{key and f' of {key}'} for time_s={start:g}"

    def tell(self) -> None:
        """Note what was found and repaired."""
        self._repairs.notes.extend(self._said or ["gaps: none"])

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
