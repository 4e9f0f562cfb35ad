"""A plan in the making: every order is tried on a copy of the cluster first, so that none is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from virtgym.envs.arrays import I4
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.simulator import ClusterView


class Draft:
    """Orders for one interval, each legal after those before it.

    ``Decisions`` are carried out kind by kind (maintenance, hosts on, placements, migrations, hosts off):
    give a draft those on one host in that sequence. An order costs what it costs in the simulator, making
    a draft a copy of the state.

    Args:
        view: The cluster.

    Attributes:
        sim: The copy, with all orders so far carried out and no time passed.
    """

    def __init__(self, view: ClusterView) -> None:
        self.sim = view.fork()
        self.sim.strict = False
        self._hosts: dict[str, list[int]] = {"maintenance": [], "power_on": [], "power_off": []}
        self._pairs: dict[str, list[tuple[int, int]]] = {"place": [], "move": []}

    def __len__(self) -> int:
        """Number of orders."""
        return sum(len(v) for v in self._hosts.values()) + sum(len(v) for v in self._pairs.values())

    def maintenance(self, h: int) -> bool:
        """Let a host take no VM from now on."""
        return self._host("maintenance", h)

    def power_on(self, h: int) -> bool:
        """Switch a host on, if that is legal; whether it was."""
        return self._host("power_on", h)

    def power_off(self, h: int) -> bool:
        """Switch a host off, if that is legal; whether it was."""
        return self._host("power_off", h)

    def place(self, v: int, h: int) -> bool:
        """Place a waiting VM, if that is legal; whether it was."""
        return self._pair("place", v, h)

    def move(self, v: int, h: int) -> bool:
        """Migrate a VM, if that is legal; whether it was."""
        return self._pair("move", v, h)

    def move_all(self, vms: Sequence[int], h: int) -> bool:
        """Migrate several VMs to one host, if all of it is legal; whether it was. Else nothing is ordered."""
        if len(vms) > 1:  # what refuses the last one is seen once the others are on their way
            trial = self.sim.fork()
            trial.strict = False
            vm = np.array(vms, dtype=np.int32)
            if trial.apply(Decisions(move_vm=vm, move_host=np.full(len(vm), h, dtype=np.int32))):
                return False
        return all(self.move(v, h) for v in vms)

    def decisions(self) -> Decisions:
        """The plan."""
        orders: dict[str, I4] = {kind: np.array(hosts, np.int32) for kind, hosts in self._hosts.items()}
        for kind, pairs in self._pairs.items():
            columns = np.array(pairs, dtype=np.int32).reshape(-1, 2)
            orders[f"{kind}_vm"] = columns[:, 0].copy()
            orders[f"{kind}_host"] = columns[:, 1].copy()
        return Decisions(**orders)

    def _host(self, kind: str, h: int) -> bool:
        return self._try(Decisions(**{kind: _one(h)}), self._hosts[kind], h)

    def _pair(self, kind: str, v: int, h: int) -> bool:
        order = Decisions(**{f"{kind}_vm": _one(v), f"{kind}_host": _one(h)})
        return self._try(order, self._pairs[kind], (v, h))

    def _try(self, order: Decisions, done: list[Any], what: Any) -> bool:
        if self.sim.apply(order):
            return False
        done.append(what)
        return True


def _one(item: int) -> I4:
    return np.array([item], dtype=np.int32)
