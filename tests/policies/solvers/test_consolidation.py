"""Consolidation: the judge against plain Python, plans and bounds against brute force, what always holds."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.envs.jit.handle import make_handle
from virtgym.envs.sim.models.power import SPEC_POWER_W
from virtgym.experiments.bench.consolidation import problem_of, real_interval
from virtgym.policies.solvers.bounds import build_bound, solve_bound
from virtgym.policies.solvers.consolidation import pack_decreasing, solve_consolidation
from virtgym.policies.solvers.items import make_items
from virtgym.policies.solvers.model import ConsolidationProblem, PlacementRules, evaluate
from virtgym.policies.solvers.moves import allocate_plan, load_plan, tidy, total_cost
from virtgym.policies.solvers.nodes import VmNodes, nodes_have_room
from virtgym.policies.solvers.search import improve

POWER = np.array([SPEC_POWER_W["hp_ml110_g4"], SPEC_POWER_W["hp_ml110_g5"]])


def random_problem(seed: int, n_vms: int = 5, n_hosts: int = 3, **fixed: Any) -> ConsolidationProblem:
    """A small instance with most of what an instance may have, from one seed."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n_hosts)
    numa = rng.random() < 0.3
    group = [sorted(rng.choice(n_vms, 2, replace=False).tolist()) for _ in range(3)]
    rules = PlacementRules(
        affinity=group[:1] if rng.random() < 0.3 else (),
        anti_affinity=group[1:2] if rng.random() < 0.4 else (),
        must=[(group[2], [0, n_hosts - 1])] if rng.random() < 0.3 else (),
    )
    values: dict[str, Any] = {
        "vm_cpu_mhz": rng.choice([50.0, 400.0, 900.0, 1500.0, 2600.0], n_vms),
        "vm_mem_mib": rng.choice([613.0, 870.0, 1740.0], n_vms),
        "vm_host": np.where(rng.random(n_vms) < 0.1, -1, rng.integers(0, n_hosts, n_vms)),
        "host_cpu_mhz": np.array([3720.0, 5320.0])[kind],
        "host_mem_mib": np.full(n_hosts, 4096.0 if rng.random() < 0.7 else np.inf),
        "host_power": kind,
        "power_w": POWER,
        "horizon_s": float(rng.choice([20.0, 300.0, 1800.0])),
        "host_on": rng.random(n_hosts) < 0.8,
        "host_allowed": rng.random(n_hosts) < 0.9,
        "host_switch_j": np.full(n_hosts, float(rng.choice([0.0, 9000.0]))),
        "cpu_share": float(rng.choice([0.8, 1.0])),
        "rules": rules,
        "min_hosts": int(rng.integers(0, 3)),
        "reserve_cpu": float(rng.choice([0.0, 0.0, 0.4])),
        "reserve_mem": float(rng.choice([0.0, 0.0, 0.0, 0.5])),
        "failover_hosts": int(rng.random() < 0.15),
    }
    if numa:
        values |= {
            "vm_node_cpu": rng.integers(1, 4, n_vms).astype(float),
            "node_cpu": np.full((n_hosts, 2), 4.0),
            "node_mem": np.full((n_hosts, 2), 2048.0),
        }
    return ConsolidationProblem(**(values | fixed))


# -- an independent judge ------------------------------------------------------------------------------------


def plain_nodes_fit(cpu: list[float], mem: list[float], node_cpu: list[float], node_mem: list[float]) -> bool:
    """Whether VMs fit on nodes, by trying every way: one node each, or split evenly if wider than a node."""
    ways: list[list[tuple[int, ...]]] = []
    for c, m in zip(cpu, mem):
        wide = c > max(node_cpu) or m > max(node_mem)
        nodes = range(len(node_cpu))
        sizes = range(2, len(node_cpu) + 1) if wide else (1,)
        ways.append([s for k in sizes for s in itertools.combinations(nodes, k)])
    for choice in itertools.product(*ways):
        left = [[a, b] for a, b in zip(node_cpu, node_mem)]
        for c, m, some in zip(cpu, mem, choice):
            for j in some:
                left[j][0] -= c / len(some)
                left[j][1] -= m / len(some)
        if all(a >= -1e-6 and b >= -1e-6 for a, b in left):
            return True
    return False


def plain_allowed(p: ConsolidationProblem, hosts: tuple[int, ...], on: set[int]) -> bool:
    """Every rule of the model, one after the other."""
    for h in range(p.n_hosts):
        here = [v for v, x in enumerate(hosts) if x == h]
        came = [v for v in here if p.vm_host[v] != h]
        if here and not p.host_allowed[h]:  # type: ignore[index]
            return False
        if not came:
            continue
        if sum(p.vm_cpu_mhz[v] for v in here) > p.cpu_share * p.host_cpu_mhz[h] + 1e-6:
            return False
        if sum(p.vm_mem_mib[v] for v in here) > p.mem_share * p.host_mem_mib[h] + 1e-6:
            return False
        if p.node_cpu is not None:
            cpu = [p.vm_node_cpu[v] for v in here]  # type: ignore[index]
            mem = [p.vm_node_mem[v] for v in here]  # type: ignore[index]
            if not plain_nodes_fit(cpu, mem, list(p.node_cpu[h]), list(p.node_mem[h])):  # type: ignore[index]
                return False
    if any(len({hosts[v] for v in g}) > 1 for g in p.rules.affinity):
        return False
    if any(len({hosts[v] for v in g}) < len(g) for g in p.rules.anti_affinity):
        return False
    if any(hosts[v] not in allowed for vms, allowed in p.rules.must for v in vms):
        return False
    return plain_enough(p, on)


def plain_enough(p: ConsolidationProblem, on: set[int]) -> bool:
    """Number and capacity of the hosts that are on."""
    cpu, mem = sorted(p.host_cpu_mhz[h] for h in on), sorted(p.host_mem_mib[h] for h in on)
    total_cpu, total_mem = p.vm_cpu_mhz.sum(), p.vm_mem_mib.sum()
    if len(on) < p.min_hosts:
        return False
    if p.reserve_cpu and sum(cpu) * (1 - p.reserve_cpu) < total_cpu - 1e-6:
        return False
    if p.reserve_mem and sum(mem) * (1 - p.reserve_mem) < total_mem - 1e-6:
        return False
    k = p.failover_hosts
    left_cpu, left_mem = sum(cpu[: max(0, len(cpu) - k)]), sum(mem[: max(0, len(mem) - k)])
    return bool(k == 0 or (left_cpu >= total_cpu - 1e-6 and left_mem >= total_mem - 1e-6))


def plain_cost(p: ConsolidationProblem, hosts: tuple[int, ...], on: set[int]) -> float:
    """Energy and migrations."""
    cost = 0.0
    for h in on:
        load = sum(p.vm_cpu_mhz[v] for v, x in enumerate(hosts) if x == h) / p.host_cpu_mhz[h]
        table = p.power_w[p.host_power[h]]
        cost += p.horizon_s * float(np.interp(min(1.0, load), np.linspace(0, 1, len(table)), table))
        cost += 0.0 if p.host_on[h] else float(p.host_switch_j[h])  # type: ignore[index]
    assert p.vm_move_j is not None
    moved = [v for v, x in enumerate(hosts) if p.vm_host[v] >= 0 and p.vm_host[v] != x]
    return cost + sum(float(p.vm_move_j[v]) for v in moved)


def brute_force(p: ConsolidationProblem) -> float:
    """The least cost of all allowed plans, inf if there is none."""
    best = np.inf
    for hosts in itertools.product(range(p.n_hosts), repeat=p.n_vms):
        used = set(hosts)
        spare = [h for h in range(p.n_hosts) if h not in used and p.host_allowed[h]]  # type: ignore[index]
        for n in range(len(spare) + 1):
            for more in itertools.combinations(spare, n):
                on = used | set(more)
                if plain_allowed(p, hosts, on):
                    best = min(best, plain_cost(p, hosts, on))
    return float(best)


def test_the_judge_agrees_with_plain_python() -> None:
    rng = np.random.default_rng(0)
    allowed = 0
    for seed in range(150):
        p = random_problem(seed)
        for vm_host in (p.vm_host, rng.integers(0, p.n_hosts, p.n_vms)):
            if (vm_host < 0).any():
                assert evaluate(p, vm_host).violations > 0
                continue
            value, hosts = evaluate(p, vm_host), tuple(vm_host.tolist())
            on = set(np.flatnonzero(value.host_on).tolist())
            assert on >= set(hosts)
            assert (value.violations == 0) == plain_allowed(p, hosts, on)
            assert value.objective_j == pytest.approx(plain_cost(p, hosts, on))
            assert value.n_on == len(on)
            allowed += value.violations == 0
    assert allowed > 20


@pytest.mark.parametrize("first", [0, 20, 40, 60])
def test_plans_and_bounds_against_brute_force(first: int) -> None:
    reached = solvable = 0
    for seed in range(first, first + 20):
        p = random_problem(seed, n_vms=4 + seed % 2)
        best, result = brute_force(p), solve_consolidation(p, rounds=5000, seed=seed)
        if not np.isfinite(best):
            assert result.status == "infeasible"
            continue
        assert result.bound_j <= best * (1.0 + 1e-9)
        solvable += 1
        if result.status != "infeasible":
            assert result.objective_j >= best * (1.0 - 1e-9)
            reached += result.objective_j <= best * (1.0 + 1e-9)
    assert solvable >= 10
    assert reached == solvable


# -- what always holds ---------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(1, 14), st.integers(2, 7))
@settings(max_examples=60)
def test_a_plan_is_allowed_and_never_worse_than_staying(seed: int, n_vms: int, n_hosts: int) -> None:
    p = random_problem(seed, max(2, n_vms), n_hosts)
    result = solve_consolidation(p, rounds=200, seed=seed % 5)
    value, stay = evaluate(p, result.vm_host), evaluate(p, p.vm_host)
    assert value.objective_j == result.objective_j
    assert (value.violations, value.objective_j) <= (stay.violations, stay.objective_j)
    if value.violations == 0:
        hosts, on = tuple(result.vm_host.tolist()), set(np.flatnonzero(result.host_on).tolist())
        assert plain_allowed(p, hosts, on)
        assert plain_cost(p, hosts, on) == pytest.approx(result.objective_j)
        assert result.bound_j <= result.objective_j * (1.0 + 1e-9)
        assert result.gap == pytest.approx(max(0.0, 1.0 - result.bound_j / result.objective_j))
        assert all(cost >= result.objective_j for cost in result.starts.values())
    else:
        assert result.status == "infeasible"
        assert result.gap == np.inf


@given(st.integers(0, 2**31))
@settings(max_examples=25)
def test_patterns_only_raise_the_bound(seed: int) -> None:
    p = random_problem(seed, 12, 5, rules=PlacementRules(), host_allowed=None)
    items = make_items(p)
    values = [
        solve_bound(build_bound(p, items, patterns=some), items, 10.0, whole=whole).value_j
        for some, whole in ((False, False), (False, True), (True, True))
    ]
    if np.isfinite(values[2]):  # else patterns prove that there is no plan
        assert values[0] <= values[1] * (1.0 + 1e-6)
        assert values[1] <= values[2] * (1.0 + 1e-6)
    else:
        assert solve_consolidation(p, rounds=2000).status == "infeasible"


def test_counted_runs_are_the_same_each_time() -> None:
    p = random_problem(3, 40, 12, host_allowed=None)
    a, b = (solve_consolidation(p, rounds=2000) for _ in range(2))
    np.testing.assert_array_equal(a.vm_host, b.vm_host)
    assert (a.objective_j, a.bound_j, a.rounds, a.source) == (b.objective_j, b.bound_j, b.rounds, b.source)


@pytest.mark.parametrize("workers", [1, 2])
def test_time_limits_hold_and_a_gap_ends_the_search(workers: int) -> None:
    p = random_problem(5, 60, 20, rules=PlacementRules(), host_allowed=None, node_cpu=None, vm_node_cpu=None,
                       node_mem=None)  # fmt: skip
    solve_consolidation(p, rounds=1)  # compiled
    timed = solve_consolidation(p, time_limit_s=0.4, workers=workers)
    assert timed.status in ("optimal", "feasible", "stay")
    early = solve_consolidation(p, time_limit_s=1e6, workers=workers, gap=0.5)  # nothing else would end it
    assert early.gap <= 0.5
    unbound = solve_consolidation(p, time_limit_s=0.2, workers=workers, bound=False)
    assert unbound.bound_j == 0.0
    assert unbound.gap == 1.0
    assert unbound.objective_j <= unbound.stay.objective_j


def test_sums_of_the_search_do_not_drift() -> None:
    p = random_problem(8, 80, 25, host_allowed=None)
    items = make_items(p)
    plan = allocate_plan(items, 1)
    a: Any = make_handle("consolidation_items", items, readonly=True)
    b: Any = make_handle("consolidation_plan", plan)
    load_plan(a, b, items.home)
    improve(a, b, 5000, 100.0, 50.0)
    before, load = plan.sums.copy(), plan.load.copy()
    tidy(a, b)
    for name in ("cost", "fullness"):
        assert getattr(plan.sums, name) == pytest.approx(getattr(before, name), rel=1e-9), name
    np.testing.assert_allclose(plan.load, load, atol=1e-6)
    waiting = int((plan.host_of < 0).sum())
    if waiting == 0 and evaluate(p, plan.host_of[: p.n_vms]).violations == 0 and not p.rules.affinity:
        value = evaluate(p, plan.host_of)
        assert total_cost(a, b, 0) <= value.objective_j * (1.0 + 1e-9)


# -- single rules --------------------------------------------------------------------------------------------


def two_hosts(**changes: Any) -> ConsolidationProblem:
    """Two VMs of a quarter host on two equal hosts: one host is enough."""
    values: dict[str, Any] = {
        "vm_cpu_mhz": np.array([500.0, 500.0]),
        "vm_mem_mib": np.array([1000.0, 1000.0]),
        "vm_host": np.array([0, 1]),
        "host_cpu_mhz": np.full(2, 2000.0),
        "host_mem_mib": np.full(2, 4096.0),
        "host_power": np.zeros(2, dtype=int),
        "power_w": np.array([[100.0, 200.0]]),
    }
    return ConsolidationProblem(**(values | changes))


def test_a_worked_case() -> None:
    result = solve_consolidation(two_hosts(), rounds=50)
    move = 0.512 * 1000.0 * 1.048576 + 20.2
    assert result.objective_j == pytest.approx(300.0 * 150.0 + move)
    assert result.evaluation.migrations == 1
    assert result.evaluation.energy_j == pytest.approx(45000.0)
    assert result.stay.objective_j == pytest.approx(300.0 * 250.0)
    assert result.status == "optimal"
    assert result.bound_j == pytest.approx(result.objective_j)


@pytest.mark.parametrize(
    ("changes", "n_on"),
    [
        ({"horizon_s": 5.0}, 2),  # a migration costs more than it saves
        ({"min_hosts": 2}, 2),
        ({"reserve_cpu": 0.6}, 2),  # 1,000 MHz are more than 40 % of 2,000
        ({"reserve_cpu": 0.5}, 1),
        ({"reserve_mem": 0.6}, 2),
        ({"failover_hosts": 1}, 2),
        ({"rules": PlacementRules(anti_affinity=[(0, 1)])}, 2),
        ({"rules": PlacementRules(must=[([0], [0]), ([1], [1])])}, 2),
        ({"rules": PlacementRules(affinity=[(0, 1)]), "horizon_s": 5.0}, 1),
        ({"host_allowed": np.array([False, True]), "horizon_s": 1.0}, 1),
        ({"cpu_share": 0.4}, 2),
        ({"mem_share": 0.4}, 2),
        (
            {
                "vm_node_cpu": np.ones(2),
                "node_cpu": np.full((2, 1), 1.0),
                "node_mem": np.full((2, 1), 4096.0),
            },
            2,
        ),
        (
            {
                "vm_node_cpu": np.ones(2),
                "node_cpu": np.full((2, 2), 1.0),
                "node_mem": np.full((2, 2), 2048.0),
            },
            1,
        ),
    ],
)
def test_each_rule_decides(changes: dict[str, Any], n_on: int) -> None:
    p = two_hosts(**changes)
    result = solve_consolidation(p, rounds=50)
    assert result.status in ("optimal", "feasible", "stay")
    assert result.evaluation.n_on == n_on
    assert result.objective_j == pytest.approx(brute_force(p))


def test_an_overloaded_host_keeps_what_it_has_but_takes_no_more() -> None:
    p = two_hosts(vm_cpu_mhz=np.array([1900.0, 10.0]), cpu_share=0.8)
    assert evaluate(p, p.vm_host).violations == 0
    assert evaluate(p, np.array([0, 0])).violations == 1
    result = solve_consolidation(p, rounds=50)
    assert result.vm_host.tolist() == [0, 1]
    assert result.bound_j <= result.objective_j


def test_a_vm_that_cannot_leave_a_failed_host_is_reported() -> None:
    p = two_hosts(vm_mem_mib=np.array([1000.0, 4000.0]), host_allowed=np.array([False, True]))
    result = solve_consolidation(p, rounds=50)
    assert result.status == "infeasible"
    assert result.vm_host.tolist() == [0, 1]
    assert result.evaluation.violations == 1


def test_a_vm_without_a_host_is_placed_at_no_cost_of_migration() -> None:
    result = solve_consolidation(two_hosts(vm_host=np.array([-1, 1])), rounds=50)
    assert result.vm_host.tolist() == [1, 1]
    assert result.evaluation.move_j == 0.0


def test_nothing_to_place() -> None:
    none = np.zeros(0)
    p = two_hosts(vm_cpu_mhz=none, vm_mem_mib=none, vm_host=none)
    result = solve_consolidation(p)
    assert (result.objective_j, result.gap, result.status) == (0.0, 0.0, "optimal")


def test_first_and_best_fit_decreasing_by_hand() -> None:
    """Bins of 10. First fit of 6 5 4 3 2: {6, 4} {5, 3, 2}; best fit of 7 5 4 3 1: {7, 3} {5, 4, 1}."""

    def pack(sizes: list[float], best_fit: bool) -> list[set[int]]:
        n = len(sizes)
        p = ConsolidationProblem(
            np.array(sizes), np.zeros(n), np.full(n, 3), np.full(4, 10.0), np.full(4, np.inf),
            np.zeros(4, dtype=int), np.array([[1.0, 2.0]]),
        )  # fmt: skip
        found = pack_decreasing(p, best_fit=best_fit)
        return [set(np.flatnonzero(found == h).tolist()) for h in range(2)]

    assert pack([6.0, 5.0, 4.0, 3.0, 2.0], False) == [{0, 2}, {1, 3, 4}]
    # First fit would put 1 beside 7 only if there were room left; best fit fills the fuller host first.
    assert pack([7.0, 5.0, 4.0, 3.0, 1.0], True) == [{0, 3}, {1, 2, 4}]


# -- parts ---------------------------------------------------------------------------------------------------


def test_room_on_nodes_is_never_claimed_wrongly_and_seldom_missed() -> None:
    rng = np.random.default_rng(0)
    missed = fit = 0
    for _ in range(400):
        n = int(rng.integers(1, 6))
        cpu, mem = rng.integers(1, 7, n).astype(float), rng.integers(1, 12, n).astype(float)
        nodes = rng.choice([4.0, 6.0], 2), rng.choice([8.0, 12.0], 2)
        claimed = nodes_have_room(VmNodes(cpu, mem), *nodes)
        exact = plain_nodes_fit(cpu.tolist(), mem.tolist(), nodes[0].tolist(), nodes[1].tolist())
        assert exact or not claimed
        fit += exact
        missed += exact and not claimed
    assert missed <= 0.1 * fit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vm_host": np.array([0, 2])}, r"vm_host: must lie in -1\.\.1"),
        ({"vm_mem_mib": np.array([1.0])}, "vm_mem_mib: has 1 rows, needs 2"),
        ({"vm_cpu_mhz": np.array([1.0, -1.0])}, "vm_cpu_mhz: every value must be 0 or more"),
        ({"vm_cpu_mhz": np.array([1.0, np.inf])}, "vm_cpu_mhz: every value must be finite"),
        ({"host_cpu_mhz": np.array([1.0, 0.0])}, "host_cpu_mhz: every value must be positive"),
        ({"power_w": np.array([1.0, 2.0])}, "power_w: needs shape"),
        ({"horizon_s": 0.0}, "horizon_s=0.0: must be positive"),
        ({"cpu_share": -1.0}, "cpu_share=-1.0: must be positive"),
        ({"reserve_cpu": 1.0}, "reserve_cpu=1.0: must lie in"),
        ({"min_hosts": 3}, r"min_hosts=3: must lie in 0\.\.2"),
        ({"node_cpu": np.ones((2, 1))}, "come together"),
        ({"rules": PlacementRules(affinity=[(0, 7)])}, "rules.affinity: VMs must lie in"),
        ({"rules": PlacementRules(must=[((0,), (7,))])}, "rules.must: hosts must lie in"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        two_hosts(**changes)


@pytest.mark.parametrize("wrong", [{"time_limit_s": 0.0}, {"rounds": -1}, {"workers": 3}, {"gap": -0.1}])
def test_wrong_arguments_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"consolidation.{next(iter(wrong))}="):
        solve_consolidation(two_hosts(), **wrong)


# -- a real interval -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["binding", "ignored"])
def test_a_real_interval_is_solved_to_half_a_percent(traces_dir: Path, memory: str) -> None:
    day = traces_dir / "planetlab" / "20110322"
    if not day.is_dir():
        pytest.skip(f"no {day}")
    p = problem_of(real_interval(str(day), 10.0), n_vms=100, n_hosts=40, memory=memory)
    assert (p.n_vms, p.n_hosts) == (100, 40)
    result = solve_consolidation(p, rounds=50_000)
    assert result.gap <= 0.005
    for best_fit in (False, True):
        assert evaluate(p, pack_decreasing(p, best_fit=best_fit)).objective_j > 1.01 * result.objective_j
    longer = solve_consolidation(replace(p, horizon_s=3600.0), rounds=50_000)
    assert longer.gap <= 0.005
