"""What a migration changes, predicted from what was measured: loads, imbalance, power, broken rules."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from virtgym.envs.arrays import F8, I4
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.models.rules import Rules
from virtgym.envs.sim.simulator import ClusterView
from virtgym.policies.planning.positions import homes_of
from virtgym.policies.planning.power import power_tables
from virtgym.policies.planning.rounds import measured_demand

GAINS = ("rules", "maintenance", "overload_mhz", "watts", "imbalance")
"""What a move can gain, the first that it does: broken rules mended; VMs off a host in maintenance; demand
that is served, MHz; power, W; evenness of load, percentage points of its standard deviation over hosts."""


@dataclass(frozen=True)
class Picture:
    """The cluster at one moment of a plan, as far as a move of one VM touches it.

    Attributes:
        source: Load of the host that the VM leaves, share of its CPU.
        dest: The same of the host that it goes to.
        source_memory: Configured memory there, share.
        dest_memory: The same.
        imbalance: Standard deviation of the hosts' CPU loads.
        overload_mhz: Demand above what the two hosts have, MHz.
        watts: Power of the two hosts, W.
        broken: Rules that the VM breaks.
    """

    source: float
    dest: float
    source_memory: float
    dest_memory: float
    imbalance: float
    overload_mhz: float
    watts: float
    broken: int


class Outlook:
    """Where VMs are with the moves so far, and what hosts carry then.

    Args:
        view: The cluster; its demand is taken to hold.
    """

    def __init__(self, view: ClusterView) -> None:
        s, p = view.state, view.params
        self.view = view
        self.home: I4 = homes_of(s, np.arange(view.n_vms, dtype=np.int32))
        self.demand: F8 = measured_demand(view)
        there = self.home >= 0
        self.load = np.bincount(self.home[there], self.demand[there], minlength=view.n_hosts)
        self.memory = np.bincount(self.home[there], p.vm_mem_mib[there], minlength=view.n_hosts)
        self.counted = (s.host_power_state == ON) & (s.host_maintenance == 0)
        self._tables = power_tables(p)
        self._grid = np.linspace(0.0, 1.0, self._tables.shape[1])
        self._breaks = _RuleCount(view.config.rules) if view.config.rules else None

    def imbalance(self) -> float:
        """Standard deviation of the CPU loads of hosts that are on and take VMs."""
        shares = (self.load * self.view.params.host_inv_cpu)[self.counted]
        return float(shares.std()) if shares.size else 0.0

    def watts(self, h: int) -> float:
        """Power of a host that is on, W."""
        p = self.view.params
        table = self._tables[p.host_type[h]]
        return float(np.interp(min(self.load[h] * p.host_inv_cpu[h], 1.0), self._grid, table))

    def picture(self, v: int, a: int, b: int) -> Picture:
        """The cluster as it is now, for a move of a VM from host a to host b."""
        p = self.view.params
        cpu, mem = self.load * p.host_inv_cpu, self.memory * p.host_inv_mem
        over = sum(max(0.0, float(self.load[h] - p.host_cpu_mhz[h])) for h in (a, b))
        broken = 0 if self._breaks is None else self._breaks.of(v, self.home)
        return Picture(
            float(cpu[a]), float(cpu[b]), float(mem[a]), float(mem[b]), self.imbalance(), over,
            self.watts(a) + self.watts(b), broken,
        )  # fmt: skip

    def move(self, v: int, b: int) -> tuple[Picture, Picture]:
        """Move a VM; returns the cluster before and after."""
        a = int(self.home[v])
        before = self.picture(v, a, b)
        for h, sign in ((a, -1.0), (b, 1.0)):
            self.load[h] += sign * self.demand[v]
            self.memory[h] += sign * self.view.params.vm_mem_mib[v]
        self.home[v] = b
        return before, self.picture(v, a, b)


class _RuleCount:
    """How many rules a VM breaks."""

    def __init__(self, rules: Rules) -> None:
        self._together = {v: group for group in rules.joined for v in group}
        self._apart: dict[int, list[tuple[int, ...]]] = {}
        for group in rules.anti_affinity:
            for v in group:
                self._apart.setdefault(v, []).append(group)
        self._on: dict[int, list[frozenset[int]]] = {}
        for rule in (*rules.must, *rules.should):
            hosts = frozenset(rule.hosts)
            for v in rule.vms:
                self._on.setdefault(v, []).append(hosts)

    def of(self, v: int, home: I4) -> int:
        """Rules that it breaks where it is."""
        here = int(home[v])
        broken = sum(here not in hosts for hosts in self._on.get(v, ()))
        group = self._together.get(v, ())
        broken += sum(int(home[u]) not in (here, -1) for u in group if u != v) > 0
        return broken + sum(
            any(u != v and int(home[u]) == here for u in group) for group in self._apart.get(v, ())
        )


def gain_of(before: Picture, after: Picture, maintenance: bool, freed_w: float) -> tuple[float, str]:
    """What a move is worth, in the first unit of ``GAINS`` in which it is worth something.

    Args:
        before: The cluster before it.
        after: The cluster with it.
        maintenance: Whether the host that the VM leaves is in maintenance.
        freed_w: The move's part of what switching off that host saves, W; NaN where it stays on.
    """
    if before.broken > after.broken:
        return float(before.broken - after.broken), "rules"
    if maintenance:
        return 1.0, "maintenance"
    if before.overload_mhz > after.overload_mhz + 1e-6:
        return before.overload_mhz - after.overload_mhz, "overload_mhz"
    if not math.isnan(freed_w):
        return before.watts - after.watts + freed_w, "watts"
    return 100.0 * (before.imbalance - after.imbalance), "imbalance"
