"""VMware DRS from vSphere 7 on: a score of every VM on every host, and moves that are worth their cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, F8
from virtgym.envs.checks import need, need_count, need_not_negative, need_positive
from virtgym.envs.sim.simulator import ClusterView

from ..forecast.history import History, squares_of_past
from ..planning.moves import copy_seconds
from ..planning.rounds import Round
from .base import ProductPolicy

PERIOD_S = 60.0
LEVELS: dict[int, float] = {1: math.inf, 2: 20.0, 3: 10.0, 4: 5.0, 5: 1.0}
"""Migration threshold: points by which a VM's score must rise; level 1 makes no moves for the score. The
vendor publishes buckets of 20 points and the five steps, not these numbers [assumed]."""


@dataclass
class VmwareDrsPolicy(ProductPolicy):
    """Improve the score of the VMs that have the lowest.

    The score of a VM on a host, 0...100, is the share of what it asks for that it can expect to get there:
    CPU, with the deviation of the host's load over the last ``window_s`` as what it may rise to, times memory
    that does not swap or balloon. A move is made if the VM's score rises by the threshold's points, and the
    work that the VMs on both hosts gain over ``horizon_s`` exceeds what the migration costs.

    Attributes:
        level: Migration threshold, 1 (conservative) to 5 (aggressive), see ``LEVELS``.
        horizon_s: Time for which the gain counts, s.
        window_s: Past that says how much loads vary, s.
        max_moves: Most moves per look.
    """

    level: int = 3
    horizon_s: float = 300.0
    window_s: float = 3600.0
    max_moves: int = 8

    def __post_init__(self) -> None:
        """Check every parameter.

        Raises:
            ConfigError: Naming the parameter and what is allowed.
        """
        super().__post_init__()
        need(self.level in LEVELS, f"policy.level={self.level}: must be one of 1..5")
        need_positive("policy", horizon_s=self.horizon_s)
        need_not_negative("policy", window_s=self.window_s)
        need_count("policy", low=0, max_moves=self.max_moves)

    def reset(self, view: ClusterView, rng: np.random.Generator) -> None:
        """Bind the view, forget the past."""
        super().reset(view, rng)
        self._past = History(view.n_vms, self.samples(self.window_s))

    def observe(self, now: Round) -> None:
        """Take every VM's CPU down."""
        self._past.push(now.cpu, (now.home >= 0) & now.view.measured)

    def act(self, now: Round) -> None:
        """Order moves, from the VM with the lowest score on."""
        if self.rounds(PERIOD_S) == 0 or not now.units:
            return
        squares, n = squares_of_past(self._past.values, self._past.counts, self._past.depth)
        self._variance = squares / np.maximum(n - 1, 1)
        self._host_var = now.at_home(self._variance)
        least = LEVELS[self.level]
        scores = self.scores(now)
        worst, moves = float(scores.min()), 0
        for u in np.argsort(scores, kind="stable").tolist():
            if scores[u] >= 100.0 - least or moves >= self.max_moves or now.left == 0:
                break
            moves += self._improve(now, u, least)
        self.say(worst, 100.0 - least, moves, worst < 100.0 - least)

    def scores(self, now: Round) -> F8:
        """Score of every unit where it is, (N,)."""
        served = self._served(now, now.load_mhz, self._host_var) * self._resident(now, now.load_mib)
        asked = now.of_units(now.view.state.vm_demand_mhz)
        own = np.divide(now.unit_mhz, asked, out=np.ones_like(asked), where=asked > now.unit_mhz)
        return np.asarray(100.0 * served[now.unit_home] * own)

    def _served(self, now: Round, load: F8, variance: F8) -> F8:
        """Share of a load that hosts can be expected to serve if it is spread normally, (H,)."""
        cap = now.view.params.host_cpu_mhz
        sd = np.sqrt(np.maximum(variance, 0.0))
        short = np.maximum(0.0, load - cap)
        spread = sd > 1e-9
        z = np.divide(cap - load, sd, out=np.zeros_like(sd), where=spread)
        density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
        above = 0.5 * np.array([math.erfc(x / math.sqrt(2.0)) for x in z.tolist()])
        short = np.where(spread, sd * (density - z * above), short)
        return np.where(load > 0.0, 1.0 - np.minimum(1.0, short / np.maximum(load, 1e-9)), 1.0)

    def _resident(self, now: Round, load_mib: F8) -> F8:
        """Share of the memory in use that hosts can hold, (H,); 1 where memory is not multiplexed."""
        if not now.view.params.has_tiers:
            return np.ones(now.view.n_hosts)
        return np.minimum(1.0, now.view.params.host_mem_mib / np.maximum(load_mib, 1.0))

    def _improve(self, now: Round, u: int, least: float) -> bool:
        """Move a unit to the host where most is gained, if its score rises enough and it pays."""
        p, unit, a = now.view.params, now.units[u], now.unit_home[u]
        come, mib, var = now.unit_mhz[u], now.unit_mib[u], float(self._variance[unit].sum())
        hosts: B1 = now.hosts_for(u)
        before = self._served(now, now.load_mhz, self._host_var) * self._resident(now, now.load_mib)
        after = self._served(now, now.load_mhz + come, self._host_var + var)
        after *= self._resident(now, now.load_mib + mib)
        vcpus = int(p.vm_vcpus[unit].sum())
        asked = max(float(now.view.state.vm_demand_mhz[unit].sum()), 1e-9)
        own = np.minimum(1.0, vcpus * p.host_core_mhz / asked)
        rise = 100.0 * (after * own - before[a] * own[a])
        left = self._left(now, u, a, var)
        gain = after * (now.load_mhz + come) - before * now.load_mhz  # work served on the destination, MHz
        gain = gain + left * (now.load_mhz[a] - come) - before[a] * now.load_mhz[a]
        fine = np.flatnonzero(hosts & (rise >= least - 1e-9))
        for h in fine[np.argsort(-gain[fine], kind="stable")].tolist():
            if gain[h] * self.horizon_s <= self._cost(now, unit, int(a), h):
                return False
            if now.move(u, h):
                self._host_var[a] -= var
                self._host_var[h] += var
                return True
        return False

    def _left(self, now: Round, u: int, a: NDArray[np.intp], var: float) -> float:
        load, mib, variance = now.load_mhz.copy(), now.load_mib.copy(), self._host_var.copy()
        load[a] -= now.unit_mhz[u]
        mib[a] -= now.unit_mib[u]
        variance[a] -= var
        return float((self._served(now, load, variance) * self._resident(now, mib))[a])

    def _cost(self, now: Round, unit: list[int], a: int, b: int) -> float:
        """Work that a migration takes: what the VM loses and what the destination spends, MHz s."""
        view = now.view
        share = view.params.mig_cpu_loss + view.params.mig_dest_share
        spent = 0.0
        for v in unit:
            seconds = copy_seconds(view.kernel_params, view.kernel_state, v, a, b)
            spent += float(seconds) * share * float(now.cpu[v])
        return spent
