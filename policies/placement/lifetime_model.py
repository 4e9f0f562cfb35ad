"""How long VMs stay, as a distribution: learned of the past, and looked up again as a VM ages.

A lifetime falls into one of K classes, equally wide in its logarithm. For every class the *hazard* is
learned, the chance that a VM which has come so far ends in it:

    h(k) = (VMs that ended in k + m · h_above(k)) / (VMs that came to k and were watched through it + m)

with m = ``PRIOR`` VMs' worth of what is known one level above. Levels, from the roughest: all VMs; those of
one flavour (cores and memory); of one flavour and how long ago the last request for it was; of these and six
parts of the day. A VM that still runs when learning ends counts as long as it was watched (Kaplan & Meier
1958, in classes); nothing is known beyond the longest of that, where all are taken to leave. Given that a VM
has come to an age, only the classes beyond are left: its remaining lifetime is predicted anew whenever
somebody asks. Everything that a prediction reads is known when the VM arrives.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need
from virtgym.envs.errors import ConfigError
from virtgym.envs.files import read_arrays, write_atomically
from virtgym.envs.placement.games import RequestArrays

CLASSES = 40
"""Classes of lifetimes, K."""
SHORTEST_S, LONGEST_S = 1.0, 1e8
PRIOR = 20.0
"""How many VMs the level above counts for, m."""
GAPS_S = (1.0, 10.0, 60.0, 600.0, 3600.0)
"""Classes of the time since the last request of the same flavour, s."""
PARTS_OF_DAY = 6
LEVELS = ("all", "flavour", "gap", "hour")

EDGES_S = np.concatenate([[0.0], np.geomspace(SHORTEST_S, LONGEST_S, CLASSES)])
"""Bounds of the classes, s, (K + 1,)."""
_MIDDLES_S = np.concatenate([[0.5 * SHORTEST_S], np.sqrt(EDGES_S[1:-1] * EDGES_S[2:])])


@dataclass(frozen=True)
class LifetimeModel:
    """Hazards of every group of VMs that learning has seen.

    Attributes:
        keys: Group of each level, as ``_keys`` writes it, (G,) for each of ``LEVELS``.
        hazard: Hazards of these groups, (G, K) for each of ``LEVELS``.
    """

    keys: tuple[I8, ...]
    hazard: tuple[F8, ...]

    def predict(self, requests: RequestArrays) -> tuple[I8, F8]:
        """Distributions of the requests of a stream.

        Returns:
            Group of each request, (R,), and the chance of each class of lifetime in each group, (G, K).
        """
        found = np.zeros(len(requests.cores), dtype=np.int64)
        offset = 0
        for keys, hazard, mine in zip(self.keys, self.hazard, _keys(requests)):
            at = np.minimum(np.searchsorted(keys, mine), len(keys) - 1)
            known = keys[at] == mine
            found[known] = offset + at[known]
            offset += len(hazard)
        hazards = np.concatenate(self.hazard)
        hazards[:, -1] = 1.0
        come = np.cumprod(np.concatenate([np.ones((len(hazards), 1)), 1.0 - hazards[:, :-1]], axis=1), axis=1)
        return found, come * hazards

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as ``.npz``."""
        arrays = {
            f"{kind}_{i}": array for kind in ("keys", "hazard") for i, array in enumerate(getattr(self, kind))
        }
        write_atomically(Path(path), lambda draft: _write(draft, arrays))


def _write(path: Path, arrays: Mapping[str, F8 | I8]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_lifetimes(path: str | os.PathLike[str]) -> LifetimeModel:
    """Read what ``LifetimeModel.save`` wrote.

    Raises:
        ConfigError: If it is none.
    """
    names = [f"{kind}_{i}" for kind in ("keys", "hazard") for i in range(len(LEVELS))]
    arrays = read_arrays(Path(path))
    if sorted(arrays) != sorted(names):
        raise ConfigError(f"policy.predictor={path}: is no model of lifetimes (docs/placement.md)")
    keys, hazard = (tuple(arrays[f"{kind}_{i}"] for i in range(len(LEVELS))) for kind in ("keys", "hazard"))
    for key, rates in zip(keys, hazard):
        good = key.dtype == np.int64 and rates.dtype == np.float64
        good = good and key.ndim == 1 and len(key) > 0 and rates.shape == (len(key), CLASSES)
        if not good or not ((rates >= 0) & (rates <= 1)).all() or (np.diff(key) <= 0).any():
            raise ConfigError(f"policy.predictor={path}: holds no hazards of {CLASSES} classes")
    return LifetimeModel(keys, hazard)


def learn_lifetimes(
    requests: RequestArrays, rows: range, known_until_s: float | None = None
) -> LifetimeModel:
    """Learn of some requests of a stream as they were known at a time.

    Args:
        requests: The stream.
        rows: Its rows to learn of.
        known_until_s: When learning ends, s; None = at the arrival of the row after them (of the last, where
            there is none): VMs that run then were watched until then.

    Raises:
        ConfigError: If the rows are not of the stream.
    """
    n = len(requests.cores)
    need(0 <= rows.start <= rows.stop <= n, f"lifetimes: rows {rows.start} to {rows.stop} of {n} requests")
    last = min(rows.stop, n - 1)
    until = float(requests.arrival_s[last]) if known_until_s is None else known_until_s
    here = np.arange(rows.start, rows.stop)
    watched = np.maximum(until - requests.arrival_s[here], 0.0)
    life = requests.lifetime_s[here]
    ended = life <= watched
    at = (
        np.searchsorted(EDGES_S, np.minimum(np.where(ended, life, watched), LONGEST_S * 0.999), side="right")
        - 1
    )
    above = np.full((1, CLASSES), 1.0 / CLASSES)
    parent = np.zeros(len(here), dtype=np.int64)
    all_keys, all_hazards = [], []
    for mine in _keys(requests):
        keys, group = np.unique(np.append(mine[here], 0)[: max(1, len(here))], return_inverse=True)
        group = group[: len(here)]
        ends, came = np.zeros((2, len(keys), CLASSES))
        np.add.at(ends, (group[ended], at[ended]), 1.0)
        reached = np.zeros((len(keys), CLASSES + 1))
        np.add.at(reached, (group, at + ended), 1.0)  # who was cut off in a class was not watched through it
        came = np.cumsum(reached[:, ::-1], axis=1)[:, ::-1][:, 1:]
        up = np.zeros(len(keys), dtype=np.int64)
        up[group] = parent
        hazard = (ends + PRIOR * above[up]) / (came + PRIOR)
        if len(here):
            hazard[:, at.max() :] = 1.0  # nothing is known beyond what was watched
        all_keys.append(keys)
        all_hazards.append(hazard)
        above, parent = hazard, group
    return LifetimeModel(tuple(all_keys), tuple(all_hazards))


def _keys(requests: RequestArrays) -> list[I8]:
    """Group of each request on every level, (R,)."""
    flavour = np.round(requests.cores * 64).astype(np.int64) * 2**24 + np.round(
        requests.memory_gib * 64
    ).astype(np.int64)
    arrival = requests.arrival_s
    order = np.lexsort((arrival, flavour))  # stable: requests of one time in the order of the stream
    gap = np.full(len(arrival), np.inf)
    same = np.diff(flavour[order]) == 0
    gap[order[1:][same]] = np.diff(arrival[order])[same]
    gap_class = np.searchsorted(GAPS_S, gap, side="right")
    part = (arrival % 86400.0 // (86400.0 / PARTS_OF_DAY)).astype(np.int64)
    by_gap = flavour * 16 + gap_class
    return [np.zeros_like(flavour), flavour, by_gap, by_gap * 16 + part]


def survival_table(chance: F8) -> F8:
    """Chance to come to the lower bound of every class, (G, K)."""
    return np.ascontiguousarray(np.cumsum(chance[:, ::-1], axis=1)[:, ::-1])


def rest_table(chance: F8) -> F8:
    """Expected remaining lifetime at the lower bound of every class, s, (G, K)."""
    later = np.triu(np.ones((CLASSES, CLASSES)))  # (now, then)
    left = np.maximum(_MIDDLES_S[None, :] - EDGES_S[:-1, None], 1.0)
    return np.asarray(chance @ (later * left).T / np.maximum(chance @ later.T, 1e-300))
