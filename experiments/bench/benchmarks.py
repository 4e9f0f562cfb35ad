"""pytest-benchmark runs: each fast piece beside its plain twin, in one group, to read ratios at a glance.

make bench        # or: pytest experiments/bench/benchmarks.py --benchmark-group-by=group
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oracles.twin import PlainSimulator
from virtgym.envs.scenarios.scenario import Scenario, build_scenario
from virtgym.policies import make_policy

HOURS = 4


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    """A few hours of the small cluster."""
    return build_scenario("small", overrides={"horizon_s": HOURS * 3600.0})


@pytest.mark.benchmark(group="physics, 10 hosts x 50 VMs")
def test_kernels(benchmark: Any, scenario: Scenario) -> None:
    """The simulator, one kernel call."""
    simulator = scenario.simulator()

    def run() -> None:
        simulator.reset()
        simulator.run()

    benchmark(run)
    assert simulator.done


@pytest.mark.benchmark(group="physics, 10 hosts x 50 VMs")
def test_plain_python(benchmark: Any, scenario: Scenario) -> None:
    """The plain-Python twin."""
    twin = benchmark(lambda: _run_twin(scenario))
    assert twin.done


def _run_twin(scenario: Scenario) -> PlainSimulator:
    twin = PlainSimulator(scenario.cluster, scenario.workload, horizon_s=scenario.horizon_s)
    twin.run()
    return twin


@pytest.mark.benchmark(group="what-if copy, 800 hosts")
def test_fork(benchmark: Any) -> None:
    """``Simulator.fork`` at the size of the literature's experiment."""
    simulator = build_scenario("planetlab").simulator()
    assert benchmark(simulator.fork).digest() == simulator.digest()


@pytest.mark.parametrize("name", ["thr-mmt", "ols-mmt", "loess_robust-mmt", "mad-mc"])
@pytest.mark.benchmark(group="one decision, 800 hosts")
def test_decision(benchmark: Any, name: str) -> None:
    """One decision of a baseline after an hour."""
    policy: Any = make_policy(name)
    simulator = build_scenario("planetlab").simulator(arrival=getattr(policy, "arrival", None))
    policy.reset(simulator.view, np.random.default_rng(0))
    for _ in range(12):
        simulator.step(policy.plan(simulator.view))
    benchmark(lambda: policy.plan(simulator.view))
