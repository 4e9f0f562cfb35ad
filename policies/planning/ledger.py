"""Who moved which VM away from where: what managers that share a cluster must know of each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, F8, I4
from virtgym.envs.sim.engine.lifecycle import THRASH_INTERVALS
from virtgym.envs.sim.simulator import ClusterView


class MoveLedger:
    """The migrations of the last intervals, as many as the thrash window has (docs, Metrics).

    A VM is ordered to move once per interval at most, so one slot per VM and interval holds all of them.

    Args:
        view: The cluster.
    """

    def __init__(self, view: ClusterView) -> None:
        slots = THRASH_INTERVALS + 1
        self.window_s = THRASH_INTERVALS * view.params.interval_s * (1.0 + 1e-9)
        self._left = np.full((slots, view.n_vms), -1, dtype=np.int32)
        self._when_s = np.full((slots, view.n_vms), -np.inf)
        self._received_s: dict[str, F8] = {}
        self._emptied_s = np.full(view.n_hosts, -np.inf)
        self._n_hosts = view.n_hosts
        self._slot = 0
        self._time_s = -np.inf

    def open(self, time_s: float) -> None:
        """Begin an interval; asked twice at one time, it is one."""
        if time_s > self._time_s:
            self._time_s = time_s
            self._slot = (self._slot + 1) % len(self._left)
            self._left[self._slot] = -1

    def record(self, manager: str, vms: I4, sources: I4, hosts: I4) -> None:
        """Note migrations that are ordered now.

        Args:
            manager: Who orders them.
            vms: VMs, shape (n,).
            sources: Hosts that they leave, shape (n,).
            hosts: Hosts that they go to, shape (n,).
        """
        self._left[self._slot, vms] = sources
        self._when_s[self._slot, vms] = self._time_s
        if manager not in self._received_s:
            self._received_s[manager] = np.full(self._n_hosts, -np.inf)
        self._received_s[manager][hosts] = self._time_s

    def goes_back(self, vms: I4, hosts: I4) -> B1:
        """Whether moves would return VMs to hosts that they left within the window, shape (n,)."""
        recent = self._time_s - self._when_s[:, vms] <= self.window_s
        back: B1 = (recent & (self._left[:, vms] == hosts)).any(axis=0)
        return back

    def received_from(self, manager: str) -> NDArray[np.intp]:
        """Hosts that a manager moved VMs to within the window."""
        since = self._received_s.get(manager)
        if since is None:
            return np.empty(0, dtype=np.intp)
        return np.flatnonzero(self._time_s - since <= self.window_s)

    def note_emptied(self, hosts: B1) -> None:
        """Note hosts, shape (H,), from which the last VM goes away now."""
        self._emptied_s[hosts] = self._time_s

    def emptied(self) -> B1:
        """Hosts that were emptied within the window, shape (H,)."""
        late: B1 = self._time_s - self._emptied_s <= self.window_s
        return late
