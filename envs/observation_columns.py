"""The columns of the cluster's observations: what each is called, how large it gets and what it says.

Every cluster has ``HOST_COLUMNS``, ``VM_COLUMNS`` and ``GLOBAL_COLUMNS``. Where a cluster uses the full model
(``params.full``: any sub-model beyond the simple cluster is on), the columns of ``FULL_HOST_COLUMNS``,
``FULL_VM_COLUMNS`` and ``FULL_GLOBAL_COLUMNS`` follow them; all of them, whatever sub-models are on, so that
an agent may be taken from one full cluster to another. What belongs to a sub-model that is off is 0.
"""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """One column of a table: its name, its largest value and what it says."""

    name: str
    high: float
    doc: str
    low: float = 0.0


HOST_COLUMNS: tuple[Column, ...] = (
    Column("cpu_load", 2, "CPU asked of the host (capped demand + incoming copies) / its capacity"),
    Column("cpu_demand", 2, "demand of its VMs, not capped by core speed / its capacity"),
    Column("memory", 2, "configured memory of residents and incoming VMs / its memory"),
    Column("nominal", 4, "nominal CPU of residents and incoming VMs / its capacity"),
    Column("n_vms", 1, "log(1 + residents) / log(129)"),
    Column("n_incoming", 1, "log(1 + VMs on their way to it) / log(129)"),
    Column("is_off", 1, "1: switched off"),
    Column("is_booting", 1, "1: booting"),
    Column("is_on", 1, "1: on"),
    Column("is_shutting_down", 1, "1: shutting down"),
    Column("draining", 1, "1: will switch off when its last VM has left"),
    Column("power", 1, "power now / peak power of the hungriest host type"),
    Column("transition", 2, "time left of a boot, shutdown, suspension or resumption / interval"),
    Column("saturated", 1, "share of the last interval in which it was short of CPU"),
    Column("target", 1, "1: the chosen VM may go here (0 everywhere while no VM is chosen)"),
    Column("holds_chosen", 1, "1: the chosen VM runs here"),
    Column("switchable", 1, "1: its power may be toggled now"),
    Column("capacity", 1, "its CPU / CPU of the largest host"),
    Column("core_speed", 1, "speed of a core / speed of the fastest core"),
    Column("memory_capacity", 1, "its memory / memory of the largest host"),
    Column("idle_power", 1, "its idle power / peak power of the hungriest host type"),
    Column("peak_power", 1, "its peak power / peak power of the hungriest host type"),
)
"""Columns of ``observation["hosts"]``, shape (H, 22) in a simple cluster; from ``capacity`` on they are
constant."""

VM_COLUMNS: tuple[Column, ...] = (
    Column("running", 1, "1: runs on a host"),
    Column("waiting", 1, "1: has arrived and has no host"),
    Column("migrating", 1, "1: a migration is ordered or under way"),
    Column("copy_left", 2, "time left of the copy / interval"),
    Column("demand", 1, "CPU demand / nominal CPU"),
    Column("recent_demand", 1, "exponentially weighted mean of demand / nominal CPU (newest interval: 0.2)"),
    Column("granted", 1, "CPU that does its work / nominal CPU"),
    Column("missed", 1, "unserved share of what it demanded in the last interval"),
    Column("demand_size", 1, "CPU demand / CPU of the largest host"),
    Column("age", 1, "time since arrival / 24 h"),
    Column("moved", 1, "1 right after a migration was ordered, falling to 0 in 12 intervals"),
    Column("movable", 1, "1: may be chosen now (some host may take it)"),
    Column("chosen", 1, "1: is the chosen VM"),
    Column("host_load", 2, "cpu_load of its host"),
    Column("host_memory", 2, "memory of its host"),
    Column("host_saturated", 1, "saturated of its host"),
    Column("host_share", 2, "what it asks for / capacity of its host"),
    Column("nominal_size", 1, "nominal CPU / CPU of the largest host"),
    Column("memory_size", 1, "memory / memory of the largest host"),
)
"""Columns of ``observation["vms"]``, shape (V, 19) in a simple cluster; all but the last two, which are
constant, are 0 for a VM that is not there."""

GLOBAL_COLUMNS: tuple[Column, ...] = (
    Column("day_sin", 1, "sine of the time of day", -1),
    Column("day_cos", 1, "cosine of the time of day", -1),
    Column("elapsed", 1, "time / horizon"),
    Column("hosts_on", 1, "hosts that are on / H"),
    Column("hosts_booting", 1, "hosts that boot / H"),
    Column("hosts_short", 1, "hosts short of CPU now / H"),
    Column("load", 2, "CPU asked of the hosts that are on / their capacity"),
    Column("demand", 2, "demand of all VMs / capacity of all hosts"),
    Column("memory", 2, "memory of residents and incoming VMs / memory of hosts that are on"),
    Column("power", 1, "power now / peak power of all hosts"),
    Column("waiting", 1, "VMs without a host / V"),
    Column("migrating", 1, "migrations ordered or under way / V"),
    Column("unserved", 1, "unserved share of all demand in the last interval"),
    Column("decisions", 1, "decisions in this interval / their limit"),
    Column("choosing_host", 1, "1: a VM is chosen, its host comes next"),
)
"""Elements of ``observation["globals"]``, shape (15,) in a simple cluster."""


FULL_HOST_COLUMNS: tuple[Column, ...] = (
    Column("is_standby", 1, "1: suspended to memory"),
    Column("is_suspending", 1, "1: on its way to standby"),
    Column("is_resuming", 1, "1: on its way from standby"),
    Column("is_failed", 1, "1: failed, and not yet repaired"),
    Column("maintenance", 1, "1: takes no VM, to be emptied"),
    Column("spare", 1, "1: has no profile, and so cannot be switched on (failures)"),
    Column("allocated", 1, "CPU allocated to its VMs / its capacity"),
    Column("ready", 1, "share of their time that its vCPUs are ready but not scheduled"),
    Column("reserved", 1, "CPU reservations of residents and incoming VMs / its capacity (CPU scheduler)"),
    Column("added", 1, "CPU that hypervisor and interrupts add / its capacity (overhead, I/O)"),
    Column("remote", 1, "remote share of its VMs' accesses, weighted by CPU allocated (NUMA)"),
    Column("roomiest_node", 1, "free vCPUs of the node with most / what a node takes (NUMA)"),
    Column("node_spread", 1, "CPU of its most less its least loaded node / CPU of a node (NUMA)"),
    Column("memory_state", 1, "state high, clear, soft, hard, low as 0, 1/4 ... 1 (memory tiers)"),
    Column("memory_free", 1, "free memory after reclamation / its memory (memory tiers)"),
    Column("memory_reserved", 1, "memory reservations of residents and incoming VMs / its memory (tiers)"),
    Column("shared", 1, "memory saved by page sharing / its memory (memory tiers)"),
    Column("ballooned", 1, "memory in balloons / its memory (memory tiers)"),
    Column("compressed", 1, "memory saved by compression / its memory (memory tiers)"),
    Column("swapped", 1, "memory swapped / its memory (memory tiers)"),
    Column("nic_out", 1, "traffic that it sends / its line rate (VMs, copies, logs of mirrored VMs)"),
    Column("nic_in", 1, "traffic that it receives / its line rate (the same)"),
    Column("functions", 1, "passthrough functions in use / its functions (I/O)"),
    Column("copies", 1, "copies under way, in and out / copies that it may run at once (pre-copy)"),
    Column("mirrored", 1, "protected VMs, primaries and secondaries / their limit (hot standby)"),
    Column("mirror_memory", 1, "memory of secondaries / its memory (hot standby)"),
    Column("line_rate", 1, "its line rate / that of the fastest host (I/O, pre-copy, standby)"),
    Column("node_cpu", 1, "CPU of one node / CPU of the largest host (NUMA)"),
)
"""Columns that follow ``HOST_COLUMNS`` with the full model; the last two are constant."""

FULL_VM_COLUMNS: tuple[Column, ...] = (
    Column("starting", 1, "1: boots on its host after a failure"),
    Column("failed", 1, "1: down after a failure that nobody has noticed yet (failures)"),
    Column("restarting", 1, "1: down after a failure, and waits for a host (failures)"),
    Column("down", 1, "1: has arrived and does not run now"),
    Column("allocated", 1, "CPU allocated / nominal CPU"),
    Column("ready", 1, "share of its time that a vCPU is ready but not scheduled"),
    Column("limited", 1, "demand beyond its limit / nominal CPU (CPU scheduler)"),
    Column("capped", 1, "demand beyond what its vCPUs can do on this host / nominal CPU"),
    Column("co_stop", 1, "CPU lost to co-scheduling / nominal CPU (CPU scheduler)"),
    Column("added", 1, "CPU that hypervisor and interrupts add / nominal CPU (overhead, I/O)"),
    Column("remote", 1, "remote share of its memory accesses (NUMA)"),
    Column("numa_loss", 1, "share of its work lost to remote memory (NUMA)"),
    Column("memory_loss", 1, "share of its work lost to reclaimed memory (memory tiers)"),
    Column("active", 1, "memory in use now / configured memory (memory tiers)"),
    Column("resident", 1, "memory that it holds / configured memory (memory tiers)"),
    Column("ballooned", 1, "memory in its balloon / configured memory (memory tiers)"),
    Column("compressed", 1, "memory saved by compression / configured memory (memory tiers)"),
    Column("swapped", 1, "memory swapped / configured memory (memory tiers)"),
    Column("net", 1, "traffic that it sends and receives / twice the line rate of its host (I/O)"),
    Column("net_dropped", 1, "share of its traffic that the NIC does not let through (I/O)"),
    Column("io_latency", 1, "log(1 + latency of a packet or disk request / us) / log(1 + 1e6) (I/O)"),
    Column("dirty", 2, "rate at which it dirties memory / line rate of its host (pre-copy, hot standby)"),
    Column("copy_waits", 1, "1: its migration waits for the host to be on, or for a copy to end"),
    Column("copy_rounds", 1, "1: its copy is prepared or under way while it runs (pre-copy)"),
    Column("copy_stopped", 1, "1: stopped by its migration (pre-copy)"),
    Column("copy_pull", 1, "1: runs on the new host, memory follows (post-copy)"),
    Column("copy_sent", 1, "memory sent / configured memory / 4 (pre-copy)"),
    Column("copy_rate", 1, "rate of the copy / line rate of its host (pre-copy)"),
    Column("has_secondary", 1, "1: a secondary is ready to take over (hot standby)"),
    Column("log_share", 1, "share of the logging traffic it needs that it gets (hot standby)"),
    Column("protected", 1, "1: is to have a secondary (hot standby)"),
    Column("pinned", 1, "1: has a device that cannot migrate (I/O)"),
    Column("priority", 1, "restart priority, from the lowest 0 to the highest 1 (failures)"),
    Column("reservation", 1, "CPU reservation / nominal CPU (CPU scheduler)"),
    Column("limit", 1, "CPU limit / nominal CPU, 1 = none (CPU scheduler)"),
    Column("shares", 1, "shares per vCPU / those of the VM that has most (CPU scheduler)"),
    Column("stalls", 1, "share of its time that waits for memory (NUMA)"),
    Column("memory_reservation", 1, "memory reservation / configured memory (memory tiers)"),
    Column("working_set", 1, "writable working set / configured memory (pre-copy)"),
)
"""Columns that follow ``VM_COLUMNS`` with the full model; from ``protected`` on they are constant, the others
are 0 for a VM that is not there."""

FULL_GLOBAL_COLUMNS: tuple[Column, ...] = (
    Column("hosts_standby", 1, "hosts in standby / H"),
    Column("hosts_failed", 1, "hosts that have failed / H"),
    Column("hosts_maintenance", 1, "hosts in maintenance / H"),
    Column("spares", 1, "hosts without a profile / H (failures)"),
    Column("starting", 1, "VMs that boot after a failure / V"),
    Column("restarting", 1, "VMs down after a failure without a host, noticed or not / V (failures)"),
    Column("down", 1, "VMs that have arrived and do not run now / V"),
    Column("copying", 1, "copies under way / V"),
    Column("unprotected", 1, "protected VMs without a secondary / V (hot standby)"),
    Column("ready", 1, "share of their time that all vCPUs are ready but not scheduled"),
    Column("memory_free", 1, "free memory after reclamation / memory, of hosts that are on (memory tiers)"),
    Column("swapped", 1, "memory swapped / memory, of hosts that are on (memory tiers)"),
    Column("nic", 1, "traffic sent and received / twice the line rate, of hosts that are on"),
    Column("fragments", 1, "free CPU that cannot hold one more 16-core VM on a node (NUMA)"),
    Column("carbon", 1, "carbon intensity now / the highest of the series"),
)
"""Elements that follow ``GLOBAL_COLUMNS`` with the full model."""


def columns_of(full: bool) -> tuple[tuple[Column, ...], tuple[Column, ...], tuple[Column, ...]]:
    """Columns of hosts, of VMs and of the globals.

    Args:
        full: Whether the cluster uses the full model.
    """
    if not full:
        return HOST_COLUMNS, VM_COLUMNS, GLOBAL_COLUMNS
    return (
        HOST_COLUMNS + FULL_HOST_COLUMNS,
        VM_COLUMNS + FULL_VM_COLUMNS,
        GLOBAL_COLUMNS + FULL_GLOBAL_COLUMNS,
    )


def column_index(columns: tuple[Column, ...], name: str) -> int:
    """Place of a column by its name."""
    return [column.name for column in columns].index(name)
