"""Rebalancing: plans and bounds against brute force, thresholds and limits, and what always holds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.envs.errors import ConfigError
from virtgym.policies.solvers.model import ConsolidationProblem, PlacementRules, evaluate
from virtgym.policies.solvers.rebalancing import host_imbalance, solve_rebalancing

POWER = np.array([[100.0, 200.0]])


def random_problem(seed: int, n_vms: int = 6, n_hosts: int = 3, **changes: Any) -> ConsolidationProblem:
    """Unevenly loaded hosts of two sizes."""
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "vm_cpu_mhz": rng.choice([100.0, 300.0, 450.0, 800.0], n_vms),
        "vm_mem_mib": rng.choice([500.0, 1000.0, 1500.0], n_vms),
        "vm_host": np.minimum(rng.integers(0, n_hosts, n_vms), rng.integers(0, n_hosts, n_vms)),
        "host_cpu_mhz": rng.choice([3000.0, 4000.0], n_hosts),
        "host_mem_mib": np.full(n_hosts, float(rng.choice([5000.0, 8000.0]))),
        "host_power": np.zeros(n_hosts, dtype=int),
        "power_w": POWER,
    }
    if rng.random() < 0.3:
        values["rules"] = PlacementRules(anti_affinity=[(0, 1)], must=[((2,), (0, n_hosts - 1))])
    return ConsolidationProblem(**(values | changes))


def plain_imbalance(p: ConsolidationProblem, hosts: tuple[int, ...], measure: str) -> float:
    loads = [
        sum(p.vm_cpu_mhz[v] for v, x in enumerate(hosts) if x == h) / p.host_cpu_mhz[h]
        for h in range(p.n_hosts)
    ]
    mean = sum(loads) / len(loads)
    if measure == "max":
        return float(max(abs(x - mean) for x in loads))
    return float((sum((x - mean) ** 2 for x in loads) / len(loads)) ** 0.5)


def all_plans(p: ConsolidationProblem, measure: str) -> list[tuple[int, float]]:
    """Migrations and imbalance of every plan that is allowed."""
    found = []
    for hosts in itertools.product(range(p.n_hosts), repeat=p.n_vms):
        if evaluate(p, np.array(hosts)).violations == 0:
            moves = sum(a != b for a, b in zip(hosts, p.vm_host.tolist()))
            found.append((moves, plain_imbalance(p, hosts, measure)))
    return found


@pytest.mark.parametrize("measure", ["std", "max"])
def test_fewest_moves_against_brute_force(measure: str) -> None:
    reached = 0
    for seed in range(12):
        p = random_problem(seed)
        plans = all_plans(p, measure)
        start = plain_imbalance(p, tuple(p.vm_host.tolist()), measure)
        target = 0.5 * (start + min(x for _, x in plans))
        fewest = min(moves for moves, x in plans if x <= target + 1e-12)
        result = solve_rebalancing(p, threshold=target, measure=measure, rounds=200)
        assert result.bound <= fewest
        if result.violations == 0:
            assert result.reached
            assert result.migrations >= fewest
            assert result.imbalance[0] <= target + 1e-9
            reached += result.migrations == fewest
            assert result.gap == pytest.approx(1.0 - result.bound / max(result.cost, 1e-9), abs=1e-6) or (
                result.cost == 0.0 and result.gap == 0.0
            )
    assert reached >= 11


@pytest.mark.parametrize("measure", ["std", "max"])
def test_least_imbalance_within_a_limit_against_brute_force(measure: str) -> None:
    reached = 0
    for seed in range(20, 32):
        p = random_problem(seed)
        least = min(x for moves, x in all_plans(p, measure) if moves <= 2)
        result = solve_rebalancing(p, limit=2.0, measure=measure, rounds=200)
        assert result.migrations <= 2
        assert result.bound <= least + 1e-6
        if evaluate(p, p.vm_host).violations == 0:
            assert result.imbalance[0] >= least - 1e-9
            reached += result.imbalance[0] <= least + 1e-9
        else:
            reached += 1
    assert reached >= 11


@given(st.integers(0, 2**31), st.integers(2, 20), st.integers(2, 8), st.floats(0.0, 1.0))
@settings(max_examples=30)
def test_a_plan_never_breaks_more_nor_leaves_more_imbalance(
    seed: int, n_vms: int, n_hosts: int, share: float
) -> None:
    p = random_problem(seed, n_vms, n_hosts, rules=PlacementRules())
    before = host_imbalance(p, p.vm_host)
    result = solve_rebalancing(p, threshold=share * before[0], rounds=30, bound=False)
    assert result.violations <= evaluate(p, p.vm_host).violations
    assert result.violations == evaluate(p, result.vm_host).violations
    assert result.imbalance[0] <= before[0] + 1e-9
    np.testing.assert_allclose(result.before, before)
    np.testing.assert_allclose(result.imbalance, host_imbalance(p, result.vm_host))
    assert result.migrations == (result.vm_host != p.vm_host).sum() == result.cost


def test_balanced_already() -> None:
    p = random_problem(1, rules=PlacementRules())
    result = solve_rebalancing(p, threshold=1.0, rounds=50)
    assert (result.migrations, result.cost, result.gap, result.reached) == (0, 0.0, 0.0, True)
    np.testing.assert_array_equal(result.vm_host, p.vm_host)


def test_a_swap_where_no_host_has_room() -> None:
    p = ConsolidationProblem(
        np.array([800.0, 800.0, 100.0, 100.0]), np.full(4, 1000.0), np.array([0, 0, 1, 1]),
        np.full(2, 2000.0), np.full(2, 2000.0), np.zeros(2, dtype=int), POWER,
    )  # fmt: skip
    result = solve_rebalancing(p, threshold=0.01, rounds=20)
    assert (result.reached, result.migrations, result.bound) == (True, 2, 2.0)


def test_prices_and_memory_decide() -> None:
    p = ConsolidationProblem(
        np.array([400.0, 400.0, 0.0]), np.array([3000.0, 1000.0, 0.0]), np.array([0, 0, 1]),
        np.full(2, 2000.0), np.full(2, 8000.0), np.zeros(2, dtype=int), POWER,
    )  # fmt: skip
    cheap = solve_rebalancing(p, threshold=0.01, price=p.vm_mem_mib, rounds=50)
    assert cheap.vm_host.tolist() == [0, 1, 1]
    assert cheap.cost == 1000.0
    assert cheap.bound == pytest.approx(1000.0, rel=1e-5)
    even = solve_rebalancing(p, threshold=0.01, memory_threshold=0.2, rounds=50)
    assert even.reached
    assert even.migrations == 1


def test_hosts_that_are_off_or_not_allowed_take_no_part() -> None:
    p = random_problem(4, 8, 4, rules=PlacementRules(), vm_host=np.array([0, 0, 0, 0, 0, 1, 1, 0]),
                       host_on=np.array([True, True, False, True]),
                       host_allowed=np.array([True, True, True, False]))  # fmt: skip
    result = solve_rebalancing(p, rounds=100, limit=3.0)
    assert set(result.vm_host.tolist()) <= {0, 1}
    assert result.imbalance[0] < result.before[0]


def test_counted_runs_are_the_same_each_time() -> None:
    p = random_problem(7, 40, 10)
    a, b = (solve_rebalancing(p, threshold=0.02, rounds=100, bound=False) for _ in range(2))
    np.testing.assert_array_equal(a.vm_host, b.vm_host)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threshold": -1.0}, "rebalancing.threshold=-1.0: must be 0 or more"),
        ({"threshold": np.inf}, "CPU or memory needs one"),
        ({"limit": np.nan}, "rebalancing.limit=nan"),
        ({"measure": "range"}, "rebalancing.measure"),
        ({"time_limit_s": 0.0}, "rebalancing.time_limit_s=0.0"),
        ({"price": np.ones(2)}, "rebalancing.price: needs one number per VM"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        solve_rebalancing(random_problem(0), **wrong)
