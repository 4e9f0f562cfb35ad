"""High availability: the guard by vSphere's worked case and by brute force, restarts, placement, standby."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.audit.checker import Auditor
from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guests import GuestProfile
from virtgym.envs.sim.models.admission import AdmissionConfig
from virtgym.envs.sim.models.failures import FailureConfig, FailureDomain, replay_outages
from virtgym.envs.sim.models.power import OFF
from virtgym.envs.sim.models.scheduling import CpuControl, SchedulingConfig
from virtgym.envs.sim.models.standby import StandbyConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING, STARTING
from virtgym.envs.sim.workload import Workload
from virtgym.policies import make_policy
from virtgym.policies.ha.policy import HaPolicy, restart_dependencies
from virtgym.policies.planning.guard import AdmissionGuard

FOREVER = float("inf")
HOST = HostType("host", 8, 1000.0, 8192.0, (100.0, 200.0), boot_time_s=120.0, shutdown_time_s=30.0)
NO_OWN = FailureConfig("none")


def indices(*items: int) -> Any:
    return np.array(items, dtype=np.int32)


def load(
    n: int, profiles: tuple[GuestProfile, ...] = (GuestProfile(),), of: Any = 0, **columns: Any
) -> Workload:
    def column(name: str, default: float, dtype: Any = np.float64) -> Any:
        return np.array(np.broadcast_to(np.asarray(columns.get(name, default), dtype), (n,)))

    return Workload(
        "load",
        300.0,
        np.full((1, n), columns.get("util", 0.3)),
        column("cpu", 1000.0),
        column("vcpus", 1, np.int32),
        column("mem", 1024.0),
        column("arrival", 0.0),
        column("departure", FOREVER),
        profiles=profiles,
        vm_profile=column("profile", 0, np.int32) if not np.ndim(of) else np.asarray(of, dtype=np.int32),
    )


def build(
    n_hosts: int, work: Workload, outages: Any = (), horizon_s: float = 3600.0, **changes: Any
) -> Simulator:
    """Hosts of one kind that fail only as told: ``outages`` are (host, down, up)."""
    settings: dict[str, Any] = {
        "host_types": (HOST,),
        "host_type_of": np.zeros(n_hosts, dtype=np.int32),
        "interval_s": 60.0,
        "arrival": "policy",
        "failures": NO_OWN,
        "restart": "policy",
        **changes,
    }
    if outages:
        host, down, up = zip(*outages)
        settings["replayed"] = replay_outages(
            np.array(host, np.int32), np.array(down, float), np.array(up, float), n_hosts
        )
    return Simulator(ClusterConfig(**settings), work, horizon_s=horizon_s)


def start(sim: Simulator, **params: Any) -> HaPolicy:
    policy = HaPolicy(**params)
    policy.reset(sim.reset(np.random.default_rng(1)), np.random.default_rng(1))
    return policy


def run(sim: Simulator, policy: HaPolicy, until_s: float = FOREVER) -> None:
    """Step by step; no order may be refused and nobody may find fault with the state."""
    auditor = Auditor(sim)
    while not sim.done and sim.time_s < until_s - 1e-6:
        sim.step(policy.plan(sim.view))
        assert sim.refusals == []
        assert auditor.observe() == []


# --- the guard ---


@pytest.mark.parametrize("counts", ["configured", "reservations"])
def test_the_worked_case_of_slots(counts: Any) -> None:
    """Hosts (9 GHz, 9 GiB), (9, 6), (6, 6); VMs (2, 1), (2, 1), (1, 2), (1, 1), (1, 1): capacity 1."""
    sizes = ((9, 9), (9, 6), (6, 6))
    types = tuple(HostType(f"h{i}", c, 1000.0, m * 1024.0, (100.0, 200.0)) for i, (c, m) in enumerate(sizes))
    cpu, mem = np.array([2, 2, 1, 1, 1, 1, 1]) * 1000.0, np.array([1, 1, 2, 1, 1, 1, 1]) * 1024.0
    profiles = tuple(
        GuestProfile(f"r{i}", cpu=CpuControl(reservation_mhz=r)) for i, r in enumerate((1000.0, 2000.0))
    )
    work = load(7, profiles, (cpu > 1000).astype(int), cpu=cpu, mem=mem, vcpus=2, arrival=[0] * 5 + [90, 90])
    sim = build(
        3,
        work,
        host_types=types,
        host_type_of=indices(0, 1, 2),
        cpu=SchedulingConfig(),
        admission=AdmissionConfig("slots", 1, overhead_mib=0.0, counts=counts),
    )
    policy = start(sim)
    sim.step(policy.plan(sim.view))
    guard = AdmissionGuard(sim.view)
    state = guard.failover()
    assert (state.slot_cpu_mhz, state.slot_mem_mib) == (2000.0, 2048.0)
    assert state.capacity == 1
    assert state.holds
    assert not guard.may_leave().any()
    assert guard.may_admit(indices(5, 6)).tolist() == [True, True]
    assert guard.admit(5)  # the last of six slots
    assert not guard.admit(6)
    sim.step()
    sim.step(policy.plan(sim.view))  # both have arrived; one is let in
    assert sim.state.vm_state[5:].tolist() == [RUNNING, PENDING]


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_whichever_hosts_fail_all_admitted_vms_come_back(seed: int, k: int) -> None:
    """The guarantee by slots is worth what it says, whatever the sizes and the placement."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 6))
    types = tuple(
        HostType(f"h{i}", int(rng.integers(4, 12)), 1000.0, float(rng.integers(4, 12)) * 1024, (100.0, 200.0))
        for i in range(n)
    )
    vcpus = rng.integers(1, 3, 30)
    work = load(30, cpu=vcpus * 1000.0, vcpus=vcpus, mem=rng.integers(1, 4, 30) * 512.0)
    for gone in combinations(range(n), k):
        sim = build(
            n,
            work,
            [(h, 200.0, FOREVER) for h in gone],
            horizon_s=480.0,
            host_types=types,
            host_type_of=np.arange(n, dtype=np.int32),
            admission=AdmissionConfig("slots", k),
        )
        policy = start(sim)
        sim.step(policy.plan(sim.view))
        guard = AdmissionGuard(sim.view)
        assert guard.holds
        admitted = sim.state.vm_state == RUNNING
        waiting = np.flatnonzero(~admitted).astype(np.int32)
        assert not guard.may_admit(waiting).all() or not waiting.size  # no more than there is room for
        run(sim, policy)
        assert (sim.state.vm_state[admitted] == RUNNING).all()


def test_a_domain_can_be_lost_as_a_whole() -> None:
    racks = (FailureDomain("a", (0, 1, 2), 1e6, 1.0), FailureDomain("b", (3, 4, 5), 1e6, 1.0))
    both: dict[str, Any] = {"domains": racks, "horizon_s": 480.0}
    for survive, most in ((False, 40), (True, 24)):  # 6 hosts of 8 slots: 5 x 8, and 3 x 8
        rule = AdmissionConfig("slots", 1, survive_domain=survive)
        sim = build(6, load(48), [(h, 200.0, FOREVER) for h in (0, 1, 2)], admission=rule, **both)
        policy = start(sim)
        sim.step(policy.plan(sim.view))
        assert int((sim.state.vm_state == RUNNING).sum()) == most
        placed = sim.state.vm_state == RUNNING
        run(sim, policy)
        assert bool((sim.state.vm_state[placed] == RUNNING).all()) == survive
    sim = build(6, load(16), admission=AdmissionConfig("slots", 1, survive_domain=True), domains=racks)
    policy = start(sim)
    sim.step(policy.plan(sim.view))
    guard = AdmissionGuard(sim.view)
    # 16 VMs need two hosts in either rack: one host of each may go, then none.
    assert guard.may_leave().all()
    assert guard.leave(0)
    assert guard.may_leave().tolist() == [True, False, False, True, True, True]
    assert guard.leave(3)
    assert [h for h in range(6) if guard.leave(h)] == [0, 3]  # those that are gone already


def test_a_plan_is_stripped_of_what_breaks_the_guarantee() -> None:
    sim = build(4, load(9), admission=AdmissionConfig("dedicated", hosts=(3,)))
    policy = start(sim)
    sim.step(policy.plan(sim.view))
    there = np.flatnonzero(sim.state.vm_host == 0).astype(np.int32)
    plan = Decisions(
        move_vm=there, move_host=np.array([3, *[1] * (len(there) - 1)], np.int32), power_off=indices(0, 3)
    )
    kept = AdmissionGuard(sim.view).keep(plan)
    assert kept.move_vm.tolist() == there[1:].tolist()  # not the one to the failover host
    assert kept.power_off.tolist() == []  # host 0 keeps that VM, and host 3 is for failover
    assert sim.apply(kept) == []
    slots = build(4, load(8), admission=AdmissionConfig("slots", 1))
    policy = start(slots)
    slots.step(policy.plan(slots.view))
    free = np.flatnonzero(slots.state.host_n_vms == 0)
    assert free.size == 0  # spread out
    many = Decisions(maintenance=indices(0, 1, 2, 3))
    assert AdmissionGuard(slots.view).keep(many).maintenance.tolist() == [0, 1]  # 8 VMs, one host to spare


def test_without_a_guarantee_everything_goes() -> None:
    sim = build(2, load(4))
    policy = start(sim)
    sim.step(policy.plan(sim.view))
    guard = AdmissionGuard(sim.view)
    plan = Decisions(power_off=indices(0, 1))
    assert guard.keep(plan) is plan
    assert guard.holds
    assert guard.may_leave().all()


def test_a_failover_host_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"admission.hosts=9: no such host, must lie in 0..1"):
        build(2, load(1), admission=AdmissionConfig("dedicated", hosts=(9,)))


# --- restarts ---


def test_restarts_in_order_of_priority_where_room_is_short() -> None:
    """Two hosts full but for two places: the two most important of eight VMs get them."""
    profiles = tuple(GuestProfile(f"p{i}", restart_priority=i) for i in range(3))
    work = load(14, profiles, [0] * 4 + [2] + [1] * 3 + [0] * 6)
    sim = build(2, work, [(0, 200.0, 1500.0)], horizon_s=2400.0)
    sim_policy = start(sim, spread=False)
    sim.apply(
        Decisions(
            place_vm=np.arange(14, dtype=np.int32), place_host=np.repeat([0, 1], [8, 6]).astype(np.int32)
        )
    )
    run(sim, sim_policy, 600.0)
    assert np.flatnonzero(sim.state.vm_state[:8] == RUNNING).tolist() == [4, 5]
    run(sim, sim_policy)  # the others once the host is mended: 1500 + boot 120 + VM boot 60
    assert (sim.state.vm_state == RUNNING).all()
    assert sim.state.vm_down_s[0] == pytest.approx(1500 + 120 + 60 - 200)
    assert sim.state.vm_down_s[4] == pytest.approx(240 + 60 - 200)  # noticed at 215, placed at 240


def test_groups_wait_for_those_they_need() -> None:
    profiles = (GuestProfile("web", restart_after=("database",)), GuestProfile("database"))
    work = load(4, profiles, [0, 0, 1, 1])
    sim = build(2, work, [(0, 200.0, FOREVER)], horizon_s=900.0)
    policy = start(sim)
    sim.apply(Decisions(place_vm=indices(0, 1, 2, 3), place_host=indices(0, 1, 0, 1)))
    run(sim, policy)
    down = sim.state.vm_down_s
    assert down.tolist() == pytest.approx([360 + 60 - 200 - 60, 0, 240 + 60 - 200, 0])  # web: placed at 300


def test_a_group_does_not_wait_for_ever() -> None:
    """The database fits nowhere; the web tier starts after the timeout all the same."""
    profiles = (GuestProfile("web", restart_after=("database",)), GuestProfile("database"))
    work = load(2, profiles, [0, 1], mem=[1024.0, 8192.0])
    types = (HOST, HostType("small", 8, 1000.0, 4096.0, (100.0, 200.0)))
    sim = build(
        3, work, [(0, 200.0, FOREVER), (1, 200.0, FOREVER)], 1500.0,
        host_types=types, host_type_of=indices(0, 0, 1),
    )  # fmt: skip
    policy = start(sim, dependency_timeout_s=600.0)
    sim.apply(Decisions(place_vm=indices(0, 1), place_host=indices(0, 1)))
    run(sim, policy)
    assert sim.state.vm_state.tolist() == [RUNNING, PENDING]
    assert sim.state.vm_down_s[0] == pytest.approx(840 + 60 - 200)  # the first interval 600 s after 200


def test_a_circle_of_dependencies_is_refused() -> None:
    circle = (GuestProfile("a", restart_after=("b",)), GuestProfile("b", restart_after=("a",)))
    with pytest.raises(ConfigError, match="restart_after: a, b wait for each other in a circle"):
        restart_dependencies(circle)
    with pytest.raises(ConfigError, match="restart_after: names itself"):
        GuestProfile("a", restart_after=("a",))
    chain = (
        GuestProfile("a", restart_after=("b", "unused")),
        GuestProfile("b", restart_after=("c",)),
        GuestProfile("c"),
    )
    assert restart_dependencies(chain).tolist() == [[False, True, False], [False, False, True], [False] * 3]


def test_at_home_vms_wait_for_their_own_host() -> None:
    sim = build(2, load(4), [(0, 200.0, 1000.0)], horizon_s=1800.0)
    policy = start(sim, failover="home")
    sim.step(policy.plan(sim.view))
    mine = sim.state.vm_host == 0
    run(sim, policy)
    assert (sim.state.vm_host[mine] == 0).all()
    assert sim.state.vm_down_s.tolist() == pytest.approx(np.where(mine, 1000 + 120 + 60 - 200, 0).tolist())


def test_at_home_is_where_the_identity_is() -> None:
    sim = build(3, load(4), [(0, 200.0, FOREVER)], horizon_s=1800.0, spares=(2,))
    policy = start(sim, failover="home")
    sim.step(policy.plan(sim.view))
    mine = sim.state.vm_host == 0
    run(sim, policy)
    assert (sim.state.vm_host[mine] == 2).all()
    outage = 15 + 600 + 120 + 60  # detect, associate, boot of the host, boot of the VM
    assert sim.state.vm_down_s[mine].tolist() == pytest.approx([outage] * int(mine.sum()))


def test_a_host_is_booted_for_what_fits_nowhere() -> None:
    for boot in (True, False):
        sim = build(3, load(16), [(0, 200.0, FOREVER)], horizon_s=900.0)
        policy = start(sim, boot_hosts=boot, restore=False)
        places = np.repeat([0, 1], 8).astype(np.int32)
        sim.apply(Decisions(place_vm=np.arange(16, dtype=np.int32), place_host=places, power_off=indices(2)))
        run(sim, policy)
        assert int((sim.state.vm_state == RUNNING).sum()) == (16 if boot else 8)
        assert (sim.state.host_power_state[2] == OFF) != boot


def test_the_guarantee_is_restored_by_hosts_that_were_off() -> None:
    sim = build(4, load(12), [(0, 200.0, FOREVER)], horizon_s=900.0, admission=AdmissionConfig("slots", 1))
    policy = start(sim)
    sim.apply(Decisions(power_off=indices(3)))
    run(sim, policy)
    assert AdmissionGuard(sim.view).holds
    assert sim.state.host_n_vms.sum() == 12
    idle = build(4, load(12), [(0, 200.0, FOREVER)], horizon_s=900.0, admission=AdmissionConfig("slots", 1))
    policy = start(idle, restore=False)
    idle.apply(Decisions(power_off=indices(3)))
    run(idle, policy)
    assert idle.state.host_power_state[3] == OFF
    assert not AdmissionGuard(idle.view).holds


def test_dedicated_hosts_take_failures_and_are_cleared_again() -> None:
    sim = build(
        3, load(12), [(0, 200.0, 900.0)], horizon_s=2400.0, admission=AdmissionConfig("dedicated", hosts=(2,))
    )
    policy = start(sim)
    run(sim, policy, 180.0)
    assert sim.state.host_n_vms.tolist() == [6, 6, 0]
    run(sim, policy, 600.0)
    assert sim.state.host_n_vms[2] == 4  # of the six two have gone on to host 1, which has room for no more
    run(sim, policy)
    assert sim.state.host_n_vms[2] == 0
    assert AdmissionGuard(sim.view).holds


# --- placement ---


def test_groups_are_spread_over_domains_and_hosts() -> None:
    racks = tuple(FailureDomain(f"r{i}", (2 * i, 2 * i + 1), 1e6, 1.0) for i in range(3))
    profiles = (GuestProfile("a"), GuestProfile("b"))
    sim = build(6, load(12, profiles, [0] * 6 + [1] * 6), domains=racks)
    policy = start(sim)
    sim.step(policy.plan(sim.view))
    for group in (slice(0, 6), slice(6, 12)):
        hosts = sim.state.vm_host[group]
        assert sorted(hosts.tolist()) == [0, 1, 2, 3, 4, 5]
        assert np.bincount(hosts // 2).tolist() == [2, 2, 2]
    assert sim.state.vm_down_s.sum() == 0  # placed at time 0, at once


# --- hot standby ---

MIRRORED = (GuestProfile("critical", protected=True, restart_priority=2), GuestProfile("other"))


def hot(outages: Any, horizon_s: float = 1800.0) -> Simulator:
    racks = (FailureDomain("a", (0, 1, 2), 1e6, 1.0), FailureDomain("b", (3, 4, 5), 1e6, 1.0))
    return build(
        6, load(14, MIRRORED, [0] * 8 + [1] * 6), outages, horizon_s, domains=racks, standby=StandbyConfig()
    )


@pytest.mark.parametrize("failed", range(6))
def test_hot_standby_loses_no_running_work_in_any_single_failure(failed: int) -> None:
    sim = hot([(failed, 930.0, FOREVER)])
    policy = start(sim)
    run(sim, policy, 900.0)
    s = sim.state
    rack = np.array([0, 0, 0, 1, 1, 1])
    assert (s.vm_secondary[:8] >= 0).all()
    assert (rack[s.vm_secondary[:8]] != rack[s.vm_host[:8]]).all()
    here = s.vm_host == failed
    before = s.vm_missed.copy(), s.vm_requested.copy(), s.vm_down_s.copy()
    sim.advance(30.0)
    sim.advance(1.0)  # one second later everything protected runs
    assert (s.vm_state[:8] == RUNNING).all()
    assert (s.vm_restart[:8] == 0).all()
    assert int(s.totals.takeovers) == int(here[:8].sum())
    assert (s.vm_down_s[:8] - before[2][:8]).tolist() == pytest.approx(here[:8].astype(float).tolist())
    run(sim, policy)
    assert int(s.totals.restarts) == int(here[8:].sum())
    assert (s.vm_state == RUNNING).all()
    assert (s.vm_secondary[:8] >= 0).all()  # and a new secondary, never in the same rack
    assert (rack[s.vm_secondary[:8]] != rack[s.vm_host[:8]]).all()


def test_protected_vms_move_to_where_they_may_be_mirrored() -> None:
    """Five protected VMs on one host: the fifth gets no secondary there (at most four), so it moves."""
    for moves, want in ((4, 5), (0, 4)):
        work = load(5, MIRRORED, [0] * 5)
        sim = build(4, work, horizon_s=900.0, standby=StandbyConfig())
        policy = start(sim, protection_moves=moves)
        sim.apply(Decisions(place_vm=np.arange(5, dtype=np.int32), place_host=indices(0, 0, 0, 0, 0)))
        run(sim, policy)
        assert int((sim.state.vm_secondary >= 0).sum()) == want


# --- nothing is lost, nothing is restarted twice ---


@pytest.mark.parametrize("standby", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_loss_is_restarted_once(seed: int, standby: bool) -> None:
    racks = (FailureDomain("a", (0, 1, 2), 20.0, 0.3), FailureDomain("b", (3, 4, 5), 20.0, 0.3))
    sim = build(
        6,
        load(20, MIRRORED, [0] * 8 + [1] * 12),
        horizon_s=6 * 3600.0,
        failures=FailureConfig("exponential", mtbf_h=4.0, mttr_h=0.5),
        domains=racks,
        standby=StandbyConfig() if standby else None,
        admission=AdmissionConfig("slots", 1),
    )
    policy = HaPolicy()
    policy.reset(sim.reset(np.random.default_rng(seed)), np.random.default_rng(seed))
    p, s, lost = sim.params, sim.state, 0
    fails = [float(t) for t, kind in zip(p.fail_time_s, p.fail_kind) if kind == 0]
    auditor = Auditor(sim)
    while not sim.done:
        assert sim.apply(policy.plan(sim.view)) == []
        end = sim.time_s + 60.0
        for t in sorted(set(fails)):
            if sim.time_s < t < end:
                sim.advance(t - 1e-3 - sim.time_s)
                up = np.isin(s.vm_state, (RUNNING, STARTING))
                sim.advance(2e-3)
                gone = up & (s.vm_state == PENDING)
                assert (s.vm_restart[gone] == 1).all()
                lost += int(gone.sum())
        sim.advance(end - sim.time_s)
        assert auditor.observe() == []
        assert (np.isin(s.vm_state, (RUNNING, STARTING)) == (s.vm_host >= 0)).all()
        waiting = int(((s.vm_state == PENDING) & (s.vm_restart > 0)).sum())
        assert int(s.totals.restarts) == lost - waiting
    assert lost >= 5
    assert (s.totals.takeovers > 0) == standby


def test_bad_parameters_name_their_key() -> None:
    for name, params, text in (
        ("ha", {"failover": "far"}, r"^policy.failover=far: .*allowed: cluster, home"),
        ("ha", {"failback_moves": -1}, r"^policy.failback_moves=-1: must be 0 or more"),
        ("nfv_upgrade", {"at_once": 0}, r"^policy.at_once=0: must be at least 1"),
        ("nfv_upgrade", {"start_s": -1.0}, r"^policy.start_s=-1.0: must be 0 or more"),
    ):
        with pytest.raises(ConfigError, match=text):
            make_policy(name, **params)
