"""Hot standby: protected VMs with a mirrored image on another host (model.md §9).

Checkpoint (the form verified: Remus, NSDI 2008). Every epoch tau the VM stops, what it dirtied is copied to a
buffer at the memory's rate, and it goes on while the buffer is sent:

    t_pause = t_fix + D tau / R_mem,   slowdown = t_pause / (tau + t_pause)
    logging = D tau / (tau + t_pause)

with dirty rate D. Lock-step (Scales et al. 2010, from memory): about 10 % slower, and the log carries the
inputs, 1.2 (8 disk reads[MB/s] + network in[Mbit/s]) Mbit/s (VMware's rule, from memory).

If the network gives the log less than it needs, the next checkpoint waits for it: the VM does the share
granted / needed of the rest of its work (derived: both are proportional to the work done).

A secondary reserves memory and CPU again, on another host that shares no failure domain with the primary's.
At most 4 protected VMs and 8 protected vCPUs per host, primaries and secondaries alike (verified: vSphere).

When the primary's host fails, the secondary takes over: an outage of at most 1 s, no restart, nothing lost.
When the secondary's host fails, the VM runs on, unprotected until a host fits. When both fail at once the VM
needs a cold restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .validation import need_choice, need_count, need_not_negative, need_positive, need_share

__all__ = [
    "BOTH_LOST",
    "PROMOTED",
    "SECONDARY_LOST",
    "STANDBY_MODES",
    "STANDBY_REASONS",
    "UNTOUCHED",
    "StandbyConfig",
    "StandbyHosts",
    "check_secondary",
    "count_protected",
    "mirror_loss",
    "mirror_need_mbps",
    "place_secondaries",
    "standby_costs",
    "standby_load",
    "take_over",
    "work_share",
]

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
I1 = NDArray[np.int8]
B1 = NDArray[np.bool_]

StandbyMode = Literal["checkpoint", "lockstep"]
STANDBY_MODES: tuple[str, ...] = get_args(StandbyMode)

UNTOUCHED, PROMOTED, SECONDARY_LOST, BOTH_LOST = 0, 1, 2, 3
"""What ``take_over`` reports for a protected VM."""

STANDBY_REASONS: dict[int, str] = {
    0: "legal",
    1: "the host is not on",
    2: "the VM runs on this host",
    3: "the host shares a failure domain with the VM's host",
    4: "too many protected VMs on the host",
    5: "too many protected vCPUs on the host",
    6: "the host lacks memory",
    7: "the host lacks CPU",
    8: "too many protected VMs or vCPUs on the VM's own host",
}
"""Why a host cannot hold a secondary."""

_SLACK = 1.0 + 1e-9
MBIT_PER_MIB = 8.388608


@dataclass(frozen=True)
class StandbyConfig:
    """Hot standby.

    Attributes:
        mode: ``checkpoint`` or ``lockstep``.
        epoch_s: Checkpoint epoch, s.
        fixed_pause_s: Pause per checkpoint whatever was dirtied, s (assumed).
        copy_mib_s: Rate at which dirtied memory is copied to the buffer, MiB/s (assumed: a few GiB/s).
        lockstep_loss: Slowdown in lock-step (Scales 2010, from memory).
        takeover_s: VM outage when the secondary takes over, s (at most 1).
        max_vms: Protected VMs per host (verified: vSphere).
        max_vcpus: Protected vCPUs per host (verified: vSphere).
    """

    mode: StandbyMode = "checkpoint"
    epoch_s: float = 0.025
    fixed_pause_s: float = 0.002
    copy_mib_s: float = 2048.0
    lockstep_loss: float = 0.10
    takeover_s: float = 1.0
    max_vms: int = 4
    max_vcpus: int = 8

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming the field and what is allowed.
        """
        need_choice("standby", "mode", self.mode, STANDBY_MODES)
        need_positive("standby", epoch_s=self.epoch_s, copy_mib_s=self.copy_mib_s)
        need_not_negative("standby", fixed_pause_s=self.fixed_pause_s, takeover_s=self.takeover_s)
        need_share("standby", lockstep_loss=self.lockstep_loss)
        need_count("standby", max_vms=self.max_vms, max_vcpus=self.max_vcpus)


def standby_costs(
    config: StandbyConfig, dirty_mib_s: F8, disk_read_mb_s: F8, network_in_mbps: F8
) -> tuple[F8, F8]:
    """Slowdown of protected VMs, and the logging traffic that they need.

    Args:
        config: Parameters.
        dirty_mib_s: Dirty rate while the VM runs, MiB/s, shape (N,); read under ``checkpoint``.
        disk_read_mb_s: Disk reads, MB/s, shape (N,); read under ``lockstep``.
        network_in_mbps: Network traffic received, Mbit/s, shape (N,); read under ``lockstep``.

    Returns:
        Share of its work that each loses, 0...1, and logging traffic, Mbit/s, from primary to secondary.
    """
    if config.mode == "lockstep":
        loss = np.full(np.shape(network_in_mbps), config.lockstep_loss)
        return loss, 1.2 * (8.0 * disk_read_mb_s + network_in_mbps)
    dirty_mib = dirty_mib_s * config.epoch_s
    pause_s = config.fixed_pause_s + dirty_mib / config.copy_mib_s
    period_s = config.epoch_s + pause_s
    return pause_s / period_s, dirty_mib * MBIT_PER_MIB / period_s


@njit(cache=True)
def mirror_loss(params: F8, dirty_mib_s: float) -> float:
    """Share of its work that one protected VM loses; see ``standby_costs``.

    Args:
        params: ``mirror_params`` of the cluster: mode, epoch, fixed pause, copy rate, lock-step loss, ...
        dirty_mib_s: Dirty rate, MiB/s.
    """
    if params[0] != 0.0:
        return float(params[4])
    pause = params[2] + dirty_mib_s * params[1] / params[3]
    return float(pause / (params[1] + pause))


@njit(cache=True)
def mirror_need_mbps(params: F8, dirty_mib_s: float, disk_read_mb_s: float, network_in_mbps: float) -> float:
    """Logging traffic of one protected VM, Mbit/s; see ``standby_costs``."""
    if params[0] != 0.0:
        return 1.2 * (8.0 * disk_read_mb_s + network_in_mbps)
    pause = params[2] + dirty_mib_s * params[1] / params[3]
    return float(dirty_mib_s * params[1] * MBIT_PER_MIB / (params[1] + pause))


def work_share(loss: F8, needed_mbps: F8, granted_mbps: F8) -> F8:
    """Share of its granted CPU that does a protected VM's work.

    Args:
        loss: From ``standby_costs``.
        needed_mbps: From ``standby_costs``.
        granted_mbps: What the network gives the log, Mbit/s.

    Returns:
        (1 - loss) * min(1, granted / needed).
    """
    full = granted_mbps >= needed_mbps
    return (1.0 - loss) * np.where(full, 1.0, granted_mbps / np.where(full, 1.0, needed_mbps))


def count_protected(vm_host: I4, vm_secondary: I4, vm_vcpus: I4, n_hosts: int) -> tuple[I4, I4]:
    """Protected VMs and vCPUs of every host, primaries and secondaries, shape (H,) each.

    Args:
        vm_host: Host, -1 = none, shape (V,).
        vm_secondary: Host of the secondary, -1 = not protected, shape (V,).
        vm_vcpus: vCPUs, shape (V,).
        n_hosts: H.
    """
    held = vm_secondary >= 0
    where = np.concatenate([vm_host[held & (vm_host >= 0)], vm_secondary[held]])
    vcpus = np.concatenate([vm_vcpus[held & (vm_host >= 0)], vm_vcpus[held]])
    vms = np.bincount(where, minlength=n_hosts).astype(np.int32)
    return vms, np.bincount(where, weights=vcpus, minlength=n_hosts).astype(np.int32)


def standby_load(vm_secondary: I4, vm_cpu_mhz: F8, vm_mem_mib: F8, n_hosts: int) -> tuple[F8, F8]:
    """CPU (MHz) and memory (MiB) that secondaries reserve on every host, shape (H,) each."""
    held = vm_secondary >= 0
    at = vm_secondary[held]
    cpu = np.bincount(at, weights=vm_cpu_mhz[held], minlength=n_hosts).astype(np.float64)
    return cpu, np.bincount(at, weights=vm_mem_mib[held], minlength=n_hosts).astype(np.float64)


class StandbyHosts(NamedTuple):
    """What a host must offer a secondary; D kinds of failure domain (rack, power feed)."""

    on: B1  # (H,) on and healthy
    domains: I4  # (H, D) failure domain per kind, -1 = none
    free_cpu_mhz: F8  # (H,) CPU not reserved, MHz
    free_mem_mib: F8  # (H,) memory not reserved, MiB
    vms: I4  # (H,) protected VMs, primaries and secondaries
    vcpus: I4  # (H,) their vCPUs


@njit(cache=True)
def check_secondary(
    hosts: StandbyHosts,
    source: int,
    h: int,
    vcpus: int,
    cpu_mhz: float,
    mem_mib: float,
    max_vms: int,
    max_vcpus: int,
) -> Any:
    """Whether a host may hold the secondary of an unprotected VM.

    Args:
        hosts: The hosts.
        source: Host of the VM.
        h: Host for its secondary.
        vcpus: Its vCPUs.
        cpu_mhz: CPU it reserves, MHz.
        mem_mib: Memory it reserves, MiB.
        max_vms: Limit of protected VMs per host.
        max_vcpus: Limit of protected vCPUs per host.

    Returns:
        0, or a code of STANDBY_REASONS.
    """
    if not hosts.on[h]:
        return 1
    if h == source:
        return 2
    for d in range(hosts.domains.shape[1]):
        if hosts.domains[h, d] >= 0 and hosts.domains[h, d] == hosts.domains[source, d]:
            return 3
    if hosts.vms[source] >= max_vms or hosts.vcpus[source] + vcpus > max_vcpus:
        return 8
    if hosts.vms[h] >= max_vms:
        return 4
    if hosts.vcpus[h] + vcpus > max_vcpus:
        return 5
    if mem_mib > hosts.free_mem_mib[h] * _SLACK:
        return 6
    return 7 if cpu_mhz > hosts.free_cpu_mhz[h] * _SLACK else 0


@njit(cache=True)
def place_secondaries(
    hosts: StandbyHosts,
    vms: I4,
    vm_host: I4,
    vm_vcpus: I4,
    vm_cpu_mhz: F8,
    vm_mem_mib: F8,
    max_vms: int,
    max_vcpus: int,
    vm_secondary: I4,
) -> int:
    """Start secondaries by first fit, VM by VM.

    Args:
        hosts: The hosts; what is free decreases, what is counted increases, on both hosts of a pair.
        vms: VMs to protect that have none, in order, shape (N,).
        vm_host: Their hosts, shape (V,).
        vm_vcpus: vCPUs, shape (V,).
        vm_cpu_mhz: CPU that a secondary reserves, MHz, shape (V,).
        vm_mem_mib: Memory that it reserves, MiB, shape (V,).
        max_vms: Limit of protected VMs per host.
        max_vcpus: Limit of protected vCPUs per host.
        vm_secondary: Written for those that find a host, shape (V,).

    Returns:
        Number of secondaries started.
    """
    started = 0
    for v in vms:
        source, vcpus, cpu, mem = vm_host[v], vm_vcpus[v], vm_cpu_mhz[v], vm_mem_mib[v]
        for h in range(hosts.on.shape[0]):
            code = check_secondary(hosts, source, h, vcpus, cpu, mem, max_vms, max_vcpus)
            if code == 8:  # its own host is at a limit, so no other will do
                break
            if code == 0:
                vm_secondary[v] = h
                hosts.free_cpu_mhz[h] -= cpu
                hosts.free_mem_mib[h] -= mem
                hosts.vms[h] += 1
                hosts.vcpus[h] += vcpus
                hosts.vms[source] += 1
                hosts.vcpus[source] += vcpus
                started += 1
                break
    return started


@njit(cache=True)
def take_over(host_failed: B1, vm_host: I4, vm_secondary: I4, codes: I1) -> None:
    """What failures of hosts at one instant do to protected VMs.

    Args:
        host_failed: Hosts that failed now, shape (H,).
        vm_host: Host of every VM, -1 = none, shape (V,); rewritten where a secondary takes over, -1 where
            both images are lost.
        vm_secondary: Host of its secondary, -1 = not protected, shape (V,); rewritten.
        codes: Written: UNTOUCHED (also for a VM that is not protected), PROMOTED, SECONDARY_LOST or
            BOTH_LOST, shape (V,).
    """
    for v in range(vm_host.shape[0]):
        codes[v] = UNTOUCHED
        a, b = vm_host[v], vm_secondary[v]
        if b < 0 or a < 0:
            continue
        if host_failed[a] and host_failed[b]:
            codes[v] = BOTH_LOST
            vm_host[v] = -1
            vm_secondary[v] = -1
        elif host_failed[a]:
            codes[v] = PROMOTED
            vm_host[v] = b
            vm_secondary[v] = -1
        elif host_failed[b]:
            codes[v] = SECONDARY_LOST
            vm_secondary[v] = -1
