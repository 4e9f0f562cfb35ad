"""What an operator does by hand while a cluster runs: maintenance, and moves of one VM or of all on a host.

Events are carried out at the first interval edge at or after their time, before whoever operates the cluster
decides; what is not legal then is refused and counted, and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import need
from .decisions import BREAKS_AFFINITY, NO_SUCH, Decisions, Refusal
from .engine.orders import check_move
from .guarantee import check_rules
from .models.power import ON
from .state.cluster_state import MIG_NONE, RUNNING, ClusterState
from .state.parameters import ClusterParams

NOWHERE = -1
"""Host of a VM that is to leave a host and that no other may take, in ``Agenda.refused``."""


@dataclass(frozen=True)
class Migrate:
    """One VM, and where it is to go.

    Attributes:
        vm: Index of the VM.
        host: Index of the host.
    """

    vm: int = 0
    host: int = 0


@dataclass(frozen=True)
class Event:
    """What is done at one time; all that is given, in this order.

    Attributes:
        at_s: When, s.
        maintenance: Hosts that take no more VMs from then on.
        end_maintenance: Hosts that take VMs again.
        migrate: A VM that moves.
        empty: Host all of whose VMs move away, each to the host that is least loaded with it.
    """

    at_s: float = 0.0
    maintenance: tuple[int, ...] = ()
    end_maintenance: tuple[int, ...] = ()
    migrate: Migrate | None = None
    empty: int | None = None

    def check(self, where: str, n_hosts: int, n_vms: int, horizon_s: float) -> None:
        """Check times and indices against a cluster and its load.

        Raises:
            ConfigError: Naming the key and what is allowed.
        """
        need(
            0.0 <= self.at_s < horizon_s,
            f"{where}.at_s={self.at_s}: must be at least 0, before the end of the episode, {horizon_s:g} s",
        )
        named = {f"maintenance[{i}]": h for i, h in enumerate(self.maintenance)}
        named |= {f"end_maintenance[{i}]": h for i, h in enumerate(self.end_maintenance)}
        if self.migrate is not None:
            vm = self.migrate.vm
            need(0 <= vm < n_vms, f"{where}.migrate.vm={vm}: no such VM, must lie in 0..{n_vms - 1}")
            named["migrate.host"] = self.migrate.host
        if self.empty is not None:
            named["empty"] = self.empty
        need(bool(named), f"{where}: needs one of maintenance, end_maintenance, migrate, empty")
        for key, host in named.items():
            need(0 <= host < n_hosts, f"{where}.{key}={host}: no such host, must lie in 0..{n_hosts - 1}")


def check_events(events: Sequence[Event], n_hosts: int, n_vms: int, horizon_s: float) -> None:
    """Check every event; see ``Event.check``."""
    for i, event in enumerate(events):
        event.check(f"events[{i}]", n_hosts, n_vms, horizon_s)


class Agenda:
    """The events of an episode, by time.

    Args:
        events: The events.
        interval_s: Time between interval edges, s.

    Attributes:
        refused: Orders that were not legal at their time.
    """

    def __init__(self, events: Sequence[Event], interval_s: float) -> None:
        edges = [math.ceil(event.at_s / interval_s - 1e-9) * interval_s for event in events]
        self._events = sorted(zip(edges, events), key=lambda pair: pair[0])
        self.begin()

    def begin(self) -> None:
        """Go back to time 0."""
        self._at = 0
        self.refused: list[Refusal] = []

    def copy(self) -> Agenda:
        """The same for a copy of the cluster."""
        twin = object.__new__(Agenda)
        twin._events, twin._at, twin.refused = self._events, self._at, list(self.refused)
        return twin

    def mark(self) -> list[Any]:
        """Where it stands, as plain data."""
        return [self._at, [[r.kind, r.vm, r.host, r.code] for r in self.refused]]

    def go_to(self, mark: Sequence[Any]) -> None:
        """Stand where ``mark`` was taken."""
        self._at, self.refused = mark[0], [Refusal(*one) for one in mark[1]]

    @property
    def next_s(self) -> float:
        """When something is to be done, s; inf = never again."""
        return self._events[self._at][0] if self._at < len(self._events) else math.inf

    def carry_out(self, sim: Any, carry_out: Callable[[Decisions], list[Refusal]]) -> None:
        """Do what is due.

        Args:
            sim: The simulator, for its parameters, state and rules.
            carry_out: Carries orders out; returns those refused.
        """
        now = sim.time_s + 1e-6
        while self.next_s <= now:
            event = self._events[self._at][1]
            self._at += 1
            moves = [] if event.migrate is None else [event.migrate]
            self.refused += carry_out(
                Decisions(
                    maintenance=_list(event.maintenance),
                    end_maintenance=_list(event.end_maintenance),
                    move_vm=_list([move.vm for move in moves]),
                    move_host=_list([move.host for move in moves]),
                )
            )
            if event.empty is not None:
                self._empty(sim, event.empty, carry_out)

    def _empty(self, sim: Any, host: int, carry_out: Callable[[Decisions], list[Refusal]]) -> None:
        p, s = sim.params, sim.state
        there = np.flatnonzero((s.vm_host == host) & (s.vm_state == RUNNING) & (s.vm_mig == MIG_NONE))
        for v in there[np.argsort(-p.vm_mem_mib[there], kind="stable")].tolist():
            to = least_loaded(sim, v)
            if to == NOWHERE:
                self.refused.append(Refusal("move", v, NOWHERE, NO_SUCH))
            else:
                self.refused += carry_out(Decisions(move_vm=_list((v,)), move_host=_list((to,))))


def least_loaded(sim: Any, v: int) -> int:
    """Host that is on, keeps the rules and is least loaded with a VM that moves; ``NOWHERE`` = none."""
    p: ClusterParams = sim.params
    s: ClusterState = sim.state
    cpu = (s.host_nominal_mhz + p.vm_cpu_mhz[v]) / p.host_cpu_mhz
    load = np.maximum(cpu, (s.host_mem_mib + p.vm_mem_mib[v]) / p.host_mem_mib)
    kernel_params, kernel_state = sim.kernel_params, sim.kernel_state
    going = _where_its_group_goes(p, s, v)
    hosts = np.flatnonzero(s.host_power_state == ON)
    for h in hosts[np.argsort(load[hosts], kind="stable")].tolist():
        # A group that stays together leaves VM by VM: where the first of it go, the others follow.
        follows = not going or h in going
        kept = check_rules(kernel_params, kernel_state, v, h) in (0, BREAKS_AFFINITY)
        if follows and kept and check_move(kernel_params, kernel_state, v, h) == 0:
            return int(h)
    return NOWHERE


def _where_its_group_goes(p: ClusterParams, s: ClusterState, v: int) -> set[int]:
    """Hosts that VMs of a VM's affinity group are moving to."""
    if not p.has_rules or p.aff[v] < 0:
        return set()
    group = p.aff_vm[p.aff_first[p.aff[v]] : p.aff_first[p.aff[v] + 1]]
    return set(s.vm_dest[group].tolist()) - {-1}


def _list(items: Sequence[int]) -> np.ndarray:
    return np.array(items, dtype=np.int32)
