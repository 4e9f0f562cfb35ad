"""Numbers as people and spreadsheets write them: thousands separators, decimal commas, units."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

from ..errors import TraceError
from ..files import show_found

_MIB = {
    **{"b": 2.0**-20, "kb": 2.0**-10, "kib": 2.0**-10, "mb": 1.0, "mib": 1.0, "m": 1.0},
    **{"gb": 2.0**10, "gib": 2.0**10, "g": 2.0**10, "tb": 2.0**20, "tib": 2.0**20, "t": 2.0**20},
}
"""MiB of a unit; virtualization tools write MB and mean 2**20 bytes."""
UNITS: dict[str, dict[str, float]] = {
    "MiB": _MIB,
    "MHz": {"hz": 1e-6, "khz": 1e-3, "mhz": 1.0, "ghz": 1e3},
    "share": {"%": 0.01, "percent": 0.01, "prozent": 0.01},
    "": {},
}
"""By what is meant, the units that it may be written in and what they are worth."""

_NUMBER = re.compile(r"([-+]?[\d.,'’_\s]*\d(?:[eE][-+]?\d+)?)\s*([^\d\s].*)?")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:([.,'’\s_])\d{3})(?:\1\d{3})*")
_UNLIMITED = {"", "-1", "unlimited", "unbegrenzt", "none", "n/a", "-", "inf"}
_YES = {"true", "1", "yes", "wahr", "ja", "on", "x"}
_NO = {"false", "0", "no", "falsch", "nein", "off", ""}


def plain_number(text: str, whole: bool) -> float | None:
    """Read a number without unit; None if it is none.

    Args:
        text: The text.
        whole: Whether a whole number is meant, in which one separator with three digits after it stands for
            thousands.

    Examples:
        >>> plain_number("16.384", whole=True), plain_number("16.384", whole=False)
        (16384.0, 16.384)
        >>> plain_number("1.234,5", whole=False), plain_number("1,234.5", whole=False)
        (1234.5, 1234.5)
    """
    text = text.strip().replace("\u00a0", " ").replace("\u202f", " ")
    grouped = _GROUPED.fullmatch(text)
    if grouped and (whole or grouped[1] not in ".," or text.count(grouped[1]) > 1):
        return float(re.sub(r"[.,'’\s_]", "", text))
    bare = re.sub(r"['’\s_]", "", text)
    comma, dot = bare.rfind(","), bare.rfind(".")
    if comma > dot:
        bare = bare.replace(".", "").replace(",", ".", 1) if bare.count(",") == 1 else bare
    else:
        bare = bare.replace(",", "")
    try:
        value = float(bare)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def quantity(
    where: str, column: str, value: Any, meant: str, *, unit: str = "", whole: bool = False
) -> float | None:
    """Read a quantity.

    Args:
        where: Where it stands, for the message.
        column: Its column.
        value: The cell: a number or text, perhaps with a unit; nothing where there is none.
        meant: Key of ``UNITS``: what it is to be in.
        unit: Unit that the head of the column names, "" = that of ``meant``.
        whole: See ``plain_number``.

    Returns:
        The value; None for an empty cell.

    Raises:
        TraceError: For what is no number, or in a unit that is not known.
    """
    if value is None or isinstance(value, bool) or (isinstance(value, str) and not value.strip()):
        return None
    factor = _factor(where, column, unit, meant) if unit else 1.0
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise TraceError(f"{where}, column {column!r}: expected a number, found {value}")
        return float(value) * factor
    match = _NUMBER.fullmatch(str(value).strip())
    number = None if match is None else plain_number(match[1], whole)
    if match is None or number is None:
        raise TraceError(f"{where}, column {column!r}: expected a number, found {show_found(str(value))}")
    return number * (_factor(where, column, match[2].strip(), meant) if match[2] else factor)


def _factor(where: str, column: str, unit: str, meant: str) -> float:
    known = UNITS[meant]
    if unit.lower() not in known:
        allowed = ", ".join(known) or "none"
        raise TraceError(f"{where}, column {column!r}: unknown unit {show_found(unit)}; allowed: {allowed}")
    return known[unit.lower()]


def limit_of(where: str, column: str, value: Any, meant: str, *, unit: str = "") -> float:
    """Read a limit; nothing, -1 and unlimited mean that there is none: inf."""
    if value is None or str(value).strip().lower() in (*_UNLIMITED, "-1.0"):
        return math.inf
    found = quantity(where, column, value, meant, unit=unit, whole=True)
    return math.inf if found is None or found < 0 else found


def truth(where: str, column: str, value: Any) -> bool:
    """Read yes or no.

    Raises:
        TraceError: For anything else.
    """
    text = "" if value is None else str(value).strip().lower().removesuffix(".0")
    if text not in _YES | _NO:
        raise TraceError(f"{where}, column {column!r}: expected yes or no, found {show_found(text)}")
    return text in _YES


_DAYS_FIRST = (
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
)


def seconds(where: str, column: str, value: Any) -> float:
    """Read a time: seconds (of any origin), or date and time as ISO 8601, German or American.

    Raises:
        TraceError: For anything else.
    """
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    text = str(value).strip()
    try:
        number = float(text)
        if math.isfinite(number):
            return number
    except ValueError:
        pass
    for form in (None, *_DAYS_FIRST):
        try:
            time = datetime.fromisoformat(text) if form is None else datetime.strptime(text, form)
            return time.replace(tzinfo=time.tzinfo or UTC).timestamp()
        except ValueError:
            continue
    raise TraceError(f"{where}, column {column!r}: expected a time, found {show_found(text)}")
