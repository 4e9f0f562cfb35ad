"""Rules and guarantee under policies that know of neither; restarts where a policy has none."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.models.admission import AdmissionConfig
from virtgym.envs.sim.models.failures import FailureConfig, Outages, replay_outages
from virtgym.envs.sim.models.rules import Rules, VmHostRule
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import RUNNING
from virtgym.experiments.run.cell import evaluate
from virtgym.policies import make_policy
from virtgym.policies.planning.guard import AdmissionGuard

PRODUCTS = (
    *("fusioncompute", "vmware_drs", "proxmox_crs", "onedrs", "ovirt", "nutanix_ads", "xen_orchestra"),
    "cloudstack",
)
POLICIES = (
    *("static", "dvfs", "random", "thr-mmt", "loess-mmt", "drs", "dpm", "dpm_ortools", "ha", "platform"),
    *PRODUCTS,
)
RULES = Rules(
    affinity=((0, 1),), anti_affinity=((2, 3, 4),), must=(VmHostRule((5,), (2, 3)), VmHostRule((6,), (1,)))
)
FAILS = np.array([1000.0, 2500.0, 4000.0, 5500.0])
DOWN: Outages = replay_outages(np.arange(4, dtype=np.int32), FAILS, FAILS + 900.0, 4)
"""One host after the other fails, for a quarter of an hour."""


def cluster(make_sim: Any, make_cluster: Any, policy: Any, **changes: Any) -> Simulator:
    """Four hosts of 8 cores, twelve VMs of which four come later; the policy says who places."""
    base = {
        "cores": 8,
        "memory": "binding",
        "memory_mib": 16384.0,
        "arrival": "policy",
        "failures": FailureConfig(),
        "replayed": DOWN,
        "boot_time_s": 120.0,
        **changes,
    }
    config = make_cluster(4, **base)
    arrival, restart = policy.arrival_in(config), policy.restart_in(config)
    rng = np.random.default_rng(3)
    sim: Simulator = make_sim(
        rng.uniform(0.05, 0.6, (24, 12)),
        4,
        load={"arrival_s": [0.0] * 8 + [700.0, 1500.0, 2400.0, 2500.0]},
        horizon_s=7200.0,
        **base | {"arrival": arrival or "policy", "restart": restart or "policy"},
    )
    return sim


def broken(sim: Simulator) -> Counter[str]:
    """Rules that are broken now, by kind; VMs that move count on both ends."""
    s, found = sim.state, Counter[str]()
    at = [{int(h) for h in (s.vm_host[v], s.vm_dest[v]) if h >= 0} for v in range(len(s.vm_host))]
    for rule in sim.config.rules.must:
        found["must"] += sum(bool(at[v] - set(rule.hosts)) for v in rule.vms)
    for group in sim.config.rules.anti_affinity:
        seen = [h for v in group for h in at[v]]
        found["anti"] += len(seen) - len(set(seen))
    for group in sim.config.rules.joined:
        there = [at[v] for v in group if s.vm_state[v] == RUNNING]
        found["affinity"] += len(there) > 1 and not set.intersection(*there)
    return +found


def play(sim: Simulator, policy: Any, check: Any) -> None:
    policy.reset(sim.reset(np.random.default_rng(0)), np.random.default_rng(0))
    while not sim.done:
        sim.step(policy.predict(None)[0])
        check(sim)


@pytest.mark.parametrize("name", POLICIES)
def test_nobody_breaks_a_rule(make_sim: Any, make_cluster: Any, name: str) -> None:
    policy = make_policy(name)
    sim = cluster(make_sim, make_cluster, policy, rules=RULES)
    seen: Counter[str] = Counter()
    play(sim, policy, lambda sim: seen.update(broken(sim)))
    assert not seen
    assert (sim.state.vm_state == RUNNING).all()
    assert sim.metrics()["restarts"] > 0


@pytest.mark.parametrize("name", POLICIES)
def test_nobody_breaks_the_guarantee(make_sim: Any, make_cluster: Any, name: str) -> None:
    policy = make_policy(name)
    promise = AdmissionConfig("slots", host_failures=1)
    sim = cluster(make_sim, make_cluster, policy, admission=promise, replayed=None)
    held: list[bool] = []
    play(sim, policy, lambda sim: held.append(AdmissionGuard(sim.view).holds))
    assert all(held)
    assert (sim.state.vm_state == RUNNING).all()


@pytest.mark.parametrize("name", POLICIES)
def test_everybody_restarts_what_a_host_takes_down(make_sim: Any, make_cluster: Any, name: str) -> None:
    policy = make_policy(name)
    sim = cluster(make_sim, make_cluster, policy)
    play(sim, policy, lambda sim: None)
    assert (sim.state.vm_state == RUNNING).all()
    if name not in ("platform", "ovirt", "fusioncompute"):  # they have just emptied each host that fails
        assert sim.metrics()["restarts"] > 0
    assert sim.metrics()["vm_availability"] > 0.9


@pytest.mark.parametrize("name", ["static", "thr-mmt", "drs", "dpm"])
def test_in_ha_cold_every_policy_serves(name: str) -> None:
    row = evaluate("ha_cold", name, overrides={"horizon_s": 43_200.0}).iloc[0]
    assert row["sla_unserved"] < 0.01
    assert row["vm_availability"] > 0.99
