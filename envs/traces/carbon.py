"""Reader of carbon-intensity series: Parquet with ``timestamp`` and ``carbon_intensity`` (gCO2eq/kWh)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..files import names_its_file, read_bytes, read_parquet, show_path
from ..sim.carbon import CarbonSeries
from ..sim.errors import TraceError
from .base import check_moments

__all__ = ["read_carbon"]

_COLUMNS = ("timestamp", "carbon_intensity")
_MOST_G_PER_KWH = 1e6


@names_its_file
def read_carbon(
    path: str | os.PathLike[str], *, start: str | None = None, source: str | None = None
) -> CarbonSeries:
    """Read a carbon-intensity series.

    Args:
        path: Parquet file with the columns ``timestamp`` (equally spaced, UTC) and ``carbon_intensity``
            (gCO2eq/kWh).
        start: Date or time in the series at which the simulation begins, such as ``2023-06-01`` or
            ``2023-06-01T12:00``; by default its first.
        source: Whom to cite; it is recorded, with the file's name and SHA-256, as the series' source.

    Returns:
        The series.

    Raises:
        TraceError: For a malformed file, naming it and the row (from 1), or a start outside of it.
    """
    where = show_path(Path(path))
    stamps, values, digest = _read(Path(path), where)
    if stamps.size == 0:
        raise TraceError(f"{where}: has no rows")
    bad = np.flatnonzero(~((values >= 0) & (values <= _MOST_G_PER_KWH)))
    if bad.size:
        raise TraceError(
            f"{where}: row {bad[0] + 1}: carbon_intensity must be a number from 0 to {_MOST_G_PER_KWH:g}, "
            f"not {values[bad[0]]}"
        )
    check_moments(where, stamps)
    steps = np.diff(stamps)
    step = int(steps[0]) if steps.size else 3_600_000
    bad = np.flatnonzero(steps != step) if step > 0 else np.zeros(1, dtype=np.int64)
    if bad.size:
        raise TraceError(
            f"{where}: row {bad[0] + 2}: timestamps must rise by equal steps of {step / 1000:g} s"
        )
    first = np.datetime64(int(stamps[0]), "ms")
    offset_s = 0.0
    if start is not None:
        try:
            offset_s = float((np.datetime64(start, "ms") - first) / np.timedelta64(1, "s"))
        except ValueError:
            raise TraceError(f"carbon.start={start}: must be a date or time like 2023-06-01T12:00") from None
        if not 0 <= offset_s < stamps.size * step / 1000:
            end = first + np.timedelta64(stamps.size * step, "ms")
            raise TraceError(f"carbon.start={start}: {where} holds {first} to {end}")
    file = f"{Path(path).name} (sha256 {digest})"
    return CarbonSeries(
        values,
        source=f"{source}; {file}" if source else file,
        step_s=step / 1000,
        offset_s=offset_s,
        start=str(first.astype("datetime64[s]")),
    )


def _read(path: Path, where: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Timestamps (ms since 1970), values and SHA-256."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def choose(schema: Any) -> tuple[str, ...]:
        missing = [name for name in _COLUMNS if name not in schema.names]
        if missing:
            found = ", ".join(schema.names)
            raise TraceError(f"{where}: needs the columns {', '.join(missing)}; found {found}")
        kind, number = (schema.field(name).type for name in _COLUMNS)
        if not pa.types.is_timestamp(kind):
            raise TraceError(f"{where}: timestamp must hold times, not {kind}")
        if not (pa.types.is_integer(number) or pa.types.is_floating(number)):
            raise TraceError(f"{where}: carbon_intensity must hold numbers, not {number}")
        return _COLUMNS

    digest = hashlib.sha256(read_bytes(path)).hexdigest()
    table = read_parquet(path, choose)
    column = table["timestamp"]
    if column.null_count or table["carbon_intensity"].null_count:
        raise TraceError(f"{where}: timestamp and carbon_intensity must not be empty anywhere")
    try:
        stamps = pc.cast(pc.cast(column, pa.timestamp("ms", column.type.tz)), pa.int64()).to_numpy()
        values = pc.cast(table["carbon_intensity"], pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        raise TraceError(
            f"{where}: carbon_intensity must hold numbers, timestamp full milliseconds"
        ) from None
    return stamps, values, digest
