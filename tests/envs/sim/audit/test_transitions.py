"""The checker of the full model finds what cannot have happened between two states that are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.audit.checker import Auditor
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.accumulators import Counters, Rates, Totals
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams

Find = Callable[[ClusterParams, ClusterState], Any]
"""Where something can be broken: a mask over the places of an array."""

PENDING, RUNNING = 1, 2
COPYING = 2
INIT = 1
OFF, ON = 0, 2


def running(_: ClusterParams, s: ClusterState) -> Any:
    return (s.vm_state == RUNNING) & (s.vm_mig == 0)


def busy(_: ClusterParams, s: ClusterState) -> Any:
    return (s.vm_alloc_mhz > 10.0) & (s.vm_mig == 0)


def on(_: ClusterParams, s: ClusterState) -> Any:
    return (s.host_power_state == ON) & (s.host_n_vms > 0)


def off(_: ClusterParams, s: ClusterState) -> Any:
    return s.host_power_state == OFF


def add(name: str, index: int, value: float) -> Callable[[Simulator], None]:
    def spoil(sim: Simulator) -> None:
        getattr(sim.state, name)[index] += value

    return spoil


def with_vm(find: Find, name: str, value: float) -> Callable[[Simulator], None]:
    """Change a place of the first VM, or host, that is there."""

    def spoil(sim: Simulator) -> None:
        places = np.flatnonzero(find(sim.params, sim.state))
        if len(places):
            getattr(sim.state, name)[places[0]] += value

    return spoil


def exactly(name: str, total: int, find: Find, value: float) -> Callable[[Simulator], None]:
    """Change an integral of one place and the total with it."""

    def spoil(sim: Simulator) -> None:
        with_vm(find, name, value)(sim)
        if np.any(find(sim.params, sim.state)):
            sim.state.totals[total] += value

    return spoil


IN_TIME: list[tuple[Callable[[Simulator], None], str]] = [
    (add("host_energy_j", 2, 1.0), "is not the sum of host_energy_j"),
    (add("host_active_s", 2, 1.0), "is not the sum of host_active_s"),
    (add("vm_missed", 0, 1e12), "missed too much"),
    (add("vm_mig_lost", 0, 1e12), "lost more than they missed"),
    (add("vm_requested", 4, -1e12), "shrank"),
    (add("totals", Totals.requested, 1e6), "is not the sum of vm_requested"),
    (add("totals", Totals.departures, 1.0), "VMs departed"),
    (add("totals", Totals.mig_done, 1.0), "migrations"),
    (add("totals", Totals.host_failures, 1.0), "failures of hosts"),
    (add("totals", Totals.vm_crashes, 1e3), "never came"),
    (add("totals", Totals.restarts, 1e3), "more restarts than failures"),
    (add("totals", Totals.mig_mib, 77.0), "data sent by migrations"),
    (add("totals", Totals.on_s, 1e9), "more than the time"),
    (add("totals", Totals.carbon_g, 1e9), "carbon"),
    (add("totals", Totals.ready, 1e9), "more ready time than time"),
    (add("totals", Totals.vcpus, 1e9), "more vCPUs than VMs have"),
    (add("totals", Totals.alloc, 1e15), "more CPU allocated than there is"),
    (add("totals", Totals.capped, -1e15), "totals that shrank"),
    (add("counters", Counters.fault, 1.0), "faults that have happened"),
    (exactly("vm_down_s", Totals.down_s, running, 1.0), "wrong downtime"),
    (
        exactly("vm_down_s", Totals.down_s, lambda p, s: s.vm_state == PENDING, -0.7),
        "downtime does not count",
    ),
    (exactly("vm_down_s", Totals.down_s, running, 1e6), "more downtime than time"),
    (exactly("vm_requested", Totals.requested, running, 1e6), "wrong requested CPU"),
    (exactly("host_energy_j", Totals.energy_j, on, 10.0), "wrong energy"),
    (exactly("host_energy_j", Totals.energy_j, off, 10.0), "wrong energy in state 0"),
    (exactly("host_energy_j", Totals.energy_j, on, -5000.0), "less than idle energy"),
    (exactly("host_energy_j", Totals.energy_j, on, 1e9), "more than peak energy"),
    (exactly("vm_missed", Totals.missed, busy, 1e5), "wrong unserved CPU"),
]


@pytest.mark.parametrize(("spoil", "words"), IN_TIME, ids=[words for _, words in IN_TIME])
def test_faults_in_time_are_found(
    states: list[Simulator], spoil: Callable[[Simulator], None], words: str
) -> None:
    for sim in states[::3]:
        if sim.done:
            continue
        spoilt = sim.fork()
        auditor = Auditor(spoilt)
        spoilt.advance(300.0)
        spoil(spoilt)
        found = auditor.observe()
        if words in " | ".join(found):
            assert found[0].startswith("at ")
            return
    raise AssertionError(f"nothing says: {words}")


STILL = (
    Totals.on_s,
    Totals.imb_cpu_s,
    Totals.imb_mem_s,
    Totals.fragment_s,
    *range(len(Rates.places)),
)


@pytest.mark.parametrize("index", STILL)
def test_wrong_totals_of_a_still_stretch_are_found(states: list[Simulator], index: int) -> None:
    found = []
    for sim in states[::2]:
        spoilt = sim.fork()
        auditor = Auditor(spoilt)
        spoilt.advance(1.0)
        assert auditor.observe() == []
        spoilt.advance(1.0)
        spoilt.state.totals[index] += 0.01 + 1e-3 * abs(spoilt.state.totals[index])
        found = auditor.observe()
        if "grew by" in " | ".join(found):
            return
    raise AssertionError(f"nobody says that total {index} is wrong, but: {found}")


Past = Callable[[ClusterState, dict[str, Any]], bool]
"""Rewrites the state before, or the one now, where it can; whether it could."""


def jumped(s: ClusterState, old: dict[str, Any]) -> bool:
    still = (s.vm_host >= 0) & (s.vm_host == old["vm_host"]) & (s.vm_mig == 0) & (old["vm_mig"] == 0)
    for v in np.flatnonzero(still):
        old["vm_host"][v] = (old["vm_host"][v] + 1) % len(s.host_head)
    return bool(still.any())


def left_its_host(s: ClusterState, old: dict[str, Any]) -> bool:
    waits = np.flatnonzero((s.vm_state == PENDING) & (old["vm_state"] == PENDING))
    old["vm_state"][waits[:1]] = RUNNING
    s.vm_restart[waits[:1]] = 0
    return len(waits) > 0


def rose_again(s: ClusterState, old: dict[str, Any]) -> bool:
    places = np.flatnonzero(s.vm_state == RUNNING)
    old["vm_state"][places[:1]] = 3
    return len(places) > 0


def unsent(s: ClusterState, old: dict[str, Any]) -> bool:
    if not len(s.copy_phase):
        return False
    both = np.flatnonzero((s.copy_phase > INIT) & (old["copy_phase"] > INIT))
    old["copy_sent_mib"][both[:1]] += 1e6
    return len(both) > 0


def went_elsewhere(s: ClusterState, old: dict[str, Any]) -> bool:
    ended = (s.vm_mig == 0) & (old["vm_mig"] == COPYING) & (s.vm_host >= 0)
    for v in np.flatnonzero(ended):
        old["vm_dest"][v] = old["vm_host"][v] = (s.vm_host[v] + 1) % len(s.host_head)
    return bool(ended.any())


def came_to_maintenance(s: ClusterState, old: dict[str, Any]) -> bool:
    new = np.flatnonzero((s.vm_host >= 0) & (old["vm_host"] < 0) & (old["vm_dest"] < 0))
    s.host_maintenance[s.vm_host[new]] = 1
    old["host_maintenance"][s.vm_host[new]] = 1
    return len(new) > 0


def sent_too_little(s: ClusterState, old: dict[str, Any]) -> bool:
    if not len(s.copy_phase) or s.totals.mig_aborted != old["totals"][Totals.mig_aborted]:
        return False
    ended = np.flatnonzero((s.vm_mig == 0) & (old["vm_mig"] == COPYING) & (s.vm_state == RUNNING))
    s.totals.mig_mib -= float(s.copy_sent_mib[ended].sum())
    s.copy_sent_mib[ended] = 0.0
    return len(ended) > 0


@pytest.mark.parametrize(
    ("past", "words"),
    [
        (jumped, "elsewhere for no reason"),
        (left_its_host, "lost their host without a failure"),
        (rose_again, "went back in life"),
        (unsent, "copies that unsend"),
        (went_elsewhere, "to another host than theirs"),
        (came_to_maintenance, "to a host in maintenance"),
        (sent_too_little, "before all memory was sent"),
    ],
)
def test_another_past_is_found(states: list[Simulator], past: Past, words: str) -> None:
    for sim in states:
        if sim.done or not sim.params.has_failures:
            continue
        after = sim.fork()
        auditor = Auditor(after)
        after.advance(300.0 - sim.time_s % 300.0)
        if past(after.state, auditor._before) and words in " | ".join(auditor.observe()):
            return
    raise AssertionError(f"nothing says: {words}")
