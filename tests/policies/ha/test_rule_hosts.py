"""Placement rules where HA places and moves: each kind by hand, then random clusters with failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.guests import GuestProfile
from virtgym.envs.sim.models.admission import AdmissionConfig
from virtgym.envs.sim.models.failures import FailureConfig, FailureDomain, replay_outages
from virtgym.envs.sim.models.power import BOOTING, OFF, ON
from virtgym.envs.sim.models.precopy import PULL, PrecopyConfig
from virtgym.envs.sim.models.rules import Rules, VmHostRule
from virtgym.envs.sim.models.standby import StandbyConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING
from virtgym.envs.sim.workload import Workload
from virtgym.policies import make_policy
from virtgym.policies.ha.policy import HaPolicy
from virtgym.policies.planning.positions import homes_of
from virtgym.policies.planning.rule_hosts import RuleHosts

FOREVER = float("inf")
BIG = HostType("big", 8, 1000.0, 8192.0, (100.0, 200.0), boot_time_s=120.0, shutdown_time_s=30.0)
SMALL = HostType("small", 2, 1000.0, 2048.0, (50.0, 90.0), boot_time_s=120.0, shutdown_time_s=30.0)
DEDICATED = AdmissionConfig("dedicated", hosts=(2,))


def indices(*items: int) -> Any:
    return np.array(items, dtype=np.int32)


def on(vms: int | tuple[int, ...], *hosts: int) -> tuple[VmHostRule, ...]:
    """A rule that names hosts: ``must=on(0, 1, 2)``: VM 0 on host 1 or 2."""
    return (VmHostRule((vms,) if isinstance(vms, int) else vms, hosts),)


def build(
    hosts: tuple[HostType, ...],
    n_vms: int,
    rules: Rules,
    failed: tuple[tuple[int, float, float], ...] = (),
    *,
    profiles: tuple[GuestProfile, ...] = (GuestProfile(),),
    arrival: Any = 0.0,
    **changes: Any,
) -> Simulator:
    """Equal VMs of a core and 1 GiB; ``failed``: (host, down, up), with ``restart: policy``."""
    load = Workload(
        "load",
        300.0,
        np.full((1, n_vms), 0.3),
        np.full(n_vms, 1000.0),
        np.ones(n_vms, dtype=np.int32),
        np.full(n_vms, 1024.0),
        np.array(np.broadcast_to(arrival, (n_vms,)), dtype=np.float64),
        np.full(n_vms, FOREVER),
        profiles=profiles,
        vm_profile=np.zeros(n_vms, dtype=np.int32),
    )
    kinds = tuple(dict.fromkeys(hosts))
    settings: dict[str, Any] = {"interval_s": 60.0, "arrival": "policy", "rules": rules, **changes}
    settings |= {"failures": FailureConfig("none"), "restart": "policy"}
    if failed:
        host, down, up = zip(*failed)
        settings["replayed"] = replay_outages(
            np.array(host, np.int32), np.array(down, float), np.array(up, float), len(hosts)
        )
    of = np.array([kinds.index(kind) for kind in hosts], dtype=np.int32)
    return Simulator(ClusterConfig(kinds, of, **settings), load, horizon_s=3600.0)


def start(sim: Simulator, places: Any = None, name: str = "ha", **params: Any) -> Any:
    """Reset both and put VMs where a case begins: ``places`` is the host of VM 0, 1, ..."""
    policy: Any = make_policy(name, **params)
    policy.reset(sim.reset(np.random.default_rng(1)), np.random.default_rng(1))
    if places is not None:
        hosts = indices(*places)
        vms = np.arange(len(hosts), dtype=np.int32)
        assert sim.apply(Decisions(place_vm=vms[hosts >= 0], place_host=hosts[hosts >= 0])) == []
    return policy


def run(sim: Simulator, policy: Any, until_s: float) -> None:
    while sim.time_s < until_s - 1e-6:
        sim.step(policy.plan(sim.view))
        assert sim.refusals == []


def at(sim: Simulator, *vms: int) -> list[int]:
    return [int(h) for h in sim.state.vm_host[list(vms)]]


# --- the sets themselves ---


def test_the_hosts_of_every_kind_of_rule() -> None:
    rules = Rules(
        affinity=((0, 1), (1, 2)),
        anti_affinity=((3, 4),),
        must=on(5, 0, 2) + on((5, 2), 2, 3),
        should=on(6, 1) + on(6, 0),  # a contradiction: the first one counts
    )
    sim = build((BIG,) * 4, 9, rules)
    start(sim, [-1, -1, -1, 2])
    hosts, s = RuleHosts(sim.view), sim.state

    def listed(mask: Any) -> list[int]:
        return [int(h) for h in np.flatnonzero(mask)]

    assert hosts.ruled.tolist() == [True] * 7 + [False] * 2
    assert listed(hosts.hard(s, 5)) == [2]
    assert listed(hosts.near(s, 0)) == [2, 3]  # nobody of the group is up: where VM 2 may follow
    assert listed(hosts.hard(s, 0)) == [0, 1, 2, 3]
    assert listed(hosts.hard(s, 4)) == [0, 1, 3]
    assert listed(hosts.allowed(s, 8)) == [0, 1, 2, 3]
    assert listed(hosts.wished(6)) == [1]
    assert (hosts.rank(sim, 6) > 0).tolist() == [True, False, True, True]
    sim.apply(Decisions(place_vm=indices(0, 1), place_host=indices(3, 1)))
    assert listed(hosts.near(s, 2)) == [1, 3]  # split already
    assert listed(hosts.allowed(s, 2)) == [3]
    assert listed(hosts.near(s, 0, 1)) == [2, 3]  # together: only VM 2 is left
    assert hosts.mates(s, 0) == [0]
    sim.apply(Decisions(move_vm=indices(0, 3), move_host=indices(1, 0)))
    assert listed(hosts.near(s, 2)) == [1]  # where it is going
    assert hosts.mates(s, 1) == [0, 1]
    assert listed(hosts.hard(s, 4)) == [1, 3]  # on the one, about to come to the other
    with pytest.raises(ValueError, match="read-only"):
        hosts.near(s, 8)[0] = False


def test_vms_that_are_gone_bind_nobody() -> None:
    rules = Rules(affinity=((0, 1),), anti_affinity=((1, 2),), must=on(0, 1))
    sim = build((BIG,) * 2, 3, rules)
    start(sim, [1, -1, 0])
    hosts, s = RuleHosts(sim.view), sim.state
    assert (hosts.near(s, 1).tolist(), hosts.hard(s, 1).tolist()) == ([False, True], [False, True])
    s.vm_state[[0, 2]] = 3
    s.vm_host[[0, 2]] = -1
    assert hosts.allowed(s, 1).all()


def test_after_a_post_copy_handover_a_vm_is_where_it_runs() -> None:
    sim = build((BIG,) * 3, 2, Rules(affinity=((0, 1),)), migration=PrecopyConfig("post_copy"))
    start(sim, [0, -1])
    hosts, s = RuleHosts(sim.view), sim.state
    s.vm_host[0], s.vm_dest[0] = 2, 0
    assert np.flatnonzero(hosts.near(s, 1)).tolist() == [0]
    s.copy_phase[0] = PULL
    assert np.flatnonzero(hosts.near(s, 1)).tolist() == [2]


# --- restarts: host 0 fails at 200 s, the policy acts at 240 s, a VM boots in 60 s ---


def test_a_restart_waits_for_a_host_that_it_must_run_on() -> None:
    """Host 1 is full, host 2 has room, but VM 0 is bound to hosts 0 and 1."""
    sim = build((BIG,) * 3, 10, Rules(must=on(0, 0, 1)), ((0, 200.0, 900.0),))
    policy = start(sim, [0, 0, *[1] * 8])
    run(sim, policy, 600.0)
    assert (sim.state.vm_state[0], at(sim, 1)) == (PENDING, [2])
    run(sim, policy, 1260.0)
    assert at(sim, 0) == [0]
    assert sim.state.vm_down_s[0] == pytest.approx(900 + 120 + 60 - 200)


def test_a_restart_keeps_apart_and_has_a_host_booted_for_that() -> None:
    for off, want in ((False, 2), (True, 2), (None, -1)):
        sim = build(
            (BIG,) * (2 if off is None else 3), 3, Rules(anti_affinity=((0, 1),)), ((0, 200.0, FOREVER),)
        )
        policy = start(sim, [0, 1, 0])
        if off:
            sim.apply(Decisions(power_off=indices(2)))
        run(sim, policy, 720.0)
        assert at(sim, 0, 1) == [want, 1]
        assert sim.state.vm_state[2] == RUNNING


def test_a_host_in_maintenance_is_not_booted_for_a_rule() -> None:
    sim = build((BIG,) * 3, 2, Rules(must=on(1, 2)), arrival=[0.0, 90.0])
    policy = start(sim, [0])
    sim.apply(Decisions(maintenance=indices(2), power_off=indices(2)))
    run(sim, policy, 600.0)
    assert (sim.state.vm_state[1], int(sim.state.host_power_state[2])) == (PENDING, OFF)
    sim.apply(Decisions(end_maintenance=indices(2)))
    run(sim, policy, 900.0)
    assert at(sim, 1) == [2]


def test_a_group_restarts_where_all_of_it_has_room() -> None:
    """By load the small empty host would come first (50 %, against 5 of 8), but it has room for two."""
    for rules, want in ((Rules(), 1), (Rules(affinity=((0, 1, 2),)), 2)):
        sim = build((BIG, SMALL, BIG), 7, rules, ((0, 200.0, FOREVER),))
        policy = start(sim, [0, 0, 0, 2, 2, 2, 2], spread=False)
        run(sim, policy, 360.0)
        assert at(sim, 0)[0] == want
        assert (sim.state.vm_state == RUNNING).all()
    assert at(sim, 0, 1, 2) == [2, 2, 2]


def test_a_group_joins_its_member_and_is_rather_split_than_down() -> None:
    """VM 2 runs on host 2. Two more have room there, then one; the rest goes elsewhere at once."""
    for room, want in ((2, [2, 2]), (1, [2, 1])):
        n = 3 + 7 - room
        sim = build((BIG,) * 3, n, Rules(affinity=((0, 1, 2),)), ((0, 200.0, FOREVER),))
        policy = start(sim, [0, 0, *[2] * (n - 2)])
        run(sim, policy, 360.0)
        assert at(sim, 0, 1) == want
        assert sim.state.vm_down_s[:2].tolist() == pytest.approx([100.0, 100.0])


def test_wishes_come_first_but_after_hosts_for_failover() -> None:
    for should, full, dedicated, want in (
        (2, 0, False, 2),
        (2, 8, False, 1),
        (1, 0, True, 2),
        (2, 0, True, 2),
    ):
        rules = Rules(should=on(0, should))
        admission = DEDICATED if dedicated else None
        sim = build((BIG,) * 4, 3 + full, rules, ((0, 200.0, FOREVER),), admission=admission)
        policy = start(sim, [0, 3, 3, *[2] * full], failback_moves=0)
        run(sim, policy, 360.0)
        assert at(sim, 0) == [want]


def test_at_home_rules_count_as_well() -> None:
    """The identity of host 0 goes to the spare, host 3; VM 0 may not follow, VM 1 does."""
    sim = build((BIG,) * 4, 2, Rules(must=on(0, 0, 1)), ((0, 200.0, FOREVER),), spares=(3,))
    policy = start(sim, [0, 0], failover="home")
    run(sim, policy, 1800.0)
    assert (sim.state.vm_state[0], at(sim, 1)) == (PENDING, [3])


# --- arrivals ---


def test_arrivals_go_where_rules_let_them() -> None:
    """Of three hosts, 1 and 2 empty: by load the VM that arrives would go to host 1."""
    for rules, want in (
        (Rules(), 1),
        (Rules(must=on(4, 0, 2)), 2),
        (Rules(should=on(4, 2)), 2),
        (Rules(anti_affinity=((0, 4),), must=on(4, 0, 2)), 2),
        (Rules(affinity=((0, 4),)), 0),
    ):
        sim = build((BIG,) * 3, 5, rules, arrival=[0, 0, 0, 0, 90])
        policy = start(sim, [0, 0, 0, 0])
        run(sim, policy, 180.0)
        assert at(sim, 4) == [want]


def test_a_host_is_booted_where_a_vm_must_be() -> None:
    sim = build((BIG,) * 3, 2, Rules(must=on(1, 2)), arrival=[0.0, 90.0])
    policy = start(sim, [0])
    sim.apply(Decisions(power_off=indices(2)))
    run(sim, policy, 180.0)
    assert sim.state.host_power_state[2] == BOOTING
    run(sim, policy, 360.0)
    assert at(sim, 1) == [2]


def test_the_first_of_a_group_goes_where_the_others_can_follow() -> None:
    rules = Rules(affinity=((0, 1),), must=on(1, 1, 2), should=on(0, 0))
    sim = build((BIG,) * 3, 2, rules, arrival=[0.0, 90.0])
    policy = start(sim)
    run(sim, policy, 60.0)
    assert at(sim, 0)[0] in (1, 2)
    run(sim, policy, 180.0)
    assert at(sim, 0) == at(sim, 1)


def test_an_arrival_waits_beside_a_full_host_but_not_for_ever() -> None:
    sim = build((BIG,) * 2, 9, Rules(affinity=((0, 8),)), arrival=[0] * 8 + [90])
    policy = start(sim, [0] * 8)
    run(sim, policy, 660.0)
    assert sim.state.vm_state[8] == PENDING
    run(sim, policy, 780.0)  # it has waited 600 s at 690: the next interval is 720
    assert at(sim, 8) == [1]
    for patience, want in ((0.0, 1), (300.0, -1)):
        sim = build((BIG,) * 2, 9, Rules(affinity=((0, 8),)), arrival=[0] * 8 + [90])
        policy = start(sim, [0] * 8, dependency_timeout_s=patience)
        run(sim, policy, 180.0)
        assert at(sim, 8) == [want]


def test_nobody_takes_the_room_of_a_group_that_arrives() -> None:
    """Two places on either host; VMs 0 and 3 belong together, 1 and 2 arrive between them."""
    sim = build((SMALL, BIG), 10, Rules(affinity=((0, 3),)))
    policy = start(sim, [-1] * 4 + [1] * 6)
    run(sim, policy, 60.0)
    assert at(sim, 0, 3) == [0, 0]
    assert at(sim, 1, 2) == [1, 1]
    order, kind = policy.rules.gathered, np.array([0, 0, 0, 0])
    assert order(indices(2, 0, 1, 3), kind).tolist() == [2, 0, 3, 1]
    assert order(indices(3, 1, 0), np.array([1, 1, 1, 2])).tolist() == [3, 1, 0]  # one is more important


def test_a_host_in_maintenance_takes_nothing_and_is_not_booted(make_sim: Any) -> None:
    """A simple cluster: two hosts of two places, three VMs."""
    for off in (False, True):
        sim = make_sim([0.1] * 3, n_hosts=2, arrival="policy")
        policy = start(sim)
        if off:
            sim.apply(Decisions(power_off=indices(1)))
        sim.apply(Decisions(maintenance=indices(1)))
        plan = policy.plan(sim.view)
        assert (plan.place_host.tolist(), plan.power_on.tolist()) == ([0, 0], [])
        sim.apply(Decisions(end_maintenance=indices(1)))
        plan = policy.plan(sim.view)
        assert (sorted(plan.place_host.tolist()), plan.power_on.size) in (([0, 0, 1], off), ([0, 1, 1], off))


# --- failback and protection ---


def test_a_group_leaves_the_failover_host_together() -> None:
    """VMs 0 and 1 restart on host 2; host 1 has room for one, so both go to host 0 once it is mended."""
    sim = build(
        (BIG,) * 3, 9, Rules(affinity=((0, 1),)), ((0, 200.0, 900.0),), arrival=[0] * 9, admission=DEDICATED
    )
    policy = start(sim, [0, 0, *[1] * 7], failback_moves=1)
    run(sim, policy, 900.0)
    assert at(sim, 0, 1) == [2, 2]
    run(sim, policy, 1800.0)
    assert at(sim, 0, 1) == [0, 0]


def test_failback_keeps_rules_and_one_that_is_stuck_holds_nobody_up() -> None:
    rules = Rules(must=on(0, 0, 2), anti_affinity=((1, 4),))
    sim = build((BIG,) * 4, 6, rules, ((0, 200.0, FOREVER),), admission=DEDICATED)
    policy = start(sim, [0, 0, 0, 3, 1, 3], failback_moves=1)
    run(sim, policy, 300.0)
    assert at(sim, 0, 1, 2) == [2, 2, 2]
    run(sim, policy, 1200.0)
    assert at(sim, 0, 1) == [2, 3]  # VM 0 has nowhere to go, VM 1 not to host 1
    assert at(sim, 2)[0] in (1, 3)


def test_protected_vms_move_to_be_mirrored_where_rules_let_them() -> None:
    """Five protected VMs on one host: at most four are mirrored, so the fifth moves."""
    critical = (GuestProfile("critical", protected=True),)
    for rules, want in (
        (Rules(must=on((0, 1, 2, 3, 4), 0, 3)), {3}),
        (Rules(anti_affinity=tuple((v, 5 + i) for v in range(5) for i in (0, 1))), {3}),
        (Rules(affinity=((0, 1, 2, 3, 4),)), set()),  # all or none: elsewhere five are too many as well
    ):
        sim = build((BIG,) * 4, 7, rules, profiles=critical, standby=StandbyConfig())
        policy = start(sim, [0, 0, 0, 0, 0, 1, 2])
        run(sim, policy, 900.0)
        moved = {h for h in at(sim, 0, 1, 2, 3, 4) if h != 0}
        assert moved == want


# --- the rolling upgrade ---


def upgrade(rules: Rules, places: list[int], new: int = 2) -> tuple[Simulator, Any]:
    old = HostType("old", 8, 1000.0, 8192.0, (100.0, 200.0), cpu_level="broadwell")
    fresh = HostType("new", 8, 1000.0, 8192.0, (100.0, 200.0), cpu_level="ice_lake")
    sim = build((old,) * 3 + (fresh,) * new, len(places), rules)
    return sim, start(sim, places, "nfv_upgrade")


def test_a_host_that_a_rule_binds_a_vm_to_is_left_and_the_others_are_replaced() -> None:
    sim, policy = upgrade(Rules(must=on(1, 0, 1)), [0, 1, 2, 2])
    run(sim, policy, 3600.0)
    s = sim.state
    assert at(sim, 1) == [1]
    assert s.host_power_state[:3].tolist() == [OFF, ON, OFF]
    assert s.host_maintenance[:3].tolist() == [1, 0, 1]
    assert (s.vm_host[[0, 2, 3]] >= 3).all()
    assert int((s.host_power_state[3:] == ON).sum()) == 1  # nothing is left to keep a spare one for


def test_an_upgrade_keeps_vms_together_and_apart() -> None:
    """Two VMs that keep apart take both new hosts; the group of seven is never split."""
    rules = Rules(anti_affinity=((0, 7),), affinity=((0, 1, 2, 3, 4, 5, 6),))
    sim, policy = upgrade(rules, [0] * 7 + [1, 2])
    run(sim, policy, 3600.0)
    assert (sim.state.host_power_state[:3] == OFF).all()
    assert len(set(at(sim, 0, 1, 2, 3, 4, 5, 6))) == 1
    assert at(sim, 0) != at(sim, 7)
    sim, policy = upgrade(Rules(anti_affinity=((0, 1, 2),)), [0, 1, 2])
    run(sim, policy, 3600.0)  # three that keep apart, two new hosts: one old host is left
    assert int((sim.state.host_power_state[:3] == ON).sum()) == 1
    assert len(set(at(sim, 0, 1, 2))) == 3


def test_an_upgrade_boots_no_new_host_in_maintenance() -> None:
    sim, policy = upgrade(Rules(), [0] * 8 + [1] * 8, new=3)
    sim.apply(Decisions(maintenance=indices(3), power_off=indices(3)))
    run(sim, policy, 3600.0)
    assert sim.state.host_power_state[3] == OFF
    assert (sim.state.host_power_state[:3] == OFF).all()


def test_a_host_is_booted_for_maintenance_only_where_a_vm_can_go_on() -> None:
    """VM 0 is to leave host 0 and fits nowhere that is on. Host 1 lacks CPU features of its."""
    old = HostType("old", 8, 1000.0, 8192.0, (100.0, 200.0), cpu_level="broadwell")
    fresh = HostType("new", 8, 1000.0, 8192.0, (100.0, 200.0), cpu_level="ice_lake")
    for hosts, want in (((fresh, old, old), []), ((fresh, old, fresh), [2])):
        sim = build(hosts, 1, Rules())
        policy = start(sim, [0])
        sim.apply(Decisions(maintenance=indices(0), power_off=indices(1, 2)))
        sim.advance()
        assert policy.plan(sim.view).power_on.tolist() == want


# --- what must hold in every episode ---


def random_rules(rng: np.random.Generator, n_vms: int, n_hosts: int) -> Rules:
    """A few rules of every kind that can be kept together."""
    while True:
        vms = rng.permutation(n_vms).tolist()

        def some(low: int, high: int, vms: list[int] = vms) -> tuple[int, ...]:
            return tuple(sorted(rng.choice(vms, int(rng.integers(low, high)), replace=False).tolist()))

        def hosts(least: int) -> tuple[int, ...]:
            return tuple(sorted(rng.permutation(n_hosts)[: int(rng.integers(least, n_hosts))].tolist()))

        try:
            rules = Rules(
                affinity=(tuple(vms[:3]), tuple(vms[3:5])),
                anti_affinity=(some(2, 4), some(2, 5), tuple(vms[5:8])),
                must=(VmHostRule(some(1, 4), hosts(2)), VmHostRule(some(1, 3), hosts(3))),
                should=(VmHostRule(some(1, 6), hosts(1)),),
            )
            rules.check(n_vms, n_hosts)
            return rules
        except ValueError:
            continue


def random_cluster(seed: int) -> Simulator:
    """Seven hosts of two sizes in two racks that fail often, 24 VMs that come and go."""
    rng = np.random.default_rng(seed)
    n, sizes = 24, rng.permutation([0, 0, 0, 0, 1, 1, 1]).astype(np.int32)
    arrival = np.where(rng.random(n) < 0.5, 0.0, rng.uniform(0.0, 9000.0, n))
    mirrored = GuestProfile("mirrored", protected=True), GuestProfile("other")
    work = Workload(
        "random",
        300.0,
        rng.uniform(0.05, 0.6, (4, n)),
        rng.choice([1000.0, 2000.0], n),
        np.full(n, 2, dtype=np.int32),
        rng.choice([512.0, 1024.0, 2048.0], n),
        arrival,
        arrival + np.where(rng.random(n) < 0.7, np.inf, rng.exponential(5000.0, n) + 300.0),
        profiles=mirrored,
        vm_profile=rng.integers(0, 2, n).astype(np.int32),
    )
    medium = HostType("medium", 5, 1000.0, 5120.0, (50.0, 90.0), boot_time_s=200.0, shutdown_time_s=60.0)
    config = ClusterConfig(
        (BIG, medium),
        sizes,
        interval_s=120.0,
        arrival="policy",
        restart="policy",
        rules=random_rules(rng, n, 7),
        failures=FailureConfig("exponential", mtbf_h=3.0, mttr_h=0.4),
        domains=(FailureDomain("a", (0, 1, 2), 1e6, 1.0), FailureDomain("b", (3, 4, 5, 6), 1e6, 1.0)),
        standby=StandbyConfig() if seed % 3 == 0 else None,
        migration=PrecopyConfig("post_copy"),
        admission=AdmissionConfig("dedicated", hosts=(6,)) if seed % 2 else None,
    )
    return Simulator(config, work, horizon_s=4 * 3600.0)


def spots(sim: Simulator, vms: Any) -> set[int]:
    """Where VMs are or come to, and what they have not left."""
    s = sim.state
    return {int(h) for v in vms for h in (s.vm_host[v], s.vm_dest[v]) if h >= 0}


def hard_faults(sim: Simulator, v: int, h: int) -> list[str]:
    """Which rules a VM breaks on a host, by the letter of the rules."""
    rules: Rules = sim.config.rules
    found = [f"must {r}" for r in rules.must if v in r.vms and h not in r.hosts]
    for group in rules.anti_affinity:
        if v in group and h in spots(sim, [w for w in group if w != v]):
            found.append(f"apart {group}")
    return found


def has_room(sim: Simulator, v: int, h: int) -> bool:
    """Whether a VM could be placed on a host that is up, or one that could be switched on for it."""
    twin = sim.fork()
    off = sim.state.host_power_state[h] == OFF
    if off and (sim.state.host_maintenance[h] or twin.apply(Decisions(power_on=indices(h)))):
        return False
    return not twin.apply(Decisions(place_vm=indices(v), place_host=indices(h)))


def left_waiting(sim: Simulator, v: int) -> list[int]:
    """Hosts that a VM could have had for all its rules say."""
    s = sim.state
    hosts = [h for h in range(7) if not hard_faults(sim, v, h) and has_room(sim, v, h)]
    if s.vm_restart[v] > 0:
        return hosts
    group = [w for g in sim.config.rules.joined if v in g for w in g if w != v and s.vm_state[w] != 3]
    if group and sim.time_s - sim.params.vm_arrival_s[v] < 600.0:
        placed = spots(sim, group)
        follow = [
            h
            for h in hosts
            if not any(h not in r.hosts for r in sim.config.rules.must if {*r.vms} & {*group})
        ]
        hosts = [h for h in hosts if h in placed] if placed else follow
    return hosts


@pytest.mark.parametrize("seed", range(8))
def test_no_order_breaks_a_hard_rule_and_nothing_waits_that_could_run(seed: int) -> None:
    sim = random_cluster(seed)
    policy = HaPolicy()
    policy.reset(sim.reset(np.random.default_rng(seed)), np.random.default_rng(seed))
    sim.apply(Decisions(power_off=indices(1), maintenance=indices(2)))
    placed = 0
    while not sim.done:
        if 1800.0 < sim.time_s < 1950.0:
            sim.apply(Decisions(end_maintenance=indices(2)))
        plan = policy.plan(sim.view)
        groups = [len(spots(sim, group)) for group in sim.config.rules.joined]
        assert not sim.state.host_maintenance[plan.power_on].any()
        assert sim.apply(plan) == []
        for v, h in [*zip(plan.place_vm, plan.place_host), *zip(plan.move_vm, plan.move_host)]:
            assert hard_faults(sim, int(v), int(h)) == []
        if plan.place_vm.size == 0:  # no move splits a group: all leave, and for one host
            after = [
                len({int(homes_of(sim.state, indices(v))[0]) for v in group} - {-1})
                for group in sim.config.rules.joined
            ]
            assert all(a <= max(b, 1) for a, b in zip(after, groups))
        s = sim.state
        waits = (s.vm_state == PENDING) & (s.vm_dest < 0) & (s.vm_restart != 1)
        if policy.guard.active:
            waits &= s.vm_restart == 2
        for v in np.flatnonzero(waits).tolist():
            assert left_waiting(sim, v) == []
        placed += plan.place_vm.size
        sim.advance()
    assert placed > 24
