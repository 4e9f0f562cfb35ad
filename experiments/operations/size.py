"""``virtgym size``: the fewest hosts of one kind that hold the VMs of an export, also after failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from virtgym.envs.errors import ConfigError, TraceError
from virtgym.envs.inventory.base import Host, Inventory, check_host
from virtgym.envs.inventory.formats.neutral import host_values as values_of_host
from virtgym.envs.scenarios.inventory import rules_of, trace_of
from virtgym.policies.solvers.model import PlacementRules
from virtgym.policies.solvers.sizing import Sizing, fewest_hosts


@dataclass(frozen=True)
class Size:
    """An answer.

    Attributes:
        host: The kind of host.
        now: Hosts of the export.
        failures: Hosts that may fail.
        sizing: The packing of the VMs, without those for failures.
        cpu_mhz: CPU that was counted of all VMs, MHz.
        memory_mib: The same of memory, MiB.
        notes: What was left out, a sentence each.
    """

    host: Host
    now: int
    failures: int
    sizing: Sizing
    cpu_mhz: float
    memory_mib: float
    notes: tuple[str, ...] = ()

    @property
    def hosts(self) -> int:
        """Hosts that are needed."""
        return self.sizing.hosts + self.failures

    @property
    def bound(self) -> int:
        """No fewer do."""
        return self.sizing.bound + self.failures


def usual_host(inventory: Inventory, given: Mapping[str, Any] | None = None) -> Host:
    """The kind of host that the export has most of, with what is given of it replaced.

    Raises:
        ConfigError: For a key or value that is not allowed.
    """
    blank = [
        replace(host, name="", where="", domain="", cluster="", maintenance=False) for host in inventory.hosts
    ]
    host = Counter(blank).most_common(1)[0][0]
    if given is None:
        return replace(host, name="as most hosts now")
    try:
        values = values_of_host(dict(given), "host")
        host = replace(host, **{**values, "name": "as given", "where": "host"})
        check_host(host)
    except TraceError as error:
        raise ConfigError(str(error)) from None
    return host


def size(
    inventory: Inventory,
    host: Host,
    *,
    failures: int = 0,
    cpu: float = 0.95,
    cpu_share: float = 0.8,
    memory_share: float = 1.0,
    time_limit_s: float = 10.0,
    rounds: int | None = None,
) -> Size:
    """Find the fewest hosts.

    Args:
        inventory: The VMs and what they used.
        host: The kind of host.
        failures: Hosts that may fail at the same time, with all VMs running afterwards.
        cpu: Quantile of a VM's use over time that it is counted with; 1 = its peak. Never less than its
            reservation, nor more than its limit.
        cpu_share: Share of a host's CPU that may be used.
        memory_share: Configured memory that a host may hold, as a share of its own.
        time_limit_s: Wall time of the search, s.
        rounds: Search so many neighbourhoods instead.

    Raises:
        ConfigError: If a VM is larger than the host.
    """
    trace = trace_of(inventory)
    assert trace.cpu_mhz is not None
    assert trace.memory_mib is not None
    used = np.quantile(trace.util, cpu, axis=0) * trace.cpu_mhz
    least = np.array([vm.reservation_mhz for vm in inventory.vms])
    most = np.array([vm.limit_mhz for vm in inventory.vms])
    used = np.maximum(np.minimum(used, most), least)
    room = host.cores * host.core_mhz * cpu_share, host.memory_mib * memory_share
    for v, vm in enumerate(inventory.vms):
        if used[v] > room[0] or vm.memory_mib > room[1]:
            raise ConfigError(
                f"host: VM {vm.name} needs {used[v]:,.0f} MHz and {vm.memory_mib:,.0f} MiB, the host may be "
                f"used for {room[0]:,.0f} MHz and {room[1]:,.0f} MiB"
            )
    rules = rules_of(inventory)
    notes = []
    if rules.must or rules.should:
        notes.append("rules about certain hosts, and clusters, are left out: the hosts are new")
    sizing = fewest_hosts(
        used,
        trace.memory_mib,
        *room,
        PlacementRules(affinity=rules.affinity, anti_affinity=rules.anti_affinity),
        time_limit_s=time_limit_s,
        rounds=rounds,
    )
    return Size(
        host,
        len(inventory.hosts),
        failures,
        sizing,
        float(used.sum()),
        float(trace.memory_mib.sum()),
        tuple(notes),
    )
