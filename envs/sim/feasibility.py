"""Configurations that cannot be: what a guest needs and no host of the cluster has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..checks import need
from .config import ClusterConfig
from .decisions import REASONS
from .guests import GuestProfile
from .models.numa_nodes import ROOM
from .models.overhead import GUEST_MUST_CHANGE, VIRT_TYPES, support_code, support_table
from .workload import Workload


def check_models(config: ClusterConfig, workload: Workload) -> None:
    """Check what guests need against what the cluster has; only of profiles that some VM has.

    Args:
        config: The cluster.
        workload: The load.

    Raises:
        ConfigError: One line that names profile or VM, the key, and what there is.
    """
    for i in np.unique(workload.vm_profile).tolist():
        profile = workload.profiles[i]
        vms = np.flatnonzero(workload.vm_profile == i)
        _check_virtualization(config, profile)
        if config.cpu is not None:
            _check_cpu_reservation(config, workload, profile, vms)
        if config.memory == "multiplexed":
            _check_memory_reservation(config, workload, profile, vms)
        if config.io is not None and profile.io.mode == "passthrough":
            _check_functions(config, profile, config.io.functions_per_host)
        if config.standby is not None and profile.protected:
            _check_protection(config, workload, profile, vms, config.standby.max_vcpus)


def fits_some_host(config: ClusterConfig, workload: Workload) -> NDArray[np.bool_]:
    """Whether each VM fits on some host while that is empty: what an arrival needs, whatever ``memory`` says.

    Args:
        config: The cluster.
        workload: The load.

    Returns:
        Shape (V,). A VM for which it is False can never run (``orders.fits_arrival``, ``numa_nodes``).
    """
    tiers = config.memory == "multiplexed"
    cpu, mem, vcpus = workload.vm_cpu_mhz, workload.vm_mem_mib, workload.vm_vcpus
    found = np.zeros(workload.n_vms, dtype=np.bool_)
    for kind in {config.host_types[i] for i in np.unique(config.host_type_of)}:
        fits = mem <= kind.memory_mib * (config.memory_overcommit if tiers else 1.0) * ROOM
        fits &= cpu <= kind.cpu_mhz * config.arrival_cpu_overcommit * ROOM
        if config.arrival_core_speed:
            fits &= cpu <= vcpus * kind.core_mhz * ROOM
        if config.numa is not None:  # an empty host has room if all of its nodes together have
            fits &= vcpus <= kind.cores * config.numa.cpu_overcommit * ROOM
        found |= fits
    return found


def _label(workload: Workload, v: int) -> str:
    return f"vm {workload.vm_names[v]}" if v < len(workload.vm_names) else f"vm {v}"


def _check_virtualization(config: ClusterConfig, profile: GuestProfile) -> None:
    """Some host must be able to run the guest."""
    hosts = [kind.virtualization for kind in config.host_types]
    one, each = np.zeros(1, dtype=np.int32), np.arange(len(hosts), dtype=np.int32)
    table = support_table(hosts, each, [profile.virtualization], one)
    codes = [support_code(table, 0, h) for h in range(len(hosts))]
    if 0 in codes:
        return
    wanted = profile.virtualization
    owner = f"profile {profile.name}.virtualization"
    kernels = sorted({host.kernel for host in hosts})
    unknown = wanted.type == "os_level" and wanted.kernel not in kernels
    need(
        not unknown,
        f"{owner}.kernel={wanted.kernel}: no host has this kernel; there are: {', '.join(kernels)}",
    )
    offered = [name for name in VIRT_TYPES if any(name in host.types for host in hosts)]
    hint = f" (a modified guest could run as {GUEST_MUST_CHANGE[0]})" if "para" in offered else ""
    need(
        False,
        f"{owner}.type={wanted.type}: no host can run it: {REASONS[codes[0]]}; "
        f"on offer: {', '.join(offered)}{hint if wanted.modifiable else ''}",
    )


def _check_cpu_reservation(
    config: ClusterConfig, workload: Workload, profile: GuestProfile, vms: np.ndarray
) -> None:
    """A reservation must be within the largest host, and within what the VM's vCPUs can do there."""
    reserved = profile.cpu.reservation_mhz
    if reserved <= 0:
        return
    most = max(kind.cpu_mhz for kind in config.host_types)
    need(
        reserved <= most,
        f"profile {profile.name}.cpu.reservation_mhz={reserved}: above every host, the largest has "
        f"{most} MHz",
    )
    core = max(kind.core_mhz for kind in config.host_types)
    for v in vms[reserved > workload.vm_vcpus[vms] * core][:1].tolist():
        n = int(workload.vm_vcpus[v])
        need(
            False,
            f"profile {profile.name}.cpu.reservation_mhz={reserved}: {_label(workload, v)} has {n} vCPUs, "
            f"which never get more than {n * core} MHz",
        )


def _check_memory_reservation(
    config: ClusterConfig, workload: Workload, profile: GuestProfile, vms: np.ndarray
) -> None:
    reserved = profile.memory.reservation_mib
    most = max(kind.memory_mib for kind in config.host_types)
    owner = f"profile {profile.name}.memory.reservation_mib={reserved}"
    need(reserved <= most, f"{owner}: above every host, the largest has {most} MiB")
    for v in vms[reserved > workload.vm_mem_mib[vms]][:1].tolist():
        need(False, f"{owner}: {_label(workload, v)} has {workload.vm_mem_mib[v]} MiB")


def _check_functions(config: ClusterConfig, profile: GuestProfile, default: int) -> None:
    own = [default if kind.io_functions is None else kind.io_functions for kind in config.host_types]
    need(
        profile.io.functions <= max(own),
        f"profile {profile.name}.io.functions={profile.io.functions}: no host has as many passthrough "
        f"functions, the most is {max(own)}",
    )


def _check_protection(
    config: ClusterConfig, workload: Workload, profile: GuestProfile, vms: np.ndarray, most: int
) -> None:
    need(config.n_hosts > 1, f"profile {profile.name}.protected: a secondary needs a second host")
    for v in vms[workload.vm_vcpus[vms] > most][:1].tolist():
        need(
            False,
            f"profile {profile.name}.protected: {_label(workload, v)} has {workload.vm_vcpus[v]} vCPUs, "
            f"standby.max_vcpus={most} allows fewer on a host",
        )
