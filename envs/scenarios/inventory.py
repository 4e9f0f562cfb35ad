"""The group ``inventory`` of a scenario: an operator's own cluster, its VMs where they are, their use."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import I4
from ..errors import ConfigError
from ..inventory.base import Host, Inventory, Vm
from ..inventory.readers import read_inventory
from ..sim.agenda import Event
from ..sim.config import ClusterConfig, HostType
from ..sim.guests import GUEST_PROFILES, GuestProfile
from ..sim.models.failures import FailureDomain
from ..sim.models.rules import Rules, VmHostRule
from ..sim.models.scheduling import CpuControl, SchedulingConfig
from ..sim.workload import Workload
from ..traces import Trace

PEAK_W_PER_CORE, IDLE_SHARE = 12.5, 0.45
"""Power of a host of which nothing is said: peak per core, W, and idle as a share of it. [assumed]"""


@dataclass
class InventoryGroup:
    """Where the cluster comes from; see ``inventory.read_inventory``.

    Attributes:
        path: Export: a file or folder; None = the scenario has hosts and a trace of its own.
        format: Reader, or ``auto`` to guess it.
        usage: Usage of the VMs in place of the export's own; None = the export's.
        overlay: YAML with what the export does not say; None = ``overlay.yaml`` of the export.
        cluster: Cluster of the export; None = all of them, between which no VM moves.
        missing: ``error``, ``drop`` or ``previous``.
        sample_s: Period of the usage, s; None = as its times have it.
        core_mhz: Speed of a core where the export does not say, MHz.
    """

    path: str | None = None
    format: str = "auto"
    usage: str | None = None
    overlay: str | None = None
    cluster: str | None = None
    missing: str = "error"
    sample_s: float | None = None
    core_mhz: float | None = None


def read_group(group: InventoryGroup) -> Inventory:
    """Read the export of a scenario.

    Raises:
        ConfigError: For a group without a path.
        TraceError: If the export cannot be read.
    """
    if group.path is None:
        raise ConfigError("scenario.inventory.path: names no export, a file or folder (docs/operators.md)")
    return read_inventory(
        group.path,
        group.format,
        usage=group.usage,
        overlay=group.overlay,
        cluster=group.cluster,
        missing=group.missing,
        sample_s=group.sample_s,
        core_mhz=group.core_mhz,
    )


def host_kind(host: Host) -> HostType:
    """The type of a host, without its name."""
    peak = PEAK_W_PER_CORE * host.cores
    return HostType(
        name=f"{host.cores}x{host.core_mhz:.0f}MHz-{host.memory_mib / 1024:.0f}GiB",
        cores=host.cores,
        core_mhz=host.core_mhz,
        memory_mib=host.memory_mib,
        power_w=(IDLE_SHARE * peak, peak) if host.power_w is None else host.power_w,
        nic_mbps=host.nic_mbps,
        numa_nodes=host.numa_nodes,
    )


def host_kinds(inventory: Inventory) -> tuple[tuple[HostType, ...], I4]:
    """Types of the hosts, and the type of each, (H,)."""
    kinds: dict[HostType, int] = {}
    of = [kinds.setdefault(host_kind(host), len(kinds)) for host in inventory.hosts]
    return tuple(kinds), np.array(of, dtype=np.int32)


def trace_of(inventory: Inventory) -> Trace:
    """The usage as a trace: a VM's nominal CPU is that of its vCPUs on the host that it is on."""
    speed = {host.name: host.core_mhz for host in inventory.hosts}
    n = len(inventory.vms)
    usage = inventory.usage
    signals = {} if usage.memory is None else {"memory_active": usage.memory}
    return Trace(
        name=inventory.name,
        format=inventory.format,
        source=inventory.source,
        sample_s=usage.sample_s,
        util=usage.cpu,
        vm_names=tuple(vm.name for vm in inventory.vms),
        arrival_s=np.zeros(n),
        departure_s=np.full(n, math.inf),
        vcpus=np.array([vm.vcpus for vm in inventory.vms], dtype=np.int32),
        cpu_mhz=np.array([vm.vcpus * speed[vm.host] for vm in inventory.vms]),
        memory_mib=np.array([vm.memory_mib for vm in inventory.vms]),
        signals=signals,
        notes=inventory.notes,
    )


def _profile(vm: Vm) -> GuestProfile:
    plain = GUEST_PROFILES["default"]
    control = CpuControl(vm.reservation_mhz, vm.limit_mhz, vm.shares)
    memory = replace(plain.memory, reservation_mib=vm.memory_reservation_mib)
    alike = (control, memory) == (plain.cpu, plain.memory)
    return plain if alike else replace(plain, cpu=control, memory=memory)


def workload_of(inventory: Inventory, trace: Trace) -> Workload:
    """The VMs with their reservations, limits and shares, each on the host that it is on."""
    kinds: dict[GuestProfile, int] = {}
    profile = [kinds.setdefault(_profile(vm), len(kinds)) for vm in inventory.vms]
    place = {host.name: h for h, host in enumerate(inventory.hosts)}
    assert trace.vcpus is not None
    assert trace.cpu_mhz is not None
    assert trace.memory_mib is not None
    return Workload(
        name=trace.name,
        sample_s=trace.sample_s,
        util=trace.util,
        vm_cpu_mhz=trace.cpu_mhz,
        vm_vcpus=trace.vcpus,
        vm_mem_mib=trace.memory_mib,
        vm_arrival_s=trace.arrival_s,
        vm_departure_s=trace.departure_s,
        vm_names=trace.vm_names,
        signals=dict(trace.signals),
        profiles=tuple(replace(kind, name=f"{kind.name}-{i}") for i, kind in enumerate(kinds)),
        vm_profile=np.array(profile, dtype=np.int32),
        vm_home=np.array([place[vm.host] for vm in inventory.vms], dtype=np.int32),
    )


def rules_of(inventory: Inventory) -> Rules:
    """Its rules by index; where there are several clusters, VMs must stay in theirs."""
    vm_at = {vm.name: v for v, vm in enumerate(inventory.vms)}
    host_at = {host.name: h for h, host in enumerate(inventory.hosts)}
    named = inventory.rules

    def pairs(found: Any) -> tuple[VmHostRule, ...]:
        return tuple(
            VmHostRule(tuple(vm_at[v] for v in vms), tuple(host_at[h] for h in hosts)) for vms, hosts in found
        )

    return Rules(
        affinity=tuple(tuple(vm_at[v] for v in group) for group in named.affinity),
        anti_affinity=tuple(tuple(vm_at[v] for v in group) for group in named.anti_affinity),
        must=(*pairs(named.must), *_clusters(inventory)),
        should=pairs(named.should),
    )


def _clusters(inventory: Inventory) -> list[VmHostRule]:
    if len(inventory.clusters) < 2:
        return []
    of_host = {host.name: host.cluster for host in inventory.hosts}
    found = []
    for name in inventory.clusters:
        vms = tuple(v for v, vm in enumerate(inventory.vms) if of_host[vm.host] == name)
        hosts = tuple(h for h, host in enumerate(inventory.hosts) if host.cluster == name)
        found += [VmHostRule(vms, hosts)] if vms else []
    return found


def fit_out(cluster: ClusterConfig, inventory: Inventory) -> ClusterConfig:
    """A cluster with what the export says: rules, racks, maintenance; shares where some VM has its own."""
    racks: dict[str, list[int]] = {}
    for h, host in enumerate(inventory.hosts):
        racks.setdefault(host.domain, []).append(h)
    domains = tuple(FailureDomain(name, tuple(hosts)) for name, hosts in racks.items() if name)
    closed = tuple(h for h, host in enumerate(inventory.hosts) if host.maintenance)
    plain = GUEST_PROFILES["default"].cpu
    shared = any(CpuControl(vm.reservation_mhz, vm.limit_mhz, vm.shares) != plain for vm in inventory.vms)
    return replace(
        cluster,
        cpu=cluster.cpu or (SchedulingConfig() if shared else None),
        domains=cluster.domains or domains,
        events=(*((Event(maintenance=closed),) if closed else ()), *cluster.events),
        rules=rules_of(inventory),
    )
