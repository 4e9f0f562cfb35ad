"""Nobody breaks the failover guarantee: policies are tempted to, with light load, big hosts and failures.

Every policy of ``HONOUR`` that is registered has to pass. Only what a policy orders is held against it: the
guarantee is looked at before and after its orders, with no time between the two. That the temptation is real
is shown by policies that know nothing of the guarantee, and do break it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from virtgym.envs.sim.config import ClusterConfig, HostType
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.admission import AdmissionConfig
from virtgym.envs.sim.models.failures import FailureConfig, FailureDomain
from virtgym.envs.sim.simulator import Simulator
from virtgym.envs.sim.state.cluster_state import PENDING
from virtgym.envs.sim.workload import Workload
from virtgym.policies import POLICIES, make_policy
from virtgym.policies.planning.guard import AdmissionGuard

HONOUR = (
    *("ha", "drs", "drs_loess", "drs_ortools", "dpm", "dpm_ortools", "platform", "fusioncompute"),
    *("vmware_drs", "proxmox_crs", "ovirt", "nutanix_ads", "xen_orchestra", "cloudstack"),
)
"""Policies that honour the guarantee; those that are not there yet are left out."""

PRESENT = [name for name in HONOUR if name in POLICIES]

RULES: dict[str, AdmissionConfig] = {
    "slots": AdmissionConfig("slots", 1),
    "two failures": AdmissionConfig("slots", 2),
    "reservations": AdmissionConfig("slots", 2, counts="reservations"),
    "a rack": AdmissionConfig("slots", 1, survive_domain=True),
    "percentage": AdmissionConfig("percentage", cpu_share=0.4, mem_share=0.4),
    "dedicated": AdmissionConfig("dedicated", hosts=(0, 5)),
}

BIG = HostType("big", 16, 2000.0, 32_768.0, "dell_r740_8280", boot_time_s=240.0, shutdown_time_s=60.0)
SMALL = HostType("small", 8, 2000.0, 16_384.0, "hp_ml110_g5", boot_time_s=120.0, shutdown_time_s=30.0)
RACKS = (FailureDomain("a", (0, 1, 2, 3), 1e6, 1.0), FailureDomain("b", (4, 5, 6, 7), 1e6, 1.0))


def tempting(seed: int, rule: AdmissionConfig, full: bool) -> Simulator:
    """Eight hosts, 26 VMs that come and go, nearly idle and later busy; with ``full`` failures too."""
    rng = np.random.default_rng(seed)
    samples, n = 48, 26
    vcpus = rng.choice([1, 2, 4], n).astype(np.int32)
    level = rng.uniform(0.02, 0.25, n) * np.where(np.arange(samples)[:, None] < 30, 1.0, 3.0)
    arrival = np.where(rng.random(n) < 0.6, 0.0, rng.uniform(0.0, 9000.0, n))
    work = Workload(
        "tempting",
        300.0,
        np.clip(level * rng.uniform(0.5, 1.5, (samples, n)), 0.0, 1.0),
        vcpus.astype(np.float64) * 2000.0,
        vcpus,
        rng.choice([1024.0, 2048.0, 3072.0], n),
        arrival,
        arrival + np.where(rng.random(n) < 0.7, np.inf, rng.exponential(6000.0, n) + 300.0),
    )
    extra: dict[str, Any] = {}
    if full:
        extra = {
            "failures": FailureConfig("exponential", mtbf_h=8.0, mttr_h=0.5),
            "restart": str(rng.choice(["first_fit", "policy"])),
        }
    kinds = rng.permutation([0, 0, 0, 0, 1, 1, 1, 1]).astype(np.int32)
    arrive: Any = "policy" if rule.rule == "dedicated" else "worst_fit"
    cluster = ClusterConfig((BIG, SMALL), kinds, arrival=arrive, admission=rule, domains=RACKS, **extra)
    return Simulator(cluster, work)


def judge(sim: Simulator, orders: Decisions) -> list[str]:
    """Apply orders and say what they did to the guarantee."""
    before = AdmissionGuard(sim.view)
    held, usable, there = before.holds, before.usable.copy(), sim.state.vm_host[orders.move_vm]
    restarts = np.zeros(len(orders.place_vm), dtype=np.bool_)
    if sim.params.has_failures:
        restarts = sim.state.vm_restart[orders.place_vm] > 0
    refused = sim.apply(orders)
    after = AdmissionGuard(sim.view)
    found = [f"refused: {r}" for r in refused]
    at = f"at {sim.time_s:g} s"
    if held and not after.holds:
        found.append(f"{at}: the guarantee held and does no more: {after.failover()}")
    closed = before.dedicated
    some_leave = bool((usable & ~after.usable).any()) and before.config.rule != "dedicated"
    if not held and some_leave:  # of dedicated hosts none may go off anyway, and the others do not matter
        found.append(f"{at}: the guarantee failed and hosts left: {np.flatnonzero(usable & ~after.usable)}")
    if bool(closed[orders.move_host].any()) or bool(closed[orders.place_host[~restarts]].any()):
        found.append(f"{at}: a VM goes to a failover host: {orders.move_host}, from {there}")
    if bool(closed[orders.power_off].any()) or bool(closed[orders.maintenance].any()):
        found.append(f"{at}: a failover host goes off")
    return found


def place_for(sim: Simulator) -> None:
    """Let policies that place nothing begin with VMs on hosts, where the scenario leaves that to them."""
    helper = make_policy("ha")
    helper.reset(sim.view, np.random.default_rng(0))
    if bool((sim.state.vm_state == PENDING).any()):
        plan: Decisions = helper.predict(None)[0]
        sim.apply(Decisions(place_vm=plan.place_vm, place_host=plan.place_host))


def tempt(name: str, seed: int, rule: str, full: bool, guarded: bool = False) -> list[str]:
    """Run a policy and collect everything held against it."""
    sim = tempting(seed, RULES[rule], full)
    view = sim.reset(np.random.default_rng(seed))
    policy: Any = make_policy(name)
    policy.reset(view, np.random.default_rng(seed))
    found: list[str] = []
    while not sim.done:
        if sim.view.params.arrival_rule == 4:
            place_for(sim)
        orders = policy.plan(view)
        found += judge(sim, AdmissionGuard(view).keep(orders) if guarded else orders)
        sim.advance()
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", PRESENT)
def test_no_policy_breaks_the_guarantee(name: str, rule: str) -> None:
    for full in (False, True):
        assert tempt(name, 0, rule, full) == []
        assert tempt(name, 1, rule, full) == []


@pytest.mark.parametrize("rule", RULES)
def test_the_temptation_is_real(rule: str) -> None:
    """Consolidation that knows nothing of the guarantee breaks every rule in this cluster."""
    assert any(tempt("thr-mmt", seed, rule, False) for seed in range(3))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["dvfs", "thr-mmt", "ols-mmt", "random"])
def test_behind_the_guard_nobody_breaks_it(name: str, rule: str) -> None:
    """The last gate makes any policy honour the guarantee, and leaves no order that would be refused."""
    assert tempt(name, 2, rule, False, guarded=True) == []
    assert tempt(name, 3, rule, True, guarded=True) == []


@pytest.mark.parametrize("seed", range(20))
def test_random_orders_behind_the_guard_break_nothing(random_episode: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rule = AdmissionConfig(
        str(rng.choice(["slots", "percentage", "dedicated"])),
        host_failures=int(rng.integers(0, 3)),
        cpu_share=float(rng.uniform(0, 0.6)),
        mem_share=float(rng.uniform(0, 0.6)),
        hosts=(int(rng.integers(2)),),
    )
    episode = random_episode(seed, admission=rule, arrival="policy")
    sim = Simulator(episode.config, episode.workload, horizon_s=episode.horizon_s)
    while not sim.done:
        orders = episode.orders(sim, 2.0)
        legal = lawful(sim, orders)
        assert [
            line for line in judge(sim, AdmissionGuard(sim.view).keep(legal)) if "refused" not in line
        ] == []
        sim.advance()


def lawful(sim: Simulator, orders: Decisions) -> Decisions:
    """Of random orders those that the simulator would take one after the other."""
    twin = sim.fork()
    refused = {(r.kind, r.vm, r.host) for r in twin.apply(orders)}

    def fine(kind: str, hosts: Any, vms: Any = None) -> Any:
        pairs = zip(vms, hosts) if vms is not None else ((-1, h) for h in hosts)
        return np.array([(kind, int(v), int(h)) not in refused for v, h in pairs], dtype=np.bool_)

    place = fine("place", orders.place_host, orders.place_vm)
    move = fine("move", orders.move_host, orders.move_vm)
    return Decisions(
        power_on=orders.power_on[fine("power_on", orders.power_on)],
        place_vm=orders.place_vm[place],
        place_host=orders.place_host[place],
        move_vm=orders.move_vm[move],
        move_host=orders.move_host[move],
        power_off=orders.power_off[fine("power_off", orders.power_off)],
    )
