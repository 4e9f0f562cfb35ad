"""One policy for the defects of data: what every reader does with them, and what its notes say.

- A reading that is blank, NaN, infinite, beyond `base.LARGEST`, below 0 or marked as invalid by its source is
  missing, not a number.
- A time for which a living VM, or a series, has no reading is a gap: an error, unless ``fill`` says what to
  put there.
- A row that names no VM or no time belongs to nobody and is left out.
- A row that repeats another counts once; of two that disagree on one VM and time, the last counts.
- A reading above its VM's capacity is treated as ``over`` says.
- A VM that leaves when it arrives, or has no reading at all, does nothing and is left out.
- Times that cannot be in the unit of their format are refused.

All of it is counted in the notes of the trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..arrays import B1, F8
from ..errors import TraceError
from .base import LARGEST

FILLS = (None, "previous", "zero")
"""What may be put into a gap: nothing (an error), the sample before it (0 before the first), or 0.

In a cell that is covered in part, ``previous`` keeps the mean of that part, ``zero`` counts the rest as 0.
"""
OVERS = ("keep", "clip", "error")
"""What becomes of a row above its VM's capacity: kept, cut to 1, or an error."""
MISSING = (
    "",
    "nan",
    "NaN",
    "-nan",
    "-NaN",
    "NAN",
    "null",
    "NULL",
    "none",
    "None",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
)
"""What tools write into a cell that has no value."""

_ROUNDING = 1e-9
_UNITS = (("seconds", 1.0, 1e11), ("ms", 1e-3, 1e14), ("µs", 1e-6, 1e17), ("ns", 1e-9, math.inf))
_SINCE_1973 = 1e8
_DECADE_S = 3.2e8


class Repairs:
    """What a reader may repair, as the user said, and what it did."""

    def __init__(self, format: str, fill: str | None, over: str = "keep") -> None:
        """Check the options.

        Args:
            format: Name of the format, for messages.
            fill: One of `FILLS`.
            over: One of `OVERS`.

        Raises:
            TraceError: If an option is not allowed.
        """
        check_choice(format, "fill", fill, FILLS)
        check_choice(format, "over", over, OVERS)
        self.format = format
        self.fill = fill
        self.over = over
        self.notes: list[str] = []
        self._missing: list[str] = []

    def leave_out(self, count: int, what: str) -> None:
        """Note what is left out, if anything is."""
        if count:
            self.notes.append(f"{count} {what}, and are left out")

    def leave_out_nobodys(self, count: int) -> None:
        """Note the rows that belong to nobody."""
        self.leave_out(count, "rows name no VM or no time")

    def clean(self, key: str, values: F8, invalid: Sequence[float] = (), signed: bool = False) -> F8:
        """Return readings with NaN for those that are none, and note how many these are.

        Args:
            key: Name of the column.
            values: The readings.
            invalid: Numbers that stand for no value in the source.
            signed: Whether a reading may be below 0.
        """
        bad = (np.abs(values) > LARGEST) | np.isin(values, invalid)
        if not signed:
            bad |= values < 0
        count, blank = int(np.count_nonzero(bad)), int(np.count_nonzero(np.isnan(values)))
        if count or blank:
            said = f"{key}: {blank} blank and {count} invalid values count as missing"
            self.notes.append(said)
            self._missing.append(said)
        return np.where(bad, np.nan, values) if count else values

    def refuse_gap(self, what: str) -> TraceError:
        """Return the error for a gap that may not be filled; it tells of missing readings, too."""
        said = "; ".join([what, *self._missing[:2]])
        return TraceError(f"{said}; allow a repair with the option fill=previous or fill=zero")

    def count_repeats(self, copies: int, corrected: int) -> None:
        """Note rows of one VM and time: the copies, and those which a later row corrects."""
        if copies:
            self.notes.append(f"{copies} rows repeat another row, and count once")
        if corrected:
            self.notes.append(f"{corrected} rows are followed by another for the same time, which counts")

    def cap(self, util: F8, name_row: Callable[[int], str]) -> F8:
        """Treat readings above the capacity, which is 1; NaN stays.

        Args:
            util: CPU of each row, fraction of nominal CPU.
            name_row: Names file, line and VM of a row.

        Raises:
            TraceError: If there are some and ``over`` is ``error``.
        """
        high = util > 1 + _ROUNDING
        count = int(np.count_nonzero(high))
        if count == 0:
            return np.minimum(util, 1.0)  # 1 + a rounding is 1
        if self.over == "error":
            row = int(np.argmax(high))
            raise TraceError(
                f"{name_row(row)} uses {util[row]:.6g} times its CPU, as {count} rows do; "
                "allow that with the option over=keep or over=clip"
            )
        what = "kept" if self.over == "keep" else "cut to the capacity (over=clip)"
        self.notes.append(
            f"over capacity: {count} of {util.size} rows ({100 * count / util.size:.2g} %), "
            f"up to {float(np.nanmax(util)):.4g} times; {what}"
        )
        return util if self.over == "keep" else np.minimum(util, 1.0)

    def check_lives(self, arrival_s: F8, departure_s: F8, what: str = "VMs") -> B1:
        """Return which VMs live for any time, shape (V,), and note those that do not."""
        lives: B1 = departure_s > arrival_s
        self.leave_out(int(np.count_nonzero(~lives)), f"{what} end when they begin")
        return lives

    def check_times(
        self, start_s: F8, end_s: F8, where: Callable[[int], str], shortest_s: float = 0.01
    ) -> None:
        """Refuse readings whose times cannot be meant: decades with hardly a reading, or all too short.

        Args:
            start_s: Start of each reading, s, shape (N,).
            end_s: Its end, s.
            where: Names file and line of a reading.
            shortest_s: What readings last at least in the median, s.

        Raises:
            TraceError: Naming the first and the last reading.
        """
        lasts = end_s - start_s
        span = float(end_s.max() - start_s.min())
        first, last = int(np.argmin(start_s)), int(np.argmax(end_s))
        covered = float(np.maximum(lasts, 0).sum()) / max(span, 1e-300)
        unit = f"is the unit of time right, and the same in all files of a {self.format} trace?"
        if (span > _DECADE_S and covered < 0.01) or not span <= LARGEST:
            raise TraceError(
                f"{where(first)}: the trace would span {span / 31_557_600:,.0f} years from here to "
                f"{where(last)}, and {100 * covered:.2g} % of that has a reading; {unit}"
            )
        held = lasts[lasts > 0]
        if held.size and float(np.median(held)) < shortest_s:
            raise TraceError(
                f"{where(first)}: a reading would last {float(np.median(held)):.2g} s in the median; {unit}"
            )


def carry_forward(matrix: F8, known: B1, gaps: B1) -> None:
    """Put the last known sample into each gap, in place; a gap before the first one stays.

    Args:
        matrix: Samples, shape (S, V).
        known: Which samples are known, shape (S, V).
        gaps: Which to fill, shape (S, V).
    """
    source = np.where(known, np.arange(len(matrix), dtype=np.int32)[:, None], -1)
    np.maximum.accumulate(source, axis=0, out=source)
    step, vm = np.nonzero(gaps & (source >= 0))
    matrix[step, vm] = matrix[source[step, vm], vm]


def check_choice(format: str, key: str, value: object, allowed: Sequence[object]) -> None:
    """Raise a `TraceError` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        listed = ", ".join("none" if choice is None else str(choice) for choice in allowed)
        raise TraceError(f"{format}: {key} must be one of {listed}; is {value!r}")


def find_unit(stamps: F8, period_s: float) -> tuple[str, float]:
    """Tell the unit of one file's timestamps, and how many seconds it has.

    Times since 1970 tell it by their size: 1376314846 is a day of 2013 in seconds, 1376314846000 in ms. Times
    since the start of the trace tell it by their distance.

    Args:
        stamps: Timestamps, shape (N,); at least one is a number.
        period_s: Period that the source documents, s.
    """
    known = stamps[np.isfinite(stamps)]
    least = float(known.min())
    if least >= _SINCE_1973:
        return next((name, factor) for name, factor, limit in _UNITS if least < limit)
    steps = np.diff(np.unique(known))
    if steps.size == 0:
        return _UNITS[0][:2]
    step = float(np.median(steps))
    name, factor, _ = min(_UNITS, key=lambda unit: abs(math.log(step * unit[1] / period_s)))
    return name, factor
