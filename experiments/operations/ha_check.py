"""``virtgym ha-check``: which VMs would not restart if hosts failed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from virtgym.envs.inventory.base import Inventory
from virtgym.envs.scenarios.inventory import rules_of
from virtgym.policies.solvers.model import PlacementRules
from virtgym.policies.solvers.restarts import Restarts, Standing


@dataclass(frozen=True)
class Loss:
    """Hosts that fail together, and what does not restart.

    Attributes:
        hosts: Their names.
        domain: What they are, if they are a rack or the like.
        vms: VMs that were on them.
        left: VMs that do not restart.
        proven: Whether no other placement restarts more.
    """

    hosts: tuple[str, ...]
    domain: str
    vms: int
    left: tuple[str, ...]
    proven: bool


@dataclass(frozen=True)
class Check:
    """An answer.

    Attributes:
        failures: Hosts that fail together.
        checked: Sets of hosts that were tried.
        exact: Whether these are all sets of so many hosts.
        losses: Those after which some VM does not restart, most VMs first.
    """

    failures: int
    checked: int
    exact: bool
    losses: tuple[Loss, ...]


def ha_check(
    inventory: Inventory,
    *,
    failures: int = 1,
    memory_overcommit: float = 1.0,
    sets: int = 2000,
    time_limit_s: float = 5.0,
) -> Check:
    """Try failures of hosts.

    Args:
        inventory: The cluster.
        failures: Hosts that fail together, k.
        memory_overcommit: Configured memory that a host takes when VMs restart, as a multiple of its own; the
            CPU that is reserved never exceeds a host's.
        sets: Up to so many sets of k hosts all are tried; else every host alone and the k that hold most
            memory. Racks (``domain``) are tried in any case.
        time_limit_s: Wall time of the solver for one set, s.
    """
    place = {host.name: h for h, host in enumerate(inventory.hosts)}
    rules = rules_of(inventory)
    standing = Standing(
        vm_mem_mib=np.array([vm.memory_mib for vm in inventory.vms]),
        vm_cpu_mhz=np.array([vm.reservation_mhz for vm in inventory.vms]),
        vm_host=np.array([place[vm.host] for vm in inventory.vms], dtype=np.int64),
        host_mem_mib=np.array([host.memory_mib * memory_overcommit for host in inventory.hosts]),
        host_cpu_mhz=np.array([host.cores * host.core_mhz for host in inventory.hosts]),
        closed=np.array([host.maintenance for host in inventory.hosts]),
        rules=PlacementRules(
            anti_affinity=rules.anti_affinity, must=tuple((rule.vms, rule.hosts) for rule in rules.must)
        ),
    )
    restarts = Restarts(standing, time_limit_s)
    exact = math.comb(len(inventory.hosts), failures) <= sets
    losses, n = [], 0
    for hosts, domain in _failures(inventory, standing, failures, exact):
        n += 1
        found = restarts.after(hosts)
        if found.left:
            names = tuple(inventory.hosts[h].name for h in hosts)
            left = tuple(inventory.vms[v].name for v in found.left)
            losses.append(Loss(names, domain, len(found.vms), left, found.proven))
    losses.sort(key=lambda loss: -len(loss.left))
    return Check(failures, n, exact, tuple(losses))


def _failures(
    inventory: Inventory, standing: Standing, k: int, exact: bool
) -> Iterator[tuple[tuple[int, ...], str]]:
    """Sets of hosts that fail together, and the domain that they are."""
    seen: set[tuple[int, ...]] = set()
    racks: dict[str, list[int]] = {}
    for h, host in enumerate(inventory.hosts):
        if host.domain:
            racks.setdefault(host.domain, []).append(h)
    n = len(inventory.hosts)
    several: Iterator[tuple[int, ...]]
    if exact:
        several = itertools.combinations(range(n), k)
    else:
        used = np.bincount(standing.vm_host, standing.vm_mem_mib, minlength=n)
        worst = tuple(sorted(np.argsort(-used, kind="stable")[:k].tolist()))
        several = itertools.chain(((h,) for h in range(n)), (worst,))
    for hosts, name in itertools.chain(
        ((tuple(hosts), "") for hosts in several), ((tuple(hosts), name) for name, hosts in racks.items())
    ):
        if hosts and hosts not in seen and len(hosts) < n:
            seen.add(hosts)
            yield hosts, name
