"""Two policies side by side: every number of both, and the paired difference."""

from __future__ import annotations

import math
from typing import Any

from ..analysis.stats import MIN_BLOCKS
from .columns import Column
from .leaderboard import Leaderboard, compare
from .table import heading_unit

N_POLICIES, N_COLUMNS = 12, 12
"""Policies that may be chosen, and numbers that are compared, at most."""


def side_by_side(board: Leaderboard) -> dict[str, Any] | None:
    """What is said of each pair; None where there are fewer than two policies.

    Returns:
        ``policies``; ``heads``: a label per column; ``values``: by policy and column; ``gaps``: by the two
        policies and column, the text of the difference and ``better``, ``worse`` or empty for the first.
    """
    names = [line.policy for line in board.lines[:N_POLICIES]]
    columns = [c for c in board.columns if c.key not in board.more and c.key != "energy_delta_pct"][
        :N_COLUMNS
    ]
    if len(names) < 2:
        return None
    means = {line.policy: line for line in board.lines}
    values = [[board.scales[c.key].write(means[name].mean(c.key)) for c in columns] for name in names]
    gaps = [[[_gap(board, a, b, c) for c in columns] if a != b else [] for b in names] for a in names]
    units = [heading_unit(board, c) for c in columns]
    heads = [f"{c.label}, {unit}" if unit else c.label for c, unit in zip(columns, units, strict=True)]
    return {"policies": names, "heads": heads, "values": values, "gaps": gaps}


def _gap(board: Leaderboard, a: str, b: str, column: Column) -> list[str]:
    found = compare(board, a, b, column.key)
    scale = board.scales[column.key]
    if not math.isfinite(found.estimate):
        return ["–", ""]
    text = scale.write(found.estimate, signed=True)
    if not found.known:
        return [text, ""]
    text += f" [{scale.write(found.low, signed=True)}, {scale.write(found.high, signed=True)}]"
    if found.low <= 0.0 <= found.high or board.n_blocks < MIN_BLOCKS:
        return [text, ""]
    return [text, "better" if (found.estimate < 0) == column.lower_is_better else "worse"]
