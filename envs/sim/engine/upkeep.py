"""What the full model adds to the begin and the end of a VM's run on a host; nothing on a simple cluster."""

from __future__ import annotations

import numpy as np

from ...jit.by_model import only_full
from ...jit.kernels import kernel
from ..state.cluster_state import STARTING, ClusterState
from ..state.parameters import ClusterParams
from .copies import start_waiting
from .cpu import set_vm_down
from .events import PAGES_END, RESTART_DUE, VM_UP, drop_event, push_event
from .hub import renew_hosts
from .mirrors import drop_secondary
from .power_cycle import switch_off_if_empty


@only_full
@kernel
def begin_run(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    """A VM has got its host; after a failure it has to boot first."""
    if p.host_baseline.shape[0] > 0:
        s.vm_baseline[v] = p.host_baseline[s.vm_host[v]]
    if p.has_failures and s.vm_restart[v]:
        s.vm_restart[v] = 0
        s.totals.restarts += 1.0
        start_vm(p, s, v, s.clock.event_s + p.vm_boot_s, elapsed_s)


@kernel
def start_vm(p: ClusterParams, s: ClusterState, v: int, at_s: float, elapsed_s: float) -> None:
    """Let a VM that is on its host be down until a time; the caller works out the host's rates."""
    s.vm_state[v] = STARTING
    s.vm_starts_s[v] = at_s
    push_event(s, at_s, VM_UP, v)
    set_vm_down(s, v, 1, elapsed_s)


@only_full
@kernel
def end_run(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    """Forget what is planned for a VM that leaves its host for good."""
    if p.has_failures:
        if s.vm_state[v] == STARTING:
            drop_event(s, VM_UP, v)
            s.vm_starts_s[v] = 0.0
        if s.vm_restart[v] == 1:
            drop_event(s, RESTART_DUE, v)
        s.vm_restart[v] = 0
    if p.has_numa and s.vm_pages_end_s[v] > s.clock.event_s:
        drop_event(s, PAGES_END, v)
        s.vm_pages_end_s[v] = -np.inf
    if p.has_standby:
        h = drop_secondary(p, s, v)
        if h >= 0:
            renew_hosts(p, s, h, -1, elapsed_s)


@only_full
@kernel
def forget_rates(p: ClusterParams, s: ClusterState, v: int) -> None:
    """A VM without a host uses nothing and holds nothing."""
    for rate in (
        s.vm_claim_mhz,
        s.vm_overhead_mhz,
        s.vm_io_mhz,
        s.vm_alloc_mhz,
        s.vm_ready_mhz,
        s.vm_ready_share,
        s.vm_limited_mhz,
        s.vm_capped_mhz,
        s.vm_co_stop_mhz,
    ):
        rate[v] = 0.0
    if p.has_numa:
        s.vm_remote_share[v] = 0.0
        s.vm_numa_slowdown[v] = 1.0
    if p.has_tiers:
        for amount in (
            s.vm_resident_mib,
            s.vm_shared_mib,
            s.vm_ballooned_mib,
            s.vm_compressed_mib,
            s.vm_swapped_mib,
            s.vm_blocked_mib,
        ):
            amount[v] = 0.0
        s.vm_mem_slowdown[v] = 1.0
    if p.has_io:
        for rate in (s.vm_net_out_mbps, s.vm_net_in_mbps, s.vm_io_rate, s.vm_io_latency_s):
            rate[v] = 0.0


@only_full
@kernel
def before_move(p: ClusterParams, s: ClusterState, v: int, elapsed_s: float) -> None:
    """A protected VM is not mirrored while it migrates; it gets a new secondary after it has arrived."""
    if p.has_standby:
        h = drop_secondary(p, s, v)
        if h >= 0:
            renew_hosts(p, s, h, s.vm_host[v], elapsed_s)


@only_full
@kernel
def after_leaving(
    p: ClusterParams, s: ClusterState, host: int, dest: int, now_s: float, elapsed_s: float
) -> None:
    """Let others use the slots that a VM gave back, and switch off what was waiting for it to leave."""
    if p.has_precopy:
        if host >= 0:
            start_waiting(p, s, host, now_s, elapsed_s)
        if dest >= 0:
            start_waiting(p, s, dest, now_s, elapsed_s)
    # The host that sends on after post-copy's handover is the VM's destination, and may be on its way out.
    if dest >= 0:
        switch_off_if_empty(p, s, dest, now_s, elapsed_s)
    if host >= 0:
        switch_off_if_empty(p, s, host, now_s, elapsed_s)
