"""Nutanix Acropolis Dynamic Scheduling: nothing until a host is in contention, then just enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from virtgym.envs.arrays import F8
from virtgym.envs.checks import need_not_negative, need_positive, need_share
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.simulator import ClusterView

from ..planning.rounds import Round
from .base import Means, ProductPolicy


@dataclass
class NutanixAdsPolicy(ProductPolicy):
    """End hot spots by the least memory moved; balance is no aim.

    A host is hot if all samples of its CPU in the last ``window_s`` are above ``threshold``, or (multiplexed
    memory) if it swaps. VMs leave it until it is not hot: of those that suffice alone the one with the least
    memory, else the largest. They go to the least used host that stays at or below the threshold with them.

    Attributes:
        threshold: Share of its CPU above which a host is in contention.
        window_s: Time for which it must have been, s; also the time between two looks.
        memory_period_s: Time between two looks at swapping, s.
        pause_s: Time after moves for CPU before CPU is looked at again, s.
    """

    threshold: float = 0.85
    window_s: float = 900.0
    memory_period_s: float = 120.0
    pause_s: float = 1800.0

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        need_share("policy", threshold=self.threshold)
        need_positive("policy", window_s=self.window_s, memory_period_s=self.memory_period_s)
        need_not_negative("policy", pause_s=self.pause_s)

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the past."""
        super().reset(view, rng)
        self._past = Means(view.n_hosts, self.samples(self.window_s))
        self._moved_s = -math.inf

    def observe(self, now: Round) -> None:
        """Take every host's CPU down."""
        self._past.push(now.util(), now.view.state.host_power_state == ON)

    def act(self, now: Round) -> None:
        """Relieve the hot hosts, the worst first."""
        p, s = now.view.params, now.view.state
        rested = self._now_s == self._moved_s or self._now_s - self._moved_s >= self.pause_s * (1 - 1e-9)
        if self.rounds(self.window_s) and rested:
            hot = self._past.all_above(self.threshold) & now.on
            highest = float(now.util()[now.on].max(initial=0.0))
            limit = self.threshold * p.host_cpu_mhz
            moves = self._relieve(now, hot, now.load_mhz, limit, now.unit_mhz, now.util)
            self._moved_s = self._now_s if moves else self._moved_s
            self.say(highest, self.threshold, moves, bool(hot.any()))
        if p.has_tiers and self.rounds(self.memory_period_s):
            swapped = now.at_home(s.vm_swapped_mib)
            hot = (swapped > 0.0) & now.on
            limit = np.where(hot, now.load_mib - swapped, p.host_mem_mib)
            moves = self._relieve(now, hot, now.load_mib, limit, now.unit_mib, now.memory)
            if hot.any():
                self.say(float(swapped[hot].max()), 0.0, moves, True)

    def _relieve(self, now: Round, hot: Any, load: F8, limit: F8, size: F8, used: Any) -> int:
        """Move units off hot hosts until their load is within the limit; returns how many."""
        moves = 0
        by_use = np.argsort(-used(), kind="stable")
        for h in by_use[hot[by_use]].tolist():
            tried: set[int] = set()
            while load[h] > limit[h] * (1 + 1e-12) and now.left > 0:
                excess = load[h] - limit[h]
                left = [u for u in now.units_on(h) if u not in tried]
                if not left:
                    break
                u = min(left, key=lambda u: self._order(now, u, float(size[u]), excess))
                tried.add(u)
                moves += self._send(now, u, hot, load, limit, size, used)
        return moves

    def _order(self, now: Round, u: int, size: float, excess: float) -> tuple[bool, float]:
        enough = size >= excess * (1 - 1e-12)
        vms = now.units[u]
        return not enough, float(now.view.params.vm_mem_mib[vms].sum()) if enough else -size

    def _send(self, now: Round, u: int, hot: Any, load: F8, limit: F8, size: F8, used: Any) -> bool:
        fits = now.hosts_for(u) & ~hot & (load + size[u] <= limit * (1 + 1e-12))
        hosts = np.flatnonzero(fits)
        return any(now.move(u, int(h)) for h in hosts[np.argsort(used()[hosts], kind="stable")])
