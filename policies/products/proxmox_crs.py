"""Proxmox VE's dynamic cluster resource scheduler: one move at a time against the variation of node loads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from virtgym.envs.arrays import F8, I8
from virtgym.envs.checks import need_count, need_not_negative, one_of
from virtgym.envs.sim.simulator import ClusterView

from ..planning.rounds import Round, best_first, variation, variation_after
from .base import ProductPolicy

ROUND_S = 10.0
"""A round of the HA manager, about; a decision is at most one round (docs/products.md)."""
METHODS = ("bruteforce", "topsis")
WEIGHTS = np.array([-1.0, -2.0, -5.0, -10.0])
"""Of mean and highest CPU, mean and highest memory; all of them are costs."""


@dataclass
class ProxmoxCrsPolicy(ProductPolicy):
    """Move the bundle that lowers the imbalance most, if it is worth it, and nothing while something moves.

    The load of a node is the mean of its CPU and memory shares, imbalance their coefficient of variation.

    Attributes:
        method: ``bruteforce``: the move with the least imbalance after it; ``topsis``: by four criteria.
        threshold: Imbalance above which a move is looked for.
        hold_duration: Rounds for which it must have been above.
        margin: Least share of the imbalance that a move must take away.
        normalise: Divide imbalance by the root of (nodes - 1), which makes it 0...1 (later versions).
    """

    method: str = "bruteforce"
    threshold: float = 0.3
    hold_duration: int = 3
    margin: float = 0.1
    normalise: bool = False

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        one_of("policy.method", self.method, METHODS)
        need_not_negative("policy", threshold=self.threshold, margin=self.margin)
        need_count("policy", low=1, hold_duration=self.hold_duration)

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the past."""
        super().reset(view, rng)
        self._held = 0

    def imbalance(self, loads: F8) -> float:
        """Imbalance of nodes with such loads, (n,)."""
        scale = np.sqrt(len(loads) - 1) if self.normalise and len(loads) > 2 else 1.0
        return float(variation(loads) / scale)

    def observe(self, now: Round) -> None:
        """Count the rounds in which the threshold was exceeded; a move that was due begins a new count."""
        if self.rounds(ROUND_S) == 0 or now.moving():
            return
        above = self.imbalance(node_loads(now)[now.on]) > self.threshold
        self._held = self._held % self.hold_duration + 1 if above else 0

    def act(self, now: Round) -> None:
        """Order one move."""
        if self.rounds(ROUND_S) == 0 or now.moving() or now.left == 0:
            return
        hosts = np.flatnonzero(now.on)
        loads = node_loads(now)[hosts]
        before = self.imbalance(loads)
        done = self._held == self.hold_duration and len(now.units) > 0 and self._move(now, hosts, loads)
        self.say(before, self.threshold, int(done), before > self.threshold)

    def _move(self, now: Round, hosts: I8, loads: F8) -> bool:
        p = now.view.params
        place = np.full(now.view.n_hosts, -1, dtype=np.int64)
        place[hosts] = np.arange(len(hosts))
        units = np.flatnonzero(place[now.unit_home] >= 0)
        if units.size == 0:
            return False
        home = now.unit_home[units]
        cpu = now.unit_mhz[units, None] * p.host_inv_cpu
        mem = now.unit_mib[units, None] * p.host_inv_mem
        size = (cpu + mem) / 2
        out = size[np.arange(len(units)), home]
        after = variation_after(loads, place[home], out, size[:, hosts])
        after[~now.open(units.tolist(), hosts)] = np.inf
        score = after
        if self.method == "topsis":
            score = topsis_costs(now, units, hosts, place[home], cpu, mem)
            score[np.isinf(after)] = np.inf
        before = variation(loads)
        for i, j in best_first(score):
            if (before - after[i, j]) / before < self.margin:
                return False
            if now.move(int(units[i]), int(hosts[j])):
                return True
        return False


def node_loads(now: Round) -> F8:
    """Mean of the CPU and memory shares of every host, (H,)."""
    return np.asarray((now.load_mhz * now.view.params.host_inv_cpu + now.memory()) / 2)


def topsis_costs(now: Round, units: I8, hosts: I8, a: I8, cpu: F8, mem: F8) -> F8:
    """One minus the closeness of every move to the ideal one, (N, K): TOPSIS (Hwang & Yoon, 1981).

    Criteria are 1 + the root of the mean square, and 1 + the highest, of all nodes' CPU and memory after the
    move.

    Args:
        now: The round.
        units: Units, (N,).
        hosts: Hosts that count, (K,).
        a: Place of each unit's home in ``hosts``, (N,).
        cpu: CPU share that a unit would be of every host, (N, H).
        mem: The same of memory.
    """
    p, rows = now.view.params, np.arange(len(units))
    columns = []
    for x, size in ((now.load_mhz * p.host_inv_cpu, cpu), (now.memory(), mem)):
        x, less = x[hosts], x[hosts][a] - size[rows, hosts[a]]
        more = x + size[:, hosts]
        squares = (x * x).sum() + (less * less - x[a] ** 2)[:, None] + more * more - x * x
        columns.append(1.0 + np.sqrt(squares / len(x)))
        rest = np.repeat(x[None, :], len(units), axis=0)
        rest[rows, a] = less
        columns.append(1.0 + np.maximum(_highest_but_own(rest), more))
    grid = np.stack(columns, axis=-1)  # (N, K, 4)
    legal = grid.reshape(-1, 4)
    size = np.sqrt((legal * legal).sum(axis=0))
    weighted = grid / size * (WEIGHTS / np.abs(WEIGHTS).sum())
    best, worst = weighted.reshape(-1, 4).max(axis=0), weighted.reshape(-1, 4).min(axis=0)
    near = np.sqrt(((weighted - best) ** 2).sum(axis=-1))
    far = np.sqrt(((weighted - worst) ** 2).sum(axis=-1))
    both = near + far
    return np.asarray(np.divide(near, both, out=np.zeros_like(near), where=both > 0.0))


def _highest_but_own(x: F8) -> F8:
    """Of every row, for every column the highest of the others, (N, K)."""
    if x.shape[1] < 2:
        return np.zeros_like(x)
    rows, top = np.arange(len(x)), x.argmax(axis=1)
    highest = x[rows, top]
    other = x.copy()
    other[rows, top] = -np.inf
    second = other.max(axis=1)
    found = np.repeat(highest[:, None], x.shape[1], axis=1)
    found[rows, top] = second
    return found
