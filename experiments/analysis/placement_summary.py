"""Policies side by side on the same placement windows: statistics, paired differences, learners over seeds.

A *window* is a first row of one stream with its number of requests. Policies are compared on the windows
that all of them played. Windows overlap, so intervals resample blocks of them
(``stats.independent_blocks``), for all policies together (a paired bootstrap), and within an entry its runs:
the seeds of a random policy, or the agents of a learner that was trained with several seeds. From fewer than
``stats.MIN_BLOCKS`` blocks nothing is said to be better.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8
from virtgym.envs.errors import ConfigError

from ..run.rows import kinds_of
from .stats import (
    MIN_BLOCKS,
    Interval,
    TrimmedMean,
    distinct_runs,
    independent_blocks,
    iqm_statistic,
    mean_interval,
    mean_statistic,
    paired_samples,
    percentile_interval,
    probability_of_improvement,
    trimmed_statistic,
)

if TYPE_CHECKING:
    import pandas as pd


STATISTICS: dict[str, TrimmedMean] = {
    "trimmed": trimmed_statistic,
    "mean": mean_statistic,
    "iqm": iqm_statistic,
}
"""What a policy's windows are summed up by: mean without 10 % at each end, mean, mean of the middle half."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A policy, or a learner: agents that differ only in the seed they were trained with.

    Attributes:
        name: Label of the policy; of a learner the common part of its agents' folders, with ``*``.
        runs: Result of each run in each window, (R, W): seeds of the evaluation, for a learner its agents.
        learned: Whether it was trained.
        reference: Whether it knows what no scheduler can know; it is shown and not ranked.
        members: Labels of a learner's agents; empty for a policy.
        decision_us: Wall time per decision, policy and games together, µs; NaN where it is not known.
    """

    name: str
    runs: F8
    learned: bool
    reference: bool
    members: tuple[str, ...] = ()
    decision_us: float = math.nan


@dataclass(frozen=True, eq=False)
class Comparison:
    """Policies on common windows.

    Attributes:
        entries: Best first: policies and learners.
        windows: Row of each window's first request, (W,).
        n_vms: Requests of each window, (W,).
        survival: Whether it is a survival game: the result is the number of requests placed, and more is
            better. Otherwise it is the total wait of a window, s, and less is better.
        blocks: Independent block that each window belongs to, (W,), from 0.
        left_out: Policies that have no window in common with the others.
        n_dropped: Windows left out because not all policies have a result there.
        n_stuck: Windows in which a policy left requests that no longer could be placed, by policy.
    """

    entries: tuple[Entry, ...]
    windows: NDArray[np.int64]
    n_vms: F8
    survival: bool
    blocks: NDArray[np.int64]
    left_out: tuple[str, ...] = ()
    n_dropped: int = 0
    n_stuck: dict[str, int] = field(default_factory=dict)

    @property
    def policies(self) -> tuple[Entry, ...]:
        """The entries that are policies."""
        return tuple(e for e in self.entries if not e.members)

    @property
    def learners(self) -> tuple[Entry, ...]:
        """The entries that are learners."""
        return tuple(e for e in self.entries if e.members)

    @property
    def best_rule(self) -> Entry | None:
        """The best policy that was not trained and knows nothing of the future."""
        return next((e for e in self.policies if not e.learned and not e.reference), None)

    @property
    def judged(self) -> tuple[Entry, ...]:
        """What claims are made of: learners, and agents that come from none.

        Never the best of a learner's agents: it would be chosen by the very windows it is judged on.
        """
        members = {name for learner in self.learners for name in learner.members}
        return tuple(e for e in self.entries if e.learned and e.name not in members)

    @property
    def best_agent(self) -> Entry | None:
        """The best single trained policy, for pictures; a claim is about ``judged``."""
        return next((e for e in self.policies if e.learned), None)

    def value(self, entry: Entry, statistic: str = "trimmed") -> float:
        """A statistic over windows, averaged over runs."""
        return float(STATISTICS[statistic](entry.runs).mean())

    def interval(self, entry: Entry, statistic: str = "trimmed") -> Interval:
        """The statistic with a bootstrap interval over windows and runs."""
        return self._interval(self.value(entry, statistic), self._samples[statistic][entry.name])

    def gap(self, a: Entry, b: Entry, statistic: str = "trimmed") -> Interval:
        """Difference ``a - b`` of a statistic with a paired bootstrap interval."""
        samples = self._samples[statistic]
        between = self.value(a, statistic) - self.value(b, statistic)
        return self._interval(between, samples[a.name] - samples[b.name])

    def over_seeds(self, learner: Entry) -> Interval:
        """Mean over a learner's agents of their trimmed means, with Student's t interval over agents."""
        return mean_interval(trimmed_statistic(learner.runs))

    def per_vm(self, entry: Entry) -> float:
        """All results by all requests: seconds of waiting per VM, or the share of requests placed."""
        return float(entry.runs.mean(axis=0).sum() / self.n_vms.sum())

    def won(self, entry: Entry) -> int:
        """Windows in which no ranked policy is better; equal ones all count."""
        rivals = [e.runs.mean(axis=0) for e in self.policies if not e.reference]
        least = np.min([self._cost(x) for x in rivals], axis=0)
        return int((self._cost(entry.runs.mean(axis=0)) <= least).sum())

    def chance(self, a: Entry, b: Entry) -> float:
        """Probability of improvement: chance that ``a`` is better in a window, ties counting half."""
        return probability_of_improvement(a.runs, b.runs, lower_is_better=not self.survival)

    @property
    def n_blocks(self) -> int:
        """Independent blocks of windows."""
        return int(self.blocks.max()) + 1

    @property
    def tells(self) -> bool:
        """Whether there are enough blocks to say that one policy is better than another."""
        return self.n_blocks >= MIN_BLOCKS

    def better(self, gap: Interval) -> bool:
        """Whether a difference is clearly on the good side, from enough blocks."""
        return self.tells and gap.known and (gap.low > 0.0 if self.survival else gap.high < 0.0)

    def worse(self, gap: Interval) -> bool:
        """Whether a difference is clearly on the bad side, from enough blocks."""
        return self.tells and gap.known and (gap.high < 0.0 if self.survival else gap.low > 0.0)

    def _cost(self, results: F8) -> F8:
        return -results if self.survival else results

    def _interval(self, estimate: float, samples: F8) -> Interval:
        return percentile_interval(estimate, samples, self.n_blocks)

    @functools.cached_property
    def _samples(self) -> dict[str, dict[str, F8]]:
        """Every statistic of resampled blocks of windows (the same for all entries) and runs, (2000,)."""
        runs = {e.name: e.runs for e in self.entries}
        return paired_samples(runs, np.random.default_rng(0), STATISTICS, blocks=self.blocks)


def has_windows(rows: pd.DataFrame) -> bool:
    """Whether result rows are those of placement windows."""
    return "window" in rows and bool(rows["window"].notna().any())


def is_survival(rows: pd.DataFrame) -> bool:
    """Whether result rows are those of survival games, which know no waits."""
    return not bool(rows["total_wait_s"].notna().any())


def learner_name(policy: str) -> str:
    """The learner that an agent comes from: its folder without the number of the seed.

    Examples:
        >>> learner_name("runs/ppo/seed3/agent")
        'runs/ppo/seed*/agent'
        >>> learner_name("sweep/lr=0.1,seed=12/agent"), learner_name("first_fit")
        ('sweep/lr=0.1,seed=*/agent', 'first_fit')
    """
    return re.sub(r"(?i)(?<![a-z])(seed[=_-]?)\d+", r"\1*", policy)


def compare_windows(rows: pd.DataFrame) -> Comparison:
    """Sort the result rows of one placement scenario into a comparison.

    Windows of different seeds are the same where the seed changes nothing about them: the same first rows,
    as with a file of windows. Then each policy's seeds are its runs. Otherwise every seed has windows of its
    own, and they are pooled.

    Args:
        rows: Result rows of placement windows.

    Raises:
        ConfigError: If there is no window with a result.
    """
    table = _results(rows)
    waits, units = _pivot(table)
    left_out: list[str] = []
    common = _shared(list(waits.values()))
    if not common.any():
        waits, left_out, common = _largest_set(waits)
    if not common.any():
        raise ConfigError("results: there is no placement window with a result")
    spent, kinds = _decision_times(rows), kinds_of(rows)
    entries = [
        Entry(
            name,
            distinct_runs(runs[:, common]),
            kinds.get(name) == "agent",
            kinds.get(name) == "oracle",
            decision_us=spent.get(name, math.nan),
        )
        for name, runs in waits.items()
    ]
    survival = is_survival(rows)
    entries += _learners(entries)
    sign = -1.0 if survival else 1.0
    entries.sort(key=lambda e: (e.reference, sign * float(trimmed_statistic(e.runs).mean()), e.name))
    kept = units[common]
    return Comparison(
        tuple(entries),
        kept["window"].to_numpy(dtype=np.int64),
        kept["n_vms"].to_numpy(dtype=np.float64),
        survival,
        _blocks(kept, entries),
        tuple(left_out),
        int((~common).sum()),
        _count_stuck(rows, survival),
    )


def _blocks(units: pd.DataFrame, entries: Sequence[Entry]) -> NDArray[np.int64]:
    """Independent blocks of windows, (W,): none holds windows of two streams."""
    results = np.stack([e.runs.mean(axis=0) for e in entries])
    gaps = results - results.mean(axis=0) if len(entries) > 1 else results
    labels = np.zeros(len(units), dtype=np.int64)
    found = 0
    for mine in units.groupby(["trace", "stream"], sort=False).indices.values():
        part = units.iloc[mine]
        labels[mine] = found + independent_blocks(part["window"], part["n_vms"], gaps[:, mine])
        found = int(labels.max()) + 1
    return labels


def _results(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per result: trace, stream, policy, seed, window, n_vms, copy (a list may name one twice)."""
    table = rows[["trace", "policy", "seed", "window", "n_vms"]].copy()
    table["stream"] = rows["trace_digest"].fillna("") if "trace_digest" in rows else ""
    placed = rows["n_vms"] - rows["failed_placements"]
    table["result"] = placed if is_survival(rows) else rows["total_wait_s"]
    keys = ["trace", "stream", "policy", "seed", "window", "n_vms"]
    table["copy"] = table.groupby(keys, sort=False).cumcount()
    return table


def _pivot(table: pd.DataFrame) -> tuple[dict[str, F8], pd.DataFrame]:
    """Results by policy, (runs, units), and the units: one line per window."""
    import pandas as pd

    keys = ["trace", "stream", "window", "n_vms", "copy"]
    sets = [frozenset(map(tuple, part[keys].to_numpy().tolist())) for _, part in table.groupby("seed")]
    if len(set(sets)) > 1:
        table = table.assign(seed=0)
        table = table.groupby([*keys, "policy", "seed"], sort=False)["result"].mean().reset_index()
    every = pd.MultiIndex.from_frame(table[keys])
    units = every.unique()
    waits = {}
    place = units.get_indexer(every)
    for policy in dict.fromkeys(table["policy"].astype(str)):
        mine = (table["policy"] == policy).to_numpy()
        seeds, run = np.unique(table["seed"].to_numpy()[mine], return_inverse=True)
        runs = np.full((len(seeds), len(units)), math.nan)
        runs[run, place[mine]] = table["result"].to_numpy(dtype=np.float64)[mine]
        waits[policy] = runs
    return waits, units.to_frame(index=False)


def _largest_set(waits: dict[str, F8]) -> tuple[dict[str, F8], list[str], NDArray[np.bool_]]:
    """Policies that share the window that most have; the others cannot be compared with them."""
    has = {name: _shared([runs]) for name, runs in waits.items()}
    best = int(np.argmax(np.sum(list(has.values()), axis=0)))
    kept = {name: runs for name, runs in waits.items() if has[name][best]}
    out = [name for name in waits if name not in kept]
    return kept, out, _shared(list(kept.values()))


def _shared(runs: Sequence[F8]) -> NDArray[np.bool_]:
    """Windows in which every run of every policy has a result, (units,)."""
    finite = np.isfinite(np.concatenate(runs))
    return np.asarray(finite.all(axis=0), dtype=np.bool_)


def _learners(entries: Sequence[Entry]) -> list[Entry]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if not entry.learned:
            continue
        name = learner_name(entry.name)
        if name != entry.name:
            groups.setdefault(name, []).append(entry)
    found = []
    for name, members in groups.items():
        if len(members) > 1:
            runs = distinct_runs(np.stack([m.runs.mean(axis=0) for m in members]))
            spent = float(np.mean([m.decision_us for m in members]))
            found.append(Entry(name, runs, True, False, tuple(m.name for m in members), spent))
    return found


def _decision_times(rows: pd.DataFrame) -> dict[str, float]:
    """Wall time per decision of each policy, µs."""
    sums = rows.groupby("policy", sort=False)[["wall_s", "steps"]].sum()
    known = sums[(sums["wall_s"] > 0) & (sums["steps"] > 0)]
    return {str(name): 1e6 * float(w) / float(n) for name, w, n in known.itertuples()}


def _count_stuck(rows: pd.DataFrame, survival: bool) -> dict[str, int]:
    if survival:
        return {}
    stuck = rows[rows["failed_placements"] > 0]
    return {str(policy): len(part) for policy, part in stuck.groupby("policy", sort=False)}
