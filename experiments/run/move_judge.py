"""Which migrations of an episode were for nothing: judged afterwards, by what hosts really had to do.

A migration from host a to host b is **futile** if

    the VM is back on a at the end of an interval within the thrash window (12 intervals), or
    by the end of the window a was never empty or off, and neither CPU nor memory was more even for it: when
    the VM had arrived, at the end of that interval, the higher of the two hosts' loads, as shares of what
    they have, was not below what it would have been with the VM on a

Moves off hosts in maintenance, and those of VMs that placement rules name, are not judged by evenness; those
that were broken off, and those of VMs that left on the way, are not judged at all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, F8
from virtgym.envs.sim.engine.lifecycle import THRASH_INTERVALS
from virtgym.envs.sim.models.power import ON
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import MIG_NONE, RUNNING

WORTH = 1e-9
"""Sums of floats: a share below is no gain."""

COLUMNS = 6
VM, FROM, AGE, ARRIVED, GOOD, BACK = range(COLUMNS)
"""Columns of the migrations that are not judged yet."""


class MoveJudge:
    """Counts futile migrations.

    Args:
        sim: Simulator of the episode, just reset.
    """

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._last_s: F8 = sim.state.vm_last_move_s.copy()
        self._open: NDArray[np.int64] = np.zeros((0, COLUMNS), dtype=np.int64)
        self._futile = 0
        self._interval = 0
        self._log: list[NDArray[np.int32]] = []
        rules = sim.config.rules
        self._ruled: B1 = np.zeros(len(self._last_s), dtype=np.bool_)
        for vms in (*rules.joined, *rules.anti_affinity, *(r.vms for r in (*rules.must, *rules.should))):
            self._ruled[list(vms)] = True

    def look(self) -> None:
        """Look at the cluster at the end of an interval."""
        s = self._sim.state
        begun = np.flatnonzero(s.vm_last_move_s != self._last_s)
        self._interval += 1
        if begun.size:
            to = np.where(s.vm_mig[begun] == MIG_NONE, s.vm_host[begun], s.vm_dest[begun])
            at = np.full(len(begun), self._interval - 1)
            self._log.append(np.stack([at, begun, s.vm_last_from[begun], to], axis=1).astype(np.int32))
            self._last_s[begun] = s.vm_last_move_s[begun]
            rows = np.zeros((len(begun), COLUMNS), dtype=np.int64)
            rows[:, VM], rows[:, FROM] = begun, s.vm_last_from[begun]
            rows[:, GOOD] = self._ruled[begun] | (s.host_maintenance[rows[:, FROM]] != 0)
            self._open = np.concatenate([self._open, rows])
        if not len(self._open):
            return
        w = self._open
        vm, a = w[:, VM], w[:, FROM]
        w[:, AGE] += 1
        there = (s.vm_state[vm] == RUNNING) & (s.vm_mig[vm] == MIG_NONE)
        now = there & (w[:, ARRIVED] == 0) & (s.vm_host[vm] != a)
        w[now, GOOD] |= self._evens(vm[now], a[now])
        w[now, ARRIVED] = 1
        w[there & (s.vm_host[vm] == a) & (w[:, ARRIVED] == 1), BACK] = 1
        w[(s.host_power_state[a] != ON) | (s.host_n_vms[a] + s.host_n_in[a] == 0), GOOD] = 1
        over = w[:, AGE] > THRASH_INTERVALS
        if over.any():
            self._futile += _count(w[over])
            self._open = w[~over]

    def _evens(self, vm: NDArray[np.int64], a: NDArray[np.int64]) -> B1:
        """Whether hosts are more even for migrations that have just ended, (n,)."""
        p, s = self._sim.params, self._sim.state
        b = s.vm_host[vm]
        loads = [(s.host_demand_mhz, s.vm_demand_mhz, p.host_inv_cpu)]
        if p.memory_binding:
            loads.append((s.host_mem_mib, p.vm_mem_mib, p.host_inv_mem))
        found = np.zeros(len(vm), dtype=np.bool_)
        for load, of, inverse in loads:
            size = of[vm]
            highest = np.maximum(load[a] * inverse[a], load[b] * inverse[b])
            before = np.maximum((load[a] + size) * inverse[a], (load[b] - size) * inverse[b])
            found |= highest < before - WORTH
        return found

    def begun(self) -> NDArray[np.int32]:
        """Interval, VM, source and destination of the migrations that were begun, shape (n, 4).

        Destination -1: the VM had left, or its migration was broken off, by the end of the interval.
        """
        return np.concatenate(self._log) if self._log else np.zeros((0, 4), dtype=np.int32)

    def count(self) -> int:
        """Futile migrations until now; of those that are not over yet, by what is known."""
        return self._futile + _count(self._open)


def _count(w: NDArray[np.int64]) -> int:
    futile = (w[:, ARRIVED] == 1) & ((w[:, BACK] == 1) | (w[:, GOOD] == 0))
    return int(futile.sum())
