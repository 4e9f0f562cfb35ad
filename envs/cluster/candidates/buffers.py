"""Memory of the candidates: what is offered, the draft on which it is tried, and the loads of hosts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...arrays import B1, F4, F8, I1, I4, I8, U8
from ...jit.records import Place, Record
from ...observation_columns import blank
from ...sim.models.power import peak_watts
from ...sim.state.cluster_state import ClusterState
from ...sim.state.parameters import ClusterParams
from .columns import CANDIDATE_COLUMNS, CandidateRow, Measures
from .settings import CandidateSettings, Marks

DRAFT_HOSTS: dict[str, int] = {
    **dict.fromkeys(("host_power_state", "host_drain", "host_maintenance", "host_n_vms", "host_n_in"), 1),
    **dict.fromkeys(("host_head", "host_mem_mib", "host_nominal_mhz", "host_reserved_mhz"), 1),
    **dict.fromkeys(("host_mem_reserved_mib", "host_functions_used", "host_profile"), 1),
    **dict.fromkeys(("host_mirrors", "host_mirror_vcpus", "host_mirror_mib"), 1),
    **dict.fromkeys(("node_vcpus", "node_used_mib"), 2),
}
"""Fields of the state by host that the draft has, with their axes."""

DRAFT_VMS: dict[str, int] = {
    **dict.fromkeys(("vm_state", "vm_mig", "vm_host", "vm_dest", "vm_next", "copy_phase", "vm_restart"), 1),
    **dict.fromkeys(("vm_baseline", "vm_secondary", "vm_mirror_nodes", "vm_mirror_mbps", "vm_dest_nodes"), 1),
}
"""The same by VM."""

STILL = (
    *("host_n_vms", "host_head", "host_profile"),
    *("vm_state", "vm_host", "vm_next", "copy_phase", "vm_restart", "vm_baseline"),
)
"""Those of both that no order changes on the draft: nobody arrives or leaves there."""


class Now(Record):
    """Where the making of candidates stands, int64."""

    orders = Place("orders that are written down, of all candidates so far")
    begun = Place("orders before the candidate that is being made")
    hosts = Place("hosts that it touches")
    vms = Place("VMs that it touches")
    by_memory = Place("1: memory is what fills hosts, 0: CPU is")
    alive = Place("VMs that have come and not left")
    waiting = Place("VMs that wait for a host and may be placed")
    mem_at = Place("host with the largest configured share of its memory, -1 = none")
    risk_at = Place("host with the largest demand planned for per CPU, -1 = none")


class Whole(Record):
    """Numbers of the whole cluster."""

    demand = Place("demand of all VMs, MHz")
    weight = Place("weight of the service classes of all VMs that are there")
    lost = Place("work lost to memory now / demand")
    migrating = Place("share of VMs that migrate")
    margin = Place("margin of the failover guarantee now")
    mem_max = Place("largest configured share of a host's memory")
    risk_max = Place("largest demand planned for / CPU of a host")
    idle_w = Place("idle power of all hosts, W")
    peak_w = Place("peak power of all hosts, W")
    mem_mib = Place("mean memory of a host, MiB")


class CandidateBuffers(NamedTuple):
    """K candidates with F columns, N orders at most; H hosts, V VMs, L levels to which hosts are filled."""

    features: F4  # (K, F) observation
    row: Any  # a CandidateRow, which tells kernels the names of a row
    mask: B1  # (K,) which may be chosen
    kind: I1  # (K,) index into settings.KINDS
    order_first: I4  # (K,) place of the first order of each
    order_count: I4  # (K,) number of its orders
    order_kind: I1  # (N,) index into decisions.ORDERS
    order_vm: I4  # (N,) VM, -1 = none
    order_host: I4  # (N,) host
    marks: Marks
    levels: F8  # (L, 3) shares of memory as configured, of memory as touched, and of CPU
    now: Now
    whole: Whole
    before: Measures
    after: Measures
    host_power_state: I1  # from here on the draft: fields of the state, under their names
    host_drain: I1
    host_maintenance: I1
    host_n_vms: I4
    host_n_in: I4
    host_head: I4
    host_mem_mib: F8
    host_nominal_mhz: F8
    host_reserved_mhz: F8
    host_mem_reserved_mib: F8
    host_functions_used: I4
    host_profile: I4
    host_mirrors: I4
    host_mirror_vcpus: I4
    host_mirror_mib: F8
    node_vcpus: F8
    node_used_mib: F8
    vm_state: I1
    vm_mig: I1
    vm_host: I4
    vm_dest: I4
    vm_next: I4
    copy_phase: I1
    vm_restart: I1
    vm_baseline: U8
    vm_secondary: I4
    vm_mirror_nodes: I8
    vm_mirror_mbps: F8
    vm_dest_nodes: I8
    load_mem: F8  # (H,) configured memory of the VMs at home there and of secondaries, MiB
    load_used: F8  # (H,) what they have touched of it, MiB
    load_cpu: F8  # (H,) their demand, no more than their vCPUs can do there, MHz
    load_risk: F8  # (H,) the same of what is planned for, MHz
    n_home: I4  # (H,) VMs at home there
    is_up: I1  # (H,) 1: on or coming on, and not about to be switched off
    new_mem: F8  # (H,) the same six once the candidate has been carried out
    new_used: F8
    new_cpu: F8
    new_risk: F8
    new_home: I4
    new_up: I1
    own_mem: F8  # (H,) memory of secondaries, MiB
    takes: B1  # (H,) whether it takes VMs at all
    may_leave: B1  # (H,) whether the failover guarantee lets it go
    host_key: F8  # (H,) scratch: by which hosts are ranked
    vm_key: F8  # (V,) scratch: by which VMs are sorted
    list: I4  # (V,) scratch: VMs
    other: I4  # (V,) scratch
    host_touched: B1  # (H,) by the candidate that is being made
    touched_hosts: I4  # (H,)
    vm_touched: B1  # (V,)
    touched_vms: I4  # (V,)
    vm_mean: F8  # (V,) weighted mean of demand, MHz; -1 = not seen yet
    vm_variance: F8  # (V,) weighted variance, MHz^2
    vm_cpu: F8  # (V,) demand now, MHz
    vm_risk: F8  # (V,) demand that is planned for, MHz
    vm_used: F8  # (V,) memory touched, MiB
    vm_home: I4  # (V,) host, or the one that it comes to; -1 = none


CANDIDATE_MEMORY = (
    *("vm_mean", "vm_variance", "mask"),
    *("order_first", "order_count", "order_kind", "order_vm", "order_host"),
)
"""The buffers that carry something from one interval to the next, or from an offer to the choice."""

PLAIN_ORDERS = 16


def order_capacity(settings: CandidateSettings, n_hosts: int, n_vms: int) -> int:
    """N: orders that all candidates can have together.

    Every level empties hosts that are not the same, so it moves no VM twice; so do those that relieve.
    """
    passes = settings.n_levels + (settings.relieve > 0)
    each = settings.moves * settings.balance + min(settings.placed, n_vms) * settings.place
    outside = len(settings.plans) + len(settings.own)
    return passes * n_vms + each + PLAIN_ORDERS * settings.n + outside * (n_vms + 4 * n_hosts)


def _typed(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays of one type, by name."""
    return arrays


def _levels(p: ClusterParams, settings: CandidateSettings) -> F8:
    """How far hosts may be filled when another is emptied, (L, 3); rows that are not needed are 0."""
    rows = [(np.inf, np.inf, fill) for fill in settings.cpu_fills]
    if p.has_tiers:
        rows = [(fill, np.inf, settings.cpu_limit) for fill in settings.fills]
        rows += [(np.inf, fill, settings.cpu_limit) for fill in settings.touched_fills]
    levels = np.zeros((settings.n_levels, 3))
    levels[: len(rows)] = np.array(rows).reshape(-1, 3)
    return levels


def make_candidate_buffers(
    p: ClusterParams, state: ClusterState, settings: CandidateSettings, features: F4 | None = None
) -> CandidateBuffers:
    """Make the buffers of a cluster; ``make_handle("candidates", buffers)`` is their handle ``c``.

    Args:
        p: Parameters.
        state: A state of the same shape: only shapes and types are taken from it.
        settings: What is offered.
        features: Where to write, (K, F) of zeros; None = memory of its own.
    """
    n_hosts, n_vms, n = len(p.host_type), len(p.vm_vcpus), settings.n
    orders = order_capacity(settings, n_hosts, n_vms)
    draft = {name: np.zeros_like(getattr(state, name)) for name in (*DRAFT_HOSTS, *DRAFT_VMS)}
    whole = Whole.zeros()
    whole.idle_w = float(p.power_w[p.host_type, 0].sum())
    whole.peak_w = float(peak_watts(p)[p.host_type].sum())
    whole.mem_mib = float(p.host_mem_mib.mean())
    now = np.zeros(len(Now.places), dtype=np.int64).view(Now)
    now.by_memory = int(p.has_tiers or p.memory_binding)
    per_host: Any = {k: np.zeros(n_hosts) for k in _HOST_LOADS}
    per_vm: Any = {k: np.zeros(n_vms) for k in ("vm_variance", "vm_cpu", "vm_risk", "vm_used", "vm_key")}
    return CandidateBuffers(
        features=np.zeros((n, len(CANDIDATE_COLUMNS)), np.float32) if features is None else features,
        row=blank(CandidateRow),
        mask=np.zeros(n, dtype=np.bool_),
        kind=np.array(settings.slot_kinds, dtype=np.int8),
        order_first=np.zeros(n, dtype=np.int32),
        order_count=np.zeros(n, dtype=np.int32),
        order_kind=np.zeros(orders, dtype=np.int8),
        order_vm=np.zeros(orders, dtype=np.int32),
        order_host=np.zeros(orders, dtype=np.int32),
        marks=settings.marks,
        levels=_levels(p, settings),
        now=now,
        whole=whole,
        before=Measures.zeros(),
        after=Measures.zeros(),
        **draft,
        **per_host,
        **_typed({k: np.zeros(n_hosts, dtype=np.int32) for k in ("n_home", "new_home", "touched_hosts")}),
        **_typed({k: np.zeros(n_hosts, dtype=np.int8) for k in ("is_up", "new_up")}),
        **_typed({k: np.zeros(n_hosts, dtype=np.bool_) for k in ("takes", "may_leave", "host_touched")}),
        **_typed({k: np.zeros(n_vms, dtype=np.int32) for k in ("list", "other", "touched_vms", "vm_home")}),
        vm_touched=np.zeros(n_vms, dtype=np.bool_),
        vm_mean=np.full(n_vms, -1.0),
        **per_vm,
    )


_HOST_LOADS = (
    *("load_mem", "load_used", "load_cpu", "load_risk", "new_mem", "new_used", "new_cpu", "new_risk"),
    *("own_mem", "host_key"),
)
