"""What changes during the day: placement, shares and accounts, as the arrays that the njit kernels write."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virtgym.envs.arrays import B1, F8

from .machines import SEGMENTS, Site

Ints = NDArray[Any]

# Columns of Live.account
A_ENERGY = 0  # J
A_ASKED = 1  # CPU asked by the VMs, MHz s
A_GOT = 2  # CPU granted, MHz s
A_LOST = 3  # CPU lost by migrating VMs, MHz s
A_SHORTS = 4  # history entries of VMs that got less than they asked
A_SHORT_SUM = 5  # sum of their relative shortages
A_BAD_S = 6  # host seconds of violation
A_ON_S = 7  # host seconds of activity
A_STOPS = 8  # hosts that became inactive
A_STOP_S = 9  # their seconds of activity before that
A_SPAN_S = 10  # accounted time, s
A_MOVES = 11  # migrations started
A_DOUBLES = 12  # of which second moves of a VM in the same round
A_DROPPED = 13  # VMs deleted
N_ACCOUNTS = 14


class Flags(NamedTuple):
    """The fields of ``Quirks``, in the form a kernel takes."""

    drop_zero_demand: bool
    sla_counts_incoming_full: bool
    double_moves: bool
    memory_ignored: bool
    stale_power: bool
    free_power_on: bool
    unweighted_regression: bool
    free_edges: bool
    floor_mips: bool
    no_underload_threshold: bool
    never_used_counts_as_shutdown: bool
    skip_first_sample: bool
    interpolated_demand: bool
    mean_power: bool
    idle_hosts_are_off: bool
    pooled_pdm: bool
    pdm_counts_contention: bool
    pooled_slatah: bool


class Live(NamedTuple):
    """State of all hosts (H) and VMs (N).

    Attributes:
        rows: VMs of each host in order of arrival, incoming ones included, (H, N).
        held: Length of each row, (H,).
        table: Size of the peer's hash table of a host, (H,).
        moves: Migrations that start or end at a host, (H,).
        active: Hosts with VMs, ascending; its first element is their number, (H + 1,).
        where: Host that a VM runs on, -1 = deleted, (N,).
        moving: The VM is in migration, (N,).
        demand: CPU asked by a VM, MHz, (N,).
        sample: Sample that ``rate`` starts from, (1,).
        rate: Change of the utilisation of a VM until the next sample, 1/s, (N,).
        lost: CPU that a VM loses by its migration, MHz, (N,), kept only where per-VM accounts are.
        use: CPU use of a host, MHz, (H,).
        need: CPU asked by all VMs of a host, incoming ones included, MHz, (H,).
        free: CPU that no VM holds, MHz, (H,).
        util: Use over capacity, (H,).
        watt: Power at this use, W, (H,).
        on: The host counts as active, (H,).
        bad: The host violates, (H,).
        shown: ``on`` as of the last distinct instant, (H,).
        since: When the host was last switched on, s, (H,).
        tally: Per host: CPU asked, granted and lost, VMs short of CPU, their relative shortages, (H, 5).
        host_bad_s: Violating time per host, s, (H,).
        host_on_s: Active time per host, s, (H,).
        vm_asked: CPU asked per VM, MHz s, (N,).
        vm_lost: CPU lost to migration per VM, MHz s, (N,).
        account: Totals, see ``A_*``, (N_ACCOUNTS,).
        touched: Hosts that a migration touches, (H,).
        stamp: Mark of the last batch of migrations that touched a host; the last entry counts, (H + 1,).
        scratch: Room for one list of VMs, (N,).
        weight: Room for their reservations, (N,).
    """

    rows: Ints
    held: Ints
    table: Ints
    moves: Ints
    active: Ints
    where: Ints
    moving: B1
    demand: F8
    sample: Ints
    rate: F8
    lost: F8
    use: F8
    need: F8
    free: F8
    util: F8
    watt: F8
    on: B1
    bad: B1
    shown: B1
    since: F8
    tally: F8
    host_bad_s: F8
    host_on_s: F8
    vm_asked: F8
    vm_lost: F8
    account: F8
    touched: Ints
    stamp: Ints
    scratch: Ints
    weight: F8


def make_live(site: Site, n_hosts: int, shown: bool) -> Live:
    """Allocate an empty data centre.

    Args:
        site: The day.
        n_hosts: Number of hosts.
        shown: Whether every host counts as active before the first instant.

    Returns:
        The state before anything is placed.
    """
    n_vms = site.mhz.size
    kind = np.arange(n_hosts) & 1
    hosts = np.zeros(n_hosts)
    vms = np.zeros(n_vms)
    return Live(
        rows=np.empty((n_hosts, n_vms), dtype=np.int32),
        held=np.zeros(n_hosts, dtype=np.int64),
        table=np.full(n_hosts, 16, dtype=np.int32),
        moves=np.zeros(n_hosts, dtype=np.int32),
        active=np.zeros(n_hosts + 1, dtype=np.int32),
        where=np.full(n_vms, -1, dtype=np.int32),
        moving=np.zeros(n_vms, dtype=np.bool_),
        demand=vms.copy(),
        sample=np.full(1, -1, dtype=np.int64),
        rate=vms.copy(),
        lost=vms.copy(),
        use=hosts.copy(),
        need=hosts.copy(),
        free=site.total[kind],
        util=hosts.copy(),
        watt=site.watts[kind * SEGMENTS],
        on=np.zeros(n_hosts, dtype=np.bool_),
        bad=np.zeros(n_hosts, dtype=np.bool_),
        shown=np.full(n_hosts, shown, dtype=np.bool_),
        since=hosts.copy(),
        tally=np.zeros((n_hosts, 5)),
        host_bad_s=hosts.copy(),
        host_on_s=hosts.copy(),
        vm_asked=vms.copy(),
        vm_lost=vms.copy(),
        account=np.zeros(N_ACCOUNTS),
        touched=np.empty(n_hosts, dtype=np.int32),
        stamp=np.zeros(n_hosts + 1, dtype=np.int32),
        scratch=np.empty(n_vms, dtype=np.int32),
        weight=np.empty(n_vms),
    )
