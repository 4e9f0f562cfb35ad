"""How good predicted lifetimes are, and how well rules that use them keep hosts empty.

*Quality*: for a time T, the chance that a VM leaves within T against whether it did: the area under the ROC
curve (the chance that of two VMs the one that left in time was given the greater chance), and the
calibration error (mean over ten classes of equal size of the distance between the mean chance and the share
that left).

*Usage time* (MinUsageTime bin packing): the sum over hosts of the time in which they hold a VM, where nobody
waits, over its lower bound, the integral of the fewest hosts whose cores and memory cover what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import F8, I8
from virtgym.envs.placement.games import PlacementConfig, RequestArrays
from virtgym.policies.placement.lifetime_model import EDGES_S, LifetimeModel
from virtgym.policies.ties import tied_ranks

N_CLASSES = 10
"""Classes of predicted chance."""


def auc(score: F8, happened: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; ties count half. NaN if all or none happened."""
    n = int(happened.sum())
    m = happened.size - n
    if n == 0 or m == 0:
        return float("nan")
    return float((tied_ranks(score)[happened].sum() - n * (n - 1) / 2) / (n * m))


def reliability(chance: F8, happened: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Mean predicted chance and observed share, in classes of equal size from the smallest chance on."""
    order = np.argsort(chance, kind="stable")
    parts = [part for part in np.array_split(order, N_CLASSES) if part.size]
    return [(float(chance[part].mean()), float(happened[part].mean())) for part in parts]


def calibration_error(chance: F8, happened: NDArray[np.bool_]) -> float:
    """Mean distance between predicted chance and observed share, over these classes."""
    return float(np.mean([abs(said - seen) for said, seen in reliability(chance, happened)]))


def chance_within(chance: F8, time_s: float, age_s: float = 0.0) -> F8:
    """Chance to leave within a time, given that a VM has come to an age, of each group, (G,).

    Args:
        chance: Of each class of lifetime, (G, K).
        time_s: From then on, s.
        age_s: Age, s.
    """
    until = np.concatenate([np.zeros((len(chance), 1)), np.cumsum(chance, axis=1)], axis=1)
    at = np.log1p(EDGES_S)
    now, then = (
        np.array([np.interp(np.log1p(t), at, row) for row in until]) for t in (age_s, age_s + time_s)
    )
    return np.asarray((then - now) / np.maximum(1.0 - now, 1e-12))


def quality(
    model: LifetimeModel, requests: RequestArrays, rows: range, time_s: float, age_s: float = 0.0
) -> dict[str, float]:
    """AUC and calibration error of the chance to leave within a time, over VMs that come to an age."""
    group, chance = model.predict(requests)
    here = np.arange(rows.start, rows.stop)
    here = here[requests.lifetime_s[here] > age_s]
    score = chance_within(chance, time_s, age_s)[group[here]]
    left = requests.lifetime_s[here] <= age_s + time_s
    return {
        "auc": auc(score, left),
        "calibration": calibration_error(score, left),
        "share": float(left.mean()),
    }


def usage_ratio(requests: RequestArrays, log: Mapping[str, NDArray[Any]], config: PlacementConfig) -> F8:
    """Usage time of hosts over its lower bound, for each window of a log in which nobody waits, (W,).

    Args:
        requests: The stream.
        log: As ``PlayedWindows.log``: ``window``, ``request``, ``time_s``, ``node`` of each placement.
        config: The cluster.
    """
    found = []
    for window in np.unique(log["window"]):
        here = log["window"] == window
        row, start, host = log["request"][here], log["time_s"][here], log["node"][here] // 2
        end = start + requests.lifetime_s[row]
        bound = _bound(start, end, requests.cores[row], requests.memory_gib[row], config)
        found.append(_usage(host, start, end) / bound)
    return np.array(found)


def _usage(host: I8, start: F8, end: F8) -> float:
    """Sum over hosts of the length of the union of their VMs' lives, s."""
    total = 0.0
    for h in np.unique(host):
        here = np.flatnonzero(host == h)
        here = here[np.argsort(start[here], kind="stable")]
        reach = np.maximum.accumulate(end[here])
        begin = np.maximum(start[here], np.concatenate([[-np.inf], reach[:-1]]))
        total += float(np.maximum(reach - begin, 0.0).sum())
    return total


def _bound(start: F8, end: F8, cores: F8, memory: F8, config: PlacementConfig) -> float:
    """Integral of the fewest hosts that cover what runs, host s."""
    times = np.concatenate([start, end])
    order = np.argsort(times, kind="stable")
    need = np.zeros(len(times) - 1)
    for size, each in ((cores, 2 * config.node_cores), (memory, 2 * config.node_memory_gib)):
        running = np.cumsum(np.concatenate([size, -size])[order])[:-1]
        need = np.maximum(need, np.ceil(running / each - 1e-9))
    return float(need @ np.diff(times[order]))
