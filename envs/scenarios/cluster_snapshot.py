"""A cluster scenario at a time, as a snapshot to be rescheduled: the hosts that are on, and what VMs use now.

The cluster is simulated up to that time with its own rule for arrivals and no other policy. CPU is counted in
cores of the cluster's fastest host: a VM takes what it was granted of its host then, in that unit. Memory is
the configured size, where memory counts at all. With two NUMA nodes a host and homes for VMs, nodes are the
hosts' nodes; otherwise a host is one node. VMs under rules that say where they run, together with others or
in two anti-affinity groups stay where they are; CPU levels, failure domains and standby are not known here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arrays import F8, I4
from ..errors import ConfigError
from ..rescheduling.snapshot import MILLI, MOST, Snapshot, check_snapshot
from ..sim.models.power import ON, curve_power
from ..sim.simulator import ClusterView
from ..sim.state.cluster_state import RUNNING
from .scenario import Scenario

POINTS = 101
"""Points of a power curve."""


def take_snapshot(scenario: Scenario, at_s: float) -> Snapshot:
    """Simulate a scenario up to a time, and look.

    Args:
        scenario: A cluster scenario.
        at_s: The time, s.

    Raises:
        ConfigError: If the time lies beyond the episode, or no VM runs then.
    """
    if at_s > scenario.horizon_s:
        raise ConfigError(
            f"scenario.snapshot.from={scenario.name}@{at_s:g}: ends at {scenario.horizon_s:g} s"
        )
    sim = scenario.simulator()
    view = sim.reset(np.random.default_rng(scenario.seed))
    sim.advance_to(at_s)
    sim.show()
    return _look(scenario, view, at_s)


def _look(scenario: Scenario, view: ClusterView, at_s: float) -> Snapshot:
    s, p = view.state, view.params
    hosts = np.flatnonzero(s.host_power_state == ON)
    vms = np.flatnonzero((s.vm_state == RUNNING) & np.isin(s.vm_host, hosts))
    if len(vms) == 0:
        raise ConfigError(f"scenario.snapshot.from={scenario.name}@{at_s:g}: no VM runs at that time")
    place_of = np.full(view.n_hosts, -1, np.int64)
    place_of[hosts] = np.arange(len(hosts))
    n = 2 if p.has_numa and bool((p.host_nodes == 2).all()) and bool((s.vm_nodes[vms] < 4).all()) else 1
    bits = s.vm_nodes[vms] if n == 2 else np.ones(len(vms), np.int64)
    double = bits == 3
    node = place_of[s.vm_host[vms]] * n + (bits == 2)
    share = np.where(double, 0.5, 1.0)
    unit = MILLI / float(p.host_core_mhz[hosts].max())
    node_cpu = np.repeat(np.floor(p.host_cpu_mhz[hosts] * unit / n), n)
    vm_cpu = s.vm_granted_mhz[vms] * unit * share
    if scenario.cluster.memory == "ignored":
        node_mem, vm_mem = np.full(len(node_cpu), float(MOST)), np.zeros(len(vms))
    else:
        node_mem = np.repeat(np.floor(p.host_mem_mib[hosts] / n), n)
        vm_mem = p.vm_mem_mib[vms] * share
    fixed, group = _rules(scenario, vms)
    names = scenario.workload.vm_names
    return check_snapshot(
        Snapshot(
            f"{scenario.name}@{at_s:g}", node_cpu.astype(np.int32), node_mem.astype(np.int32),
            _fitted(vm_cpu, node, double, node_cpu), _fitted(vm_mem, node, double, node_mem),
            double, node.astype(np.int32), fixed, group, n, p.host_type[hosts].astype(np.int32),
            _power(view), [str(h) for h in hosts.tolist()],
            [names[v] if names else str(v) for v in vms.tolist()],
        ),
        error=ConfigError,
    )  # fmt: skip


def _fitted(need: F8, node: NDArray[np.int64], double: NDArray[np.bool_], room: F8) -> I4:
    """What VMs take, in whole units; where they ask for more than their node has, each gets its share."""
    asked = np.zeros(len(room))
    np.add.at(asked, node, need)
    np.add.at(asked, node[double] ^ 1, need[double])
    scale = np.minimum(1.0, room / np.maximum(asked, 1e-12))
    own = scale[node]
    own[double] = np.minimum(own[double], scale[node[double] ^ 1])
    return np.floor(need * own).astype(np.int32)


def _rules(scenario: Scenario, vms: NDArray[np.int64]) -> tuple[NDArray[np.bool_], I4]:
    """Which VMs stay where they are, and the anti-affinity groups of the others."""
    rules, index = scenario.cluster.rules, {v: i for i, v in enumerate(vms.tolist())}
    fixed, group = np.zeros(len(vms), np.bool_), np.full(len(vms), -1, np.int32)
    bound = [v for together in rules.joined for v in together] + [v for rule in rules.must for v in rule.vms]
    fixed[[index[v] for v in bound if v in index]] = True
    for g, apart in enumerate(rules.anti_affinity):
        here = [index[v] for v in apart if v in index]
        if any(group[i] >= 0 for i in here):
            fixed[here] = True
            fixed[np.isin(group, [group[i] for i in here if group[i] >= 0])] = True
        else:
            group[here] = g
    return fixed, group


def _power(view: ClusterView) -> F8:
    """Power of each type of host at equally spaced loads, W, (T, points)."""
    loads = np.linspace(0.0, 1.0, POINTS)
    kinds = range(len(view.params.power_w))
    return np.array([[curve_power(view.kernel_params, kind, load) for load in loads] for kind in kinds])
