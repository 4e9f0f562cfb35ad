"""Packs host × time tables into the page: sorted, reduced to what a screen can show, compressed."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import U1
from virtgym.envs.errors import VirtgymError
from virtgym.envs.files import read_arrays

from ..analysis.run_data import HeatFile

OFF, SWITCHING, OVERLOADED, FAILED, FULL = 255, 254, 253, 252, 200
"""Codes of a cell; 0..FULL is utilisation in steps of half a per cent."""

LAYERS = {"heat": "CPU", "memory": "memory", "numa": "work lost to remote memory"}
"""Tables that a file may hold, and what they show."""

MOST_MOVES = 200_000
"""Migrations of a file that are read."""

MAX_ROWS, MAX_COLUMNS = 400, 576
MOST_BYTES = 64_000_000
"""Of all arrays of a file together: a day of 200,000 hosts."""
MOSTLY_OFF = 0.02
"""Hosts that are on for no larger share of the time are left out where they would fill the picture."""
BUDGET_BYTES = 5_000_000
"""For all tables of a page together, as base64."""


def reduce_heat(heat: U1, rows: int, columns: int) -> U1:
    """Merge neighbouring cells until a table is no larger than asked.

    A merged cell is overloaded if any of its cells is, else failed if any is; else off (or switching) if at
    least half of them are; else the mean utilisation of those that are on.
    """
    for axis, most in ((0, rows), (1, columns)):
        size = heat.shape[axis]
        step = -(-size // most)
        if step > 1:
            heat = _merge(np.moveaxis(heat, axis, 0), step)
            heat = np.moveaxis(heat, 0, axis)
    return np.array(heat, dtype=np.uint8, order="C")


def _merge(heat: U1, step: int) -> U1:
    size = heat.shape[0]
    pad = -size % step
    if pad:
        heat = np.concatenate([heat, np.repeat(heat[-1:], pad, axis=0)])
    blocks = heat.reshape(-1, step, heat.shape[1])
    on = blocks <= FULL
    n_on = on.sum(axis=1)
    mean = np.where(on, blocks, 0).sum(axis=1, dtype=np.int64) / np.maximum(n_on, 1)
    merged = np.rint(mean).astype(np.uint8)
    merged[2 * (blocks == SWITCHING).sum(axis=1) >= step] = SWITCHING
    merged[2 * (blocks == OFF).sum(axis=1) >= step] = OFF
    merged[(n_on == 0) & (merged <= FULL)] = SWITCHING
    merged[(blocks == FAILED).any(axis=1)] = FAILED
    merged[(blocks == OVERLOADED).any(axis=1)] = OVERLOADED
    return np.asarray(merged, dtype=np.uint8)


def pack_heat(path: Path, max_rows: int = MAX_ROWS, max_columns: int = MAX_COLUMNS) -> dict[str, Any]:
    """Read one table and make it ready for JSON.

    Rows are sorted by the time a host is on, then by its load, most used first.

    Returns:
        Shape, hosts and data.

    Raises:
        VirtgymError: Naming the file, if it is no such table.
    """
    layers, kinds, names, interval_s = _read_heat(path)
    heat = layers["heat"]
    on = (heat != OFF).sum(axis=1)
    used = np.where(heat == OVERLOADED, np.uint8(FULL), heat)
    used[heat > OVERLOADED] = 0
    used[heat == FAILED] = 0
    load = used.sum(axis=1, dtype=np.int64)
    order = np.lexsort((np.arange(len(on)), -load, -on))
    order = order[: _worth_drawing(on / heat.shape[1])]
    small = {name: reduce_heat(table[order], max_rows, max_columns) for name, table in layers.items()}
    per_row, per_column = -(-len(order) // max_rows), -(-heat.shape[1] // max_columns)
    shown = order[::per_row]
    return {
        "rows": small["heat"].shape[0],
        "columns": small["heat"].shape[1],
        "hosts": shown.tolist(),
        "per_row": per_row,
        "n_hosts": heat.shape[0],
        "n_left_out": heat.shape[0] - len(order),
        "types": names,
        "type_of": [] if kinds is None or len(kinds) != len(on) else kinds[shown].astype(int).tolist(),
        "column_h": per_column * interval_s / 3600.0,
        "failed": bool((heat == FAILED).any()),
        "data": {name: _packed(table) for name, table in small.items()},
    }


def _packed(table: U1) -> str:
    return base64.b64encode(zlib.compress(table.tobytes(), 9)).decode("ascii")


def read_moves(path: Path) -> tuple[NDArray[np.int64], float, int] | None:
    """Interval, VM, source and destination of every migration, (n, 4), an interval's length, s, and how many.

    None where they were not kept.

    Raises:
        VirtgymError: Naming the file, if it holds no such table.
    """
    stored = read_arrays(path, limit=MOST_BYTES, refusal=VirtgymError)
    moves = stored.get("moves")
    if moves is None:
        return None
    if moves.ndim != 2 or moves.shape[1] != 4 or moves.dtype.kind not in "iu" or (moves < -1).any():
        raise VirtgymError(f"{path}: moves is no table of migrations")
    heat = stored.get("heat")
    n = 0 if heat is None or heat.ndim != 2 else heat.shape[1]
    return moves[:MOST_MOVES].astype(np.int64), interval_of(stored, path), n


def interval_of(stored: Mapping[str, NDArray[Any]], path: Path) -> float:
    """Length of an interval, s."""
    span = stored.get("interval_s", np.float64(300.0))
    if span.ndim or span.dtype.kind not in "fiu" or not 0.0 < float(span) < 1e9:
        raise VirtgymError(f"{path}: interval_s is no time")
    return float(span)


def _read_heat(path: Path) -> tuple[dict[str, U1], NDArray[np.int64] | None, list[str], float]:
    """Tables (hosts, intervals); where the file has them, types of hosts and their names; interval, s."""
    stored = read_arrays(path, limit=MOST_BYTES, refusal=VirtgymError)
    heat, kinds, names = stored.get("heat"), stored.get("host_type"), stored.get("type_names")
    if heat is None or heat.dtype != np.uint8 or heat.ndim != 2 or heat.size == 0:
        raise VirtgymError(f"{path}: has no table of hosts and intervals")
    layers = {name: stored[name] for name in LAYERS if name in stored}
    for name, table in layers.items():
        if table.dtype != np.uint8 or table.shape != heat.shape:
            raise VirtgymError(f"{path}: {name} is no table of its hosts and intervals")
    interval_s = interval_of(stored, path)
    if kinds is None or names is None:
        return layers, None, [], interval_s
    named = names.ndim == 1 and names.dtype.kind == "U" and len(names) <= len(heat)
    if not named or kinds.shape != heat.shape[:1] or kinds.dtype.kind not in "iu":
        raise VirtgymError(f"{path}: host_type and type_names are no types of its hosts")
    if not bool(((kinds >= 0) & (kinds < len(names))).all()):
        raise VirtgymError(f"{path}: host_type is beyond type_names")
    return layers, kinds, [str(name)[:100] for name in names], interval_s


def _worth_drawing(share_on: NDArray[np.float64]) -> int:
    """How many hosts are drawn: all, or without the many that are off nearly all of the time."""
    used = int((share_on > MOSTLY_OFF).sum())
    return used if 8 <= used <= 0.85 * len(share_on) else len(share_on)


def one_each(files: Sequence[HeatFile], order: Sequence[str]) -> list[HeatFile]:
    """A file of each policy, in their order: that of the seed which most policies have."""
    seed = max({f.seed for f in files}, key=lambda s: (sum(f.seed == s for f in files), -s), default=0)
    chosen: list[HeatFile] = []
    for policy in order:
        mine = sorted((f for f in files if f.policy == policy), key=lambda f: (f.seed != seed, f.seed))
        chosen += mine[:1]
    return chosen


def pack_heats(
    files: Sequence[HeatFile], order: Sequence[str], budget: int = BUDGET_BYTES
) -> tuple[list[dict[str, Any]], list[str]]:
    """Pack one table per policy: that of the seed which most policies have.

    Args:
        files: Tables.
        order: Policies in the order of the page.
        budget: Most bytes for all of them; rows are merged further until they fit.

    Returns:
        The tables, and what was left out because it is damaged.
    """
    chosen = one_each(files, order)
    if not chosen:
        return [], []
    for shrink in (1, 2, 4, 8):
        packed, left_out = [], []
        for file in chosen:
            try:
                table = pack_heat(file.path, MAX_ROWS // shrink, max(96, MAX_COLUMNS // shrink))
                packed.append({"policy": file.policy, "seed": file.seed, **table})
            except VirtgymError as error:
                left_out.append(str(error))
        if sum(len(data) for table in packed for data in table["data"].values()) <= budget:
            break
    return packed, left_out
