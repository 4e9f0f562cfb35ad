"""The fluid bound against answers worked by hand, and against every host set of a small cluster."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtgym.policies.solvers.fluid_bound import FluidProblem, fluid_bound

KWH = 3.6e6


def problem(**changed: Any) -> FluidProblem:
    """One hour of two hosts of 1,000 MHz and 100 MiB, 100 W idle and 200 W at full load."""
    values: dict[str, Any] = {
        "seconds": np.array([3600.0]),
        "demand_mhz": np.array([[500.0]]),
        "memory_mib": np.zeros(1),
        "energy_price": np.array([1.0 / KWH]),
        "unserved_price": np.array([10.0 / KWH]),
        "hosts": np.array([2]),
        "cpu_mhz": np.array([1000.0]),
        "host_memory_mib": np.array([100.0]),
        "power_w": (np.array([100.0, 200.0]),),
    }
    return FluidProblem(**{**values, **changed})


def test_half_a_host_full_serves_half_a_load() -> None:
    # a fluid runs half a host at full load: 0.5 · 200 W for an hour
    assert fluid_bound(problem()).cost == pytest.approx(0.1)


def test_memory_keeps_hosts_on() -> None:
    # 150 MiB need 1.5 hosts on: 150 W idle and 50 W for the load
    assert fluid_bound(problem(memory_mib=np.array([150.0]))).cost == pytest.approx(0.2)
    # what fits on no hosts is not asked for
    assert fluid_bound(problem(memory_mib=np.array([1e6]))).cost == pytest.approx(0.1)


def test_what_is_too_much_is_not_served_and_the_cheapest_class_first() -> None:
    found = fluid_bound(
        problem(demand_mhz=np.array([[1500.0, 1000.0]]), unserved_price=np.array([1, 5]) / KWH)
    )
    # 2,000 MHz are served at 400 W; 500 MHz of the first class are not
    assert found.energy == pytest.approx(0.4)
    assert found.unserved == pytest.approx(500.0 * 3600.0 / KWH)


def test_work_that_is_worth_less_than_its_energy_is_not_done() -> None:
    found = fluid_bound(problem(unserved_price=np.array([1e-4 / KWH])))
    assert (found.energy, found.unserved) == pytest.approx((0.0, 500.0 * 3600.0 * 1e-4 / KWH))


def test_each_stretch_has_its_price() -> None:
    two = problem(
        seconds=np.array([3600.0, 1800.0]),
        demand_mhz=np.array([[500.0], [1000.0]]),
        memory_mib=np.zeros(2),
        energy_price=np.array([1.0, 3.0]) / KWH,
    )
    assert fluid_bound(two).cost == pytest.approx(0.1 + 0.2 * 0.5 * 3)


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_no_choice_of_whole_hosts_is_cheaper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 4, size=2)
    cpu, memory = rng.uniform(500, 3000, size=2), rng.uniform(50, 300, size=2)
    power = tuple(np.sort(rng.uniform(20, 400, size=11)) for _ in range(2))
    demand, held = rng.uniform(0, 4000, size=2), rng.uniform(0, 300)
    prices = rng.uniform(0.5, 20, size=2) / KWH
    bound = fluid_bound(
        problem(
            demand_mhz=demand[None],
            memory_mib=np.array([held]),
            unserved_price=prices,
            hosts=count,
            cpu_mhz=cpu,
            host_memory_mib=memory,
            power_w=power,
        )
    )
    best = np.inf
    for on in itertools.product(*(range(n + 1) for n in count)):
        if np.dot(on, memory) < held and held <= count @ memory:
            continue
        for load in itertools.product(*(np.linspace(0.0, 1.0, 6) if n else [0.0] for n in on)):
            room = float(np.dot(np.multiply(on, load), cpu))
            served = np.zeros(2)
            for c in np.argsort(-prices):
                served[c] = min(demand[c], room - served.sum())
            watts = sum(n * np.interp(u, np.linspace(0, 1, 11), w) for n, u, w in zip(on, load, power))
            best = min(best, 3600.0 * (watts / KWH + float(prices @ (demand - served))))
    assert bound.cost <= best * (1 + 1e-9)
