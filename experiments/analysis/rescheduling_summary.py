"""Policies side by side on the same snapshots: what each reached, against moves and against seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from virtgym.envs.arrays import F8

from .run_data import Group
from .stats import Interval, mean_interval

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Mover:
    """A policy on S snapshots.

    Attributes:
        name: Label of the policy.
        end: The result, (S,).
        moves: Moves made, (S,).
        seconds: Processor time in all, s, (S,).
        by_move: Result after 0, 1, … moves, (S, M + 1); empty where no steps are stored.
        by_time: Result known at each of ``Movers.times``, (S, T); likewise.
    """

    name: str
    end: F8
    moves: F8
    seconds: F8
    by_move: F8
    by_time: F8


@dataclass(frozen=True, eq=False)
class Movers:
    """Policies on common snapshots.

    Attributes:
        entries: Best first.
        seeds: Seeds of the snapshots, (S,).
        start: The result before any move, (S,).
        what: What it is: fragment rate, or objective where others count.
        times: Points in time, s, (T,).
        left_out: Policies that have no snapshot in common with the others.
    """

    entries: tuple[Mover, ...]
    seeds: tuple[int, ...]
    start: F8
    what: str
    times: F8
    left_out: tuple[str, ...] = ()

    def interval(self, values: F8) -> Interval:
        """Mean over snapshots."""
        return mean_interval(values)

    def gap(self, entry: Mover) -> Interval:
        """Mean difference to the best policy, snapshot by snapshot."""
        return mean_interval(entry.end - self.entries[0].end)


def has_moves(rows: pd.DataFrame) -> bool:
    """Whether result rows are those of snapshots."""
    return "moves" in rows and bool(rows["moves"].notna().any())


def compare_movers(group: Group) -> Movers:
    """Compare policies on the snapshots that all of them played."""
    rows = group.rows.drop_duplicates(["policy", "seed"], keep="last")
    fragments = "fragment_rate" in rows and bool(np.isclose(rows["fragment_rate"], rows["objective"]).all())
    key = "fragment_rate" if fragments else "objective"
    seeds_of = {str(p): set(own["seed"]) for p, own in rows.groupby(rows["policy"].map(str), sort=False)}
    largest = max(seeds_of.values(), key=len)
    kept = [p for p, seeds in seeds_of.items() if seeds & largest]
    common = sorted(int(s) for s in set.intersection(*(seeds_of[p] for p in kept)))
    if not common:  # no snapshot was played by all: those of the policy with most
        kept, common = [p for p in kept if seeds_of[p] == largest], sorted(int(s) for s in largest)
    times = _times(group.steps)
    entries, start = [], np.zeros(len(common))
    for policy in kept:
        own = rows[rows["policy"].map(str) == policy].set_index("seed").loc[common]
        start = own[f"{key}_start"].to_numpy(dtype=np.float64)
        by_move, by_time = _curves(group.steps, policy, common, key, start, times)
        entries.append(
            Mover(
                policy,
                own[key].to_numpy(dtype=np.float64),
                own["moves"].to_numpy(dtype=np.float64),
                own["cpu_s" if "cpu_s" in own else "wall_s"].to_numpy(dtype=np.float64),
                by_move,
                by_time,
            )
        )
    entries.sort(key=lambda e: (float(e.end.mean()), float(e.moves.mean())))
    left = tuple(p for p in seeds_of if p not in kept)
    return Movers(
        tuple(entries), tuple(common), start, "fragment rate" if fragments else "objective", times, left
    )


def _times(steps: pd.DataFrame | None) -> F8:
    """Points in time on a logarithmic scale, to the end of the longest search."""
    last = 0.0 if steps is None or "step" not in steps else float(steps["time_s"].max())
    return np.geomspace(min(1e-3, last / 10), last, 40) if last > 0 and math.isfinite(last) else np.zeros(0)


def _curves(
    steps: pd.DataFrame | None, policy: str, seeds: Sequence[int], key: str, start: F8, times: F8
) -> tuple[F8, F8]:
    nothing = np.zeros((len(seeds), 0))
    if steps is None or not {"step", "policy", "seed", key} <= set(steps):
        return nothing, nothing
    own = steps[steps["policy"].map(str) == policy]
    most = int(steps["step"].max())
    by_move, by_time = np.zeros((len(seeds), most + 1)), np.zeros((len(seeds), len(times)))
    for i, seed in enumerate(seeds):
        mine = own[own["seed"] == seed]
        made = mine[mine["step"] > 0].sort_values("step")
        path = np.concatenate([[start[i]], made[key].to_numpy(dtype=np.float64)])
        by_move[i] = path[np.minimum(np.arange(most + 1), len(path) - 1)]
        known = mine[mine["step"] == 0] if (mine["step"] == 0).any() else made
        known = known.sort_values("time_s")
        values = np.concatenate([[start[i]], np.minimum.accumulate(known[key].to_numpy(dtype=np.float64))])
        by_time[i] = values[np.searchsorted(known["time_s"].to_numpy(dtype=np.float64), times, side="right")]
    return by_move, by_time
