"""DRS: small cases worked by hand, and an independent search (whole episodes: test_policies_drs_episodes)."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.rules import Rules, VmHostRule
from virtgym.envs.sim.simulator import Simulator
from virtgym.policies import make_policy
from virtgym.policies.drs.policy import LEVELS, DrsPolicy, plan_evacuation
from virtgym.policies.forecast.forecasters import make_forecaster

MakeSim = Callable[..., Simulator]


def start(sim: Simulator, policy: DrsPolicy, homes: Any = None) -> DrsPolicy:
    """Reset both, and place the VMs by hand where homes are given (arrival="policy")."""
    policy.reset(sim.reset(), np.random.default_rng(0))
    if homes is not None:
        vms = np.arange(len(homes), dtype=np.int32)
        assert sim.apply(Decisions(place_vm=vms, place_host=np.asarray(homes, dtype=np.int32))) == []
    return policy


def pairs(plan: Any) -> list[tuple[int, int]]:
    """Moves as (VM, host)."""
    return list(zip(plan.move_vm.tolist(), plan.move_host.tolist()))


def cluster(make_sim: MakeSim, demand: Any, n_hosts: int, **changes: Any) -> Simulator:
    """Hosts of 4 cores of 1,000 MHz, VMs of 4 vCPUs whose demand is given in units of a host."""
    options: dict[str, Any] = {"cores": 4, "memory": "ignored", "arrival": "policy", "memory_mib": 16384.0}
    options |= {"arrival_cpu_overcommit": 99.0, "horizon_s": 86400.0, "strict": True, **changes}
    load = {"cpu_mhz": 4000.0, "vcpus": 4, **options.pop("load", {})}
    return make_sim(demand, n_hosts=n_hosts, load=load, **options)


def after(sim: Simulator, plan: Decisions) -> np.ndarray:
    """Hosts of the VMs with the plan."""
    homes = np.array(sim.state.vm_host)
    homes[plan.move_vm] = plan.move_host
    return homes


def test_two_of_four_equal_vms_move_to_the_empty_host(make_sim: MakeSim) -> None:
    sim = cluster(make_sim, [[0.2, 0.2, 0.2, 0.2]], 2)
    policy = start(sim, DrsPolicy(), [0, 0, 0, 0])
    plan = policy.plan(sim.view)
    assert np.bincount(after(sim, plan)).tolist() == [2, 2]
    done = policy.last_round
    np.testing.assert_allclose(done.before, (0.4, 0.0))
    assert done.after[0] == pytest.approx(0.0)
    assert (done.moves, done.mandatory, done.ending) == (2, 0, "balanced")


def test_gain_and_cost_are_the_closed_forms(make_sim: MakeSim) -> None:
    sim = cluster(make_sim, [[0.3, 0.1]], 2)
    policy = start(sim, DrsPolicy(threshold=0.05, hysteresis=0.0), [0, 0])
    assert pairs(policy.plan(sim.view)) == [(1, 1)] or pairs(policy.plan(sim.view)) == [(0, 1)]
    done = policy.last_round
    # Imbalance 0.2 falls to 0.1 whichever VM goes; 1,024 MiB at 62.5 MiB/s take 16.384 s. The smaller VM
    # costs less: 10 % of 0.1 on either side, and 0.3 of 4 cores on both ends.
    assert done.gain == pytest.approx(900.0 * 2 * 0.1)
    assert done.cost == pytest.approx(16.384 * (0.1 * 0.1 + 0.1 * 0.1 + 2 * 0.3 / 4))


@pytest.mark.parametrize("level", list(LEVELS))
def test_each_level_begins_at_its_threshold(make_sim: MakeSim, level: int) -> None:
    for x in (0.034, 0.037, 0.069, 0.073, 0.139, 0.143, 0.21, 0.214):
        sim = cluster(make_sim, [[x, x]], 2)
        moves = pairs(start(sim, DrsPolicy(level=level), [0, 0]).plan(sim.view))
        assert bool(moves) == (x > LEVELS[level] / 2.0**0.5), x


@pytest.mark.parametrize("n", [2, 10, 40])
def test_one_host_that_is_off_counts_as_much_among_many(make_sim: MakeSim, n: int) -> None:
    """One host with two VMs among empty ones: nearly the same priority for any number of hosts."""
    x = 0.3
    sim = cluster(make_sim, [[x / 2, x / 2]], n)
    policy = start(sim, DrsPolicy(level=3, horizon_s=7200.0), [0, 0])
    moves = pairs(policy.plan(sim.view))
    deviation = x * (n - 1) ** 0.5 / n
    assert policy.last_round.before[0] == pytest.approx(deviation)
    assert 6 - np.ceil(deviation / 0.1 * n**0.5) <= 3
    assert len(moves) == 1
    sim = cluster(make_sim, [[x / 2, x / 2]], n)
    policy = start(sim, DrsPolicy(level=3, threshold=deviation + 0.01), [0, 0])
    assert pairs(policy.plan(sim.view)) == []  # a number is a number


@pytest.mark.parametrize("solver", ["greedy", "ortools"])
def test_a_host_under_contention_is_relieved_however_even_the_cluster_is(
    make_sim: MakeSim, solver: str
) -> None:
    homes = [0, 0, 0, 1, 1, 2, 2, 3, 3]
    util = [[0.5, 0.3, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.2]]  # 1.1 of what host 0 has, 0.6 to 0.8 elsewhere
    sim = cluster(make_sim, util, 4)
    policy = start(sim, DrsPolicy(threshold=0.5, solver=solver), homes)
    given = []
    for _ in range(4):
        plan = policy.plan(sim.view)
        given.append((pairs(plan), policy.last_round.relief))
        sim.step(plan)
    assert given == [([], 0), ([], 0), ([(1, 3)], 1), ([], 0)]  # the first VM that suffices, after 600 s
    for quiet in (
        DrsPolicy(threshold=0.5, contention=1.2),
        DrsPolicy(threshold=0.5, contention_s=7200.0),
        DrsPolicy(level=1),
    ):
        sim = cluster(make_sim, util, 4)
        policy = start(sim, quiet, homes)
        for _ in range(4):
            assert pairs(policy.plan(sim.view)) == []
            sim.advance()


def test_full_hosts_have_nothing_to_offer_each_other(make_sim: MakeSim) -> None:
    sim = cluster(make_sim, [[0.9, 0.5, 0.3, 0.6, 0.55]], 2)
    policy = start(sim, DrsPolicy(threshold=0.0), [0, 0, 0, 1, 1])  # 1.7 and 1.15: equally full
    assert pairs(policy.plan(sim.view)) == []
    assert policy.last_round.ending == "balanced"
    sim = cluster(make_sim, [[0.9, 0.95]], 2)  # the move of either would only swap the roles
    policy = start(sim, DrsPolicy(), [0, 1])
    sim.apply(Decisions(move_vm=np.array([1], np.int32), move_host=np.array([0], np.int32)))
    sim.advance()
    policy = DrsPolicy(threshold=0.01, residence=0)
    policy.reset(sim.view, np.random.default_rng(0))
    assert pairs(policy.plan(sim.view)) == [(0, 1)]  # not VM 1: it came from there


def test_no_beneficial_move_is_an_answer(make_sim: MakeSim) -> None:
    sim = cluster(make_sim, [[0.8, 0.0]], 2)
    policy = start(sim, DrsPolicy(), [0, 1])
    assert pairs(policy.plan(sim.view)) == []
    assert policy.last_round.ending == "no beneficial move"
    sim = cluster(make_sim, [[0.2] * 4], 2)
    policy = start(sim, DrsPolicy(horizon_s=1.0), [0, 0, 0, 0])  # it would not pay in a second
    assert pairs(policy.plan(sim.view)) == []


def search(sim: Simulator, homes: Any, policy: DrsPolicy) -> float:
    """The best net worth of one move, by a plain search over all pairs; memory counts."""
    p, s = sim.params, sim.state
    n, theta = len(p.host_cpu_mhz), policy.threshold
    assert theta is not None
    target = theta * (1 - policy.hysteresis)

    def view(where: Any) -> tuple[float, np.ndarray, np.ndarray]:
        cpu = np.array(
            [min(s.vm_demand_mhz[v], p.vm_vcpus[v] * p.host_core_mhz[h]) for v, h in enumerate(where)]
        )
        load = np.bincount(where, cpu, n)
        mem = np.bincount(where, p.vm_mem_mib, n) / p.host_mem_mib
        total = sum(max(0.0, float(np.std(np.minimum(1, x))) - target) for x in (load / p.host_cpu_mhz, mem))
        return total, load, np.asarray(cpu)

    now, load, cpu = view(homes)
    best = 0.0
    for v, b in product(range(len(homes)), range(n)):
        a = homes[v]
        used = sum(p.vm_mem_mib[u] for u in range(len(homes)) if homes[u] == b)
        if a == b or used + p.vm_mem_mib[v] > p.host_mem_mib[b]:
            continue
        moved = homes.copy()
        moved[v] = b
        then, there, cpu_there = view(moved)
        if there[b] / p.host_cpu_mhz[b] > max(1.0, there[a] / p.host_cpu_mhz[a]):
            continue
        if cpu_there[v] < cpu[v]:
            continue  # its cores would be too slow for what it asks for
        unserved = [np.maximum(0.0, x - p.host_cpu_mhz).sum() for x in (load, there)]
        gain = policy.horizon_s * (n * (now - then) + (unserved[0] - unserved[1]) / p.host_cpu_mhz.mean())
        cores = sum(p.host_core_mhz[h] / p.host_cpu_mhz[h] for h in (a, b))
        rate = 0.1 * cpu[v] / p.host_cpu_mhz[a] + 0.1 * cpu_there[v] / p.host_cpu_mhz[b] + 0.3 * cores
        best = max(best, gain - p.vm_mem_mib[v] / 62.5 * rate)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_the_first_move_is_the_best_of_all(make_sim: MakeSim, host_type: Any, seed: int) -> None:
    from dataclasses import replace

    rng = np.random.default_rng(seed)
    kinds = tuple(
        replace(host_type, name=f"k{i}", cores=c, core_mhz=m, memory_mib=g)
        for i, (c, m, g) in enumerate(((4, 1000.0, 8192.0), (2, 1500.0, 6144.0), (8, 700.0, 16384.0)))
    )
    n = 14
    homes = rng.integers(0, 5, n).astype(np.int32)
    sim = cluster(
        make_sim,
        rng.uniform(0.0, 0.8 if seed % 2 else 0.2, (1, n)),
        5,
        load={"mem_mib": rng.integers(1, 4, n) * 256.0, "vcpus": rng.integers(1, 5, n)},
        memory="binding",
        host_types=kinds,
        host_type_of=rng.integers(0, 3, 5).astype(np.int32),
    )
    policy = start(sim, DrsPolicy(threshold=0.02, max_migrations=1), homes)
    plan = policy.plan(sim.view)
    expected = search(sim, homes, policy)
    done = policy.last_round
    assert done.gain - done.cost == pytest.approx(expected, rel=1e-7, abs=1e-6)
    assert len(pairs(plan)) == (expected > 1e-9)


def test_memory_counts_where_it_binds(make_sim: MakeSim) -> None:
    for memory, moves in (("binding", 2), ("ignored", 0)):
        sim = cluster(make_sim, [[0.01] * 4], 2, memory=memory, load={"mem_mib": 4096.0})
        assert len(pairs(start(sim, DrsPolicy(), [0] * 4).plan(sim.view))) == moves


def test_limits_hold(make_sim: MakeSim) -> None:
    sim = cluster(make_sim, [[0.05] * 16], 2)
    assert len(pairs(start(sim, DrsPolicy(threshold=0.0, max_migrations=3), [0] * 16).plan(sim.view))) == 3
    assert len(pairs(start(sim, DrsPolicy(threshold=0.0, max_per_host=2), [0] * 16).plan(sim.view))) == 2


def test_the_trigger_is_looked_at_once_per_period(make_sim: MakeSim) -> None:
    sim = cluster(make_sim, [[0.2] * 4], 2)
    policy = start(sim, DrsPolicy(threshold=0.1, period=3, max_migrations=1), [0] * 4)
    seen = []
    for _ in range(7):
        plan = policy.plan(sim.view)
        seen.append(len(pairs(plan)))
        sim.step(plan)
    assert seen == [1, 0, 0, 1, 0, 0, 0]


def test_no_vm_returns_within_twelve_intervals(make_sim: MakeSim) -> None:
    wave = np.where(np.arange(200)[:, None] // 2 % 2 == 0, [0.5, 0.4, 0.05, 0.05], [0.05, 0.05, 0.5, 0.4])
    sim = cluster(make_sim, wave, 2, horizon_s=200 * 300.0)
    policy = start(sim, DrsPolicy(threshold=0.05, residence=0), [0, 0, 1, 1])
    left: dict[tuple[int, int], float] = {}
    while not sim.done:
        plan = policy.plan(sim.view)
        for v, h in pairs(plan):
            assert sim.time_s - left.get((v, h), -np.inf) > 12 * 300.0
            left[v, int(sim.state.vm_host[v])] = sim.time_s
        sim.step(plan)
    assert left
    assert sim.metrics()["thrash"] == 0
    with_rest = start(sim, DrsPolicy(threshold=0.05, residence=8), [0, 0, 1, 1])
    last = np.full(4, -np.inf)
    while not sim.done:
        plan = with_rest.plan(sim.view)
        assert (sim.time_s - last[plan.move_vm] > 8 * 300.0).all()
        last[plan.move_vm] = sim.time_s
        sim.step(plan)


def test_vms_that_belong_together_move_together(make_sim: MakeSim) -> None:
    rules = Rules(affinity=((0, 1), (1, 2)))
    sim = cluster(make_sim, [[0.1, 0.1, 0.1, 0.3]], 2, rules=rules)
    plan = start(sim, DrsPolicy(threshold=0.05), [0, 0, 0, 0]).plan(sim.view)
    homes = after(sim, plan)
    assert len(set(homes[:3])) == 1
    assert homes[3] != homes[0]
    # Apart at the start: the least number of moves brings them together, before any balance.
    sim = cluster(make_sim, [[0.1, 0.1, 0.1, 0.3]], 3, rules=rules)
    policy = start(sim, DrsPolicy(level=1), [0, 1, 1, 2])
    assert pairs(policy.plan(sim.view)) == [(0, 1)]
    assert policy.last_round.mandatory == 1


def test_vms_that_belong_apart_are_parted_and_stay_apart(make_sim: MakeSim) -> None:
    rules = Rules(anti_affinity=((0, 1, 2),))
    sim = cluster(make_sim, [[0.2, 0.2, 0.2, 0.1]], 4, rules=rules)
    policy = start(sim, DrsPolicy(level=1), [0, 0, 0, 1])
    homes = after(sim, policy.plan(sim.view))
    assert len(set(homes[:3])) == 3
    assert policy.last_round.moves == 2
    assert 1 not in homes[:3]  # two empty hosts were less loaded
    sim = cluster(make_sim, [[0.5, 0.3, 0.3]], 2, rules=Rules(anti_affinity=((1, 0),)))
    moves = pairs(start(sim, DrsPolicy(threshold=0.0), [1, 0, 0]).plan(sim.view))
    assert (1, 1) not in moves


def test_vm_host_rules(make_sim: MakeSim) -> None:
    must = Rules(must=(VmHostRule((0,), (2, 3)),))
    sim = cluster(make_sim, [[0.2, 0.5, 0.1, 0.3]], 4, rules=must)
    policy = start(sim, DrsPolicy(level=1), [0, 1, 2, 3])
    assert pairs(policy.plan(sim.view)) == [(0, 2)]  # 0.3 there, 0.5 on host 3
    should = Rules(should=(VmHostRule((0,), (2, 3)),))
    sim = cluster(make_sim, [[0.2, 0.5, 0.1, 0.3]], 4, rules=should)
    assert pairs(start(sim, DrsPolicy(level=1), [0, 1, 2, 3]).plan(sim.view)) == [(0, 2)]
    # A wish is not broken for balance, but for maintenance.
    wish = Rules(should=(VmHostRule((0, 1), (0,)),))
    sim = cluster(make_sim, [[0.4, 0.4]], 2, rules=wish)
    policy = start(sim, DrsPolicy(threshold=0.0), [0, 0])
    assert pairs(policy.plan(sim.view)) == []
    policy.enter_maintenance([0])
    assert pairs(policy.plan(sim.view)) == [(0, 1), (1, 1)]


def test_a_host_in_maintenance_is_emptied_and_left_alone(make_sim: MakeSim) -> None:
    for full in (False, True):
        changes: dict[str, Any] = {}
        if full:
            from virtgym.envs.sim.models.scheduling import SchedulingConfig

            changes = {"cpu": SchedulingConfig()}
        sim = cluster(make_sim, [[0.2, 0.1, 0.3, 0.2]], 3, **changes)
        policy = start(sim, DrsPolicy(), [0, 0, 1, 2])
        policy.enter_maintenance([0])
        plan = policy.plan(sim.view)
        assert plan.maintenance.tolist() == [0]
        assert {v for v, _ in pairs(plan)} == {0, 1}
        assert policy.last_round.mandatory == 2
        sim.step(plan)
        for _ in range(20):
            sim.step(policy.plan(sim.view))
            assert sim.state.host_n_vms[0] == 0
        policy.leave_maintenance([0])
        plan = policy.plan(sim.view)
        assert plan.end_maintenance.tolist() == [0]


def test_a_vm_without_room_leaves_a_host_in_maintenance_later(make_sim: MakeSim) -> None:
    sim = cluster(
        make_sim,
        [[0.1, 0.1, 0.1]],
        2,
        memory="binding",
        memory_mib=4096.0,
        load={"mem_mib": [2048.0, 1024.0, 2048.0], "departure_s": [np.inf, np.inf, 700.0]},
    )
    policy = start(sim, DrsPolicy(), [0, 0, 1])
    policy.enter_maintenance([0])
    assert pairs(policy.plan(sim.view)) == [(0, 1)]  # largest first; VM 1 has no room
    sim.step(Decisions(move_vm=np.array([0], np.int32), move_host=np.array([1], np.int32)))
    assert pairs(policy.plan(sim.view)) == []
    sim.step()
    sim.step()
    assert pairs(policy.plan(sim.view)) == [(1, 1)]


def test_an_evacuation_is_planned_by_hand(make_sim: MakeSim) -> None:
    load = {"mem_mib": [1024.0, 3072.0]}
    sim = cluster(make_sim, [[0.4, 0.1, ]], 3, memory="binding", load=load)  # fmt: skip
    start(sim, DrsPolicy(), [0, 0])
    assert [v for v, _ in pairs(plan_evacuation(sim.view, [0]))] == [1, 0]
    assert [v for v, _ in pairs(plan_evacuation(sim.view, [0], by="utilisation"))] == [0, 1]
    assert {h for _, h in pairs(plan_evacuation(sim.view, [0, 2]))} == {1}
    with pytest.raises(ConfigError, match=r"^evacuation: host 3: no such host, must lie in 0..2$"):
        plan_evacuation(sim.view, [3])
    with pytest.raises(ConfigError, match=r"^evacuation.by=age"):
        plan_evacuation(sim.view, [0], by="age")


def test_hosts_that_are_kept_off_receive_nothing(make_sim: MakeSim) -> None:
    sim = cluster(make_sim, [[0.2] * 6], 3)
    policy = start(sim, DrsPolicy(), [0] * 6)
    policy.keep_off([1])
    assert {h for _, h in pairs(policy.plan(sim.view))} == {2}


def test_the_forecast_takes_the_place_of_the_demand(make_sim: MakeSim) -> None:
    demand = np.column_stack([np.linspace(0.1, 0.5, 20), np.full(20, 0.1), np.full(20, 0.1)])
    sim = cluster(make_sim, demand, 2)
    policy = make_policy("drs", forecaster="ols", window=5, steps=4, level=1)
    assert isinstance(policy, DrsPolicy)
    start(sim, policy, [0, 0, 1])
    for _ in range(10):
        policy.plan(sim.view)
        policy.plan(sim.view)  # one sample per time
        sim.advance()
    policy.plan(sim.view)
    ahead = make_forecaster("ols", window=5).predict(4000.0 * demand[:11], steps=4)
    np.testing.assert_allclose(policy._work.vm_cpu, ahead, rtol=1e-9)
    loess = make_policy("drs_loess")
    assert isinstance(loess, DrsPolicy)
    assert loess._forecaster == make_forecaster("loess")


def test_ortools_needs_no_more_moves(make_sim: MakeSim) -> None:
    rng = np.random.default_rng(3)
    demand = rng.uniform(0.02, 0.2, (1, 18))
    for rules in (Rules(), Rules(affinity=((0, 1),), anti_affinity=((2, 3, 4),))):
        sim = cluster(make_sim, demand, 6, rules=rules)
        homes = [0, 0, 0, 1, 2] + [v % 3 for v in range(13)]
        greedy = start(sim, DrsPolicy(level=4), homes)
        greedy.plan(sim.view)
        fewest = start(sim, DrsPolicy(level=4, solver="ortools"), homes)
        plan = fewest.plan(sim.view)
        assert fewest.last_round.ending == greedy.last_round.ending == "balanced"
        assert fewest.last_round.moves <= greedy.last_round.moves
        assert sim.apply(plan) == []


def test_the_policy_can_be_pickled_and_repeats_itself(make_sim: MakeSim) -> None:
    plans = []
    policy = DrsPolicy(level=5)
    for _ in range(2):
        sim = cluster(make_sim, [np.linspace(0.0, 0.3, 9)], 4)
        start(sim, policy, [0] * 9)
        plans.append(pairs(policy.plan(sim.view)))
        policy = pickle.loads(pickle.dumps(policy))
    assert plans[0] == plans[1] != []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"level": 6}, r"^policy.level=6: must be one of 1..5$"),
        ({"threshold": -0.1}, r"^policy.threshold=-0.1: must be 0 or more, or null$"),
        ({"forecaster": "loes"}, r"^policy.forecaster=loes: did you mean loess"),
        ({"window": 5, "forecaster": None}, r"^policy.window=5: needs policy.forecaster$"),
        ({"solver": "cplex"}, r"^policy.solver=cplex: .*allowed: greedy, ortools"),
        ({"hysteresis": 1.0}, r"^policy.hysteresis=1.0: must lie in 0..1, below 1$"),
        ({"max_migrations": -1}, r"^policy.max_migrations=-1: must be 0 or more, or null$"),
        ({"evacuate_by": "age"}, r"^policy.evacuate_by=age: .*allowed: size, utilisation"),
        ({"steps": 0}, r"^policy.steps=0: must be at least 1$"),
    ],
)
def test_what_is_wrong_is_one_line(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_policy("drs", **params)
    assert "\n" not in str(caught.value)
