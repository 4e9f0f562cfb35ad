"""A host in maintenance takes no VM: in either engine, whoever places, and whoever ordered it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from virtgym.envs.errors import ConfigError
from virtgym.envs.sim.decisions import Decisions
from virtgym.envs.sim.models.failures import FailureConfig, replay_outages
from virtgym.envs.sim.models.power import PowerConfig
from virtgym.envs.sim.simulator import Simulator
from virtgym.policies import make_policy
from virtgym.policies.drs.policy import plan_evacuation
from virtgym.policies.planning.guard import AdmissionGuard

ENGINES: dict[str, dict[str, Any]] = {
    "simple": {},
    "full": {"power": PowerConfig(pue=1.0000001)},
}
RULES = ("first_fit", "best_fit", "worst_fit", "pabfd")
POLICIES = (
    *("static", "npa", "dvfs", "random", "drs", "drs_loess", "drs_ortools", "dpm", "dpm_ortools", "ha"),
    *("platform", "thr-mmt", "mad-mu", "ols-mc", "loess-rs", "fusioncompute", "vmware_drs", "proxmox_crs"),
    *("onedrs", "ovirt", "nutanix_ads", "xen_orchestra", "cloudstack"),
)
N_HOSTS = 4
INDICES = np.array([0], dtype=np.int32)


def busy(make_sim: Any, engine: str, arrival: str, **more: Any) -> Simulator:
    """VMs that come one after the other and whose load changes, on four hosts with room for all on three."""
    rng = np.random.default_rng(1)
    n = 12
    sim: Simulator = make_sim(
        rng.uniform(0.1, 0.9, (30, n)), n_hosts=N_HOSTS, cores=8, memory="binding", memory_mib=16384.0,
        arrival=arrival, horizon_s=9000.0,
        load={"arrival_s": [0.0] * 4 + [300.0 * (1 + i) for i in range(n - 4)], "mem_mib": [3000.0] * n},
        **ENGINES[engine], **more,
    )  # fmt: skip
    return sim


def came_to(sim: Simulator, host: int, before: Any) -> Any:
    s = sim.state
    here = (s.vm_host == host) | (s.vm_dest == host)
    return np.flatnonzero(here & ~before)


def watch(sim: Simulator, policy: Any, host: int) -> None:
    """Play to the end; nobody comes to the host, and no order is refused because of it."""
    s = sim.state
    before = (s.vm_host == host) | (s.vm_dest == host)
    while not sim.done:
        if policy is not None:
            refusals = sim.apply(policy.plan(sim.view))
            assert not [r for r in refusals if r.code == 14], refusals
        assert came_to(sim, host, before).size == 0
        sim.advance()
        assert came_to(sim, host, before).size == 0
        before &= (s.vm_host == host) | (s.vm_dest == host)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rule", RULES)
def test_no_arrival_rule_places_there(make_sim: Any, engine: str, rule: str) -> None:
    for off in (False, True):
        sim = busy(make_sim, engine, rule, auto_boot=True)
        host = int(sim.state.vm_host[0])
        if off:
            empty = np.flatnonzero(sim.state.host_n_vms == 0)
            if empty.size == 0:
                continue
            host = int(empty[-1])
            assert not sim.apply(Decisions(power_off=np.array([host], np.int32)))
        sim.apply(plan_evacuation(sim.view, [host]))
        assert not sim.apply(Decisions(maintenance=np.array([host], np.int32)))
        watch(sim, None, host)
        assert not off or sim.state.host_power_state[host] == 0, "nobody boots it either"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_places_there(make_sim: Any, engine: str, name: str) -> None:
    policy: Any = make_policy(name)
    rule = policy.arrival_in(make_sim([0.1], n_hosts=1).config) or "policy"
    sim = busy(make_sim, engine, rule)
    policy.reset(sim.view, np.random.default_rng(0))
    sim.step(policy.plan(sim.view))
    host = max(0, int(sim.state.vm_host[0]))
    assert not sim.apply(Decisions(maintenance=np.array([host], np.int32)))
    watch(sim, policy, host)


def test_no_restart_is_placed_there(make_sim: Any) -> None:
    down = replay_outages(INDICES, np.array([900.0]), np.array([6000.0]), N_HOSTS)
    sim = busy(make_sim, "full", "first_fit", failures=FailureConfig("none"), replayed=down)
    sim.reset(np.random.default_rng(0))
    assert sim.state.vm_host[0] == 0
    assert not sim.apply(Decisions(maintenance=np.array([1], np.int32)))
    watch(sim, None, 1)
    assert sim.metrics()["restarts"] > 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["drs", "platform"])
def test_an_order_of_maintenance_reaches_the_simulator_and_ends(
    make_sim: Any, engine: str, name: str
) -> None:
    policy: Any = make_policy(name)
    sim = busy(make_sim, engine, policy.arrival or "first_fit")
    policy.reset(sim.view, np.random.default_rng(0))
    sim.step(policy.plan(sim.view))
    host = int(sim.state.vm_host[0])
    policy.enter_maintenance([host])
    sim.step(policy.plan(sim.view))
    assert sim.state.host_maintenance[host] == 1
    for _ in range(3):
        sim.step(policy.plan(sim.view))
    assert sim.state.host_n_vms[host] + sim.state.host_n_in[host] == 0
    watch(sim, policy, host)
    policy.leave_maintenance([host])
    sim.apply(policy.plan(sim.view))
    assert sim.state.host_maintenance[host] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_vm_that_was_on_its_way_is_moved_on(make_sim: Any, engine: str) -> None:
    """Maintenance begins while a VM still comes: the platform empties the host behind it."""
    policy: Any = make_policy("platform", dpm={"min_hosts": 4})
    sim = busy(make_sim, engine, "first_fit")
    move = Decisions(move_vm=INDICES, move_host=np.array([3], np.int32), maintenance=INDICES[:0])
    assert not sim.apply(move)
    assert not sim.apply(Decisions(maintenance=np.array([3], np.int32)))
    policy.reset(sim.view, np.random.default_rng(0))
    for _ in range(5):
        sim.step(policy.plan(sim.view))
    assert sim.state.host_n_vms[3] + sim.state.host_n_in[3] == 0


def entry_points(sim: Simulator) -> dict[str, Any]:
    """Everything public that takes a list of hosts."""
    found: dict[str, Any] = {"plan_evacuation": lambda hosts: plan_evacuation(sim.view, hosts)}
    methods = ("enter_maintenance", "leave_maintenance", "keep_off", "hold", "make_room_for")
    for name in ("drs", "dpm", "ha", "platform"):
        policy: Any = make_policy(name)
        policy.reset(sim.view, np.random.default_rng(0))
        found |= {f"{name}.{m}": getattr(policy, m) for m in methods if hasattr(policy, m)}
    return found


@pytest.mark.parametrize(
    "wrong", [[999], [-1], [0, 4], [1.5], ["a"], [None], [True], 0, "0", np.array([0.0]), [2**40]]
)
def test_hosts_that_do_not_exist_are_refused_everywhere(make_sim: Any, wrong: Any) -> None:
    sim = busy(make_sim, "simple", "first_fit")
    named = entry_points(sim)
    assert len(named) == 8
    for call in named.values():
        with pytest.raises(ConfigError, match=r"host|must be a list"):
            call(wrong)


def test_hosts_cannot_be_named_before_an_episode() -> None:
    for name in ("drs", "platform"):
        policy: Any = make_policy(name)
        with pytest.raises(ConfigError, match="reset"):
            policy.enter_maintenance([0])


@pytest.mark.parametrize("method", ["admit", "leave", "join"])
def test_the_guard_knows_its_hosts_and_vms(make_sim: Any, method: str) -> None:
    guard = AdmissionGuard(busy(make_sim, "simple", "first_fit").view)
    for wrong in (-1, 999, 1.5):
        with pytest.raises(ConfigError, match="no such"):
            getattr(guard, method)(wrong)


@pytest.mark.parametrize("wrong", [np.array([0.5]), np.array(0), [[0]], np.array([True]), ["a"]])
@pytest.mark.parametrize("field", ["power_on", "power_off", "maintenance", "place_vm", "move_host"])
def test_decisions_that_are_no_lists_of_numbers_are_refused(make_sim: Any, field: str, wrong: Any) -> None:
    sim = busy(make_sim, "simple", "first_fit")
    with pytest.raises(ConfigError, match="decisions"):
        sim.apply(Decisions(**{field: wrong}))
