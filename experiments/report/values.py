"""The numbers of a group as arrays: one row per policy, one column per run, for every measure."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8

from ..analysis.run_data import Group
from ..analysis.stats import Interval, mean_interval, stratified_bootstrap
from .columns import LEADERBOARD

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "static"
"""The policy that energy is compared with."""


@dataclass(frozen=True)
class Values:
    """Measures by policy and run.

    Attributes:
        unit: What a run is: ``seed`` or ``window``.
        row: Row of each policy.
        traces: Columns of each trace.
        arrays: Measure to values, shape (policies, runs); NaN where a policy has no such run.
    """

    unit: str
    row: dict[str, int]
    traces: list[NDArray[np.intp]]
    arrays: dict[str, F8]

    def of(self, policy: str, key: str) -> list[F8]:
        """The finite values of a policy, per trace."""
        return self._split(self.arrays[key][self.row[policy]])

    def gaps(self, a: str, b: str, key: str) -> list[F8]:
        """Differences ``a - b`` over the runs that both have, per trace."""
        values = self.arrays[key]
        return self._split(values[self.row[a]] - values[self.row[b]])

    def mean(self, policy: str, key: str) -> float:
        """Mean over all runs, NaN where there are none or the measure is not known."""
        parts = self.of(policy, key) if key in self.arrays else []
        return float(np.concatenate(parts).mean()) if parts else math.nan

    def most_runs(self) -> int:
        """Most runs of one policy on one trace."""
        return max(len(columns) for columns in self.traces)

    def _split(self, values: F8) -> list[F8]:
        parts = (values[columns] for columns in self.traces)
        return [part[np.isfinite(part)] for part in parts if bool(np.isfinite(part).any())]


def tabulate(group: Group) -> Values:
    """Arrange a group's rows.

    A run is a seed (its windows averaged first); with one seed and several windows it is a window.
    """
    import pandas as pd

    rows = group.rows.copy()
    rows["energy_delta_pct"] = _energy_delta(rows)
    windows = "window" in rows and rows["window"].nunique() > 1
    unit = "window" if windows and rows["seed"].nunique() == 1 else "seed"
    keys = [c.key for c in LEADERBOARD if c.key in rows] + [c for c in ("thrash", "cost_energy") if c in rows]
    means = rows.groupby(["trace", "policy", unit], sort=False)[keys].mean().reset_index()
    every = pd.MultiIndex.from_frame(means[["trace", unit]])
    runs = every.unique()
    policies = {policy: i for i, policy in enumerate(group.policies)}
    place = (np.array([policies[str(p)] for p in means["policy"]]), runs.get_indexer(every))
    arrays = {}
    for key in keys:
        arrays[key] = np.full((len(policies), len(runs)), math.nan)
        arrays[key][place] = means[key].to_numpy(dtype=np.float64)
    names = np.asarray(runs.get_level_values("trace"))
    return Values(unit, policies, [np.flatnonzero(names == name) for name in dict.fromkeys(names)], arrays)


def _energy_delta(rows: pd.DataFrame) -> pd.Series:
    """Energy against static, %, on the same trace, seed and window (else against its mean on the trace)."""
    import pandas as pd

    nothing = pd.Series(math.nan, index=rows.index)
    if "energy_kwh" not in rows or not bool((rows["policy"] == BASELINE).any()):
        return nothing
    base = rows[rows["policy"] == BASELINE]
    cells = ["trace", "seed", *(["window"] if "window" in rows else [])]
    same = rows[cells].merge(base[[*cells, "energy_kwh"]].drop_duplicates(cells), on=cells, how="left")
    fallback = rows["trace"].map(base.groupby("trace")["energy_kwh"].mean())
    reference = pd.Series(same["energy_kwh"].to_numpy(), index=rows.index).fillna(fallback)
    return 100.0 * (rows["energy_kwh"] / reference - 1.0)


def estimate(parts: list[F8], *names: str) -> Interval:
    """Mean and interval: Student's t on one trace, a bootstrap within the traces where there are several.

    Args:
        parts: Values of each trace.
        *names: What they are of; the same names give the same resamples.
    """
    if len(parts) > 1 and max(len(x) for x in parts) > 1:
        return stratified_bootstrap(parts, np.random.default_rng(zlib.crc32("\0".join(names).encode())))
    return mean_interval(np.concatenate(parts) if parts else np.empty(0))
