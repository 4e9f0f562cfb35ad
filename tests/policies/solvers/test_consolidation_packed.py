"""Bounds of consolidation where hosts are full: proofs against brute force, and what makes them tight."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from virtgym.policies.solvers.bounds import build_bound, least_slope, solve_bound
from virtgym.policies.solvers.items import make_items
from virtgym.policies.solvers.model import ConsolidationProblem, PlacementRules, evaluate
from virtgym.policies.solvers.programme import Rows, solve_counts, solve_programme

_spec = importlib.util.spec_from_file_location(
    "optimal_consolidation_cases", Path(__file__).with_name("test_consolidation.py")
)
assert _spec is not None
assert _spec.loader is not None
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)
POWER, brute_force = cases.POWER, cases.brute_force
random_problem, two_hosts = cases.random_problem, cases.two_hosts


def packed_problem(seed: int) -> ConsolidationProblem:
    """Full hosts, some over the planning limit, with pins, groups that are split, and prices of moves."""
    rng = np.random.default_rng(seed)
    n_vms, n_hosts = int(rng.integers(4, 7)), 3
    home = np.where(rng.random(n_vms) < 0.05, -1, rng.integers(0, n_hosts, n_vms))
    pinned = [v for v in range(n_vms) if home[v] >= 0 and rng.random() < 0.15]
    both = [sorted(rng.choice(n_vms, 2, replace=False).tolist())] if rng.random() < 0.2 else []
    table = np.sort(rng.uniform(80.0, 135.0, (2, 5)), axis=1) if rng.random() < 0.5 else POWER
    if rng.random() < 0.1:
        table = table[:, ::-1]  # the more load, the less power
    kind = rng.integers(0, 2, n_hosts)
    held = np.bincount(home[home >= 0], minlength=n_hosts).max()
    problem: ConsolidationProblem = random_problem(
        seed, n_vms, n_hosts,
        vm_cpu_mhz=rng.uniform(0.2, 1.0, n_vms) * 2.2 * 3720.0 / max(1, held),
        vm_mem_mib=rng.choice([100.0, 613.0, 1740.0], n_vms),
        vm_host=home,
        vm_move_j=rng.choice([0.0, 500.0, 5000.0, 50_000.0]) * rng.uniform(0.5, 1.5, n_vms),
        host_power=kind, power_w=table, cpu_share=float(rng.choice([0.5, 0.7, 0.8])),
        host_cpu_mhz=np.array([3720.0, 5320.0])[kind] * (1.0 if rng.random() < 0.5 else 1.5),
        mem_share=float(rng.choice([0.6, 1.0])), horizon_s=float(rng.choice([100.0, 3600.0])),
        host_allowed=None if rng.random() < 0.8 else np.array([True, True, False]),
        rules=PlacementRules(affinity=both, must=[((v,), (int(home[v]),)) for v in pinned]),
        min_hosts=0, reserve_cpu=0.0, reserve_mem=0.0, failover_hosts=0,
        vm_node_cpu=None, node_cpu=None, node_mem=None,
    )  # fmt: skip
    return problem


@pytest.mark.parametrize("first", [0, 40, 80])
def test_bounds_from_a_packed_cluster_against_brute_force(first: int) -> None:
    solved = over = tight = 0
    for seed in range(first, first + 40):
        p = packed_problem(seed)
        best, items = brute_force(p), make_items(p)
        if not np.isfinite(best):
            continue
        solved += 1
        over += bool((items.keep_cpu > items.cap_cpu * 1.01).any())
        for whole in (False, True):
            for arrivals in (False, True):
                bound = solve_bound(build_bound(p, items, arrivals=arrivals), items, 10.0, whole=whole)
                assert np.isfinite(bound.value_j)
                assert bound.value_j <= best * (1.0 + 1e-9)
        tight += bound.value_j >= 0.97 * best
    assert solved >= 20
    assert over >= solved // 2
    assert tight >= solved // 2


def test_the_bound_counts_what_an_overloaded_host_draws_and_every_arrival() -> None:
    """Nothing can pay here: all hosts are full, so the bound is what staying costs."""
    p = two_hosts(vm_cpu_mhz=np.array([1900.0, 1600.0]), cpu_share=0.8)
    items = make_items(p)
    bound = solve_bound(build_bound(p, items), items, 5.0)
    stay = 300.0 * (195.0 + 180.0)
    assert evaluate(p, p.vm_host).objective_j == pytest.approx(stay)
    assert bound.value_j == pytest.approx(stay, rel=1e-6)
    # Emptying the last host takes 300 MHz of room, 100 on each of the others: not one migration, but three.
    q = two_hosts(
        vm_cpu_mhz=np.array([700.0, 700.0, 700.0, 300.0]), vm_mem_mib=np.full(4, 1000.0),
        vm_host=np.arange(4), host_cpu_mhz=np.full(4, 1000.0), host_mem_mib=np.full(4, np.inf),
        host_power=np.zeros(4, dtype=int), vm_move_j=np.full(4, 15_000.0), cpu_share=0.8,
    )  # fmt: skip
    values = []
    items = make_items(q)
    for some in (False, True):
        model = build_bound(q, items, patterns=False, arrivals=some)
        values.append(solve_bound(model, items, 5.0).value_j)
    assert brute_force(q) == pytest.approx(300.0 * (3 * 170.0 + 130.0))
    assert values == pytest.approx([300.0 * 3 * 180.0 + 15_000.0, brute_force(q)], rel=1e-6)


def test_lines_above_a_limit_lie_under_the_table() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        table = np.cumsum(rng.uniform(0.0, 10.0, int(rng.integers(2, 12))))
        low, high = np.sort(rng.uniform(0.3, 1.6, 2))
        x, grid = np.linspace(low, high, 300), np.linspace(0.0, 1.0, len(table))
        line = np.interp(low, grid, table) + least_slope(table, low, high) * (x - low)
        true = np.interp(x, grid, table)
        assert (line <= true + 1e-9).all()
        at = np.append(grid[(grid > low) & (grid < high)], high)
        assert (np.interp(at, grid, table) - np.interp(at, x, line)).min() == pytest.approx(0.0, abs=1e-2)


def test_branching_makes_counts_whole() -> None:
    """Against HiGHS on random coverings; each step of branching is a bound, and none lowers it."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        rows = Rows()
        count = rows.columns(3, rng.uniform(1.0, 3.0, 3), 10.0)
        rest = rows.columns(4, rng.uniform(0.5, 2.0, 4), 1.0)
        for need in rng.uniform(2.0, 9.0, 4):
            factors = rng.uniform(0.2, 2.0, 7)
            rows.rows(1, need, np.inf, (0, np.append(count, rest), factors))
        model = rows.programme()
        whole = np.zeros(7, dtype=np.bool_)
        relaxed = solve_programme(model, whole, 5.0)[0]
        whole[count] = True
        exact = solve_programme(model, whole, 5.0)[0]
        steps = [solve_counts(model, count, 5.0, most, 5.0)[0] for most in (0, 2, 6, 500)]
        assert steps[0] == pytest.approx(relaxed)
        assert steps[-1] == pytest.approx(exact, rel=1e-5)
        assert all(a <= b + 1e-9 for a, b in itertools.pairwise(steps))
