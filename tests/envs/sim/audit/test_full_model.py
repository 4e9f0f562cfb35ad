"""The checker of the full model finds whatever is broken on purpose, and nothing in random episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.audit.checker import check_state
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.accumulators import Clock, Counters, Rates
from virtgym.envs.sim.state.cluster_state import ClusterState
from virtgym.envs.sim.state.parameters import ClusterParams
from virtgym.experiments.bench.audit import Audit, audit_episodes, audit_policies

Find = Callable[[ClusterParams, ClusterState], Any]
"""Where something can be broken: a mask over the places of an array."""

PENDING, RUNNING, STARTING = 1, 2, 4
WAITING, COPYING = 1, 2
INIT, ROUND, STOP, RESUME, PULL = range(1, 6)
OFF, BOOTING, ON = 0, 1, 2


def running(_: ClusterParams, s: ClusterState) -> Any:
    return (s.vm_state == RUNNING) & (s.vm_mig == 0)


def busy(_: ClusterParams, s: ClusterState) -> Any:
    return (s.vm_alloc_mhz > 10.0) & (s.vm_mig == 0)


def copied(_: ClusterParams, s: ClusterState) -> Any:
    return s.vm_mig == COPYING


def mirrored(_: ClusterParams, s: ClusterState) -> Any:
    return s.vm_secondary >= 0


def on(_: ClusterParams, s: ClusterState) -> Any:
    return (s.host_power_state == ON) & (s.host_n_vms > 0)


def phase(*codes: int) -> Find:
    return lambda _, s: np.isin(s.copy_phase, codes)


def power(*codes: int) -> Find:
    return lambda _, s: np.isin(s.host_power_state, codes)


def queued(_: ClusterParams, s: ClusterState) -> Any:
    return np.arange(len(s.heap_time)) < s.counters.queued


def loaded_node(_: ClusterParams, s: ClusterState) -> Any:
    return (s.node_load_mhz > 0).reshape(-1)


def rate_of(k: int) -> Find:
    """One rate of the hosts that hold somebody."""

    def find(p: ClusterParams, s: ClusterState) -> Any:
        mask = np.zeros(s.host_rates.shape, dtype=bool)
        mask[:, k] = on(p, s)
        return mask.reshape(-1)

    return find


def place(index: int) -> Find:
    """A certain place."""

    def find(_: ClusterParams, s: ClusterState) -> Any:
        mask = np.zeros(index + 1, dtype=bool)
        mask[index] = True
        return mask

    return find


def also(find: Find, more: Find) -> Find:
    return lambda p, s: find(p, s) & more(p, s)


Fault = tuple[str, Find, Callable[[float], float], str]


def plus(amount: float) -> Callable[[float], float]:
    return lambda value: value + amount


def becomes(value: float) -> Callable[[float], float]:
    return lambda _: value


def times(factor: float) -> Callable[[float], float]:
    return lambda value: value * factor


PLACES: list[Fault] = [
    ("vm_next", also(running, lambda p, s: s.vm_next >= 0), becomes(-1), "tail of host"),
    ("vm_host", lambda p, s: s.vm_host > 0, becomes(0), "not exactly once in the list of their host"),
    ("vm_dest", lambda p, s: s.vm_dest > 0, becomes(0), "incoming list"),
    ("vm_state", running, becomes(9), "unknown state"),
    ("vm_state", running, becomes(PENDING), "run without a host"),
    ("vm_state", copied, becomes(STARTING), "on the way that are not there"),
    ("vm_mig", running, becomes(WAITING), "migration and destination disagree"),
    ("vm_mig_end_s", running, becomes(1e9), "end of copy"),
    ("vm_mig_end_s", copied, becomes(-1.0), "copy is overdue"),
    ("counters", place(Counters.pending), plus(1), "number of waiting VMs"),
    ("counters", place(Counters.moving), plus(1), "number of copies"),
    ("counters", place(Counters.arrived), plus(1), "number of arrived VMs"),
    ("counters", place(Counters.down), plus(1), "number of VMs that are down"),
    ("counters", place(Counters.on), plus(1), "number of hosts that are on"),
    ("counters", place(Counters.sample), plus(1), "sample of the trace"),
    ("vm_down_now", running, becomes(1), "downtime runs"),
    ("vm_down_now", phase(STOP, RESUME), becomes(0), "downtime runs"),
    ("vm_down_now", lambda p, s: s.vm_state == STARTING, becomes(0), "downtime runs"),
    ("vm_cap_mhz", running, plus(1.0), "speed of their host"),
    ("vm_live_mhz", running, becomes(0.0), "nominal CPU counts"),
    ("vm_restart", running, becomes(2), "to restart that are not waiting"),
    ("vm_restart", lambda p, s: s.vm_restart == 2, becomes(1), "noticed at the wrong time"),
    ("vm_restart", lambda p, s: s.vm_restart == 1, becomes(2), "noticed at the wrong time"),
    ("vm_starts_s", lambda p, s: s.vm_state == STARTING, becomes(0.5), "start is overdue"),
    ("vm_starts_s", running, becomes(1e9), "start without starting"),
    ("host_mem_mib", on, plus(1.0), "memory does not add up"),
    ("host_nominal_mhz", on, plus(1.0), "nominal CPU does not add up"),
    ("host_reserved_mhz", on, plus(1.0), "CPU reservation does not add up"),
    ("host_mem_reserved_mib", on, plus(1.0), "memory reservation does not add up"),
    ("host_functions_used", on, plus(1), "passthrough functions does not add up"),
    ("vm_baseline", running, becomes(2**60), "CPU features"),
    ("host_power_state", on, becomes(OFF), "hold VMs and are not on"),
    ("host_power_state", power(OFF), becomes(9), "unknown power state"),
    ("host_power_state", power(OFF), becomes(7), "down and should not be"),
    ("host_power_state", power(7), becomes(OFF), "down and should not be"),
    ("host_drain", power(OFF), becomes(1), "to be switched off that are not on"),
    ("host_drain", also(power(ON), lambda p, s: s.host_n_vms + s.host_n_in == 0), becomes(1), "empty hosts"),
    ("host_active_now", on, becomes(0.0), "counted as loaded"),
    ("host_trans_end_s", on, becomes(1e9), "end of boot or shutdown"),
    ("host_trans_end_s", power(BOOTING), plus(1e4), "takes too long"),
    ("host_was_on", on, becomes(1), "to be on again"),
    ("host_profile", on, becomes(-1), "identities"),
    ("host_profile", lambda p, s: np.arange(len(s.host_profile)) == 0, becomes(1), "identities"),
    ("heap_time", queued, plus(0.5), "queued and due differ"),
    ("heap_item", queued, plus(1), "queued and due differ"),
    ("heap_kind", queued, becomes(8), "events"),
    ("counters", place(Counters.queued), plus(-1), "queued and due differ"),
]

PARTS: list[Fault] = [
    ("vm_nodes", running, becomes(0), "without a home node"),
    ("vm_nodes", running, becomes(2**8), "home node too many"),
    ("vm_nodes", lambda p, s: s.vm_host < 0, becomes(1), "on no host"),
    ("vm_dest_nodes", lambda p, s: s.vm_dest >= 0, becomes(0), "without a reserved node"),
    ("vm_mirror_nodes", lambda p, s: mirrored(p, s) & (p.has_numa > 0), becomes(0), "without a mirror node"),
    ("vm_mirror_nodes", lambda p, s: ~mirrored(p, s) & (p.has_numa > 0), becomes(1), "on no host"),
    ("vm_nodes", lambda p, s: (s.vm_nodes == 2) & (p.numa_aware > 0), becomes(3), "is spread over"),
    ("vm_pages_end_s", lambda p, s: s.vm_pages_end_s > s.clock.now_s, plus(1e5), "pages take too long"),
    ("vm_pages_end_s", lambda p, s: s.vm_host < 0, becomes(1e9), "pages move nowhere"),
    ("copy_list", lambda p, s: np.arange(len(s.copy_list)) < s.counters.moving, plus(1), "list of copies"),
    (
        "copy_list",
        lambda p, s: np.arange(len(s.copy_list)) >= s.counters.moving,
        becomes(3),
        "unused places",
    ),
    ("copy_queue", lambda p, s: np.arange(len(s.copy_queue)) < s.counters.moving, plus(1), "queue of"),
    (
        "copy_queue",
        lambda p, s: np.arange(len(s.copy_queue)) >= s.counters.moving,
        becomes(3),
        "unused places",
    ),
    ("copy_place", running, plus(1), "another place"),
    ("host_copies", on, plus(1), "copies do not add up"),
    ("copy_phase", running, becomes(ROUND), "migration and phase disagree"),
    ("copy_phase", phase(ROUND), becomes(9), "unknown phase"),
    ("copy_left_mib", phase(INIT), plus(5.0), "pages left and send none"),
    ("copy_left_mib", phase(ROUND), plus(1e6), "more left than the round"),
    ("copy_left_mib", phase(ROUND), becomes(-1.0), "less than nothing"),
    ("copy_left_s", phase(INIT), becomes(99.0), "too much time left"),
    ("copy_volume_mib", phase(ROUND), times(100.0), "larger than the VM's memory"),
    ("copy_round", phase(ROUND), becomes(99), "too many rounds"),
    ("copy_round", lambda p, s: (s.copy_phase == ROUND) & (s.copy_round == 0), becomes(1), "working set"),
    ("copy_throttle", phase(ROUND), becomes(1.5), "throttles out of range"),
    ("copy_throttle", lambda p, s: copied(p, s) & (s.copy_diverged == 0), becomes(0.2), "without need"),
    ("copy_sent_mib", lambda p, s: (s.copy_phase == ROUND) & (s.copy_round == 0), plus(1.0), "lose data"),
    ("copy_sent_mib", phase(INIT), becomes(5.0), "before they begin"),
    ("copy_rate_mib_s", lambda p, s: phase(ROUND)(p, s) & (s.copy_rate_mib_s > 0), times(2.0), "wrong time"),
    ("copy_rate_mib_s", running, becomes(1.0), "send nothing"),
    ("copy_since_s", phase(ROUND), becomes(1e9), "in the future"),
    ("copy_dirtying_mib_s", phase(ROUND), plus(1.0), "another dirty rate"),
    ("clock", place(Clock.next_copy_s), becomes(7.0), "next end of a phase"),
    ("vm_secondary", lambda p, s: running(p, s) & (p.vm_protected == 0), becomes(0), "not protected"),
    ("vm_secondary", mirrored, becomes(-1), "do not add up"),
    ("host_mirrors", on, plus(1), "protected VMs do not add up"),
    ("host_mirror_vcpus", on, plus(1), "protected vCPUs do not add up"),
    ("host_mirror_mib", on, plus(1.0), "mirrored memory does not add up"),
]

RATES: list[Fault] = [
    ("vm_demand_mhz", busy, plus(1.0), "demand is not the trace's"),
    ("vm_net_out_ask", running, plus(1.0), "outgoing traffic"),
    ("vm_net_in_ask", running, plus(1.0), "incoming traffic"),
    ("vm_disk_mb_s", running, plus(1.0), "disk traffic"),
    ("vm_dirty_mib_s", running, plus(1.0), "dirty rate"),
    ("vm_mirror_need_mbps", mirrored, plus(1.0), "log"),
    ("vm_active_mib", running, plus(1.0), "active memory"),
    ("vm_touched_mib", running, plus(1.0), "touched memory"),
    ("vm_touch_rate", running, plus(1.0), "rate of touches"),
    ("vm_io_rate", busy, plus(1.0), "packets and requests"),
    ("vm_overhead_mhz", busy, plus(1.0), "overhead of virtualization"),
    ("vm_io_mhz", busy, plus(1.0), "cost of interrupts"),
    ("vm_claim_mhz", busy, plus(1.0), "claim is not demand"),
    ("vm_ask_mhz", busy, plus(1.0), "what they can use"),
    ("vm_alloc_mhz", busy, plus(1.0), "hands out"),
    ("vm_alloc_mhz", busy, becomes(0.0), "hands out"),
    ("vm_alloc_mhz", busy, becomes(-1.0), "allocated too much"),
    ("vm_alloc_mhz", lambda p, s: s.vm_host < 0, becomes(1.0), "without a host"),
    ("vm_ready_mhz", busy, plus(1.0), "does not add up to the claim"),
    ("vm_ready_share", busy, plus(0.5), "wrong ready share"),
    ("vm_limited_mhz", busy, plus(1.0), "beyond their limit"),
    ("vm_capped_mhz", busy, plus(1.0), "beyond their vCPUs"),
    ("vm_co_stop_mhz", busy, plus(1.0), "wrong co-stop"),
    ("host_demand_mhz", on, plus(1.0), "demand does not add up"),
    ("host_ask_mhz", on, plus(1.0), "asked does not add up"),
    ("host_wanted_mhz", on, plus(1.0), "wanted CPU does not add up"),
    ("host_alloc_mhz", on, plus(1.0), "allocated CPU does not add up"),
    ("host_sat_now", on, lambda value: 1.0 - value, "wrongly short"),
    ("host_scale", on, times(0.5), "wrong scale"),
    ("vm_alloc_mhz", also(busy, lambda p, s: not p.has_cpu), times(0.9), "without their proportional share"),
    ("node_load_mhz", loaded_node, plus(1.0), "whose load does not add up"),
    ("node_vcpus", loaded_node, plus(1.0), "whose vCPUs do not add up"),
    ("node_used_mib", loaded_node, plus(1.0), "whose memory does not add up"),
    ("vm_remote_share", busy, plus(0.1), "wrong remote share"),
    ("vm_numa_slowdown", busy, plus(0.1), "wrong NUMA slowdown"),
    ("vm_numa_slowdown", busy, becomes(0.5), "remote memory makes faster"),
    ("vm_resident_mib", busy, plus(1.0), "lost or doubled"),
    ("vm_shared_mib", busy, plus(1.0), "lost or doubled"),
    ("vm_swapped_mib", busy, becomes(-1.0), "less than no memory"),
    ("vm_mem_slowdown", busy, becomes(0.5), "reclaiming makes faster"),
    ("vm_mem_slowdown", busy, plus(0.01), "slow"),
    ("host_free_mib", on, plus(1.0), "wrong free memory"),
    ("host_mem_state", lambda p, s: on(p, s) & (s.host_mem_state == 0), becomes(3), "memory state"),
    ("host_mem_state", lambda p, s: s.host_mem_state == 3, becomes(1), "memory state"),
    (
        "vm_net_out_mbps",
        lambda p, s: busy(p, s) & (s.vm_net_out_ask > 1),
        times(0.5),
        "no link holds it back",
    ),
    ("vm_net_out_mbps", busy, plus(1.0), "that it asks for"),
    ("vm_net_out_mbps", lambda p, s: s.vm_host < 0, becomes(1.0), "do not run"),
    ("vm_mirror_mbps", lambda p, s: mirrored(p, s) & (s.vm_mirror_mbps > 1), times(0.5), "no link"),
    ("vm_mirror_mbps", lambda p, s: ~mirrored(p, s), becomes(1.0), "log without a secondary"),
    ("vm_granted_mhz", busy, times(0.9), "does not follow from the chain"),
    ("vm_miss_mhz", busy, plus(1.0), "granted and missed"),
    ("vm_mig_loss_mhz", busy, plus(1.0), "loss to migration"),
    ("vm_mig_loss_mhz", phase(STOP), plus(1.0), "loss to migration"),
    ("host_power_now_w", on, plus(1.0), "does not follow from state and load"),
    ("host_power_now_w", power(BOOTING), plus(1.0), "does not follow from state and load"),
    ("host_power_now_w", power(4), plus(1.0), "does not follow from state and load"),
    *(
        ("host_rates", rate_of(k), plus(1e3), f"hosts whose {name} does not add up")
        for k, name in enumerate(Rates.places)
    ),
    ("vm_io_latency_s", busy, plus(1e-5), "latency"),
]


def break_it(states: list[Simulator], fault: Fault) -> str:
    """Break the first state that has the place, and say what the checker says."""
    name, find, change, _ = fault
    for sim in states:
        array = getattr(sim.state, name)
        if array.size == 0:
            continue
        places = np.flatnonzero(find(sim.params, sim.state))
        for i in places[:1]:
            spoilt = sim.fork()
            broken = getattr(spoilt.state, name).reshape(-1)
            before = broken[i]
            broken[i] = change(before)
            if broken[i] != before:
                return " | ".join(check_state(spoilt.params, spoilt.state))
    raise AssertionError(f"no state in which {name} could be broken")


@pytest.mark.parametrize("fault", PLACES + PARTS + RATES, ids=lambda fault: f"{fault[0]}: {fault[3]}")
def test_every_fault_is_found(states: list[Simulator], fault: Fault) -> None:
    assert fault[3] in break_it(states, fault)


def test_all_states_are_right(states: list[Simulator]) -> None:
    assert [line for sim in states[::2] for line in check_state(sim.params, sim.state)] == []


def spoil_pair(states: list[Simulator], name: str, find: Find, by: float) -> str:
    """Give one VM what another one of its host has less: every sum stays right."""
    for sim in states:
        mask = find(sim.params, sim.state)
        for h in range(len(sim.state.host_head)):
            vms = np.flatnonzero(mask & (sim.state.vm_host == h))
            if len(vms) >= 2:
                spoilt = sim.fork()
                array = getattr(spoilt.state, name)
                array[vms[0]] += by
                array[vms[1]] -= by
                return " | ".join(check_state(spoilt.params, spoilt.state))
    raise AssertionError("no two such VMs on one host")


def test_unequal_levels_are_found(states: list[Simulator]) -> None:
    def short(p: ClusterParams, s: ClusterState) -> Any:
        between = (s.vm_alloc_mhz > p.vm_reservation_mhz + 20) & (s.vm_alloc_mhz < s.vm_ask_mhz - 20)
        return between & (s.host_sat_now[np.maximum(s.vm_host, 0)] > 0)

    assert "at different levels" in spoil_pair(states, "vm_alloc_mhz", short, 15.0)


def test_a_broken_reservation_is_found(states: list[Simulator]) -> None:
    for sim in states:
        s, p = sim.state, sim.params
        promised = np.minimum(p.vm_reservation_mhz, s.vm_ask_mhz)
        for v in np.flatnonzero((promised > 100) & (s.vm_alloc_mhz >= promised)):
            others = np.flatnonzero((s.vm_host == s.vm_host[v]) & (s.vm_alloc_mhz < s.vm_ask_mhz - 500))
            if len(others) and others[0] != v:
                spoilt = sim.fork()
                shift = s.vm_alloc_mhz[v] - promised[v] + 50.0
                spoilt.state.vm_alloc_mhz[v] -= shift
                spoilt.state.vm_alloc_mhz[others[0]] += min(shift, 499.0)
                found = " | ".join(check_state(p, spoilt.state))
                assert "below their reservation" in found or "hands out" in found
                return
    raise AssertionError("no VM with a reservation beside one that is short")


def test_the_wrong_payer_is_found(states: list[Simulator]) -> None:
    def pays(_: ClusterParams, s: ClusterState) -> Any:
        return s.vm_ballooned_mib > 20.0

    found = spoil_pair(states, "vm_ballooned_mib", pays, 15.0)
    assert "wrong VMs pay" in found or "more than they can" in found


@pytest.mark.parametrize(
    ("tier", "words"),
    [
        ("vm_swapped_mib", "swapping on host"),
        ("vm_compressed_mib", "compression on host"),
        ("vm_ballooned_mib", "ballooning on host"),
        ("vm_shared_mib", "sharing on host"),
        ("vm_blocked_mib", "wrongly blocked"),
    ],
)
def test_memory_reclaimed_without_need_is_found(states: list[Simulator], tier: str, words: str) -> None:
    for sim in states:
        s = sim.state
        if not sim.params.has_tiers:
            continue
        places = np.flatnonzero((s.vm_host >= 0) & (s.host_mem_state[np.maximum(s.vm_host, 0)] > 0))
        for v in places[:1]:
            spoilt = sim.fork()
            spoilt.state.vm_resident_mib[v] -= 20.0
            getattr(spoilt.state, tier)[v] += 20.0
            assert words in " | ".join(check_state(spoilt.params, spoilt.state))
            return
    raise AssertionError("no host under pressure")


def test_uneven_sharing_of_pages_is_found(states: list[Simulator]) -> None:
    found = spoil_pair(states, "vm_shared_mib", lambda _, s: s.vm_shared_mib > 20.0, 15.0)
    assert "sharing unevenly" in found


def test_an_unfair_network_is_found(states: list[Simulator]) -> None:
    def squeezed(_: ClusterParams, s: ClusterState) -> Any:
        return (s.vm_net_out_mbps < s.vm_net_out_ask - 1.0) & (s.vm_net_out_mbps > 1.0)

    found = spoil_pair(states, "vm_net_out_mbps", squeezed, 0.9)
    assert "no link holds it back" in found


def test_a_secondary_out_of_place_is_found(states: list[Simulator]) -> None:
    words = {"on the host of their primary", "in the failure domain", "on hosts that are not on"}
    seen = set()
    for sim in states:
        for v in np.flatnonzero(sim.state.vm_secondary >= 0)[:1]:
            for h in range(len(sim.state.host_head)):
                spoilt = sim.fork()
                spoilt.state.vm_secondary[v] = h
                lines = " | ".join(check_state(spoilt.params, spoilt.state))
                seen |= {word for word in words if word in lines}
        if seen == words:
            break
    assert seen == words


def test_a_wait_for_a_free_slot_is_found(states: list[Simulator]) -> None:
    for sim in states:
        s = sim.state
        waits = (s.vm_mig == WAITING) & (s.host_power_state[np.maximum(s.vm_dest, 0)] == ON)
        if waits.any():
            spoilt = sim.fork()
            spoilt.state.host_copies[:] = 0
            lines = " | ".join(check_state(spoilt.params, spoilt.state))
            assert "though both hosts have a free slot" in lines
            assert "copies do not add up" in lines
            return
    raise AssertionError("no migration waits for a slot")


@pytest.mark.parametrize(
    ("name", "factor", "words"),
    [
        ("host_slots", 0, "more copies than slots"),
        ("host_virt_types", 0, "does not offer their virtualization"),
        ("host_features", 0, "lacks CPU features"),
        ("vm_pinned", None, "pinned VMs that migrate"),
        ("mem_overcommit", 0.01, "over their memory"),
        ("host_cpu_mhz", 1e-6, "over their CPU reservation"),
        ("host_mem_mib", 1e-6, "over their memory reservation"),
        ("host_functions", 0, "over their passthrough functions"),
        ("node_cores", 0.01, "over their vCPUs"),
        ("node_mem_mib", 1e-9, "over their memory"),
        ("host_nic_mbps", 1e-6, "over their line rate"),
        ("mirror_max_vms", 0.0, "too many protected VMs"),
    ],
)
def test_states_that_other_hosts_would_not_allow_are_found(
    states: list[Simulator], name: str, factor: Any, words: str
) -> None:
    for sim in states:
        params: Any = sim.params
        value = getattr(params, name)
        if name == "node_mem_mib":  # infinite where memory binds on hosts only
            value = np.minimum(value, 1.0)
        changed = (
            np.ones_like(value)
            if factor is None
            else (np.asarray(value) * factor).astype(np.asarray(value).dtype)
        )
        spoilt = params._replace(**{name: changed})
        if words in " | ".join(check_state(spoilt, sim.state)):
            return
    raise AssertionError(f"nothing says: {words}")


def test_random_episodes_of_everything() -> None:
    audit = audit_episodes(8, 60, first=1000)
    assert audit.violations == []
    assert audit.intervals == 8 * 60
    assert audit.exact_hosts > 500
    seen = {name for name, n in (audit.events + audit.states).items() if n}
    for name in (
        "migrations done",
        "host failures",
        "VM restarts",
        "take-overs",
        "copies in round",
        "secondaries",
    ):
        assert name in seen


def test_random_episodes_of_some_sub_models() -> None:
    audit = audit_episodes(8, 40, first=2000, every=False)
    assert audit.violations == []
    assert isinstance(audit, Audit)
    assert "violations: 0" in audit.report()


def test_policies_of_every_kind_play_random_clusters() -> None:
    """Those that plan, on the simulator; agents, by choices in the environment."""
    audit = audit_policies(["dpm", "suite_agent"], 2, 3)
    assert audit.violations == []
    assert (audit.episodes, audit.intervals) == (4, 12)
