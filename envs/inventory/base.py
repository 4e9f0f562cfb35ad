"""The neutral form: hosts, VMs, rules and usage of a cluster as it stands, whatever tool exported it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..arrays import F8
from ..errors import TraceError
from ..traces.base import LARGEST

MISSING = ("error", "drop", "previous")
"""What to do with what an export lacks: refuse it, leave the VM out and count it, or (of a sample) hold the
value before it and count that."""

MOST_HOSTS, MOST_VMS = 20_000, 500_000
MOST_CORES, MOST_CORE_MHZ, MOST_MIB = 4096, 100_000.0, 2.0**30
"""What is beyond any machine: a number in another unit, or none."""


@dataclass(frozen=True)
class Host:
    """A host.

    Attributes:
        name: Its name.
        cores: Physical cores.
        core_mhz: Speed of one, MHz.
        memory_mib: Memory, MiB.
        cluster: Hosts between which VMs may move; "" = all that name none.
        numa_nodes: NUMA nodes.
        nic_mbps: Network of migrations, Mbit/s.
        power_w: Power at equally spaced loads from 0 to 100 %, W; None = not known.
        maintenance: Whether it is in maintenance: it takes no VM.
        domain: What fails together with it, such as a rack; "" = nothing.
        where: Where it stands in the export.
    """

    name: str
    cores: int
    core_mhz: float
    memory_mib: float
    cluster: str = ""
    numa_nodes: int = 1
    nic_mbps: float = 10_000.0
    power_w: tuple[float, ...] | None = None
    maintenance: bool = False
    domain: str = ""
    where: str = ""


@dataclass(frozen=True)
class Vm:
    """A VM that runs.

    Attributes:
        name: Its name.
        vcpus: Virtual CPUs.
        memory_mib: Configured memory, MiB.
        host: Name of the host that it is on.
        pool: Resource pool, "" = none.
        reservation_mhz: CPU that is guaranteed, MHz.
        limit_mhz: CPU at most, MHz; inf = no limit.
        shares: Shares of one vCPU: a number, or ``low``, ``normal``, ``high``.
        memory_reservation_mib: Memory that is guaranteed, MiB.
        key: Name of its usage in the export's series; "" = its name.
        where: Where it stands in the export.
    """

    name: str
    vcpus: int
    memory_mib: float
    host: str
    pool: str = ""
    reservation_mhz: float = 0.0
    limit_mhz: float = math.inf
    shares: float | str = "normal"
    memory_reservation_mib: float = 0.0
    key: str = ""
    where: str = ""


@dataclass(frozen=True)
class NamedRules:
    """Placement rules by name, as ``sim.models.rules.Rules`` has them by index.

    Attributes:
        affinity: VMs that are to share a host.
        anti_affinity: VMs of which no two are to share a host.
        must: VMs and the hosts on which they have to run.
        should: VMs and the hosts on which they are to run if possible.
    """

    affinity: tuple[tuple[str, ...], ...] = ()
    anti_affinity: tuple[tuple[str, ...], ...] = ()
    must: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    should: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Usage:
    """What VMs used.

    Attributes:
        sample_s: Period, s.
        cpu: Share of the VM's vCPUs, (S, V).
        memory: Share of the configured memory that is in use, (S, V); None where the export does not say.
    """

    sample_s: float
    cpu: F8
    memory: F8 | None = None


@dataclass(frozen=True)
class Inventory:
    """A cluster as it stands.

    Attributes:
        name: Label in result rows.
        format: Reader that made it.
        source: Path.
        hosts: Hosts; names are unique.
        vms: VMs that run, each on one of ``hosts``; names are unique.
        rules: Placement rules.
        usage: Columns in the order of ``vms``.
        notes: What was left out, assumed or repaired, one sentence each.
    """

    name: str
    format: str
    source: str
    hosts: tuple[Host, ...]
    vms: tuple[Vm, ...]
    rules: NamedRules
    usage: Usage
    notes: tuple[str, ...] = ()

    @property
    def clusters(self) -> tuple[str, ...]:
        """Names of the clusters, in the order of their first hosts."""
        return tuple(dict.fromkeys(host.cluster for host in self.hosts))


class Notes:
    """What was counted on the way, a sentence each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    def count(self, text: str, name: str = "") -> None:
        """Count something; ``text`` goes on after the number, and the first three names are told."""
        self._counts[text] += 1
        if name and len(self._first.setdefault(text, [])) < 3:
            self._first[text].append(name)

    def tell(self) -> tuple[str, ...]:
        """The sentences."""
        found = []
        for text, n in self._counts.items():
            names = self._first.get(text, [])
            more = ", …" if n > len(names) else ""
            found.append(f"{n:,} {text}" + (f" ({', '.join(names)}{more})" if names else ""))
        return tuple(found)


@dataclass
class Draft:
    """What a reader has found, before it is checked.

    Attributes:
        hosts: Hosts.
        vms: VMs that run.
        rules: Rules; names of VMs and hosts that were left out may stand in them.
        notes: What was counted.
        gone: Hosts that were left out knowingly, and VMs with them.
    """

    hosts: list[Host] = field(default_factory=list)
    vms: list[Vm] = field(default_factory=list)
    rules: NamedRules = field(default_factory=NamedRules)
    notes: Notes = field(default_factory=Notes)
    gone: set[str] = field(default_factory=set)


def need_size(where: str, what: str, value: float, most: float, least: float = 0.0) -> None:
    """Refuse a size that no machine has.

    Raises:
        TraceError: Naming where it stands.
    """
    if not least < value <= most:
        raise TraceError(f"{where}: {what} {value:g}: must be above {least:g}, at most {most:g}")


def check_host(host: Host) -> None:
    """Refuse a host that cannot be.

    Raises:
        TraceError: Naming where it stands.
    """
    where = f"{host.where}: host {host.name}"
    need_size(where, "cores", host.cores, MOST_CORES)
    need_size(where, "core_mhz", host.core_mhz, MOST_CORE_MHZ)
    need_size(where, "memory_mib", host.memory_mib, MOST_MIB)
    need_size(where, "nic_mbps", host.nic_mbps, 1e7)
    need_size(where, "numa_nodes", host.numa_nodes, min(host.cores, 16))


def check_vm(vm: Vm) -> None:
    """Refuse a VM that cannot be.

    Raises:
        TraceError: Naming where it stands.
    """
    where = f"{vm.where}: VM {vm.name}"
    need_size(where, "vcpus", vm.vcpus, MOST_CORES)
    need_size(where, "memory_mib", vm.memory_mib, MOST_MIB)
    need_size(where, "limit_mhz", vm.limit_mhz, math.inf)
    for what in ("reservation_mhz", "memory_reservation_mib"):
        if not 0 <= getattr(vm, what) <= LARGEST:
            raise TraceError(f"{where}: {what} {getattr(vm, what):g}: must be at least 0")


def settle(draft: Draft, missing: str, cluster: str | None, source: str) -> tuple[list[Host], list[Vm]]:
    """Check hosts and VMs against each other, and leave out what is not asked for.

    Args:
        draft: What was found; its notes are added to.
        missing: One of ``MISSING``: also what to do with a VM on a host that is not there.
        cluster: The cluster that is asked for; None = all.
        source: For messages.

    Returns:
        Hosts and VMs with unique names, each VM on one of the hosts.

    Raises:
        TraceError: One line that names where it stands in the export.
    """
    _need_few(draft, source)
    by_name = _unique_hosts(draft)
    if cluster is not None:
        known = dict.fromkeys(host.cluster for host in by_name.values())
        if cluster not in known:
            raise TraceError(
                f"{source}: cluster {cluster}: no such cluster; there are: "
                + ", ".join(n or "(none)" for n in known)
            )
        draft.gone |= {name for name, host in by_name.items() if host.cluster != cluster}
        by_name = {name: host for name, host in by_name.items() if host.cluster == cluster}
    vms = []
    for vm in _unique_vms(draft):
        if vm.host in by_name:
            check_vm(vm)
            vms.append(_possible(vm, by_name[vm.host], draft.notes))
        elif vm.host in draft.gone:
            draft.notes.count("VMs on hosts that are left out, left out with them", vm.name)
        elif missing == "drop":
            draft.notes.count("VMs on hosts that the export does not have, left out", vm.name)
        else:
            raise TraceError(
                f"{vm.where}: VM {vm.name} is on host {vm.host or '(none)'}, which the export does not have; "
                "missing=drop leaves such VMs out"
            )
    if not vms:
        raise TraceError(f"{source}: no VM is left that runs on a host of the export")
    held: dict[str, float] = dict.fromkeys(by_name, 0.0)
    for vm in vms:
        held[vm.host] += vm.memory_mib
    for name, host in by_name.items():
        if held[name] > host.memory_mib:
            draft.notes.count("hosts hold more configured memory than they have, and take no VM", name)
    return list(by_name.values()), vms


def _need_few(draft: Draft, source: str) -> None:
    for what, found, most in (("hosts", draft.hosts, MOST_HOSTS), ("VMs", draft.vms, MOST_VMS)):
        if len(found) > most:
            raise TraceError(f"{source}: {len(found):,} {what}, at most {most:,} are read")
        if not found:
            raise TraceError(f"{source}: has no {what}" + (" that run" if what == "VMs" else ""))


def _unique_hosts(draft: Draft) -> dict[str, Host]:
    found: dict[str, Host] = {}
    for host in draft.hosts:
        if host.name in found and replace(found[host.name], where="") != replace(host, where=""):
            raise TraceError(
                f"{host.where}: host {host.name} stands in {found[host.name].where} already, "
                "with other values"
            )
        if host.name in found:
            draft.notes.count("hosts that stand in the export twice, taken once", host.name)
            continue
        check_host(host)
        found[host.name] = host
    return found


def _unique_vms(draft: Draft) -> list[Vm]:
    found: dict[str, Vm] = {}
    for vm in draft.vms:
        if vm.name not in found:
            found[vm.name] = vm
        elif replace(found[vm.name], where="") == replace(vm, where=""):
            draft.notes.count("VMs that stand in the export twice, taken once", vm.name)
        else:
            raise TraceError(
                f"{vm.where}: VM {vm.name} stands in {found[vm.name].where} already, with other values"
            )
    return list(found.values())


def _possible(vm: Vm, host: Host, notes: Notes) -> Vm:
    """What a platform tolerates and the model does not: more reserved or less allowed than a VM can use."""
    most = min(vm.vcpus * host.core_mhz, host.cores * host.core_mhz)
    if vm.reservation_mhz > min(most, vm.limit_mhz):
        notes.count("CPU reservations above what the VM's vCPUs can use, cut to that", vm.name)
        vm = replace(vm, reservation_mhz=min(most, vm.limit_mhz))
    if vm.memory_reservation_mib > vm.memory_mib:
        notes.count("memory reservations above the VM's memory, cut to that", vm.name)
        vm = replace(vm, memory_reservation_mib=vm.memory_mib)
    return vm


def known_rules(rules: NamedRules, hosts: Sequence[Host], vms: Sequence[Vm], notes: Notes) -> NamedRules:
    """The rules of those that are left; groups of less than two VMs ask for nothing."""
    vm_names, host_names = {vm.name for vm in vms}, {host.name for host in hosts}

    def groups(found: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
        kept = (tuple(dict.fromkeys(name for name in group if name in vm_names)) for group in found)
        return tuple(group for group in kept if len(group) > 1)

    def pairs(
        found: Iterable[tuple[Sequence[str], Sequence[str]]],
    ) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
        kept = []
        for some, where in found:
            mine = tuple(name for name in some if name in vm_names)
            there = tuple(name for name in where if name in host_names)
            if mine and there:
                kept.append((mine, there))
            elif mine:
                notes.count("rules that name no host of the export, left out", mine[0])
        return tuple(kept)

    return NamedRules(
        groups(rules.affinity), groups(rules.anti_affinity), pairs(rules.must), pairs(rules.should)
    )


def take_columns(usage: Usage, keep: np.ndarray) -> Usage:
    """The usage of some of the VMs."""
    memory = None if usage.memory is None else np.ascontiguousarray(usage.memory[:, keep])
    return Usage(usage.sample_s, np.ascontiguousarray(usage.cpu[:, keep]), memory)
