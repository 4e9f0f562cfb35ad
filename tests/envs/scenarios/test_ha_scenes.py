"""What the scenarios ha_cold, ha_hot, ha_stateless and nfv_migration are there to show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from virtgym.envs.scenarios.scenario import build_scenario
from virtgym.envs.sim.audit.checker import Auditor
from virtgym.envs.sim.models.cost import gate
from virtgym.envs.sim.models.power import OFF, ON
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import PENDING, RUNNING, STARTING
from virtgym.experiments.analysis.run_data import Group
from virtgym.experiments.bench.availability import (
    MODES,
    analytic_availability,
    availability_table,
    mean_outage_s,
    to_markdown,
)
from virtgym.experiments.report.leaderboard import make_leaderboard
from virtgym.experiments.run.cell import evaluate
from virtgym.policies import make_policy
from virtgym.policies.planning.guard import AdmissionGuard


def play(
    name: str, policy: str, seed: int, audit: bool = False, changes: Any = None, **params: Any
) -> Simulator:
    """One episode; no order may be refused."""
    scenario = build_scenario(name, seed=seed, overrides=changes or {})
    rule: Any = make_policy(policy, **params)
    sim = scenario.simulator(arrival=rule.arrival)
    rule.reset(sim.reset(np.random.default_rng(seed)), np.random.default_rng(seed))
    auditor = Auditor(sim) if audit else None
    while not sim.done:
        sim.step(rule.plan(sim.view))
        assert sim.refusals == []
        if auditor is not None and int(sim.time_s / sim.params.interval_s) % 20 == 0:
            assert auditor.observe() == []
    return sim


def outages(sim: Simulator) -> tuple[float, int]:
    """Mean outage of the VMs that restarted, s, and the number of restarts."""
    n = int(sim.state.totals.restarts)
    return float(sim.state.vm_down_s.sum()) / max(n, 1), n


@pytest.mark.parametrize("seed", range(3))
def test_cold_standby_restarts_everything_within_three_minutes(seed: int) -> None:
    sim = play("ha_cold", "ha", seed, audit=seed == 0)
    mean_s, restarts = outages(sim)
    assert restarts > 0
    # Detection 15 s, up to a minute until the next decision, boot 60 s; web a minute or two after databases.
    assert 75.0 <= mean_s <= 75.0 + 60.0 + 120.0
    assert int((sim.state.vm_state == PENDING).sum()) == 0
    bare = play("ha_cold", "ha", seed, failover="home")
    assert sim.metrics()["vm_availability"] > bare.metrics()["vm_availability"]


def test_cold_standby_brings_databases_up_before_the_web() -> None:
    """Whenever a web VM begins to start, no database is down."""
    scenario = build_scenario("ha_cold", seed=1)
    policy: Any = make_policy("ha")
    sim = scenario.simulator(arrival=policy.arrival)
    policy.reset(sim.reset(np.random.default_rng(1)), np.random.default_rng(1))
    names = [profile.name for profile in scenario.workload.profiles]
    web = scenario.workload.vm_profile == names.index("web")
    database = scenario.workload.vm_profile == names.index("database")
    s, seen = sim.state, 0
    while not sim.done:
        plan = policy.plan(sim.view)
        down = database & (s.vm_restart > 0) | database & (s.vm_state == STARTING)
        restarted = plan.place_vm[s.vm_restart[plan.place_vm] > 0]
        if bool(web[restarted].any()):
            seen += 1
            since = sim.time_s - s.vm_down_since_s[restarted[web[restarted]]]
            assert not down.any() or float(since.min()) >= policy.dependency_timeout_s
        sim.step(plan)
    assert seen > 0


@pytest.mark.parametrize("seed", range(3))
def test_hot_standby_is_out_for_a_second(seed: int) -> None:
    sim = play("ha_hot", "ha", seed, audit=seed == 0)
    s = sim.state
    mirrored = sim.params.vm_protected > 0
    takeovers = int(s.totals.takeovers)
    assert takeovers > 0
    assert float(s.vm_down_s[mirrored].sum()) <= takeovers * 1.0 + 2.0  # and the stops of a few migrations
    assert int(s.totals.restarts) > 0
    assert float(s.vm_down_s[~mirrored].sum()) > 75.0
    assert (s.vm_secondary[mirrored] >= 0).all()
    assert ((s.vm_host[mirrored] < 5) != (s.vm_secondary[mirrored] < 5)).all()  # never in the same rack


@pytest.mark.parametrize("seed", range(3))
def test_spares_bring_capacity_back_before_the_repair(seed: int) -> None:
    sim = play("ha_stateless", "ha", seed, audit=seed == 0)
    assert int(sim.state.totals.profile_moves) > 0
    mean_s, restarts = outages(sim)
    # As many hosts without spares: the hosts are full, so what fails waits for the repair.
    bare = play("ha_stateless", "ha", seed, changes={"recovery.spares": [], "hosts.0.count": 8})
    assert restarts >= int(bare.state.totals.restarts) > 0
    assert mean_s < 0.5 * outages(bare)[0]
    if int(sim.state.totals.profile_moves) == int(sim.state.totals.host_failures):
        # Detect 15, associate 600, boot the host 240, boot the VM 60 s: a spare was free every time.
        assert mean_s == pytest.approx(915.0)


@pytest.mark.parametrize("seed", range(3))
def test_every_host_is_replaced_and_no_vm_stops(seed: int) -> None:
    sim = play("nfv_migration", "nfv_upgrade", seed, audit=seed == 0)
    s = sim.state
    old = np.arange(14) < 8
    assert (s.host_power_state[old] == OFF).all()
    assert (s.vm_state == RUNNING).all()
    assert (s.vm_host >= 8).all()
    assert (s.host_power_state[~old] == ON).sum() < 6  # larger ones: fewer hold it all
    assert sim.metrics()["migrations"] == 32  # every VM once, none back
    assert float(s.vm_down_s.sum()) < 0.2 * 32  # stop-and-copy, a fraction of a second for each
    assert np.unique(s.vm_baseline).size == 2  # VMs keep the CPU level that they were switched on with
    assert not np.isin(s.vm_baseline, sim.params.host_baseline[8:]).any()


def test_the_upgrade_takes_one_host_at_a_time_and_needs_levels() -> None:
    scenario = build_scenario("nfv_migration", seed=0)
    policy: Any = make_policy("nfv_upgrade", start_s=3600.0)
    sim = scenario.simulator(arrival=policy.arrival)
    policy.reset(sim.reset(), np.random.default_rng(0))
    s, most = sim.state, 0
    assert (s.vm_host < 8).all()
    while not sim.done:
        sim.step(policy.plan(sim.view))
        busy = (s.host_maintenance > 0) & (s.host_n_vms > 0)
        most = max(most, int(busy.sum()))
        assert sim.time_s > 3600.0 or not s.host_maintenance.any()
    assert most <= 1
    assert (s.host_power_state[:8] == OFF).all()
    with pytest.raises(Exception, match=r"needs scenario\.hosts with a cpu_level"):
        play("small", "nfv_upgrade", 0)


def test_the_guarantee_of_the_scenarios_holds_at_the_start() -> None:
    for name in ("ha_cold", "ha_hot"):
        scenario = build_scenario(name, seed=0)
        policy: Any = make_policy("ha")
        sim = scenario.simulator(arrival=policy.arrival)
        policy.reset(sim.reset(), np.random.default_rng(0))
        sim.step(policy.plan(sim.view))
        assert AdmissionGuard(sim.view).holds
        assert (sim.state.vm_state == RUNNING).all()


def test_availability_is_that_of_the_closed_form() -> None:
    """A tenth of the table in the documentation; outages are exact where nothing is random."""
    rows = availability_table(days=200.0, seeds=2, modes=("cold", "hot"))
    for row in rows:
        assert row.outages > 20
        assert row.outage_s == pytest.approx(row.analytic_outage_s, rel=0.5)
        # The number of outages is Poisson: five standard deviations.
        off = abs((1 - row.availability.estimate) / (1 - row.analytic) - 1)
        assert off < 5 / np.sqrt(row.outages)
    assert rows[0].outage_s == pytest.approx(75.0)
    assert to_markdown(rows).count("\n") == 3
    assert [analytic_availability(m) for m in ("none", "stateless", "cold", "hot")] == sorted(
        analytic_availability(m) for m in MODES
    )
    assert mean_outage_s("none", 100.0) == 5.9 * 3600 + 240 + 60


def test_the_leaderboard_of_ha_cold_is_led_by_a_policy_that_serves() -> None:
    """Restarts are the engine's where a policy has none of its own: static and drs serve as well as ha."""
    rows = pd.concat([evaluate("ha_cold", policy) for policy in ("static", "drs", "ha")])
    lost: Any = {
        "unserved_weighted": 0.18,
        "gate": gate(0.18, build_scenario("ha_cold").cluster.cost.objective),
    }
    cheapest = rows[rows.policy == "drs"].assign(policy="idle", cost=1.0, **lost)
    rows = pd.concat([rows, cheapest]).reset_index(drop=True)
    *served, last = make_leaderboard(Group("ha_cold", "ha_cold", ["t"], "", rows)).lines
    assert {line.policy for line in served} == {"static", "drs", "ha"}
    assert [line.gate for line in served] == ["ok"] * 3
    assert max(line.mean("unserved_weighted") for line in served) < 0.005
    costs = [line.mean("cost") for line in served]
    assert costs == sorted(costs)
    assert last.policy == "idle"
    assert last.gate.endswith("% of the weighted work unserved, 1 % allowed")
